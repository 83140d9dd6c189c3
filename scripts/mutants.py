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
        ('cos_part*sin - sin_part*cos', 'cos_part*sin + sin_part*cos')]),
    mmdit=('mmdit', [
        ('    check_weights(model, state)\n', ''), (".get('context_length', 77)", ".get('context_length', 76)")]),
    bank=('bank', [
        ('if size != bytes: raise', 'if False: raise'), ("order = small['labels'].argsort(kind='stable')", "order = small['labels'].argsort(kind='stable')[::-1].copy()"),
        ('if found != entry:', 'if False:'), ('self.write_header(rows)\n        self.sync()', 'self.sync()'),
        ('if bad.any(): raise ValueError(f\'{name} {first', 'if False: raise ValueError(f\'{name} {first'), ("if spec != self.spec: raise", 'if False: raise'),
        ('return in_pool(class_neighbors', 'return (class_neighbors'), ('if not resume:', 'if False:')]),
    stream=('stream', [
        ('[seed, piece, step]', '[seed, 0, step]'), ('[seed, epoch, 0, 1]', '[seed, 0, 0, 1]'), ('if self.key == key', 'if self.key != key'),
        ('            torch.set_num_threads(threads) ', '            pass ')]),
    checkpoints=('checkpoints', [
        ('if sealed(inner) != state', 'if False'), ('[:-keep]', '[:-keep-1]'), ('if zlib.crc32(data) != checksum', 'if False'), ('in reversed(found)', 'in found'),
        ("r['step'] <= step", "r['step'] < step"), ('fcntl.LOCK_EX |', 'fcntl.LOCK_SH |'), ('(signal.SIGINT, signal.SIGTERM)', '(signal.SIGINT,)'),
        ('for job in on_disk: job.result()', 'pass')]),
    training=('training', [
        ('        self.ema.update_parameters(', '        if self.step % 2 == 0: self.ema.update_parameters('),
        ('self.model.parameters(), self.config.grad_clip)', 'self.model.parameters(), 1e9)'),
        ('lr=config.lr,', 'lr=2*config.lr,'), ('temperature=config.temperature', 'temperature=1.'), ("load_state_dict(tensors['ema'])", "load_state_dict(tensors['model'])"),
        ("unpack_optimizer(optimizer, given['optimizer'])", 'pass'), ('self.accelerator.backward(out.loss/len(mine))', 'self.accelerator.backward(out.loss)'),
        ('dist.broadcast(given[name], 0, group=group)', 'pass'), ('newest > said[0][2])', 'newest < said[0][2])')]),
    images=('images', [
        ("(inside.st_dev, inside.st_ino) in around", "False"),
        ('if error.errno != errno.ELOOP: raise', 'raise'),
        ("part.lower() in HIDDEN", "part in HIDDEN"),
        ("'..' in parts: reason", "False: reason"),
        ("or end.strip(", "or False and end.strip("),
        ("if any(chunk.strip(", "if any(False and chunk.strip("),
        ('zipped = os.pread(fd, 4, 0) in', 'zipped = zipfile.is_zipfile(path) or os.pread(fd, 4, 0) in'),
        ('and not images[only := min(inside[level])]', 'and not images[()] and (only := min(inside[level]))'),
        ('> 1 and (not images[c] or len(classes) == 1)', '> 1 and not images[c]'),
        ('c[-1].lower() in SPLITS', 'c[-1] in SPLITS'),
        ('sorted(inside[level] - full)', 'sorted(set())'),
        ('tuple(x >> 8 for x in clear)', 'clear'),
        ('clear*255//(2**depth - 1)', 'clear'),
        ('if clear is not None: grey[', 'if False: grey['),
        ('image if turn is None else image.transpose(turn), depth', 'image, depth'),
        ('(image.width - size)//2, (image.height - size)//2', '(image.height - size)//2, (image.width - size)//2'),
        ('Image.Resampling.BOX', 'Image.Resampling.BILINEAR'),
        ('if zlib.crc32(data) != crc', 'if False'),
        ('e.errno in NOT_THE_IMAGES: raise', 'False: raise')]),
    image_sets=('image_sets', [
        ('yield x.permute(0, 3, 1, 2) if last else x', 'yield x'),
        ('if fortran or dtype.hasobject: raise', 'if dtype.hasobject: raise'),
        ('part = min(n, full[0] - i), *full[1:]', 'part = n, *full[1:]'),
        ('except BROKEN as error: raise damaged(error) from error\n    return', 'except KeyError as error: raise damaged(error) from error\n    return'),
        ('open_images(folder, labelled=False)', 'open_images(folder)'),
        ('    if lost:', '    if False:'),
        ('if head[:2] != first)', 'if head[:2] == first)'),
        ('1 if all(grey', '1 if any(grey'),
        ('images.names[k*n:(k + 1)*n]', 'images.names'),
        ('center_crop(image, size))[:channels]', 'center_crop(image, size))[:1]'),
        ("('.zip', '.tar')", "('.zip',)"),
        ('and not ours: raise', ': raise')]),
    encoding=('encoding', [
        ('images.labels[chosen], len(images.classes))', 'images.labels, len(images.classes))'),
        ('check_writable(out, BANK)', 'check_writable(out)'),
        ('np.random.default_rng([seed, i])', 'np.random.default_rng([seed, 0])'),
        ('np.repeat([label for label, _, _ in values], views_of_image)', 'np.tile([label for label, _, _ in values], views_of_image)'),
        ('if bad.any(): raise ValueError(f\'{values', 'if False: raise ValueError(f\'{values'),
        ("second if layout == 'repa' else np.exp(second.clip(-30, 20)/2)", "second if layout == 'repa' else np.exp(second.clip(-30, 20))"),
        ("std*made_by['scale'], label", "std, label"),
        ("(name, (mean - made_by['shift'])*made_by['scale']", "(name, mean*made_by['scale']"),
        ("if bad.any(): raise ValueError(f'{names[", "if False: raise ValueError(f'{names["),
        ('0 <= label < TensorPool.MOST_CLASSES', '0 <= label'),
        ('num_classes=classes, null_text', 'null_text'),
        ('for at in range(max(0, start - (end - n)), n, chunk)', 'for at in range(0, n, chunk)'),
        ('if not there[images.labels[chosen]].all()', 'if False'),
        ("(int(found[2]), name)", "(found[2], name)")]),
    captions=('captions', [
        ("decode('utf-8-sig')", "decode()"),
        ("ending, files = ending.lower(), found", "ending, files = ending, found"),
        ("m.isdir() or not key or is_hidden(name)", "m.isdir() or not key"),
        ("elif ending in files: skip(key", "elif False: skip(key"),
        ("elif m.size > MOST_BYTES.get(ending, m.size)", "elif False"),
        ("if len(data := file.read(where[1])) < where[1]", "if (data := file.read(where[1])) is None"),
        ("for ending in others: skip", "for ending in (): skip"),
        ("for path in files if not is_hidden(path.name)", "for path in files"),
        ("end = (tokens == self.eos).int().argmax(1)", "end = torch.full((len(tokens),), tokens.shape[1] - 1)"),
        ("for s, ok in zip(samples, good): rows.append", "for s, ok in zip(samples, ~good): rows.append"),
        ("truncation=True", "truncation=False"),
        ("limit -= n", "limit -= 1"),
        ("check_writable(out, BANK)", "check_writable(out)"),
        ("with open(bank.folder/NOTES[0]) as f: found = {i: line for i, line in enumerate(", "with open(bank.folder/NOTES[0]) as f: found = {i + 1: line for i, line in enumerate(")]))
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
