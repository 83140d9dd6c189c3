"""Ten minutes on a GPU: `python scripts/gpu_check.py --out FOLDER [--seconds 420] [--toy]`.

Measures what only a GPU can tell, the most important first: training steps and their memory against the dry run, the
targets alone, a kill and a resume, sampling, gathering, decoding. Each item is written to FOLDER/gpu.json when it is
done, and one that fails is written down with its error; the same call goes on. A worker process does the work: where it
dies or hangs, that item has failed and the next one starts. With --toy it runs anywhere, at toy size, to try the
script.

Needs torch, accelerate and safetensors (triton for the kernel, diffusers for decoding). It makes its own data. When it
is done, copy gpu.json to results/gpu.json: the pages that show a GPU's numbers read it there."""
import argparse, contextlib, gc, hashlib, importlib.util, json, shutil, subprocess, sys, time, types, warnings
from functools import cache, partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
FULL = dict(classes=300, per_class=1300, side=32, batch=256, few=32, warm=5, steps=20, repeats=20, rows=(32, 256),
            disk=20, draws=64, solver=20, vae=(128, 256, 512, 512), args={})
TOY = dict(classes=3, per_class=6, side=8, batch=8, few=4, warm=1, steps=2, repeats=2, rows=(2, 8), disk=3, draws=4,
           solver=2, vae=(8, 16), args=dict(depth=1, hidden_size=32, num_heads=2, input_size=8, num_classes=3))
ARMS = dict(FM=dict(objective='fm'), InClass=dict(candidates='InClass', k=16), WholeClass=dict(candidates='WholeClass'),
            ExactMoments=dict(candidates='ExactMoments'))
WAITS = ('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize', 'cudaMemcpy')

def write(file, content):
    "JSON, whole or not at all"
    part = file.with_name(f'.{file.name}.part')
    part.write_text(json.dumps(content, indent=1) + '\n')
    part.replace(file)

def source():
    "Which code this is: the commit, if it is a checkout, and a checksum of the package"
    git = subprocess.run(['git', '-C', ROOT, 'rev-parse', 'HEAD'], capture_output=True, text=True)
    files = sorted((ROOT/'pafm_nb').rglob('*.py'))
    return dict(commit=git.stdout.strip() or None,
                package_sha256=hashlib.sha256(b''.join(f.read_bytes() for f in files)).hexdigest()[:16])

class Here:
    "The device, the sizes, and data that items share"
    def __init__(self, out, toy):
        import torch
        self.out, self.toy, self.torch = Path(out), toy, torch
        self.device = torch.device('cpu' if toy else 'cuda')
        self.size = types.SimpleNamespace(**(TOY if toy else FULL))
        self.shape = (4, self.size.side, self.size.side)

    def sync(self):
        if self.device.type == 'cuda': self.torch.cuda.synchronize()

    def seconds(self, work):
        "Median seconds of a call, its waiting included"
        times = []
        for _ in range(self.size.repeats + 2):
            self.sync()
            began = time.perf_counter()
            work()
            self.sync()
            times.append(time.perf_counter() - began)
        return median(times[2:])

    def normal(self, *shape, dtype=None):
        g = self.torch.Generator(self.device).manual_seed(0)
        return self.torch.randn(*shape, generator=g, device=self.device, dtype=dtype)

    @cache
    def pool(self, moments):
        "Classes as large as ImageNet's, endpoints or moments in float16, on the device"
        from pafm_nb.pools import TensorPool
        n = self.size.classes*self.size.per_class
        labels = self.torch.arange(n, device=self.device)//self.size.per_class
        mean = self.normal(n, *self.shape, dtype=self.torch.float16)
        return TensorPool(mean, labels, *((mean, (mean/8).abs()) if moments else ()))

    @property
    @cache
    def bank(self):
        "The folder of a small bank on disk"
        from pafm_nb.bank import LatentBank
        torch, n, folder = self.torch, self.size.per_class, self.out/'bank'
        if not (folder/'meta.json').exists():
            def block(c):
                mean = torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(c))
                return (mean, (mean/8).abs()), torch.full((n,), c)
            LatentBank.create(folder, map(block, range(self.size.disk)))
        return folder

    @property
    @cache
    def gpu(self):
        "What the data sheet says of this GPU, if it is in the table"
        from pafm_nb.cost import GPUS
        if self.device.type != 'cuda': return None
        about = self.torch.cuda.get_device_properties(0)
        words = about.name.replace('-', ' ').split()
        found = [gpu for name, gpu in GPUS.items() if name.replace('RTX ', '').split()[0] in words]
        return min(found, key=lambda gpu: abs(gpu.memory - about.total_memory), default=None)

