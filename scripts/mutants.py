"""Do the tests notice? Changes one place of the package at a time and runs the tests of its module: `python
scripts/mutants.py [MODULE ...]`.

Each mutant lives in a copy of the package; a mutant whose tests stay green *survives* and is listed with the reason it
may, or must be met by a new test.
Takes about half an hour on two cores and is no part of CI. `results/mutants.json` is written after each mutant; a run
that was stopped goes on, and one after a change looks again at the mutants whose module or tests changed."""
import hashlib, json, os, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Lock
from fastcore.script import Param, call_parse
from pafm_nb.files import write_json

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = dict(
    paths=('paths', [
        ('def alpha(self, t:Tensor) -> Tensor: return 1 - t', 'def alpha(self, t): return 1 - t*t'),
        ('def d_sigma(self, t:Tensor) -> Tensor: return math.pi/2*torch.cos',
         'def d_sigma(self, t): return math.pi*torch.cos'),
        ('return (ds*z_t - s*v)/det', 'return (ds*z_t + s*v)/det'),
        ('return -model(x, 1 - t, *args, **kwargs)', 'return model(x, 1 - t, *args, **kwargs)'),
        ('(t >= 0) & (t <= 1)).all():', '(t >= 0) & (t < 1)).all():'),
        ('return t.reshape(batch)', 'return t'),
        ('x.shape[1:] != y.shape[1:] or len(rows) > 1', 'len(rows) > 1'),
        ('if isinstance(v, Tensor) and v.shape == z.shape and v.is_floating_point(): return v',
         'if isinstance(v, Tensor) and v.shape == z.shape: return v'),
        ('    if not x.is_floating_point(): raise', '    if False: raise'),
        ('if isinstance(x, bool) or not isinstance(x, Real)', 'if not isinstance(x, Real)')]),
    adapters=('adapters', [
        ('return self.scheduler(t).d_sigma_t', 'return -self.scheduler(t).d_sigma_t'),
        ('return self.scheduler(t).alpha_t', 'return self.scheduler(t).sigma_t'),
        ('not callable(self.scheduler) or ', ''),
        ('if k1 > 1e-4:', 'if False:'), ('if exact > 1e-4*noise:', 'if False:'), ('if astray:', 'if False:'),
        ('astray = top > 6 or noise > size', 'astray = noise > size'),
        ('masked_fill(y[:, None] != pool.labels', 'masked_fill(y[:, None] == pool.labels'),
        ('with torch.random.fork_rng():', 'if True:'),
        ('field(x, t, y) + add + times*x', 'field(x, t, y) + add'),
        ("if not loss.requires_grad:", 'if False:')]),
    posterior=('posterior', [
        ('return r*along - .5*r.square()*apart', 'return r*along - r.square()*apart'),
        ('log_w = log_w/(temperature*(', 'log_w = log_w*(temperature*('),
        ("z.shape[1] if reduction == 'mean' else 1", '1'),
        ('return 1/weights.square().sum(-1)', 'return 1/weights.sum(-1)'),
        ('mean*keep + w @ data', 'mean + w @ data'),
        ('- 2*a*(x @ data.T)', '- a*(x @ data.T)'),
        ('if readable(log_prior) and not (log_prior < torch.inf).all():', 'if False:'),
        ("    check_tensor('log_prior', log_prior,", "    (lambda *a: None)('log_prior', log_prior,"),
        ('flatten(1 + own).double().square()', 'flatten(1 + own).double()'),
        ('    check_weighted(log_w)\n    weights', '    weights'),
        ("check_points('pool', pool", "check_tensor('pool', pool"),
        ('- 1).abs() < .05).all():', '- 1).abs() < 9e9).all():')]),
    pools=('pools', [
        ('embedding = embedding - mean(', 'embedding = embedding + 0*mean('),
        ('z=read_rows(pool.mean, place) + read_rows(pool.std, place)*noise)', 'z=read_rows(pool.mean, place) + noise)'),
        ('index = torch.where(index < 0, index + len(self), index)', 'pass'),
        ('(n - size + 1)', '(n - size)'),
        ('self.place = order.argsort()', 'self.place = order'),
        ('if (y >= most).any()', 'if False'),
        ('if condition is None or labelled or not getattr', 'if True or not getattr'),
        ('if y.shape != (n,) or y.dtype != torch.int64:', 'if y.shape != (n,):'),
        ('if batch.y is not None: check_labels(batch.y, len(batch.z))', 'pass'),
        ('self.labels[row] if self.labelled', 'self.labels[index] if self.labelled')]),
    candidate_sets=('candidate_sets', [
        ('log_w = log_w/temperature\n', 'log_w = log_w*temperature\n'),
        ('(scale.square()/noisy.temperature)', '(scale.square()*noisy.temperature)'),
        ('noisy.a/noisy.b)/noisy.temperature)', 'noisy.a/noisy.b))'),
        ('NEAR = 16', 'NEAR = 1'),
        ('far = weights.scatter(1, near, 0.)', 'far = weights'),
        ('outside.log().maximum(best)', 'outside.log()'),
        ('> math.log(1e3*unit)', '> math.log(1e6*unit)'),
        ('error.clamp_max(1).log() + share', 'error.clamp_max(1).log()'),
        ('if log_prior is not None: exact.add_(log_prior', 'if False: exact.add_(log_prior'),
        ('self.log_prior.ndim == 1 else self.log_prior[rows]',
         'self.log_prior.ndim == 1 else self.log_prior[:len(rows)]'),
        ('None if self.source is None else self.source[rows], self.norms)',
         'None if self.source is None else self.source[:len(rows)], self.norms)'),
        ('rows = rows[still]', 'rows = rows[:0]'),
        ('lookup(table, rows[c]), q[c])', 'lookup(table, rows[c]), q[:len(rows[c])])'),
        ('.reshape(-1).contiguous()', '.reshape(-1)'),
        ('norms = self.norms if self.norms is not None and self.norms.dtype == dtype else',
         'norms = self.norms if self.norms is not None else'),
        ('lookup(norms, rows), None if', 'lookup(norms, rows.roll(1, 1)), None if'),
        ('(q @ pool.T).gather(1, rows)', '(q @ pool.T)[:, :rows.shape[1]]'),
        ('same = (rows[group] == rows[group[0]]).all(1)', 'same = group > -1'),
        ('out[group] += w[group, c] @ tile', 'out[group] = w[group, c] @ tile'),
        ('low.mul_(unit).add_(mid).mul_(unit).add_(high)', 'high'),
        ('scatter_add_(1, rows, w)', 'scatter_add_(1, rows.roll(1, 1), w)'),
        ('half = u.square().mul_(.5)', 'half = u.square()'),
        ('if not same.all():', 'if False:'),
        ('not (gone := log_prior == -torch.inf).any()', 'True'),
        ('& (True if possible is None else possible[row, at])', '& True'),
        ('x[:, 0] if self.source is None else x.gather(1, self.source[:, None])[:, 0]', 'x[:, 0]'),
        ('shift[c], weights[c, :k] = way(w), w', 'shift[c], weights[c, :k] = way(w)/2, w'),
        ('.sub_(products(share, aa_eps2))', ''),
        ('spread.log_().sum(2)', 'spread.sum(2)'),
        ('.addcmul_(ab_eps, products(share.mT, w))', ''),
        ('return lookup(pool, rows[c])\n', 'return lookup(pool, rows[c].roll(1, 1))\n'),
        ('if not same.any():', 'if False:')]),
    kernels=('kernels', [
        ('if not off <= 1e-3:', 'if off > 1e9:'),
        ('few = slice(0, 4)', 'few = slice(0, 6)'),
        ('agreed[key] = not why', 'agreed[key] = True'),
        ('if key not in agreed:', 'if True:'),
        ('s*tl.exp(best - new)', 's'),
        ('there = j < min(K, (part + 1)*per)', 'there = j < K'),
        ('((top - of_all).exp()', '((top - top).exp()'),
        ('each += tl.where(inside[None, :], tl.log(spread), 0.)', 'each += 0*spread'),
        ('prior_step = tile_of(dim, spread), 0 if', 'prior_step = tile_of(dim, spread), k if')]),
    candidates=('candidates', [
        ('fits = (batch.y[:, None] == y) | (batch.y[:, None] == -1)', 'fits = (batch.y[:, None] == y)'),
        ('fits = (batch.y[:, None] == y) | (batch.y[:, None] == -1)', 'fits = (batch.y[:, None] == y) | (y == -1)'),
        ('if other.any():', 'if False:'),
        ('check_told(sampler, pool.labelled, pool.text)', 'pass'),
        ('check_batch(batch); check_told(self, batch.y is not None, batch.condition)\n', 'check_batch(batch)\n'),
        ('rows = torch.where(turn < n, start + turn, -1)', 'rows = start + turn'),
        ('if sampler.moments is False and pool.mean is not None:', 'if False:'),
        ('(same := (y == -1) | (y == stored)).all()', '(same := (y >= -1) & (y < classes)).all()'),
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
        ('noise = torch.randn(found.shape, dtype=found.dtype, generator=generator, device=z.device)',
         'noise = torch.zeros_like(found)'),
        ('mean + std*noise', 'mean + 2*std*noise'),
        ('near = torch.where(gone[:, None], self.near_in_all[place], near)', 'pass'),
        ('rows = torch.where(rows == own[:, None], rows[:, :1], rows)', 'pass'),
        ('high = torch.where(y < 0, len(self.members) - 1, known)', 'high = known'),
        ('if slope.abs().max() < 1e-6: break', 'if slope.abs().max() < 1e-3: break'),
        ('squeeze(-1) + self.u[there]', 'squeeze(-1)'),
        ('torch.where(gone[:, None], arc, rows)', 'rows'), ('torch.where(gone, 0, own//groups)', 'own//groups'),
        ('(own % groups)[:, None] + groups[:, None]*turn', 'own[:, None] + turn'),
        ('place < (last - first)[:, None]', 'place >= 0'), ('dist.get_rank()*len(z)', '0'),
        ('fits[:, :n] = rows[:, None] == rows', 'pass'),
        ('fits = (y[:n, None] == y) | (y[:n, None] == -1)', 'fits = (y[:n, None] == y)'),
        ('z[:self.k - 1].detach().clone(), y', 'z[:self.k].clone(), y'),
        ('self.log_p(batch.condition, self.pool.order[rows])', 'self.log_p(batch.condition, rows)'),
        ('check_possible(log_p[:, 0])', 'pass'),
        ('log_prior.masked_fill((batch.y == -1)[:, None], 0.)', 'log_prior')]),
    objective=('objective', [
        ('slope = path.d_alpha(t) - path.d_sigma(t)*', 'slope = path.d_alpha(t) + path.d_sigma(t)*'),
        ("with torch.autocast('cpu' if z.is_meta else z.device.type, enabled=False):",
         'with torch.autocast(z.device.type, enabled=torch.is_autocast_enabled(z.device.type)):'),
        ('self.path, self.temperature, velocity)', 'self.path, 1., velocity)'),
        ('gone, given, null = y == -1,', 'gone, given, null = y == -2,'),
        ('told = y.masked_fill(gone, -1)', 'told = y'),
        ('< self.label_dropout)', '> self.label_dropout)'),
        ('(target - prepared.fm_target).square().mean()', '(out - target).square().mean()'),
        ('return shift*t/(1 + (shift - 1)*t)', 'return shift*t/(1 + shift*t)'),
        ('(mean + std*torch.randn(', '(mean + torch.randn('),
        ('if z_t is not None: check_point(', 'if False: check_point('),
        ('if made.all() and not faults: return', 'if made.all(): return'),
        ('if abs(mean) > 6/n**.5:', 'if False:'),
        ('if not -8.5*n**.5 <= (square', 'if False and not -8.5*n**.5 <= (square'),
        ('if abs(with_z) > 6*max', 'if abs(with_z) > 1e9*max'),
        ('within = max(1e-4, *(', 'within = max(1e-4, *(0*'), ('within = max(1e-4,', 'within = max(.1,'),
        ('and not noise_faults(way[1], way[0])', ''),
        ('if condition is None and label_dropout > 0 and readable(y) and y.eq(null_label or 0).any():', 'if False:'),
        ("if null_label is not None: check_count('null_label', null_label, 0)", 'pass'),
        ("    candidates.check(z)\n    return candidates", '    return candidates'),
        ('    candidates.check(z)\n\n#', '\n#'),
        ('generator, t, lambda: self.path.interpolate(z, eps, t))', 'generator, t, lambda: z)')]),
    diagnostics=('diagnostics', [
        ('- variance/len(error)', ''), ('slope.square()*variance', 'slope*variance'),
        ('w.multinomial(draws, replacement=True', 'torch.ones_like(w).multinomial(draws, replacement=True'),
        ('found.source_weight(weights)', 'weights[:, -1]')]),
    sampling=('sampling', [
        ('expand(2 * path.sigma', 'expand(3 * path.sigma'), ('ahead = z + (s - t) * v', 'ahead = z + s * v'),
        ('(t if begin is None else begin) <= interval[1]', '(t if begin is None else begin) < interval[1]'),
        ('v = v_u + scale * (v_c - v_u)', 'v = v_c + scale * (v_c - v_u)'),
        ('step_generators(generators[rows], device)', 'step_generators(generators[:1], device)*len(noise)'),
        ('for m in training: m.training = True', 'pass'), ('(w * (t - s)).sqrt()', '(w * (t - s))'),
        ('if not z.isfinite().all()', 'if False'),
        ('elif null_label.shape not in ((), y.shape[1:]):', 'elif False:'),
        ('    if noise.is_meta: raise', '    if False: raise'),
        ('    check_guidance(y, scale, null_label)\n', '')]),
    generation=('generation', [
        ('(torch.arange(seeds.start, seeds.stop) - first) % len(labels)',
         'torch.arange(seeds.start, seeds.stop) % len(labels)'),
        ('default_rng([seed, 1])', 'default_rng([seed - seeds[0], 1])'), ("'utf-8-sig'", "'utf-8'"),
        ("made_by not in (None, found['vae_sha256'])", 'False'),
        ('torch.as_tensor(numbers) % len(self.text)', 'torch.as_tensor(numbers).clamp_max(len(self.text) - 1)'),
        ('PATHS[run.config.path]()\n', "PATHS['linear']()\n"),
        ('if there and work.missing():', 'if False:'), ('nfe=model.calls/batches', 'nfe=model.calls'),
        ('if there.get(k) != plan[k]:', 'if False:'),
        ("plan |= dict(batch_size=batch_size)", 'pass'),
        ('draw, min(batch_size, per_piece)', 'draw, batch_size')]),
    evaluation=('evaluation', [
        ('/(self.n - 1)', '/self.n'), ('self.products = x.mean(0), 0, 0', 'self.products = 0*x.mean(0), 0, 0'),
        ('- 2*root)', '- root)'), ('slack = 1e-5*', 'slack = 1e-2*'), ('slack = 1e-5*', 'slack = 1e-9*'),
        ('provenance.get(key, value) != value', 'False'), ('fid=dim + 1', 'fid=dim'),
        ('size = min(1000, *(len(cloud)//2', 'size = min(1000, *(len(cloud)'), ('max(levels) < 2', 'max(levels) < 1'),
        ("made.get('n', images.shape[0]) != images.shape[0]", 'False'),
        ('if path.exists() and not ours(path)', 'if False'), ('max(0., value)', 'value'),
        ("if n % 1000 == 0 else", 'if n > 1000 else')]),
    extractors=('evaluation', [('weights_only=True', 'weights_only=False'), ('if shape != (1008, 2048)', 'if False')]),
    vae=('vae', [
        ('(mean - shift)*scale', 'mean*scale'), ('/2).exp()*scale', '/2).exp()'),
        ('logvar.clamp(-30, 20)/2', 'logvar.clamp(-30, 20)'),
        ("/provenance['scale'] + provenance['shift']", "/provenance['scale']"),
        ('shift=float(vae.config.shift_factor or 0.)', 'shift=0.'), ('.float()/127.5 - 1', '.float()/255'),
        ("report['missing_keys'] + report['unexpected_keys']", "report['missing_keys']"),
        ('or vae.config.latents_std is not None', ''),
        ('2**(len(vae.config.block_out_channels) - 1)', '2**len(vae.config.block_out_channels)'),
        ('return vae.eval().requires_grad_(False)', 'return vae.eval()'),
        ('if len(found) == 1 and', 'if found and'), ('variant=variant or None', 'variant=None'),
        ('weights_file(vae_folder(name)).read_bytes()', "(vae_folder(name)/'config.json').read_bytes()"),
        ("if kind != 'AutoencoderKL'", 'if False'),
        ('for part in z.split(batch_size)', 'for part in z.split(batch_size)[:1]')]),
    sit=('sit', [
        ('if reverse: _reverse_time(state)', 'pass'), ('[:, :c].flatten(0, 1)', '[:, c:].flatten(0, 1)'),
        ('num_classes=table[0] - 1', 'num_classes=table[0]'),
        ('cos_part*sin - sin_part*cos', 'cos_part*sin + sin_part*cos'), (".replace('_orig_mod.', '')", ''),
        ("if k != 'n_averaged'}", '}'),
        ('if len(bare) < len(state)', 'if False and len(state)')]),
    mmdit=('mmdit', [
        ('    check_weights(model, state)\n', ''), (".get('context_length', 77)", ".get('context_length', 76)")]),
    bank=('bank neighbors captions', [
        ('if size != bytes:', 'if False:'),
        ("order = labels.argsort(kind='stable')", "order = labels.argsort(kind='stable')[::-1].copy()"),
        ('if found != entry:', 'if False:'), ('self.write_header(rows)\n        self.sync()', 'self.sync()'),
        ("        if bad.any():\n            raise ValueError(f'{name} {first",
         "        if False:\n            raise ValueError(f'{name} {first"),
        ("if spec != self.spec:", 'if False:'),
        ('if not wanted:', 'if False:'), ('if rows and found < size', 'if False'),
        ('for f in self.files.values(): f.check()', 'pass'),
        ('            self.files = {}\n', '            pass\n'),
        ("if 'checksum' in meta: unsealed(meta)", 'pass'),
        ("if name in bank.meta['files']: write_json", 'if False: write_json'),
        ('made == shares_made_of(self.meta, scale)', "made['scale'] == scale"),
        ('np.diff(rows) > 1', 'np.diff(rows) > 100'), ('(rows[ends] + 1)*size', 'rows[ends]*size'),
        ('        elif scattered and', '        elif')]),
    neighbors=('neighbors', [
        ('return in_pool(class_neighbors', 'return (class_neighbors'),
        ('[in_pool(class_neighbors(pool.by_class[s:e], k), s)', '[class_neighbors(pool.by_class[s:e], k)'),
        ('itself[~itself.any(1), -1] = True', 'pass'),
        ('first = int(parts[-1].max()) + 1', 'first = int(parts[-1].max())'), ('room[c] -= 1', 'room[c] -= 0'),
        ('max(fewest, away[', 'max(1, away['),
        ('if which == 0: found', 'if True: found')]),
    files=('files', [
        ("if sealed(inner)['checksum'] != state['checksum']", 'if False'),
        ('import FileLock, Timeout', 'import SoftFileLock as FileLock, Timeout'),
        ('(folder/name).unlink(missing_ok=True)', 'pass'),
        ('    Path(folder).rename(gone)\n    shutil.rmtree(gone)', '    shutil.rmtree(folder)'),
        ('    finally: part.unlink(missing_ok=True)', '    finally: pass'),
        ('if e.errno not in NO_LOCKS: raise', 'raise'),
        ('(inside.st_dev, inside.st_ino) in around', 'False'), ('if error.errno != errno.ELOOP: raise', 'raise'),
        ('part.lower() in HIDDEN', 'part in HIDDEN')]),
    distributed=('distributed', [
        ('if said[0] is not None: raise', 'if False: raise'),
        ('if group is None or dist.get_rank(group) == 0 else', 'if True else'),
        ('if message is not None: raise', 'if False: raise')]),
    work_folder=('work_folder', [
        ("if checksum(path) != file['crc32']", 'if False'), ('if there and not file.exists()', 'if False')]),
    prefetch=('prefetch', [
        ("torch.cuda.current_device() if device.type == 'cuda' and device.index is None else device.index",
         'device.index'), ('torch.cuda.set_device(number)', 'pass'),
        ('here.wait_stream(self.stream)', 'pass'), ('self.stream.wait_event(so_far)', 'pass'),
        ('x.record_stream(here)', 'pass'), ('(processors() - 1)//threads', 'threads'),
        ('if self.key == key', 'if self.key != key'), ('    torch.set_num_threads(mine) ', '    pass '),
        ('if len(waiting) > n: yield', 'if len(waiting) > 50: yield')]),
    hub=('mmdit', [
        ('model_class=type(self).__name__', "model_class='SiT'"),
        ("module=type(self).__module__.rpartition('.')[2]", "module='sit'"), (' | kwargs)', ')'),
        ('import {{ model_class }}', 'import Model')]),
    cost=('cost', [
        ('unasked = s.text*(w*w + 2*w*h + 2*all_tokens*w)', 'unasked = s.text*(w*w + 2*w*h)'),
        ('return (2 + checkpointing)*forward_flops(s) - came_in', 'return forward_flops(s) - came_in'),
        ('element*((8 + joint)*w + 2*s.hidden)', 'element*(6*w + 2*s.hidden)'),
        ('(self.left + forward if later else max(forward, self.gradients))', 'max(forward, self.gradients)'),
        ('memory.peak(0, later=True))//memory.row)', 'memory.peak(0))//memory.row)'),
        ('math.ceil(drawn/math.ceil(drawn/most))', 'most'), ('memory_bytes - taken', 'memory_bytes'),
        ('{id(x): x.nbytes for x in vars(pool)', '{0: x.nbytes for x in vars(pool)'),
        ('shares = processes if config.shard else 1', 'shares = 1')]),
    dry_run=('dry_run', [
        ('if config.data and Path(config.data).is_dir()', 'if False'),
        ("tries:list[tuple[str, TrainConfig, Gpu, bool]] = [('--resident false', config, gpu, False)]*resident",
         'tries:list[tuple[str, TrainConfig, Gpu, bool]] = []'),
        ('if passes(other, pool, device, processes, held, room)]', ']'),
        ('rows*flops/peak', 'config.batch_size*flops/peak'),
        ('check_plan(config, pool, model, processes)\n    drawn', 'drawn'),
        ('if resident is None: resident = resident_fits', 'if not resident: resident = resident_fits'),
        ('config.steps//config.keep_every', '0*config.steps//config.keep_every'),
        ('saved*kept_checkpoints(config)', 'saved*config.keep')]),
    config=('config', [
        ('not 0 <= x <= 1', 'not 0 < x <= 1'), ('if not str(self.out)', 'if False'),
        ('batch_size=2**20, k=2**16', 'k=2**16'), ('not abs(guidance) < float', 'abs(guidance) > float'),
        ('self.batch_size % (self.micro_batches or 1)', '0'), ("if k != 'out'}", '}'),
        ('if foreign :=', 'if False and'), ('settings = RECIPES[name] | overrides',
                                            'settings = overrides | RECIPES[name]'),
        ('not (config.data and Path', 'not (Path')]),
    batches=('batches', [
        ('[seed, micro_batch, step]', '[seed, 0, step]'), ('[seed, epoch, 0, 1]', '[seed, 0, 0, 1]')]),
    checkpoints=('checkpoints', [
        ('is not None and p.is_dir())', 'is not None)'), ('_step_of(p) <= step and ', ''),
        (' and not p.is_symlink()]', ']'), ('not in (None, state.get(', 'in (state.get('), ('[:-keep]', '[:-keep-1]'),
        ('if zlib.crc32(data) != checksum', 'if False'), ('in reversed(found)', 'in found'),
        ("r['step'] <= step", "r['step'] < step"), ("('SIGINT', 'SIGTERM', 'SIGUSR1')", "('SIGINT', 'SIGTERM')"),
        ('for job in on_disk: job.result()', 'pass'),
        ('% keep_every == 0: continue', '% keep_every == 0: pass'), ("to('cpu', copy=True)", "to('cpu')"),
        ('        self.wait()\n        self.job = self.pool', '        self.job = self.pool'),
        ('if self.job and self.job.done()', 'if self.job'), ('if step not in kept:', 'if False:'),
        ('job, self.job = self.job, None', 'job = self.job')]),
    curves=('curves', [
        ('if not config.keep_every: return kept', 'if False: return kept'),
        (' or step == config.steps]', ']'), ("== protocol['ema_crc32']: continue", "is not None: continue"),
        ("        settings.pop('stats', None)", '        pass'),
        ('        check_same_reference(found', '        str(found'),
        ('if made.get(k) != first.get(k):', 'if False:'), ("if there['asked'].get(k) != v:", 'if False:'),
        ("generate(run, Path(out)/f'step_{step:08d}', *args, step=step,",
         "generate(run, Path(out)/f'step_{step:08d}', *args,")]),
    build=('build', [
        ('temperature=config.temperature', 'temperature=1.'),
        ("unwrapped(tensors['ema'])", "unwrapped(tensors['model'])"),
        ("state['checksums']['ema']", "state['checksums']['model']"),
        ("if state.get('classes') is not None", 'if True'),
        (' and part not in unasked]', ']'), ('config.k + (config.candidates', 'config.k + 0*(config.candidates'),
        ("have <= k if 'cells' in part else", '')]),
    network=('network', [
        ('block.forward = partial(checkpoint,', 'partial(checkpoint,'), ('fullgraph=True, ', ''),
        ('if n % parts == 0), fewest)', 'if n % parts == 0), n)'), ('fewest = -(-n//most)', 'fewest = n//most'),
        ("if reduce == 'bf16' else None", 'if False else None'), ("if reduce == 'bf16': whole", 'if False: whole'),
        ('for part in (*blocks_of(model), model)', 'for part in (model,)'), ('if first:', 'if False:'),
        ('v.full_tensor() if isinstance(v, DTensor) else v) for', 'v) for')]),
    training=('training', [
        ('        self.ema.update(', '        if self.step % 2 == 0: self.ema.update('),
        ('self.model.parameters(), self.config.grad_clip)', 'self.model.parameters(), 1e9)'),
        ('lr=config.lr,', 'lr=2*config.lr,'),
        ('for k, v in given.items()})', 'for k, v in ()})'),
        ('self.accelerator.backward(out.loss/passes)', 'self.accelerator.backward(out.loss)'),
        ('or last > first_newest)', 'or last < first_newest)'),
        ('held.callback(self.writer.finish)', 'pass'), ('        self.writer.check()', '        pass'),
        ('        if wait: self.on_main(self.writer.wait)', '        pass'),
        ('self.save(wait=told or last)', 'self.save()'),
        ("config.micro_batches or pair['pieces'])", 'config.micro_batches)'),
        ('        if mine == its: continue', '        continue'),
        ("if (before := state.get('drawn_on', now)) != now:", 'if False:'),
        ("dynamo_plugin=accelerate.utils.TorchDynamoPlugin(backend='no'),", ''),
        ('accelerate.utils.GradientAccumulationPlugin(num_steps=1)', 'None'),
        ('check_launch(); check_environment(config)', 'check_launch()'),
        ('and left > .01', 'and left > .5'),
        ("load_state_dict(unwrapped(given['model']))", "load_state_dict(given['model'])")]),
    images=('images', [
        ("'..' in parts: reason", "False: reason"),
        ("or end.strip(", "or False and end.strip("),
        ("if any(chunk.strip(", "if any(False and chunk.strip("),
        ('zipped = os.pread(fd, 4, 0) in', 'zipped = zipfile.is_zipfile(path) or os.pread(fd, 4, 0) in'),
        ('and not images[only := min(inside[level])]', 'and not images[()] and (only := min(inside[level]))'),
        ('len(classes) == 1 if images[c] else', 'False if images[c] else'),
        ('named, c[-1].lower())', 'named, c[-1])'),
        ('sorted(inside[level] - full)', 'sorted(set())'),
        ('tuple(x >> 8 for x in clear)', 'clear'),
        ('clear*255//(2**depth - 1)', 'clear'),
        ('if clear is not None: grey[', 'if False: grey['),
        ('_rgb(_upright(image), depth', '_rgb(image, depth'),
        ('(image.width - size)//2, (image.height - size)//2', '(image.height - size)//2, (image.width - size)//2'),
        ('Image.Resampling.BOX', 'Image.Resampling.BILINEAR'),
        ('if zlib.crc32(data) != crc', 'if False'),
        ('e.errno in NOT_THE_IMAGES: raise', 'False: raise')]),
    image_sets=('image_sets', [
        ('yield x.permute(0, 3, 1, 2) if last else x', 'yield x'),
        ('if fortran or dtype.hasobject: raise', 'if dtype.hasobject: raise'),
        ('part = min(n, full[0] - i), *full[1:]', 'part = n, *full[1:]'),
        ('except BROKEN as error: raise damaged(error) from error\n    return',
         'except KeyError as error: raise damaged(error) from error\n    return'),
        ('open_images(folder, labelled=False)', 'open_images(folder)'),
        ('    if lost:', '    if False:'),
        ('if head[:2] != first)', 'if head[:2] == first)'),
        ('1 if all(grey', '1 if any(grey'),
        ('images.names[k*n:(k + 1)*n]', 'images.names'),
        ('center_crop(image, size))[:channels]', 'center_crop(image, size))[:1]'),
        ("('.zip', '.tar')", "('.zip',)"),
        ("is_dir() and not ours:", 'is_dir():')]),
    encoding=('encoding', [
        ('say_empty(self.labels, len(images.classes))', 'say_empty(images.labels, len(images.classes))'),
        ('check_writable(out, BANK)', 'check_writable(out)'),
        ('np.random.default_rng([self.seed, i])', 'np.random.default_rng([self.seed, 0])'),
        ('np.repeat(labels, self.views)', 'np.tile(labels, self.views)'),
        ('        if bad.any():\n            raise', '        if False:\n            raise'),
        ("second if layout == 'repa' else np.exp(second.clip(-30, 20)/2)",
         "second if layout == 'repa' else np.exp(second.clip(-30, 20))"),
        ("std*self.scale, label", "std, label"),
        ("(name, (mean - self.shift)*self.scale", "(name, mean*self.scale"),
        ("if bad.any(): raise ValueError(f'{names[", "if False: raise ValueError(f'{names["),
        ('0 <= label < TensorPool.MOST_CLASSES', '0 <= label'),
        ('num_classes=classes, null_text', 'null_text'), ('if lost := sorted(', 'if lost := 0*sorted('),
        ("(int(found[2]), name)", "(found[2], name)")]),
    bank_build=('bank_build', [
        ('for at in range(max(0, start - (end - n)), n, chunk)', 'for at in range(0, n, chunk)'),
        ('if ends[before] <= saved and', 'if'), ('        LatentBank.open(out).verify()', '        pass'),
        ('if there.get(k) != wanted.get(k):', 'if False:'),
        ("if k not in NOT_COMPARED}", '}'), ("if not any(counts):", 'if False:'),
        ('if reason is not None]', 'if False]')]),
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
        ("for s, ok in zip(samples, good):", "for s, ok in zip(samples, ~good):"),
        ("truncation=True", "truncation=False"),
        ("limit -= n", "limit -= 1"),
        ("check_writable(out, BANK)", "check_writable(out)"),
        ("with open(file) as f: found = {i: line for i, line in enumerate(",
         "with open(file) as f: found = {i + 1: line for i, line in enumerate(")]))
