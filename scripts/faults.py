"""Try to lose a training run: `python scripts/faults.py [--number 20] [--seed 0] [--out results/faults.json]`.

Kills: a run on digits is killed (`kill -9`) at random moments and started again, until it has been killed often enough
and ends; its weights, their average and the optimizer must then
equal, bit for bit, those of a run that was left alone. Damage: the newest checkpoint of a run is damaged in thirty-two
ways; each time the trainer must fall back to the older one, name the
broken one, and end in the same bits, and with no whole one left it must stop with one error. A folder `step_best` of
the user lies beside them and must stay."""
import itertools, json, os, pickle, random, shutil, signal, subprocess, sys, tempfile, time, warnings, zlib
from pathlib import Path
import torch
from fastcore.script import call_parse
from pafm_nb.files import write_json
from pafm_nb.experiments.bench import machine
from pafm_nb.checkpoints import FILES, last_name, read_checkpoint, read_state, sealed
from pafm_nb.config import TrainConfig
from pafm_nb.training import Trainer

RUN = dict(steps=1200, batch_size=32, save_every=3, log_every=10, candidates='InClass', k=4)
SHORT = RUN | dict(steps=12, save_every=5)
PROGRAM = (
    'import json, sys; from pafm_nb.training import TrainConfig, Trainer; Trainer(TrainConfig(sys.argv[1], '
    '**json.loads(sys.argv[2])), progress=False).fit()')

def newest(out): return last_name(out/'checkpoints')
def same(a, b):
    return all(a[f].keys() == b[f].keys() and all(torch.equal(a[f][k], b[f][k]) for k in a[f]) for f in FILES)

def start(out):
    return subprocess.Popen([sys.executable, '-c', PROGRAM, str(out), json.dumps(RUN)], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)

def kills(root, number, rng):
    "Kill one run `number` times; a list of where, and whether it ended in the bits of an undisturbed one"
    whole, out, moments = root/'whole', root/'killed', []
    if start(whole).wait(): sys.exit('faults: the undisturbed run failed')
    while len(moments) < number:
        process, before = start(out), newest(out)
        if rng.random() < .8:                            # once it is under way; else maybe while it is still starting
            while process.poll() is None and newest(out) == before: time.sleep(.005)
        time.sleep(rng.random())
        if rng.random() < .4:                            # in the middle of a save
            while process.poll() is None and not any((out/'checkpoints').glob('.part_*')): pass
        if process.poll() is not None: sys.exit(f'faults: the run was over after {len(moments)} kills: ask for fewer')
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append(dict(newest=newest(out), while_saving=any((out/'checkpoints').glob('.part_*'))))
        print(f'kill {len(moments)}: {moments[-1]}', flush=True)
    if start(out).wait(): sys.exit('faults: the killed run did not end')
    return moments, same(read_checkpoint(whole/'checkpoints'/newest(whole))[0],
                         read_checkpoint(out/'checkpoints'/newest(out))[0])

def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data)//2] ^= 4
    path.write_bytes(data)

def reseal(folder, **changes):
    "Write a state that agrees with itself, as one who means harm would"
    (folder/'state.json').write_text(json.dumps(sealed(read_state(folder) | changes)))

def plant(folder, name, data):
    "Put other bytes in a file's place, checksum and all"
    (folder/f'{name}.safetensors').write_bytes(data)
    reseal(folder, checksums=read_state(folder)['checksums'] | {name: zlib.crc32(data)})

class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)

