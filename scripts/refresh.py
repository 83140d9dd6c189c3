"""Execute notebooks in place and store their outputs, cleaned: `python scripts/refresh.py [NAME ...] [--flags "slow
cuda"]`.

Cells are chosen as `nbdev_test` chooses them: those with a flag of settings.ini's `tst_flags` (unless given in
`--flags`), `eval: false` and
`nbdev_export()` are skipped and keep the outputs they have. Every notebook runs in a process of its own, so that
nothing leaks from one into the next.
What a cell writes to stderr is shown here and not stored. If a cell raises, the notebook stays as it was and the exit
code is 1."""
import os, subprocess, sys, time
from pathlib import Path
from execnb.nbio import read_nb, write_nb
from execnb.shell import CaptureShell
from fastcore.script import call_parse, Param
from fastcore.utils import str2bool
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.frontmatter import FrontmatterProc
from nbdev.process import NBProcessor, nb_lang

ROOT = Path(__file__).resolve().parent.parent

def find(name):
    "The notebook called `name`: a stem (`13_sit`), a file name or a path."
    nbs = get_config().nbs_path
    for p in (nbs/f'{name}.ipynb', nbs/name, Path(name)):
        if p.is_file() and p.suffix == '.ipynb': return p.absolute()
    sys.exit(f'refresh: no notebook {name!r} in {nbs.name}/')

def skipped(cell, flags):
    "Would `nbdev_test` skip this code cell?"
    if 'nbdev_export(' in cell.source: return True
    if cell.directives_.get('eval:', [''])[0].lower() == 'false': return True
    return bool(flags & cell.directives_.keys())

def stored(outputs):
    "`outputs` as they are kept: no stderr (it is shown here), and of a picture offered in two formats the smaller one."
    res = []
    for o in outputs:
        if o.get('name') == 'stderr': print(''.join(o['text']), end='', file=sys.stderr); continue
        pics = {k: len(v) for k, v in o.get('data', {}).items() if k in ('image/png', 'image/jpeg')}
        for k in sorted(pics, key=pics.get)[1:]: del o['data'][k]
        res.append(o)
    return res

def clean(nb):
    "As `nbdev_clean` does with this project's settings."
    cfg = get_config()
    clean_nb(nb, cfg.clear_all, cfg.allowed_metadata_keys.split(), cfg.allowed_cell_metadata_keys.split(),
             cfg.clean_ids)

def refresh(path, flags=''):
    "Run the notebook at `path` and write it back; False, and the error shown, if a cell raised."
    cfg, before = get_config(), path.read_bytes()
    nb = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    if str2bool(nb.frontmatter_.get('skip_exec', False)) or nb_lang(nb) != 'python': return True
    skip = set(cfg.tst_flags.split()) - set(flags.split())
    nb, run = read_nb(path), NBProcessor(path).nb  # in `run` the directives are taken off the source, as for a test
    ran = []
    def choose(cell):
        if cell.cell_type != 'code' or skipped(cell, skip): return True
        cell.outputs = []
        ran.append(cell.idx_)
    sys.path.insert(0, str(cfg.config_path))
    os.chdir(path.parent)
    shell = CaptureShell(path, mpl_format='png')
    try: shell.run_all(run, exc_stop=True, preproc=choose)
    except BaseException:
        if shell.exc is None: raise
        print(shell.prettytb(fname=path.name), file=sys.stderr)
        return False
    for i in ran: nb.cells[i].outputs = stored(run.cells[i].outputs)
    clean(nb)
    if path.read_bytes() != before:
        sys.exit(f'refresh: {path.name} was changed while it ran; its outputs were not stored')
    tmp = path.with_name(f'_{path.name}.tmp')
    write_nb(nb, tmp)
    os.replace(tmp, path)
    return True

@call_parse
def main(
    names:Param('Notebooks: stems or paths (default: all of them)', nargs='*'),
    flags:str='',  # Space separated test flags whose cells are run too
    here:bool=False  # Run one notebook in this process (how the script calls itself)
):
    "Execute notebooks in place, store their outputs and clean them"
    os.chdir(ROOT)
    paths = [find(n) for n in names or []] or [p.absolute() for p in sorted(nbglob(as_path=True))]
    if here: sys.exit(not refresh(paths[0], flags))
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    for k, v in dict(OMP_NUM_THREADS='1', PYTHONHASHSEED='0', TQDM_DISABLE='1').items(): env.setdefault(k, v)
    failed = []
    for p in paths:
        start = time.time()
        print(p.stem, end=' ', flush=True)
        ok = subprocess.run([sys.executable, __file__, str(p), '--flags', flags, '--here'],
                            env=env, cwd=ROOT).returncode == 0
        print(f'{"done" if ok else "FAILED"} in {time.time()-start:.0f} s', flush=True)
        if not ok: failed.append(p.stem)
    if failed: sys.exit(f'refresh: failed, left as they were: {" ".join(failed)}')