RESULTS = ROOT/'results'/'mutants.json'
REASONS = {}  # (module, changed to): why no test can notice

def run(package, module, tests, old, new):
    "Run the tests of a module on a copy in which one place is changed"
    path = package/'pafm_nb'/f'{module}.py'
    whole = path.read_text()
    if whole.count(old) < 1: sys.exit(f'mutants: {module} has no {old!r}: adapt the list')
    path.write_text(whole.replace(old, new, 1))
    start = time.time()
    try:
        done = subprocess.run([sys.executable, '-m', 'pytest', '-x', '-q', '--no-header', '-p', 'no:cacheprovider',
                               *(str(package/f'pafm_nb/tests/test_{test}.py') for test in tests.split())], cwd=package,
                              env=os.environ | dict(PYTHONPATH=str(package), OMP_NUM_THREADS='1'),
                              capture_output=True, text=True, timeout=900)
        by = next((line.split('::')[-1].split(' - ')[0] for line in done.stdout.splitlines()
                   if line.startswith(('FAILED', 'ERROR')) and '::' in line), 'error') if done.returncode else None
    except subprocess.TimeoutExpired: by = 'time ran out'
    finally: path.write_text(whole)
    return dict(module=module, old=old, new=new, killed_by=by, seconds=round(time.time() - start, 1))

