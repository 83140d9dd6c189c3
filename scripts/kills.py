"""Try to lose work between files and score: `python scripts/kills.py [--number 10] [--seed 0] [--out
results/kills.json]`.

`pafm_prepare imagenet`, `pafm_sample` and `pafm_evaluate` are each killed (`kill -9`) at random moments and started
again with the same command, until they were killed often enough and
ended; what they then leave must equal, byte for byte, what an undisturbed run leaves. The first two are also killed at
every removal and renaming of their last clean-up, one after
another, and started again. Times that a summary reports are left out of the comparison."""
import hashlib, json, os, random, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path
from fastcore.script import call_parse
from pafm_nb.experiments.bench import machine
from pafm_nb.vae import tiny_vae
from pafm_nb.experiments.mnist import write_mnist
from pafm_nb.files import write_json

TIMES = ('seconds', 'rows_per_second', 'images_per_second')

def start(line):
    name, *flags = line.split()
    return subprocess.Popen([Path(sys.executable).with_name(name), *flags],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

def finish(line):
    process = start(line)
    said = process.communicate()[1].decode()
    if process.returncode: sys.exit(f'kills: {line} ended with {process.returncode}:\n{said[-2000:]}')

def without_times(value):
    if isinstance(value, dict): return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return value

def content(out):
    "Relative path -> digest of every file"
    found = {}
    for p in sorted([out] if out.is_file() else out.rglob('*')):
        if p.is_file():
            found[p.name if p == out else p.relative_to(out).as_posix()] = hashlib.sha256(
                json.dumps(without_times(json.loads(p.read_text()))).encode() if p.suffix == '.json'
                else p.read_bytes()).hexdigest()
    return found

def equal(r): return r['equal'] and r.get('clean_up_equal', True)
def remove(out): shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)

DYING = """import os, signal, sys
from pathlib import Path
n, last, seen = int(sys.argv.pop(1)), Path(sys.argv.pop(1)), []
def count(event, args):
    if event not in ('os.rename', 'os.remove', 'os.rmdir') or not last.exists(): return
    seen.append(event)
    if len(seen) == n: os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
from pafm_nb import commands
sys.argv = sys.argv[1:]
getattr(commands, sys.argv[0])()"""

def dies(line, n, last):
    "Run a command that is killed at its n-th removal or renaming after its last file is there; was it?"
    done = subprocess.run([sys.executable, '-c', DYING, str(n), last, *line.split()],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode not in (0, -signal.SIGKILL):
        sys.exit(f'kills: {line} ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}')
    return done.returncode != 0

def clean_up(line, last):
    """Kill a command at each step of its last clean-up; how many there are,
    and whether the next run always ended in the bytes of an undisturbed one"""
    out, kept, n, equal = last.parent, last.parent.with_name('kept'), 1, True
    finish(line)
    whole = content(out)
    remove(out)
    dies(line, 1, last)
    shutil.copytree(out, kept)
    while True:
        finish(line)
        equal = equal and content(out) == whole
        remove(out)
        shutil.copytree(kept, out)
        if not dies(line, n + 1, last): break
        n += 1
    equal = equal and content(out) == whole
    print(f'{line.split()[0]}: {n} kills in the clean-up', flush=True)
    remove(out), remove(kept)
    return dict(clean_up_kills=n, clean_up_equal=equal)

def kills(line, out, number, rng):
    "Kill a command `number` times; the moments, and whether it ended in the bytes of an undisturbed run"
    began = time.perf_counter()
    finish(line)
    whole, length, moments = content(out), time.perf_counter() - began, []
    remove(out)
    while len(moments) < number:
        process, moment = start(line), rng.uniform(.2, 1)*length
        try: process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(round(moment/length, 2))
            print(f'{line.split()[0]}: kill {len(moments)} after {moment:.1f} s', flush=True)
            continue
        if process.returncode:
            sys.exit(f'kills: {line} ended with {process.returncode}:\n{process.stderr.read().decode()[-2000:]}')
        remove(out)                                      # it ended before the kill: once more from the beginning
    finish(line)
    return dict(command=line.replace(str(out.parent), 'DIR'), seconds=round(length, 1), kills=moments, files=len(whole),
                equal=content(out) == whole)

@call_parse
def main(
    number:int=10, # how often to kill each command
    seed:int=0, # of the moments
    out:str='' # also write the result to this JSON file
):
    "Kill each command between files and score, and see whether anything is lost"
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    with tempfile.TemporaryDirectory() as tmp:
        root, rng = Path(tmp), random.Random(seed)
        write_mnist(root/'train'), tiny_vae(root/'vae', 4)
        lines = {'bank': f'pafm_prepare imagenet --images {root}/train --vae {root}/vae --size 32 --out {root}/bank'}
        results = [clean_up(lines['bank'], root/'bank/meta.json') | kills(lines['bank'], root/'bank', number, rng)]
        finish(f'pafm_train --recipe mnist-latents --data {root}/bank --out {root}/run --steps 20')
        lines['samples'] = f'pafm_sample --run {root}/run --n 2000 --steps 25 --out {root}/samples'
        results.append(clean_up(lines['samples'], root/'samples/protocol.json')
                       | kills(lines['samples'], root/'samples', number, rng))
        results.append(
            kills(
                f'pafm_evaluate --samples {root}/samples --reference {root}/train --size 32 --extractor mnist --out '
                f'{root}/scores.json', root/'scores.json', number, rng))
    for r in results:
        print(
            f'{r["command"]}\n  {len(r["kills"])} kills, {r.get("clean_up_kills", 0)} more in the clean-up, '
            f'{r["files"]} files: {"equal" if equal(r) else "DIFFERENT"}')
    if out:
        write_json(out, dict(machine=machine(), seed=seed, commands=results,
                             command=f'python scripts/kills.py --number {number} --seed {seed}'))
    sys.exit(not all(map(equal, results)))