def machine(here):
    "What the device does without us: products in bf16, copies on it and to it"
    torch, n = here.torch, 64 if here.toy else 8192
    a, half = here.normal(n, n, dtype=torch.bfloat16), here.normal(n, n)
    host = torch.empty(n, n, pin_memory=here.device.type == 'cuda')
    return dict(products=2*n**3/here.seconds(lambda: a @ a), copies=2*half.nbytes/here.seconds(half.clone),
                from_host=half.nbytes/here.seconds(lambda: half.copy_(host, non_blocking=True)))

def config_of(here, name, data=None, **changes):
    "The ImageNet recipe on the pool of this device, or on a bank"
    from pafm_nb.config import recipe
    settings = dict(data=str(data or here.out), compile=False, sample_every=0, ema_decay=.9, save_every=10**6,
                    model_args=here.size.args, precision='no' if here.toy else 'bf16', steps=10**6)
    return recipe('imagenet-sit-b2', here.out/'runs'/name, **settings | changes)

def trainer_on(config, pool):
    "A trainer on a pool of this device, of which no checksum is taken"
    from pafm_nb import training
    class OnDevice(training.Trainer):
        def open(self): return pool
    with patch.object(training, 'fingerprint', lambda *args: 'made for the check'):
        return OnDevice(config, progress=False)

def waits(here, step, n=3):
    "Calls of the driver that wait, a step, and where the device's time goes"
    from torch.profiler import ProfilerActivity, profile
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*(here.device.type == 'cuda')
    here.sync()
    with profile(activities=kinds) as seen:
        for _ in range(n): step()
    rows = seen.key_averages()
    spent = lambda row: getattr(row, 'self_device_time_total', 0)/n/1e3
    largest = sorted(rows, key=spent, reverse=True)[:8]
    return dict(waits={row.key: row.count/n for row in rows if row.key in WAITS},
                largest_ms={row.key[:80]: round(spent(row), 3) for row in largest if spent(row)})

def steps(here, model, arm, batch, compile=False):
    "Training steps of one objective: seconds, share of peak, memory against the dry run, waits"
    torch, size, cuda = here.torch, here.size, here.device.type == 'cuda'
    pool, name = here.pool(arm == 'ExactMoments'), f'{model.replace("/", "-")}-{arm}-{compile}'.lower()
    held = torch.cuda.memory_allocated() if cuda else 0
    trainer = trainer_on(config_of(here, name, model=model, batch_size=batch, compile=compile, **ARMS[arm]), pool)
    began = time.perf_counter()
    for _ in range(size.warm): trainer.train_step()
    here.sync()
    warm = time.perf_counter() - began
    if cuda: torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    outs = [trainer.train_step() for _ in range(size.steps)]
    queued = time.perf_counter() - began
    here.sync()
    seconds = (time.perf_counter() - began)/size.steps
    found = dict(batch=batch, seconds=seconds, images_per_second=batch/seconds, host_seconds=queued/size.steps,
                 warm_seconds=warm, loss=outs[-1][0].item())
    if cuda: found |= dict(peak_bytes=torch.cuda.max_memory_allocated() - held,
                           reserved_bytes=torch.cuda.max_memory_reserved(), pools_bytes=held)
    try: return found | predicted(here, trainer, batch, found) | waits(here, trainer.train_step)
    finally: trainer.ahead.close()