def state_of(module, tests):
    "Checksum of a module and of the tests that look at it, without the marks of their cells"
    files = [ROOT/'pafm_nb'/f'{module}.py', *(ROOT/f'pafm_nb/tests/test_{test}.py' for test in tests.split())]
    code = '\n'.join(line for file in files for line in file.read_text().splitlines()
                     if line and not line.startswith('# %%'))
    return hashlib.sha256(code.encode()).hexdigest()[:12]

def told_before(states):
    "Mutants of the file whose module and tests are as they were: (module, old, new) -> what was found"
    if not RESULTS.exists(): return {}
    found = json.loads(RESULTS.read_text())['mutants']
    return {(m['module'], m['old'], m['new']): m for m in found if m['of'] == states.get(m['module'])}

@call_parse
def main(
    modules:Param('Modules (default: all)', nargs='*'),
    workers:int=2  # Mutants at a time
):
    "Change one place at a time and see whether the tests notice"
    states = {m: state_of(m, tests) for m, (tests, _) in MUTANTS.items()}
    listed = [(m, tests, *change) for m, (tests, changes) in MUTANTS.items() for change in changes]
    done, lock = told_before(states), Lock()
    todo = [job for job in listed if (not modules or job[0] in modules) and (job[0], *job[2:]) not in done]
    with tempfile.TemporaryDirectory() as tmp:
        copies = Queue()
        for i in range(workers):
            shutil.copytree(ROOT/'pafm_nb', Path(tmp)/str(i)/'pafm_nb')
            copies.put(Path(tmp)/str(i))
        def one(job):
            package = copies.get()
            try: found = run(package, *job) | dict(of=states[job[0]])
            finally: copies.put(package)
            print(
                f'{found["module"]:15s} {"killed  " if found["killed_by"] else "SURVIVED"} {found["seconds"]:6.1f} s  '
                f'{found["old"].strip()!r} -> {found["new"].strip()!r}  {found["killed_by"] or ""}', flush=True)
            if not found['killed_by']: found['reason'] = REASONS.get((found['module'], found['new']))
            with lock:
                done[found['module'], found['old'], found['new']] = found
                kept = [done[m, old, new] for m, _, old, new in listed if (m, old, new) in done]
                write_json(RESULTS, dict(command='python scripts/mutants.py', listed=len(listed), mutants=kept))
        with ThreadPoolExecutor(workers) as pool: list(pool.map(one, todo))
    survivors = [m for m in done.values() if not m['killed_by']]
    print(f'{len(done)} of {len(listed)} mutants, {len(survivors)} survived')
    sys.exit(any(not m['reason'] for m in survivors))
