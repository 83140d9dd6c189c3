"""Everything about this repository that the tests do not look at: `python scripts/check.py [NAME ...]`.

Each check is a function below; its docstring is the name it is printed under. It yields one line per problem and may
return a line that says what it counted.
The checks look at the files git knows or would add; where something is generated, that happens in a copy. Exit code 1
if anything is wrong."""
import ast, builtins, configparser, email, importlib, inspect, json, os, re, shutil, subprocess, sys, tarfile, tempfile
import zipfile
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
import yaml
from execnb.nbio import read_nb
from fastcore.script import call_parse, Param
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pafm_nb.extras import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
IGNORED = re.compile(r'(^|/)(\.git|\.venv|__pycache__|\.ipynb_checkpoints|\.pytest_cache|\.quarto|_docs|_proc'
                     r'|build|dist|runs|[^/]*\.egg-info)(/|$)')

@cache
def config():
    cfg = configparser.ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

@cache
def tracked():
    "Relative paths of the files git knows or would add; outside of a git checkout, of all but the usual leftovers."
    git = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                         capture_output=True, text=True)
    if git.returncode == 0: names = set(git.stdout.split('\0')) - {''}
    else: names = {p.relative_to(ROOT).as_posix() for p in ROOT.rglob('*')}
    return sorted(n for n in names if (ROOT/n).is_file() and not IGNORED.search(n))

@cache
def copy():
    "A copy of the tracked files, for checks that write."
    tmp = Path(tempfile.mkdtemp(prefix='pafm_check_'))
    for n in tracked():
        (tmp/n).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/n, tmp/n)
    return tmp

