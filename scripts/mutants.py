"""Do the tests notice? Changes one place of the package at a time and runs the tests of its module: `python scripts/mutants.py [MODULE ...]`.

Each mutant lives in a copy of the package; a mutant whose tests stay green *survives* and is listed with the reason it may, or must be met by a new test.
Takes about half an hour on two cores and is no part of CI. Writes `results/mutants.json`."""
import os, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from fastcore.script import Param, call_parse
from pafm_nb.bank import write_json

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = dict(
    paths=('paths', [
        ('def alpha(self, t): return 1 - t', 'def alpha(self, t): return 1 - t*t'),
        ('def d_sigma(self, t): return math.pi/2*torch.cos', 'def d_sigma(self, t): return math.pi*torch.cos'),
        ('return (ds*z_t - s*v)/det', 'return (ds*z_t + s*v)/det'),
        ('return -model(x, 1 - t, *args, **kwargs)', 'return model(x, 1 - t, *args, **kwargs)'),
        ('(t >= 0) & (t <= 1)).all():', '(t >= 0) & (t < 1)).all():')]),
    adapters=('adapters', [
        ('return self.scheduler(t).d_sigma_t', 'return -self.scheduler(t).d_sigma_t'),
        ('return self.scheduler(t).alpha_t', 'return self.scheduler(t).sigma_t'),
        ('not callable(self.scheduler) or ', '')]),
    posterior=('posterior', [
        ('return r*along - .5*r.square()*apart', 'return r*along - r.square()*apart'),
        ('log_w = log_w/(temperature*(', 'log_w = log_w*(temperature*('),
        ("z.shape[1] if reduction == 'mean' else 1", '1'),
        ('return 1/weights.square().sum(-1)', 'return 1/weights.sum(-1)'),
        ('mean*keep + w @ data', 'mean + w @ data'),
        ('- 2*a*(x @ data.T)', '- a*(x @ data.T)')]),
    pools=('pools', [
        ('batch = batch._replace(z=pool.mean[place] + pool.std[place]*noise)', 'batch = batch._replace(z=pool.mean[place] + noise)'),
        ('(n - size + 1)', '(n - size)'),
        ('self.place = order.argsort()', 'self.place = order'),
        ('if (y >= self.MOST_CLASSES).any()', 'if False'),
        ('self.labels[row] if self.labelled', 'self.labels[index] if self.labelled')]),
    candidate_sets=('candidate_sets', [
        ('log_w = log_w/temperature\n', 'log_w = log_w*temperature\n'),
        ('(scale.square()/noisy.temperature)', '(scale.square()*noisy.temperature)'),
        ('r[:, 0])/noisy.temperature', 'r[:, 0])'),
        ('NEAR = 16', 'NEAR = 1'),
        ('far = weights.scatter(1, near, 0.)', 'far = weights'),
        ('half = u.square().mul_(.5)', 'half = u.square()'),
        ('if not same.all():', 'if False:'),
        ('if log_prior is not None and (log_prior == -torch.inf).any():', 'if False:'),
        ('x[:, 0] if self.source is None else x.gather(1, self.source[:, None])[:, 0]', 'x[:, 0]'),
        ('norms if self.norms is not None and self.norms.dtype == pool.dtype else', 'norms if self.norms is not None else'),
        ('spread.log()).sum(2)', 'spread).sum(2)'),
        ('.addcmul_(var, a_eps[c])', '.addcmul_(var, b_eps[c])'),
        ('norms = lookup(self.norms, rows) if', 'norms = lookup(self.norms, rows.roll(1, 1)) if'),
        ('(q @ pool.T).gather(1, rows)', '(q @ pool.T)[:, :rows.shape[1]]'),
        ('if not same_rows(self.z, z[row]).any()', 'if False')]),
    candidates=('candidates', [
        ('fits = (batch.y[:, None] == batch.y) | (batch.y[:, None] == -1)', 'fits = (batch.y[:, None] == batch.y)'),
        ('fits = (batch.y[:, None] == batch.y) | (batch.y[:, None] == -1)', 'fits = (batch.y[:, None] == batch.y) | (batch.y == -1)'),
        ('if other.any():', 'if False:'),
        ('if cpu and not ((y == -1) | (y == pool.labels[place])).all():', 'if cpu and not ((y >= -1) & (y < pool.num_classes)).all():'),
        ('stop = torch.where(y < 0, len(pool), pool.start[known + 1])', 'stop = pool.start[known + 1]'),
        ('rows = rows + (rows >= own[:, None])', 'rows = rows + (rows > own[:, None])'),
        ('log_prior = self.log_prior[rows.clamp_min(0)] +', 'log_prior = 0*self.log_prior[rows.clamp_min(0)] +'),
        ('log_prior[pool.order].float()', 'log_prior[pool.place].float()'),
        ('return log_prior.masked_fill(rows < 0, -torch.inf)', 'return log_prior'),
        ('(self.seat[place] - shift) % size', 'self.seat[place]'),
        ('dropped, source, first = n > self.width', 'dropped, source, first = n < 0'),
        ('most = first + turn', 'most = first + turn - 1'),
        ('for _ in range((k - 1).bit_length())', 'for _ in range(1)'),
        ('torch.where(turn < n[:, None], torch.where(', 'torch.where(turn <= n[:, None], torch.where('),
        ('found[:, 0] = z\n', 'pass\n'),
        ('noise = torch.randn(found.shape, dtype=found.dtype, generator=generator, device=z.device)', 'noise = torch.zeros_like(found)'),
        ('mean + std*noise', 'mean + 2*std*noise'),
        ('near = torch.where(gone[:, None], self.near_in_all[place], near)', 'pass'),
        ('rows = torch.where(rows == place[:, None], rows[:, :1], rows)', 'pass'),
        ('high = torch.where(y < 0, len(self.members) - 1, known)', 'high = known'),
        ('embedding = embedding - mean(', 'embedding = embedding + 0*mean('),
        ('.5*(u - (likeness + u).logsumexp(1))', '.5*(u + (likeness + u).logsumexp(1))'),
        ('+ self.u[rows] - self.u[place][:, None]', ''),
        ('log_prior.masked_fill((batch.y == -1)[:, None], 0.)', 'log_prior')]),
    objective=('objective', [
        ('slope = path.d_alpha(t) - path.d_sigma(t)*', 'slope = path.d_alpha(t) + path.d_sigma(t)*'),
        ('with torch.autocast(z.device.type, enabled=False):', 'with torch.autocast(z.device.type, enabled=torch.is_autocast_enabled(z.device.type)):'),
        ('self.path, self.temperature)', 'self.path, 1.)'),
        ('gone = y == -1\n', 'gone = y == -2\n'),
        ('y.masked_fill(gone, -1), y.masked_fill(gone, null)', 'y, y.masked_fill(gone, null)'),
        ('< self.label_dropout)', '> self.label_dropout)'),
        ('(target - prepared.fm_target).square().mean()', '(out - target).square().mean()'),
        ('return shift*t/(1 + (shift - 1)*t)', 'return shift*t/(1 + shift*t)'),
        ('(mean + std*torch.randn(', '(mean + torch.randn('),
        ("    candidates.check(z)\n    return candidates", '    return candidates'), ('        candidates.check(z)\n', '')]),
    diagnostics=('diagnostics', [
        ('- variance/len(error)', ''), ('slope.square()*variance', 'slope*variance'), ('w.multinomial(draws, replacement=True', 'torch.ones_like(w).multinomial(draws, replacement=True'),
        ('found.source_weight(weights)', 'weights[:, -1]')]),
    sampling=('sampling', [
        ('expand(2 * path.sigma', 'expand(3 * path.sigma'), ('(v + field(z + (s - t) * v, s)) / 2', '(v + field(z + s * v, s)) / 2'),
        ('if scale == 1 or not interval[0] <= t <= interval[1]', 'if scale == 1 or not interval[0] <= t < interval[1]'),
        ('return v_u + scale * (v_c - v_u)', 'return v_c + scale * (v_c - v_u)'), ('generator=generators[rows]', 'generator=generators[:batch_size]'),
        ('for m in training: m.training = True', 'pass'), ('(w * (t - s)).sqrt()', '(w * (t - s))'), ('if not z.isfinite().all()', 'if False')]),
    sit=('sit', [
        ('if reverse: _reverse_time(state)', 'pass'), ('[:, :c].flatten(0, 1)', '[:, c:].flatten(0, 1)'), ('num_classes=table[0] - 1', 'num_classes=table[0]'),
        ('cos_part*sin - sin_part*cos', 'cos_part*sin + sin_part*cos'), (".replace('_orig_mod.', '')", ''), ("if k != 'n_averaged'}", '}'),
        ('if len(bare) < len(state)', 'if False and len(state)')]),
    mmdit=('mmdit', [
        ('    check_weights(model, state)\n', ''), (".get('context_length', 77)", ".get('context_length', 76)")]),
    bank=('bank', [
        ('if size != bytes: raise', 'if False: raise'), ("order = small['labels'].argsort(kind='stable')", "order = small['labels'].argsort(kind='stable')[::-1].copy()"),
        ('if found != entry:', 'if False:'), ('self.write_header(rows)\n        self.sync()', 'self.sync()'),
        ('if bad.any(): raise ValueError(f\'{name} {first', 'if False: raise ValueError(f\'{name} {first'), ("if spec != self.spec: raise", 'if False: raise'),
        ('return in_pool(class_neighbors', 'return (class_neighbors'), ('if not resume:', 'if False:')]),
    latents=('images', [
        ('(mean - shift)*scale', 'mean*scale - shift'), ("shift=float(vae.config.shift_factor or 0.)", 'shift=0.'), ('(logvar.clamp(-30, 20)/2).exp()*scale', '(logvar.clamp(-30, 20)/2).exp()'),
        ("/about['scale'] + about['shift']", "/about['scale']"), ('2**(len(vae.config.block_out_channels) - 1)', '2**len(vae.config.block_out_channels)'),
        ('if len(found) == 1 and', 'if found and'), ('variant=variant or None', 'variant=None'), ('weights_file(vae_folder(name)).read_bytes()', "(vae_folder(name)/'config.json').read_bytes()"),
        ("if wrong := report['missing_keys'] + report['unexpected_keys']", 'if wrong := []'), ("if kind != 'AutoencoderKL'", 'if False'), ('for part in z.split(batch_size)', 'for part in z.split(batch_size)[:1]')]),
    hub=('mmdit', [
        ('model_class=type(self).__name__', "model_class='SiT'"), ("module=type(self).__module__.rpartition('.')[2]", "module='sit'"), (' | kwargs)', ')'),
        ('import {{ model_class }}', 'import Model')]),
    config=('config', [
        ('not 0 <= getattr(self, name) <= 1', 'not 0 < getattr(self, name) <= 1'), ('if not str(self.out)', 'if False'), ('batch_size=2**20, k=2**16', 'k=2**16'), ('not abs(self.sample_guidance) < float', 'abs(self.sample_guidance) > float'),
        ('self.batch_size % (self.micro_batches or 1)', '0'), ("if k != 'out'}", '}'), ('if foreign :=', 'if False and'), ('settings = RECIPES[name] | overrides', 'settings = overrides | RECIPES[name]'),
        ('not (config.data and Path', 'not (Path')]),
    stream=('stream', [
        ('torch.cuda.current_device() if device.index is None else device.index', 'device.index'), ('if device.index is None else device.index', ''), ('self.thread.submit(torch.cuda.set_device, number)', 'self.thread.submit(int, number)'),
        ('[seed, piece, step]', '[seed, 0, step]'), ('[seed, epoch, 0, 1]', '[seed, 0, 0, 1]'), ('if self.key == key', 'if self.key != key'),
        ('            torch.set_num_threads(threads) ', '            pass ')]),
    checkpoints=('checkpoints', [
        ('if sealed(inner) != state', 'if False'), ('[:-keep]', '[:-keep-1]'), ('if zlib.crc32(data) != checksum', 'if False'), ('in reversed(found)', 'in found'),
        ("r['step'] <= step", "r['step'] < step"), ('fcntl.LOCK_EX |', 'fcntl.LOCK_SH |'), ('(signal.SIGINT, signal.SIGTERM)', '(signal.SIGINT,)'),
        ('for job in on_disk: job.result()', 'pass')]),
    training=('training', [
        ('        self.ema.update_parameters(', '        if self.step % 2 == 0: self.ema.update_parameters('),
        ('self.model.parameters(), self.config.grad_clip)', 'self.model.parameters(), 1e9)'),
        ('lr=config.lr,', 'lr=2*config.lr,'), ('temperature=config.temperature', 'temperature=1.'), ("unwrapped(tensors['ema'])", "unwrapped(tensors['model'])"),
        ("unpack_optimizer(optimizer, given['optimizer'])", 'pass'), ('self.accelerator.backward(out.loss/len(mine))', 'self.accelerator.backward(out.loss)'),
        ('dist.broadcast(given[name], 0, group=group)', 'pass'), ('or last > first_newest)', 'or last < first_newest)'),
        ('dynamo_plugin=TorchDynamoPlugin(backend=\'no\'), ', ''), ('GradientAccumulationPlugin(num_steps=1)', 'None'), ('check_launch(); check_environment(config)', 'check_launch()'),
        ('and left > .01', 'and left > .5'), ("wanted.append('neighbors_in_all')", 'pass'), ('config.k + (config.candidates', 'config.k + 0*(config.candidates'), ("have <= k if part == 'cells' else", ''),
        ("load_state_dict(unwrapped(given['model']))", "load_state_dict(given['model'])")]))