def predicted(here, trainer, batch, found):
    "What the dry run says of this step beside what was measured"
    from pafm_nb.cost import backward_flops, forward_flops, sizes_of, step_memory
    model = trainer.accelerator.unwrap_model(trainer.model)
    work = batch*(forward_flops(sizes_of(model)) + backward_flops(sizes_of(model)))
    rows = getattr(trainer, 'pass_rows', None) or batch
    said = dict(operations=work, operations_per_second=work/found['seconds'], pass_rows=rows,
                predicted_bytes=step_memory(model, trainer.config).peak(rows, later=rows < batch))
    if here.gpu: said['share_of_peak'] = work/found['seconds']/here.gpu.peak
    if 'peak_bytes' in found: said['peak_over_predicted'] = found['peak_bytes']/said['predicted_bytes']
    return said

def read_by(here):
    "Arrays of D numbers that a row's target reads"
    return dict(InClass=16, MomentDraws=2*16, WholeClass=here.size.per_class, ExactMoments=2*here.size.per_class)

def target_of(here, name, rows, count):
    "A call that gives a sampler's target, and the bytes of its candidates"
    from pafm_nb.candidates import SAMPLERS, InBatch
    from pafm_nb.objective import pafm_target
    from pafm_nb.pools import draw
    torch, pool = here.torch, here.pool('Moment' in name)
    g = torch.Generator(here.device).manual_seed(0)
    batch = draw(pool, torch.randint(len(pool), (rows,), generator=g, device=here.device), g)
    sampler, eps = InBatch() if name == 'InBatch' else SAMPLERS[name](pool, 16), here.normal(rows, *here.shape)
    t = torch.linspace(.05, .95, rows, device=here.device)
    def work():
        g = torch.Generator(here.device).manual_seed(1)
        return pafm_target(batch.z, eps, t, sampler(batch, g)).velocity
    return work, rows*count*eps[0].numel()*(4 if name == 'InBatch' else 2)

def targets(here, rows):
    "The target alone, in PyTorch's form: seconds, and the bytes that it has to read at least"
    table = {}
    for name, count in (read_by(here) | dict(InBatch=rows)).items():
        try:
            work, least = target_of(here, name, rows, count)
            with without_kernel(): table[name] = dict(bytes=least, **timed(here, work, least))
        except Exception as e: table[name] = dict(error=said(e))
    return dict(rows=rows, table=table)

def timed(here, work, least):
    seconds = here.seconds(work)
    return dict(seconds=seconds) | (dict(share_of_bandwidth=least/seconds/here.gpu.bandwidth) if here.gpu else {})

@contextlib.contextmanager
def without_kernel():
    "The PyTorch form inside"
    from pafm_nb import candidate_sets
    with patch.object(candidate_sets, 'kernel_fits', lambda *args: False): yield

def kernel(here, rows):
    "Is the kernel chosen, does it agree with the PyTorch form, and how fast is either?"
    from pafm_nb.candidate_sets import kernel_fits
    from pafm_nb.kernels import AGREED
    if not kernel_fits(here.normal(rows, *here.shape).flatten(1)):
        raise Skipped('no kernel here: it is for a GPU with triton')
    table = {}
    for name, count in read_by(here).items():
        try:
            before, (work, least) = set(AGREED), target_of(here, name, rows, count)
            with warnings.catch_warnings(record=True) as said_:
                warnings.simplefilter('always')
                found = work()
            with without_kernel(): form, plain = work(), timed(here, work, least)
            table[name] = dict(bytes=least, used={str(k): AGREED[k] for k in set(AGREED) - before} or 'asked before',
                               warned=[str(w.message)[:300] for w in said_], **timed(here, work, least),
                               pytorch_seconds=plain['seconds'],
                               apart=((found - form).abs().max()/form.abs().max()).item())
        except Exception as e: table[name] = dict(error=said(e))
    return dict(rows=rows, table=table)