def run(*cmd):
    "Run `cmd` in the copy; its output if it fails."
    env = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')}
    res = subprocess.run([sys.executable, *cmd], cwd=copy(), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
    return '' if res.returncode == 0 else res.stdout[-3000:] or f'{cmd} failed'

def notebooks(): return [n for n in tracked() if re.match(r'nbs/.*\.ipynb$', n)]

@cache
def cells(name): return read_nb(ROOT/name).cells

def unfenced(md):
    "`md` without fenced code and formulas."
    return re.sub(r'^```.*?^```|\$\$.*?\$\$', '', md, flags=re.M|re.S)

def prose():
    "Pairs of (file, markdown without fenced code) of all notebooks and of the markdown files at the root."
    for n in notebooks(): yield n, '\n\n'.join(unfenced(c.source) for c in cells(n) if c.cell_type == 'markdown')
    for n in tracked():
        if re.fullmatch(r'[^/]+\.md', n): yield n, unfenced((ROOT/n).read_text(encoding='utf-8'))

def exports():
    "exports: pafm_nb/ is what nbdev_export makes of nbs/, no more and no less"
    lib = copy()/config()['lib_path']
    for p in lib.rglob('*.py'): p.unlink()
    err = run('-c', 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()')
    if err: yield err
    made = {p.relative_to(copy()).as_posix() for p in lib.rglob('*.py')}
    kept = {n for n in tracked() if n.startswith(f'{lib.name}/') and n.endswith('.py')}
    for n in sorted(kept - made): yield f'{n}: no notebook exports it (nbdev_export never deletes)'
    for n in sorted(made - kept): yield f'{n}: not exported yet'
    for n in sorted(made & kept):
        if (copy()/n).read_bytes() != (ROOT/n).read_bytes(): yield f'{n}: differs from its notebook: run nbdev_export'
    return f'{len(made & kept)} modules'

def clean():
    "clean: nbdev_clean changes no notebook"
    err = run('-c', 'from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()')
    if err: yield err
    for n in notebooks():
        if (copy()/n).read_bytes() != (ROOT/n).read_bytes(): yield f'{n}: run nbdev_clean'
    return f'{len(notebooks())} notebooks'

def outputs():
    "outputs: no stored traceback and no stored stderr"
    for n in notebooks():
        for c in cells(n):
            for o in c.get('outputs', []):
                if o.output_type == 'error': yield f'{n}: cell {c.id} holds a traceback ({o.ename})'
                if o.get('name') == 'stderr': yield f'{n}: cell {c.id} holds stderr: {"".join(o.text)[:80]!r}'

def alts():
    "alts: stored pictures have a fig-alt of 40 to 200 characters, and markdown pictures a text"
    seen = 0
    for n in notebooks():
        for c in cells(n):
            if not any(kind.startswith('image/') for o in c.get('outputs', []) for kind in o.get('data', {})): continue
            seen += 1
            alt = re.match(r'(?:#\|.*\n)*?#\| fig-alt: "(.*)"\n', c.source)
            if not alt: yield f'{n}: cell {c.id} holds a picture and no fig-alt'
            elif not 40 <= len(alt[1]) <= 200: yield f'{n}: cell {c.id} has a fig-alt of {len(alt[1])} characters'
    for file, md in prose():
        for target in re.findall(r'!\[\s*\]\(([^)\s]*)', re.sub(r'`[^`\n]*`', '', md)):
            yield f'{file}: the picture {target} has no text'
    return f'{seen} pictures'

def sizes():
    "sizes: no notebook above 400 kB"
    kb = {n: (ROOT/n).stat().st_size/1e3 for n in notebooks()}
    for n, size in kb.items():
        if size > 400: yield f'{n}: {size:.0f} kB'
    return f'largest {max(kb.values(), default=0):.0f} kB'

def readme():
    "readme: README.md is what scripts/make_readme.py makes of index.ipynb"
    import make_readme
    yield from make_readme.differences()

def house():
    "house: nbs/images/house.svg is what scripts/house.py draws of the imports, and they run in no circle"
    import house
    yield from house.differences()
    count, *circles = house.picture()[1].splitlines()
    yield from circles
    return count

COLUMNS, NODES = 120, 10.5

def lines():
    "lines: at most 120 columns but for a fig-alt, and on average 10.5 syntax nodes in a line of the package"
    files = [n for n in tracked() if re.match(r'(pafm_nb|scripts)/.*\.py$|setup\.py', n)]
    texts = {n: (ROOT/n).read_text(encoding='utf-8') for n in files}
    code = {f'{n}: cell {c.id}': c.source for n in notebooks() for c in cells(n) if c.cell_type == 'code'}
    for where, text in (texts | code).items():
        if re.search('^# AUTOGENERATED|^# Autogenerated', text, re.M): continue  # told by the cell it comes from
        for i, line in enumerate(text.splitlines(), 1):
            if len(line) > COLUMNS and not line.startswith('#| fig-alt'): yield f'{where}:{i} has {len(line)} columns'
    library = [texts[n] for n in files if re.match(r'pafm_nb/(?!tests/|_modidx)', n)]
    nodes = sum(1 for text in library for _ in ast.walk(ast.parse(text)))
    full = sum(1 for text in library for line in text.splitlines() if line.strip() and not line.strip().startswith('#'))
    if nodes/full > NODES: yield f'{nodes/full:.2f} syntax nodes in a line of the package, over {NODES}'
    return f'{nodes/full:.2f} nodes in each of {full} lines'

def mutants():
    "mutants: each text that scripts/mutants.py changes occurs in its module"
    from mutants import MUTANTS
    for module, (tests, changes) in MUTANTS.items():
        file = ROOT/'pafm_nb'/f'{module}.py'
        for old, _ in changes:
            if not file.exists() or old not in file.read_text(encoding='utf-8'): yield f'{module}: {old!r} is not there'
        for test in tests.split():
            if not (ROOT/f'pafm_nb/tests/test_{test}.py').exists(): yield f'{module}: there are no tests of {test}'
    return f'{sum(len(changes) for _, changes in MUTANTS.values())} mutants'

def commands():
    "commands: the workflow runs the README's test command, word for word"
    lines = [l for l in (ROOT/'README.md').read_text(encoding='utf-8').splitlines() if 'nbdev_test' in l
             and l.startswith('pip install')]
    if len(lines) != 1: yield f'README.md has {len(lines)} lines with the test command, not 1'
    steps = yaml.safe_load((ROOT/'.github/workflows/test.yaml').read_text())['jobs']['test']['steps']
    for l in lines:
        if l not in [s.get('run') for s in steps]: yield f'.github/workflows/test.yaml has no step that runs: {l}'

# all that a job may run whose token may write
PUBLISHERS = {'actions/download-artifact', 'actions/deploy-pages', 'pypa/gh-action-pypi-publish'}

def workflows():
    """workflows: actions are pinned by commit with their version beside it,
    and a job whose token may write installs and runs nothing"""
    files, seen = sorted((ROOT/'.github/workflows').glob('*.y*ml')), 0
    for file in files:
        text, name = file.read_text(), file.relative_to(ROOT).as_posix()
        for i, line in enumerate(text.splitlines(), 1):
            if not re.match(r'\s*(?:- )?uses:', line): continue
            seen += 1
            if not re.fullmatch(r'\s*(?:- )?uses: [\w.-]+(?:/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+', line):
                yield f'{name}:{i}: {line.strip()}: pin it as owner/name@COMMIT # v1.2.3'
        whole = yaml.safe_load(text)
        if 'permissions' not in whole: yield f'{name}: no permissions: without them a token may write'
        for job, what in whole['jobs'].items():
            granted = what.get('permissions', whole.get('permissions'))
            if 'write' not in str(granted): continue
            for step in what.get('steps', [what]):
                if step.get('uses', '').split('@')[0] not in PUBLISHERS:
                    yield (
                        f'{name}: job {job} may write ({granted}) and runs {step.get("run") or step.get("uses")}: do '
                        'that in a job of its own')
    return f'{seen} actions in {len(files)} files'

def sidebar():
    "sidebar: nbs/sidebar.yml lists every notebook once, and nothing else"
    def leaves(x):
        if isinstance(x, str): return [x]
        return [l for o in (x if isinstance(x, list) else [x.get('href'), x.get('contents')]) if o for l in leaves(o)]
    listed = leaves(yaml.safe_load((ROOT/'nbs/sidebar.yml').read_text())['website']['sidebar']['contents'])
    for n in sorted(set(listed)):
        if listed.count(n) > 1: yield f'{n} is listed {listed.count(n)} times'
    have = {n.removeprefix('nbs/') for n in notebooks()}
    for n in sorted(have - set(listed)): yield f'{n} is not listed'
    for n in sorted(set(listed) - have): yield f'{n} is listed and does not exist'
    files = yaml.safe_load((ROOT/'nbs/_quarto.yml').read_text())['project'].get('resources', [])
    stems = [re.sub(r'^\d+[a-zA-Z0-9]*_', '', n) for n in have]
    for s in sorted(set(stems)):
        if stems.count(s) > 1: yield f'{s}: two notebooks of that name once the number is off, the site would keep one'
        if s.replace('.ipynb', '.html') in files: yield f'{s}: its page would overwrite {s.replace(".ipynb", ".html")}'

def code_names():
    "Every identifier in the code cells of all notebooks, and the builtins."
    names = set(dir(builtins))
    for n in notebooks():
        for c in cells(n):
            if c.cell_type == 'code': names |= set(re.findall(r'[A-Za-z_]\w*', c.source))
    return names

def resolves(name):
    """Is the dotted `name` a module of ours, something in one, or (`Class.member`) a method,
    field or attribute of a class in one?"""
    for path in [name] + [f'{m}.{name}' for m in ours()]:
        parts = path.split('.')
        for i in range(len(parts), 0, -1):
            try: obj = importlib.import_module('.'.join(parts[:i]))
            except ImportError: continue
            for p in parts[i:]:
                if hasattr(obj, p): obj = getattr(obj, p)
                elif isinstance(obj, type) and (p in getattr(obj, '__annotations__', {})
                                                or re.search(rf'self\.{p}\b', inspect.getsource(obj))):
                    obj = None
                else: break
            else: return True
    return False

@cache
def ours():
    return [n[:-3].replace('/', '.').removesuffix('.__init__') for n in tracked() if re.match(r'pafm_nb/.*\.py$', n)
            and '/tests/' not in n]

def doclinks():
    """doclinks: names in backticks exist

    Looked at, in all prose outside fences: whatever starts with `pafm_nb.`; calls without arguments, `name()`;
    CamelCase words; members `Class.member` of our own
    classes; and in notebooks names_with_underscores (but not step_0500). Such a name must be in nbdev's index of this
    package or importable from it; one that is not ours passes if it
    is dotted, or if some code cell of some notebook uses it."""
    index, used, seen, linked = NbdevLookup('pafm_nb', incl_libs='pafm_nb'), code_names(), 0, 0
    classes = {s for s in index.syms if re.fullmatch(r'[A-Z]\w*', s)}
    for file, md in prose():
        for name, call in sorted(set(re.findall(r'`([A-Za-z_][\w.]*)(\(\))?`', md))):
            (head, *rest), doc = name.split('.'), index.doc(name)
            if doc and re.search(r'/test_\w+\.html', doc) and not head.startswith('test_'):
                yield (
                    f'{file}: `{name}` would link to {doc.rsplit("/", 1)[1]}: give the helper of the test another name')
            ours_or_api = (head == 'pafm_nb' and rest or head in classes and rest or call
                           or re.fullmatch(r'[A-Z][a-z0-9]+[A-Z]\w*', name))
            if not (ours_or_api or file.endswith('.ipynb') and re.fullmatch(r'[a-z]\w*_\w*[a-z]\d?', name)): continue
            seen += 1
            if doc: linked += 1
            elif resolves(name) or head != 'pafm_nb' and head not in classes and (rest or name in used): pass
            else: yield f'{file}: `{name}{call}` is not in the package and no code cell uses it'
    return f'{seen} names, {linked} of them link to their documentation'

def links():
    "links: relative links and pictures lead to files"
    seen = 0
    for file, md in prose():
        for target in re.findall(r'\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)|(?:src|href)="([^"]+)"',
                                 re.sub(r'`[^`\n]*`', '', md)):
            target = (target[0] or target[1]).split('#')[0]
            if not target or re.match(r'[a-z]+:', target): continue
            seen += 1
            if not ((ROOT/file).parent/target).exists(): yield f'{file}: {target} does not exist'
    return f'{seen} links'

def brought_by(requirements): return {canonicalize_name(Requirement(r).name) for r in requirements.split()}

def brought(extras):
    "Names of the distributions that extras of ours bring, over extras of their own"
    found, todo = set(), list(extras)
    while todo:
        for need in map(Requirement, config()[f'{todo.pop()}_requirements'].split()):
            if need.name == config()['lib_name']: todo += need.extras
            else: found.add(canonicalize_name(need.name))
    return found

def colab():
    """colab: a badge opens the notebook it stands in, and a cell below it fetches the repository and its extras

    Looked at: what the notebook's code imports of the packages in `pafm_nb.extras`; experiments of ours need
    matplotlib."""
    user, repo, branch = (config()[k] for k in ('user', 'repo', 'branch'))
    clone, seen = f'git clone -q https://github.com/{user}/{repo} ', 0
    for n in notebooks():
        badges = re.findall(r'colab\.research\.google\.com/github/([^"]+)"', '\n'.join(c.source for c in cells(n)))
        seen += len(badges)
        if not badges: continue
        if badges != [f'{user}/{repo}/blob/{branch}/{n}']: yield f'{n}: its badge opens {badges}'
        if clone not in cells(n)[2].source: yield f'{n}: no cell below the badge fetches the repository'
        named = re.search(r"pip install -q '[^'\[]+\[([\w,]+)\]'", cells(n)[2].source)
        if not named: yield f'{n}: the cell below the badge names no extra'; continue
        code = '\n'.join(c.source for c in cells(n) if c.cell_type == 'code')
        needs = {m for m in re.findall(r'^\s*(?:from|import) (\w+)', code, re.M) if m in EXTRAS}
        if f'{config()["lib_name"]}.experiments' in code: needs.add('matplotlib')
        for m in sorted(needs):
            if not {canonicalize_name(d) for d in packages_distributions().get(m, [m])} & brought(named[1].split(',')):
                yield f'{n}: imports {m}, and [{named[1]}] does not bring it'
    return f'{seen} badges'

def spelling():
    "spelling: no common misspelling in the prose"
    with tempfile.TemporaryDirectory() as tmp:
        texts = {}
        for i, (file, md) in enumerate(prose()):
            (Path(tmp)/f'{i}.md').write_text(md, encoding='utf-8')
            texts[f'{i}.md'] = file
        said = subprocess.run([sys.executable, '-m', 'codespell_lib', '--ignore-words-list', 'ot,docments', '.'],
                              cwd=tmp, capture_output=True, text=True)
    if said.stderr: yield said.stderr.strip()
    for line in said.stdout.splitlines():
        found = re.fullmatch(r'\./(\d+\.md):\d+: (.*)', line)
        yield f'{texts[found[1]]}: {found[2]}' if found else line
    return f'{len(texts)} texts'

def paths():
    "paths: no path of somebody's machine in a tracked file"
    machine = re.compile(r'(?:^|[^A-Za-z0-9_.~-])/(?:root|home|Users|work|tmp)/|site-packages[/]')
    for n in tracked():
        try: text = (ROOT/n).read_text(encoding='utf-8')
        except UnicodeDecodeError: continue
        for i, l in enumerate(text.splitlines(), 1):
            m = machine.search(l)
            if m: yield f'{n}:{i}: {l[max(m.start()-30, 0):m.end()+30].strip()}'
    return f'{len(tracked())} files'

def results():
    "results: every file in results/ is JSON, without NaN, and some notebook names it"
    def refuse(x): raise ValueError(f'holds {x}')
    code = '\n'.join(c.source for n in notebooks() for c in cells(n) if c.cell_type == 'code')
    names = [n for n in tracked() if n.startswith('results/')]
    for n in names:
        try: json.loads((ROOT/n).read_text(encoding='utf-8'), parse_constant=refuse)
        except ValueError as e: yield f'{n}: {e}'
        if not re.search(rf'\b{re.escape(Path(n).stem)}\b', code): yield f'{n}: no notebook reads or writes it'
    return f'{len(names)} files'

FILTER = """
import os, sys
from execnb.nbio import read_nb
from nbdev.doclinks import nbglob
from nbdev.processors import FilterDefaults
os.environ['IN_TEST'] = '1'  # as nbdev.serve_drv does
failed = False
for p in sorted(nbglob(as_path=True)):
    try: FilterDefaults()(read_nb(p))
    except Exception as e:
        failed = True
        print(f'{p.name}: {e.__cause__!r}: {str(e)[:160]}...')
sys.exit(failed)
"""

def site():
    """site: every notebook goes through nbdev's filter for the site

    Where a notebook exports, the filter runs its exports and imports, and with them whatever else an importing cell
    holds: that must be nothing."""
    mixed = False
    for n in notebooks():
        code = [c for c in NBProcessor(ROOT/n).nb.cells if c.cell_type == 'code' and c.parsed_()]
        if not any('export' in c.directives_ for c in code): continue
        for c in code:
            kinds = {type(node) for tree in c.parsed_() for node in ast.walk(tree)}
            skipped = ({'export', 'exporti', 'exports'} & c.directives_.keys()
                       or c.directives_.get('eval:') == ['false'] or 'nbdev_export(' in c.source)
            if not skipped and kinds & {ast.Import, ast.ImportFrom} and kinds & {ast.Expr, ast.Assign}:
                mixed = True
                yield (
                    f'{n}: cell {c.id} mixes imports and other code: give the imports a cell of their own '
                    f'({c.source.splitlines()[0][:60]})')
    if mixed: return
    err = run('-W', 'ignore', '-c', FILTER)
    if err: yield err

def packages():
    "packages: sdist and wheel build, and hold the modules, the tests, the weights and the metadata of settings.ini"
    err = run('-m', 'build', '--no-isolation', '--outdir', 'dist', '.')
    if err: yield err; return
    cfg, (wheel,), (sdist,) = config(), (copy()/'dist').glob('*.whl'), (copy()/'dist').glob('*.tar.gz')
    with zipfile.ZipFile(wheel) as z:
        held = set(z.namelist())
        info = next(n.split('/')[0] for n in held if n.endswith('.dist-info/METADATA'))
        meta = email.message_from_bytes(z.read(f'{info}/METADATA'))
        points = configparser.ConfigParser(delimiters=['='])
        points.read_string(z.read(f'{info}/entry_points.txt').decode())
    wanted = {n for n in tracked() if n.startswith('pafm_nb/') and n.endswith(('.py', '.safetensors', 'py.typed'))}
    for n in sorted(wanted - held): yield f'{wheel.name} lacks {n}'
    for n in sorted(n for n in held - wanted if not n.startswith(info)):
        yield f'{wheel.name} holds {n}, which is not a module or weights of ours'
    with tarfile.open(sdist) as t: packed = {n.partition('/')[2] for n in t.getnames()}
    for n in sorted(wanted | {'settings.ini', 'setup.py', 'pyproject.toml', 'LICENSE', 'README.md'}):
        if n not in packed: yield f'{sdist.name} lacks {n}'
    core = {canonicalize_name(Requirement(r).name) for r in meta.get_all('Requires-Dist', []) if 'extra ==' not in r}
    if core != brought_by(cfg['requirements']): yield f'{wheel.name}: its core asks for {sorted(core)}'
    extras = {k.removesuffix('_requirements') for k in cfg if k.endswith('_requirements')}
    for field, want in dict(Version=[cfg['version']], Name=[cfg['lib_name']], License_Expression=['Apache-2.0'],
                            Requires_Python=[f'>={cfg["min_python"]}'],
                            License_File=['LICENSE'], Provides_Extra=sorted(extras)).items():
        got = meta.get_all(field.replace('_', '-'), [])
        if sorted(got) != want: yield f'{wheel.name}: {field.replace("_", "-")} is {got}, not {want}'
    scripts = dict(s.split('=') for s in cfg['console_scripts'].split())
    if dict(points['console_scripts']) != scripts:
        yield f'{wheel.name}: console scripts are {dict(points["console_scripts"])}, not {scripts}'
    if 'nbdev' not in points:
        yield f'{wheel.name}: no nbdev entry point, other projects could not link to our documentation'
    return f'{wheel.name} {wheel.stat().st_size/1e3:.0f} kB with {len(held)} files, extras {", ".join(sorted(extras))}'

CHECKS = [exports, clean, outputs, alts, sizes, readme, house, lines, mutants, commands, workflows, sidebar, doclinks,
          links, colab, spelling, paths, results, site, packages]

def problems(check):
    "The problems `check` yields, and what it returns; an exception is a problem too."
    found, it = [], check()
    while True:
        try: found.append(next(it))
        except StopIteration as e: return found, e.value
        except Exception as e: return [*found, f'{type(e).__name__}: {e}'], None

@call_parse
def main(
    names:Param('Checks to run (default: all of them)', nargs='*'),
):
    "Check what the tests do not look at"
    os.chdir(ROOT)
    known = [f.__name__ for f in CHECKS]
    if set(names) - set(known):
        sys.exit(f'check: no check called {" ".join(sorted(set(names) - set(known)))}; there are: {" ".join(known)}')
    failed = []
    try:
        for f in CHECKS:
            if names and f.__name__ not in names: continue
            found, count = problems(f)
            print(f'{"FAIL" if found else "ok  "} {f.__doc__.splitlines()[0]}' + (f' ({count})' if count else ''),
                  flush=True)
            for p in found: print('     ' + p.replace('\n', '\n     '), flush=True)
            if found: failed.append(f.__name__)
    finally:
        if copy.cache_info().currsize: shutil.rmtree(copy())
    if failed: sys.exit(f'check: failed: {" ".join(failed)}')
    print('check: all passed')