def damages(trap):
    "name -> what is done to the folder of a checkpoint"
    def copied(c): shutil.rmtree(c); shutil.copytree(c.parent/'step_00000010', c)
    basic = dict(cut=lambda p: p.write_bytes(p.read_bytes()[:-7]), flipped=flip, empty=lambda p: p.write_bytes(b''),
                 foreign=lambda p: p.write_bytes(b'\x89PNG\r\n' + bytes(500)), missing=Path.unlink)
    files = [f'{n}.safetensors' for n in FILES] + ['state.json']
    ways = {f'{how} {file}': (lambda c, do=do, file=file: do(c/file))
            for (how, do), file in itertools.product(basic.items(), files)}
    def folder_in_place(c): (c/'ema.safetensors').unlink(); (c/'ema.safetensors').mkdir()
    def dangling(c): (c/'model.safetensors').unlink(); (c/'model.safetensors').symlink_to('nowhere')
    def swapped(c):
        (c/'model.safetensors').rename(c/'x')
        (c/'ema.safetensors').rename(c/'model.safetensors')
        (c/'x').rename(c/'ema.safetensors')
    ways |= {'a folder for a file': folder_in_place, 'a link to nothing': dangling, 'two files swapped': swapped,
             'no files at all': lambda c: [p.unlink() for p in c.iterdir()],
             'state is a list': lambda c: (c/'state.json').write_text('[1, 2]'),
             'state nested without end': lambda c: (c/'state.json').write_text('['*100_000),
             'the older one under its name': copied,
             'state of another step': lambda c: shutil.copy(c.parent/'step_00000010/state.json', c/'state.json'),
             'step edited': lambda c: (c/'state.json').write_text(
                 (c/'state.json').read_text().replace('"step": 12', '"step": 2')),
             'header too long, sealed': lambda c: plant(c, 'model', (2**40).to_bytes(8, 'little') + bytes(100)),
             'no checksums, sealed': lambda c: reseal(c, checksums={}),
             'code in a pickle, sealed': lambda c: plant(c, 'optimizer', pickle.dumps(Trap(trap)))}
    return ways

def damaged(root):
    "What became of each damage: 'fell back', or what went wrong"
    made, trap, outcomes = root/'made', root/'trap', {}
    truth = Trainer(TrainConfig(str(made), **SHORT), progress=False).fit().out
    truth = read_checkpoint(truth/'checkpoints/step_00000012')[0]
    for name, harm in damages(trap).items():
        out = root/'run'
        shutil.copytree(made, out)
        (out/'checkpoints/step_best').mkdir()
        harm(out/'checkpoints/step_00000012')
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            try:
                trainer = Trainer(TrainConfig(str(out), **SHORT), progress=False)
                named = any('step_00000012 is damaged' in str(w.message) for w in said)
                if trainer.step != 10 or not named: outcomes[name] = f'SILENT: went on from step {trainer.step}'
                else:
                    tensors, _ = read_checkpoint(trainer.fit().out/'checkpoints/step_00000012')
                    outcomes[name] = 'fell back' if same(truth, tensors) else 'OTHER BITS'
                if not (out/'checkpoints/step_best').exists(): outcomes[name] += ', step_best GONE'
                harm(out/'checkpoints/step_00000012')
                for other in (out/'checkpoints').glob('step_0*'):
                    if other.name != 'step_00000012': shutil.rmtree(other)
                try: Trainer(TrainConfig(str(out), **SHORT), progress=False); outcomes[name] += ', alone: SILENT'
                except ValueError as e:
                    outcomes[name] += ', alone: one error' if 'is whole' in str(e) else f', alone: {e}'
            except Exception as e: outcomes[name] = f'CRASH: {type(e).__name__}: {e}'
        shutil.rmtree(out)
    return outcomes, trap.exists()

@call_parse
def main(
    number:int=20, # how often to kill
    seed:int=0, # of the moments
    out:str='' # also write the result to this JSON file
):
    "Kill a run, damage its checkpoints, and see whether anything is lost"
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    with tempfile.TemporaryDirectory() as tmp:
        outcomes, ran = damaged(Path(tmp))
        for name, outcome in outcomes.items(): print(f'{name:28s} {outcome}', flush=True)
        moments, equal = kills(Path(tmp), number, random.Random(seed))
    good = equal and not ran and all(o == 'fell back, alone: one error' for o in outcomes.values())
    result = dict(machine=machine(), run=RUN, seed=seed, kills=moments, equal_bits=equal, damages=outcomes,
                  code_ran=ran, command=f'python scripts/faults.py --number {number} --seed {seed}')
    print(
        f'{len(moments)} kills, {sum(m["while_saving"] for m in moments)} of them while saving: final bits '
        f'{"equal" if equal else "DIFFERENT"}; {len(outcomes)} damages; planted code {"RAN" if ran else "did not run"}')
    if out: write_json(out, result)
    sys.exit(not good)