def killed(here):
    "A run is killed after its first checkpoint, goes on, and is compared with one that was left alone"
    from pafm_nb.checkpoints import last_name, read_checkpoint
    from pafm_nb.training import Trainer
    torch, runs = here.torch, here.out/'runs'
    settings = dict(data=here.bank, batch_size=here.size.few, save_every=4, **ARMS['InClass'])
    for name in ('killed', 'whole'): shutil.rmtree(runs/name, ignore_errors=True)
    config, file, folder = config_of(here, 'killed', **settings), runs/'killed.json', runs/'killed/checkpoints'
    runs.mkdir(parents=True, exist_ok=True)
    write(file, config.saved() | dict(out=config.out))
    with open(here.out/'killed.log', 'w') as log:
        process = subprocess.Popen([sys.executable, __file__, '--train', file], stdout=log, stderr=log)
    began = time.time()
    while last_name(folder) == 'none' and process.poll() is None and time.time() - began < 120: time.sleep(.01)
    process.kill(); process.wait()
    if last_name(folder) == 'none': raise RuntimeError(f'no checkpoint came: {tail(here.out/"killed.log")}')
    there = int(last_name(folder).split('_')[1])
    again, whole = (Trainer(config_of(here, name, **settings | dict(steps=there + 4)), progress=False).fit()
                    for name in ('killed', 'whole'))
    began = time.perf_counter()
    whole.save()
    saving = time.perf_counter() - began
    a, b = (read_checkpoint(t.out/'checkpoints'/last_name(t.out/'checkpoints'))[0]['ema'] for t in (again, whole))
    apart = max((a[k].float() - b[k].float()).abs().max().item() for k in a)
    return dict(killed_after=there, ended=again.step, same_bits=all(torch.equal(a[k], b[k]) for k in a), apart=apart,
                save_seconds=saving)

def train(file):
    "The run that is killed"
    from pafm_nb.config import TrainConfig
    from pafm_nb.training import Trainer
    Trainer(TrainConfig(**json.loads(Path(file).read_text())), progress=False).fit()

def gathers(here):
    "Candidates out of a bank that stays on the host: rows and bytes a second, copy to the device included"
    from pafm_nb.bank import LatentBank
    from pafm_nb.candidates import SAMPLERS
    from pafm_nb.pools import draw
    torch, bank, table = here.torch, LatentBank.open(here.bank), {}
    g = torch.Generator().manual_seed(0)
    for name, k in (('InClass', 16), ('InClass', 64), ('MomentDraws', 16)):
        k = min(k, here.size.per_class)
        sampler, picked = SAMPLERS[name](bank, k), torch.randint(len(bank), (here.size.batch,), generator=g)
        batch = draw(bank, picked, g)
        seconds = here.seconds(lambda: sampler(batch, g).z.to(here.device))
        rows = here.size.batch*k
        table[f'{name} {k}'] = dict(rows=rows, seconds=seconds, rows_per_second=rows/seconds)
    return dict(batch=here.size.batch, threads=torch.get_num_threads(), bank_bytes=bank_size(here.bank), table=table)

def bank_size(folder): return sum(f.stat().st_size for f in folder.glob('*.npy'))