REASONS = {}  # (module, changed to): why no test can notice

def run(package, module, tests, old, new):
    "Run the tests of a module on a copy in which one place is changed"
    path = package/'pafm_nb'/f'{module}.py'
    whole = path.read_text()
    if whole.count(old) < 1: sys.exit(f'mutants: {module} has no {old!r}: adapt the list')
    path.write_text(whole.replace(old, new, 1))
    start = time.time()
    try:
        done = subprocess.run([sys.executable, '-m', 'pytest', '-x', '-q', '--no-header', '-p', 'no:cacheprovider', str(package/'pafm_nb'/'tests'/f'test_{tests}.py')], cwd=package,
                              env=os.environ | dict(PYTHONPATH=str(package), OMP_NUM_THREADS='1'), capture_output=True, text=True, timeout=900)
        by = next((line.split('::')[-1].split(' - ')[0] for line in done.stdout.splitlines() if line.startswith(('FAILED', 'ERROR'))), 'error') if done.returncode else None
    except subprocess.TimeoutExpired: by = 'time ran out'
    finally: path.write_text(whole)
    return dict(module=module, old=old, new=new, killed_by=by, seconds=round(time.time() - start, 1))

@call_parse
def main(
    modules:Param('Modules (default: all)', nargs='*'),
    workers:int=2  # Mutants at a time
):
    "Change one place at a time and see whether the tests notice"
    todo = [(m, tests, *change) for m, (tests, changes) in MUTANTS.items() if not modules or m in modules for change in changes]
    with tempfile.TemporaryDirectory() as tmp:
        copies = Queue()
        for i in range(workers):
            shutil.copytree(ROOT/'pafm_nb', Path(tmp)/str(i)/'pafm_nb')
            copies.put(Path(tmp)/str(i))
        def one(job):
            package = copies.get()
            try: found = run(package, *job)
            finally: copies.put(package)
            print(f'{found["module"]:15s} {"killed  " if found["killed_by"] else "SURVIVED"} {found["seconds"]:6.1f} s  {found["old"].strip()!r} -> {found["new"].strip()!r}  {found["killed_by"] or ""}', flush=True)
            return found
        with ThreadPoolExecutor(workers) as pool: results = list(pool.map(one, todo))
    survivors = [r for r in results if not r['killed_by']]
    print(f'{len(results)} mutants, {len(survivors)} survived')
    if not modules: write_json(ROOT/'results'/'mutants.json', dict(command='python scripts/mutants.py', mutants=len(results), by_module={m: len(c) for m, (_, c) in MUTANTS.items()},
                               survivors=[r | dict(reason=REASONS.get((r['module'], r['new']))) for r in survivors], killed=[f'{r["module"]}: {r["old"].strip()} -> {r["new"].strip()} ({r["killed_by"]})' for r in results if r['killed_by']]))
    sys.exit(any((r['module'], r['new']) not in REASONS for r in survivors))