def sampled(here):
    "SiT's SDE with guidance, in each precision: images a second, how far from float32, waits; other batches"
    from pafm_nb.mmdit import MODELS
    from pafm_nb.sampling import Counted, sample_many
    from pafm_nb.vae import tf32
    torch, n = here.torch, here.size.draws
    with torch.device(here.device): model = MODELS['SiT-B/2'](**here.size.args).eval()
    g = torch.Generator(here.device).manual_seed(0)
    with torch.no_grad():
        for p in model.parameters(): p.normal_(std=.03, generator=g)
    def draw(precision, batch_size=n):
        net = Counted(model, torch.bfloat16 if precision == 'bf16' else None)
        with tf32(precision == 'tf32', here.device):
            return sample_many(net, range(n), torch.arange(n) % 3, here.shape, batch_size, progress=False,
                               device=here.device, method='euler_maruyama', steps=here.size.solver, guidance_scale=1.5)
    found, whole = {}, draw('no')
    for precision in ('no', 'tf32', 'bf16'):
        z, began = draw(precision), time.perf_counter()
        draw(precision)
        seconds = time.perf_counter() - began
        off = lambda x: ((x - z).square().mean().sqrt()/z.std()).item()
        found[precision] = dict(images_per_second=n/seconds, from_float32=off(whole),
                                other_batch=off(draw(precision, max(1, n//4 + 1))))
    return dict(images=n, steps=here.size.solver, table=found, **waits(here, partial(draw, 'bf16'), 1))

def decoded(here):
    "Decoding by a VAE of the usual size with random weights: seconds an image, memory against the rule"
    if importlib.util.find_spec('diffusers') is None: raise Skipped('diffusers is not installed')
    from diffusers import AutoencoderKL
    from pafm_nb.vae import decode, decode_bytes, fitting_batch
    torch, widths = here.torch, here.size.vae
    vae = AutoencoderKL(block_out_channels=widths, down_block_types=('DownEncoderBlock2D',)*len(widths),
                        up_block_types=('UpDecoderBlock2D',)*len(widths), latent_channels=4, layers_per_block=2,
                        norm_num_groups=min(32, widths[0]//2))
    vae = vae.eval().requires_grad_(False).to(here.device, memory_format=torch.channels_last)
    z, most = here.normal(here.size.draws, *here.shape), fitting_batch(vae, here.shape[1:], here.size.draws)
    one = decode_bytes(vae, here.shape[1:])
    work = lambda: decode(vae, z, dict(scale=1., shift=0.), most)
    if here.device.type != 'cuda': work(); return dict(batch=most, predicted_bytes=most*one)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter(); work(); here.sync()
    seconds, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated() - before
    return dict(batch=most, seconds_an_image=seconds/len(z), peak_bytes=peak, predicted_bytes=most*one)

class Skipped(Exception): "An item that this machine cannot run"

def items(toy):
    "Name -> what to do and the seconds it may take, the most important first"
    size = TOY if toy else FULL
    run = lambda model, arm, rows, compile=False: (lambda here: steps(here, model, arm, rows, compile))
    b, xl = 'SiT-B/2', 'SiT-XL/2'
    whole = {f'B/2 {arm}': (run(b, arm, size['batch']), 40) for arm in ARMS}
    alone = {f'target {n}': (lambda here, n=n: targets(here, n), 40) for n in size['rows']}
    large = {f'XL/2 {arm}': (run(xl, arm, size['few']), 60) for arm in ('FM', 'ExactMoments')}
    large[f'XL/2 FM, {size["batch"]} rows'] = run(xl, 'FM', size['batch']), 90
    compiled = {} if toy else {f'B/2 {arm} compiled': (run(b, arm, size['batch'], True), 120) for arm in ARMS}
    rest = {f'kernel {n}': (lambda here, n=n: kernel(here, n), 60) for n in size['rows']}
    return (dict(machine=(machine, 30)) | whole | alone | rest | {'save, kill, resume': (killed, 90)} | large
            | dict(sampling=(sampled, 40), gathering=(gathers, 40), decoding=(decoded, 40)) | compiled)

def said(error): return f'{type(error).__name__}: {(str(error).strip().splitlines() or [""])[0]}'[:400]

def tail(file): return ' '.join(Path(file).read_text(errors='replace').split())[-400:]

def work(out, toy, until):
    "Do items until the time is over; stop after an error of the device, which nothing survives"
    file = Path(out)/'gpu.json'
    here, found = Here(out, toy), json.loads(file.read_text())
    for name, (do, limit) in items(toy).items():
        if name in found['items'] or (time.time() + limit > until and not toy): continue
        found['running'] = dict(item=name, limit=limit, began=time.time())
        write(file, found)
        began = time.perf_counter()
        try: result = do(here)
        except Skipped as e: result = dict(skipped=str(e))
        except Exception as e: result = dict(error=said(e))
        found['items'][name] = result | dict(took=round(time.perf_counter() - began, 2))
        del found['running']
        write(file, found)
        print(f'{name:22s}{line(result)}', flush=True)
        rows = [result, *(row for row in result.get('table', {}).values() if isinstance(row, dict))]
        if any(word in row.get('error', '') for row in rows for word in ('CUDA', 'AcceleratorError')): sys.exit(3)
        gc.collect()
        if not toy: here.torch.cuda.empty_cache()

def line(result):
    "An item in a few words"
    for key in ('error', 'skipped'):
        if key in result: return f'{key}: {result[key]}'
    if 'images_per_second' not in result: return 'done'
    share, memory = result.get('share_of_peak'), result.get('peak_over_predicted')
    return (f'{result["images_per_second"]:.4g} images/s' + (f', {share:.0%} of peak' if share else '')
            + (f', memory {memory:.2f} of what was predicted' if memory else '') + f', waits {result["waits"]}')

def begin(out, toy):
    "The file of results, new or gone on with"
    import torch
    if not toy and not torch.cuda.is_available():
        sys.exit('error: there is no GPU that torch sees here: give --toy to try the script at toy size')
    asked = ['nvidia-smi', '--query-gpu=driver_version,name,memory.total,power.limit', '--format=csv,noheader']
    try: driver = subprocess.run(asked, capture_output=True, text=True).stdout.strip().splitlines()[0]
    except (OSError, IndexError): driver = None
    about = dict(toy=toy, device='cpu' if toy else torch.cuda.get_device_name(), driver=None if toy else driver,
                 torch=str(torch.__version__), cuda=torch.version.cuda, python=sys.version.split()[0], **source())
    file = Path(out)/'gpu.json'
    there = json.loads(file.read_text()) if file.exists() else dict(about, items={})
    for key, value in about.items():
        if there[key] != value:
            sys.exit(f'error: {file} is of {key} {there[key]}, and this is {value}: give another folder')
    file.parent.mkdir(parents=True, exist_ok=True)
    there.pop('running', None)                           # a call that was stopped: the item is done again
    write(file, there)

def supervise(out, toy, seconds):
    "Start workers until all items are done or the time is over"
    file, until = Path(out)/'gpu.json', time.time() + seconds
    while True:
        worker = subprocess.Popen([sys.executable, __file__, '--out', out, '--until', str(until)] + ['--toy']*toy)
        hung = False
        while worker.poll() is None:
            time.sleep(.1)
            running = file.exists() and json.loads(file.read_text()).get('running')
            hung = bool(running) and time.time() - running['began'] > 2*running['limit']
            if hung or time.time() > until + 30: worker.kill(); worker.wait()
        if worker.returncode == 1: sys.exit(1)                 # it said why
        found = json.loads(file.read_text())
        if running := found.pop('running', None):
            over = time.time() > until and not hung
            why = 'it hung' if hung else f'the process died ({worker.returncode})'
            if not over: found['items'][running['item']] = dict(error=why)
            write(file, found)
        if worker.returncode == 0 or time.time() > until: break
    left = [name for name in items(toy) if name not in found['items']]
    bad = [name for name, result in found['items'].items() if 'error' in result]
    print(f'{file}: {len(found["items"])} items, {len(bad)} failed' + (f': {", ".join(bad)}' if bad else ''))
    print(f'left: {", ".join(left)}; the same call goes on' if left else 'complete' + ': copy it to results'*(not toy))

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', help='folder for gpu.json and what is made on the way')
    parser.add_argument('--seconds', type=float, default=420, help='no item is begun that may take longer')
    parser.add_argument('--toy', action='store_true', help='at toy size on a CPU, to try the script')
    for hidden in ('--until', '--train'): parser.add_argument(hidden, help=argparse.SUPPRESS)
    args = parser.parse_args()
    with_pictures()
    if args.train: return train(args.train)
    if not args.out: parser.error('give a folder with --out')
    if not args.until: return supervise(args.out, args.toy, args.seconds)
    begin(args.out, args.toy)
    work(args.out, args.toy, float(args.until))

def with_pictures():
    "Modules that draw pictures import PIL, and nothing here draws one: a machine without it will do"
    if importlib.util.find_spec('PIL') is None:
        names = types.SimpleNamespace(Image=types.SimpleNamespace(Image=object), ImageOps=None)
        sys.modules['PIL'] = names

if __name__ == '__main__': main()
