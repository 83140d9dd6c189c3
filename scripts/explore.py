"""Try the explorable page, nbs/explorable.html, in headless Chromium: `python scripts/explore.py [NAME ...] [--keep]`.

Each trial is a function below; its docstring is the name it is printed under. They use the page as visitors do, by
mouse, finger and keyboard, on a desktop and on a telephone, and compare
what it shows with the package. With `--keep` the largest differences go to results/explorable.json, and small pictures
to nbs/images. Exit code 1 if anything is wrong.
It needs playwright and a Chromium: its own, or the system's if one is on the PATH."""
import io, json, os, shutil, sys, time
from itertools import product
from pathlib import Path
import torch
from fastcore.script import call_parse, Param
from PIL import Image
from pafm_nb.data import digits
from pafm_nb.objective import pafm_target
from pafm_nb.posterior import effective_sample_size, exact_velocity
try: from playwright.sync_api import Error, sync_playwright
except ImportError: sys.exit("explore: there is no playwright: pip install 'pafm_nb[site]'")

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT/'nbs'/'explorable.html'
CLOSE = 1e-4
SCREENS = dict(desktop=dict(viewport=dict(width=1280, height=900)),
               telephone=dict(viewport=dict(width=390, height=844), has_touch=True,
                              is_mobile=True, device_scale_factor=2))
QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']

def pools():
    "The page's moons as they stand in it, and the digits as the package has them, one class after the other"
    data = json.loads(next(l for l in PAGE.read_text(encoding='utf-8').splitlines()
                           if l.startswith('const DATA = '))[len('const DATA = '):])
    train = digits()
    return dict(moons=torch.tensor(data['moons'], dtype=torch.float64)/1000,
                **{str(c): train.of_class(c).flatten(1).double() for c in range(10)})

POOLS, WORST, SEEN = pools(), {}, []

def compare(state):
    "Problems of a state of the page, as lines; the largest differences are kept in WORST"
    f = lambda x: torch.tensor(x, dtype=torch.float64)
    pool = POOLS['moons' if state['view'] == 'moons' else str(state['label'])]
    z, eps, t, rows = pool[state['source'], None], f([state['eps']]), f([state['t']]), state['rows']
    z_t = (1 - t)*z + t*eps
    velocity, weights = pafm_target(z, eps, t, pool[rows][None], temperature=state['temperature'])
    velocity, weights, exact = velocity[0], weights[0], exact_velocity(z_t, t, pool)[0]
    n, k, own = len(pool), state['k'], rows.index(state['source'])
    true = dict(z_t=z_t[0], weights=weights, velocity=velocity, clean=z_t[0] - t*velocity,
                ess=effective_sample_size(weights[None])[0], exact=exact, fm=(eps - z)[0], sourceWeight=weights[own])
    # the bias is a sum over all sources: every row of the pool makes the same z_t
    if not state['error']['draws']:
        near = torch.linalg.vector_norm(pool[:, None] - pool, dim=-1).argsort(stable=True)[:, :k]
        times = t.expand(n)
        posterior = pafm_target(z, eps, t, pool).weights[0]
        targets = pafm_target(pool, (z_t - (1 - t)*pool)/t, times, pool[near],
                              temperature=state['temperature']).velocity
        mean = posterior @ targets
        true |= {'bias': mean - exact, 'variance': (posterior @ (targets - mean).square()).sum()}
    shown = state | dict(bias=state['error']['vector'], variance=state['error']['variance'])
    here = {name: (f(shown[name]) - value).abs().max().item() for name, value in true.items()}
    for name, d in here.items(): WORST[name] = max(WORST.get(name, 0), d)
    SEEN.append(state)
    what = f"{state['view']}, t = {state['t']}, {state['design']}, K = {k}, temperature {state['temperature']}"
    problems = [f'{what}: {name} differs by {d:.1e}' for name, d in here.items() if not d < CLOSE]
    if len(set(rows)) != len(rows) or len(rows) != k: problems.append(f'{what}: {len(rows)} candidates')
    if state['design'] == 'near' and not torch.equal(torch.sort(torch.tensor(rows)).values,
                                                     torch.sort(near_of(pool, state['source'], k)).values):
        problems.append(f'{what}: other neighbours')
    return problems

def near_of(pool, source, k): return torch.linalg.vector_norm(pool - pool[source], dim=-1).argsort(stable=True)[:k]

def state(page): return page.evaluate('explorable.state()')
def done(page):
    "The state when all draws are made"
    page.wait_for_function('() => !explorable.state().sampling', polling=50)
    return state(page)

def open_at(page, **settings):
    "Go to a state by the page's address, as a link does"
    page.evaluate(
        "h => new Promise(done => { if (location.hash == h) return done(); addEventListener('hashchange', () => "
        "done(), {once: true}); location.hash = h })",
                  '#' + '&'.join(f'{k}={v}' for k, v in settings.items()))

def box(page, selector): return page.locator(selector).bounding_box()

def grid(page, name):
    "grid: weights, target, ESS, the pool's exact field and bias in a grid of settings"
    n = 0
    for view, t, (design, k), temperature in product(('moons', 'digits'), (.02, .2, .5, .8, 1),
                                                     (('one', 1), ('random', 4), ('random', 64), ('near', 4),
                                                      ('near', 64), ('whole', 1)), (1, 3)):
        n += 1
        place = (dict(source=(37*n) % 400, eps=f'{.3*(n % 7) - 1:.1f},{.4*(n % 5) - .8:.1f}') if view == 'moons'
                 else dict(label=n % 10, source=(37*n) % 130, noise=n))
        open_at(page, view=view, t=t, design=design, k=k, temperature=temperature, seed=n, **place)
        yield from compare(state(page))
    return f'{n} settings'

def random_bias(page, name):
    "random candidates: the estimated bias falls to 0 through its standard error, and is shown with it"
    for k, t in ((2, .3), (8, .6), (64, .4)):
        open_at(page, view='moons', source=154, eps='0.8,-1.9', design='random', k=k, t=t)
        e = done(page)['error']
        if not (e['draws'] == 4000 and 0 < e['bias'] < 4*e['se']):
            yield f'K = {k}: bias {e["bias"]:.4f} ± {e["se"]:.4f} after {e["draws"]} draws'
        page.wait_for_function("() => document.getElementById('bias-how').textContent.includes('4000')", polling=50)

def claims(page, name):
    "claims: what the suggestions on the page promise comes true"
    links = page.locator('.more a')
    follow = lambda i: (links.nth(i).click(), page.wait_for_timeout(300))
    def swings():
        "Mean squared step of FM's and PAFM's targets from source to source"
        seen = [state(page)]
        for _ in range(40): page.locator('#another').click(); seen.append(state(page))
        step = lambda what: sum(sum((x - y)**2 for x, y in zip(a[what], b[what])) for a, b in zip(seen, seen[1:]))/40
        if max(abs(x - y) for s in seen for x, y in zip(s['exact'], seen[0]['exact'])) > .01: return None
        return step('fm'), step('velocity')
    follow(0)
    moved = swings()
    if not (moved and moved[1] < .1*moved[0]): yield f'random candidates: FM and PAFM move by {moved}'
    follow(1)
    moved = swings()
    if not (moved and moved[1] > .7*moved[0]): yield f'nearest neighbours: FM and PAFM move by {moved}'
    follow(2)
    if not state(page)['error']['bias'] > .3: yield f'between the moons: bias {state(page)["error"]["bias"]}'
    follow(3)
    e = state(page)['error']
    if not (e['bias'] > .1 and e['variance'] < 1e-9): yield f'the whole pool, heated: {e}'
    follow(4)
    for t, want in ((.2, lambda ess: ess < 1.1), (.5, lambda ess: 2 < ess < 20), (.9, lambda ess: ess > 50)):
        page.locator('#t').fill(str(t))
        if not want(state(page)['ess']): yield f'digits at t = {t}: ESS {state(page)["ess"]:.2f}'

def time_slider(page, name):
    "time: by slider and by keys; source and noise stay"
    for view in ('moons', 'digits'):
        open_at(page, view=view, t=.5, design='random', k=16)
        before = state(page)
        page.locator('#t').focus()
        for _ in range(7): page.keyboard.press('ArrowRight')
        after = state(page)
        if abs(after['t'] - .57) > 1e-9: yield f'{view}: seven steps from 0.5 lead to {after["t"]}'
        if (before['source'], before['eps']) != (after['source'], after['eps']):
            yield f'{view}: a new time changed source or noise'
        yield from compare(after)
        page.locator('#t').scroll_into_view_if_needed()
        b = box(page, '#t')
        (page.touchscreen.tap if name == 'telephone' else page.mouse.click)(b['x'] + .25*b['width'],
                                                                            b['y'] + b['height']/2)
        if not abs(state(page)['t'] - .27) < .06: yield f'{view}: a quarter of the slider is t = {state(page)["t"]}'
        yield from compare(state(page))

def drag(page, name):
    "point: dragged by mouse or finger, tapped, and moved by keys"
    open_at(page, view='moons', t=.4, design='random', k=32)
    page.locator('#plane').scroll_into_view_if_needed()
    stage, at = box(page, '#moons .stage'), box(page, '#handle')
    spot = lambda x, y: (stage['x'] + stage['width']*(x/7.2 + .5), stage['y'] + stage['height']*(.5 - y/5.2))
    start, sources = (at['x'] + at['width']/2, at['y'] + at['height']/2), set()
    path = [(start[0] + (x - start[0])*i/12, start[1] + (y - start[1])*i/12)
            for x, y in [spot(1.4, -.9)] for i in range(1, 13)]
    if name == 'telephone':
        cdp = page.context.new_cdp_session(page)
        touch = lambda kind, *points: cdp.send('Input.dispatchTouchEvent',
                                               dict(type=kind, touchPoints=[dict(x=x, y=y) for x, y in points]))
        touch('touchStart', start)
        for p in path: touch('touchMove', p); sources.add(state(page)['source'])
        touch('touchEnd')
    else:
        page.mouse.move(*start); page.mouse.down()
        for p in path: page.mouse.move(*p); sources.add(state(page)['source'])
        page.mouse.up()
    found = state(page)
    if max(abs(a - b) for a, b in zip(found['z_t'], (1.4, -.9))) > .03:
        yield f'dragged to (1.4, -0.9), the point is at {found["z_t"]}'
    if len(sources) < 2: yield 'the source did not change on the way'
    yield from compare(found)
    if page.evaluate('scrollY') != page.evaluate('(y => { scrollTo(0, y); return scrollY })(scrollY)'):
        yield 'dragging scrolled the page'
    (page.touchscreen.tap if name == 'telephone' else page.mouse.click)(*spot(-1, .8))
    found = state(page)
    if max(abs(a - b) for a, b in zip(found['z_t'], (-1, .8))) > .03:
        yield f'tapped at (-1, 0.8), the point is at {found["z_t"]}'
    yield from compare(found)
    page.locator('#handle').focus()
    for key in ('ArrowRight', 'ArrowRight', 'ArrowUp', 'Shift+ArrowDown'): page.keyboard.press(key)
    moved = [b - a for a, b in zip(found['z_t'], state(page)['z_t'])]
    if max(abs(a - b) for a, b in zip(moved, (.1, -.2))) > 1e-3:
        yield f'keys moved the point by {moved}, not (0.1, -0.2)'
    yield from compare(state(page))

def sources(page, name):
    "sources: `Another source` keeps the point, and draws sources as often as the posterior says"
    open_at(page, view='moons', t=.3, design='whole', source=150, eps='1,-1')
    first, n = state(page), 200
    posterior = torch.tensor(first['weights'], dtype=torch.float64)
    page.locator('#another').click()
    if max(abs(a - b) for a, b in zip(first['z_t'], state(page)['z_t'])) > 1e-3:
        yield f'the point moved from {first["z_t"]} to {state(page)["z_t"]}'
    drawn = page.evaluate(
        "n => Array.from({length: n}, () => { document.getElementById('another').click(); return "
        "explorable.state().source })", n)
    share, split = (torch.tensor(drawn) < 200).double().mean().item(), posterior[:200].sum().item()
    if not .05 < split < .95: yield f'a poor trial: one moon holds {split:.3f} of the posterior'
    if abs(share - split) > 4*(split*(1 - split)/n)**.5:
        yield f'{share:.3f} of {n} sources lie on the upper moon, which holds {split:.3f} of the posterior'
    yield from compare(state(page))

def controls(page, name):
    "controls: data, digit, design, K, temperature and buttons"
    press = lambda selector: page.locator(selector).tap() if name == 'telephone' else page.locator(selector).click()
    open_at(page, view='moons', t=.5, design='random', k=16)
    press('input[value=digits]')
    if (state(page)['view'] != 'digits' or page.locator('#moons').is_visible()
        or not page.locator('#digits').is_visible()):
        yield 'the digits did not come up'
    press('input[name=label][value="7"]')
    yield from compare(state(page))
    for design in ('whole', 'near', 'one', 'random'):
        press(f'input[value={design}]')
        if state(page)['design'] != design: yield f'{design} was not chosen'
        yield from compare(state(page))
        if page.locator('#k').is_disabled() != (design in ('whole', 'one')):
            yield f'{design}: K is {"dis" if page.locator("#k").is_disabled() else "en"}abled'
    page.locator('input[value=random]').focus(); page.keyboard.press('ArrowRight')
    if state(page)['design'] != 'near': yield 'an arrow key does not choose the next design'
    page.locator('#k').focus(); page.keyboard.press('Home')
    if state(page)['k'] != 1: yield f'the least K is {state(page)["k"]}'
    yield from compare(state(page))
    page.keyboard.press('End')
    if state(page)['k'] != len(POOLS['7']): yield f'the largest K is {state(page)["k"]}'
    yield from compare(state(page))
    page.locator('#temperature').focus(); page.keyboard.press('End')
    if state(page)['temperature'] != 16: yield f'the highest temperature is {state(page)["temperature"]}'
    yield from compare(state(page))
    press('input[value=random]'); page.locator('#k').fill('4')
    for button, what in (('image', 'source'), ('noise', 'eps'), ('others-too', 'rows')):
        before = state(page); press(f'#{button}')
        if before[what] == state(page)[what]: yield f'#{button} changed nothing'
        yield from compare(state(page))
    shown = page.locator('.slot:not(.empty)')
    top = sorted(state(page)['weights'], reverse=True)[:12]
    texts = [t.split()[-1] for t in shown.all_inner_texts()]
    if texts != [f'{w:.3f}' if w >= 5e-4 else '<0.001' for w in top]:
        yield f'the pictures show {texts}, the weights are {top}'

def tabs(page, name):
    "keyboard: Tab reaches every control, and the focus can be seen"
    for view, ids in (('moons', {'handle', 't', 'k', 'temperature', 'another', 'others'}),
                      ('digits', {'t', 'k', 'temperature', 'image', 'noise', 'others-too'})):
        open_at(page, view=view, t=.5, design='random')
        page.locator('h1').click()                          # Tab goes on from here
        reached, named = set(), set()
        for _ in range(40):
            page.keyboard.press('Tab')
            at = page.evaluate("""() => {
                const e = document.activeElement
                const s = getComputedStyle(e.type == 'radio' ? e.nextElementSibling : e)
                return e == document.body ? null : {
                    id: e.id, group: e.name, style: s.outlineStyle, width: parseFloat(s.outlineWidth),
                    label: e.labels?.[0]?.innerText || e.innerText || e.ariaLabel} }""")
            if at is None: break
            reached.add(at['id']); named.add(at['group'])
            if at['style'] == 'none' or at['width'] < 2:
                yield f'{view}: the focus on {at["id"] or at["group"]} cannot be seen'
            if not at['label']: yield f'{view}: {at["id"] or at["group"]} has no name'
        if ids - reached: yield f'{view}: Tab does not reach {sorted(ids - reached)}'
        if {'view', 'design', *(['label'] if view == 'digits' else [])} - named:
            yield f'{view}: Tab reaches the choices {sorted(filter(None, named))} only'

def layout(page, name):
    "layout: nothing is wider than the screen, and nothing jumps"
    for view in ('moons', 'digits'):
        places = set()
        for design, k, t in product(('whole', 'random', 'near', 'one'), (2, 64), (.02, .5, 1)):
            open_at(page, view=view, t=t, design=design, k=k)
            # it is painted
            page.evaluate('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')
            if (wide := page.evaluate('document.documentElement.scrollWidth - innerWidth')) > 0:
                yield f'{view}, {design}, t = {t}: {wide} pixels too wide'
            places.add(
                tuple(
                    page.evaluate(
                        "[...document.querySelectorAll('main *')].filter(e => "
                        "/^(t|k|temperature|curve|designs|bias-how|noisy|plane|live)$/.test(e.id) || e.className == "
                        "'more').flatMap(e => { const b = e.getBoundingClientRect(); return e.id == 'bias-how' ? [] : "
                        "[b.x, b.y + scrollY] })")))
        if len(places) > 1: yield f'{view}: controls stand in {len(places)} different places'

def words(page, name):
    "words: what is seen is also said, a moment later"
    for view, t in (('moons', .43), ('digits', .57)):
        open_at(page, view=view, t=.6, design='near', k=16)
        page.locator('#t').fill(str(t))
        try:
            page.wait_for_function("t => document.getElementById('live').textContent.includes(`t ${t}`)", arg=t,
                                   polling=50, timeout=20_000)
        except Error: yield f'{view}: not announced'
        said, now = page.locator('#live').inner_text(), state(page)
        if f'effective sample size {now["ess"]:.1f}' not in said:
            yield f'{view}: "{said}" does not hold the ESS {now["ess"]:.1f}'

def address(page, name):
    "address: the page opens again as it was left"
    for view in ('moons', 'digits'):
        open_at(page, view=view, t=.35, design='random', k=24, seed=5)
        page.locator('#another' if view == 'moons' else '#noise').click()
        page.wait_for_timeout(400)
        left = done(page)
        page.reload()
        if done(page) != left: yield f'{view}: reloaded, the state is another'

TRIALS = [grid, random_bias, claims, time_slider, drag, sources, controls, tabs, layout, words, address]
ON_TELEPHONE = [time_slider, drag, controls, layout, words] # what fingers and a narrow screen may change

PICTURES = dict(
    moons=('desktop', 'light', 'view=moons&t=0.5&source=120&eps=0.9,-0.5&design=random&k=32'),
    digits=('desktop', 'dark', 'view=digits&t=0.5&label=3&source=4&noise=2&design=near&k=16'),
    phone=('telephone', 'light', 'view=moons&t=0.4&source=154&eps=0.8,-1.9&design=near&k=128'))

def picture(browser, screen, scheme, hash):
    "A small PNG of the page's upper part"
    with browser.new_context(**SCREENS[screen] | dict(device_scale_factor=1), color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(f'{PAGE.as_uri()}#{hash}')
        done(page); page.wait_for_timeout(300)
        small = io.BytesIO()
        Image.open(io.BytesIO(page.screenshot())).convert('RGB').quantize(128,
                                                                          Image.Quantize.FASTOCTREE).save(
                                                                              small, 'png', optimize=True)
        return small.getvalue()

def launch(play):
    "Playwright's Chromium if it is installed, else the system's"
    path = (None if Path(play.chromium.executable_path).exists()
            else next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None))
    try: return play.chromium.launch(executable_path=path, args=QUIET)
    except Error as e:
        sys.exit(
            'explore: Chromium did not start: playwright install --with-deps chromium, or your system\'s '
            f'chromium\n{str(e).splitlines()[0]}')

@call_parse
def main(
    names:Param('Trials to make (default: all of them)', nargs='*'),
    keep:bool=False  # Write results/explorable.json and the pictures in nbs/images
):
    "Try the explorable page in headless Chromium"
    os.chdir(ROOT)
    known = [f.__name__ for f in TRIALS]
    if set(names) - set(known):
        sys.exit(f'explore: no trial called {" ".join(sorted(set(names) - set(known)))}; there are: {" ".join(known)}')
    if names and keep: sys.exit('explore: --keep stores the outcome of all trials: leave the names out')
    failed = []
    with sync_playwright() as play:
        browser = launch(play)
        for name, screen in SCREENS.items():
            asked, wrong = [], []
            with browser.new_context(**screen, offline=True,
                                     reduced_motion='reduce' if name == 'telephone' else 'no-preference') as context:
                context.on('request', lambda r: asked.append(r.url))
                context.on('console', lambda m: wrong.append(m.text))
                context.set_default_timeout(180_000)
                page = context.new_page()
                page.on('pageerror', lambda e: wrong.append(str(e)))
                page.goto(PAGE.as_uri())
                for trial in TRIALS:
                    if names and trial.__name__ not in names or name == 'telephone' and trial not in ON_TELEPHONE:
                        continue
                    start = time.time()
                    problems, it = [], trial(page, name)
                    while True:
                        try: problems.append(next(it))
                        except StopIteration as e: count = e.value; break
                        except Error as e: problems.append(str(e).splitlines()[0]); count = None; break
                    print(f'{"FAIL" if problems else "ok  "} {name}: {trial.__doc__.splitlines()[0]}'
                          + (f' ({count})' if count else '') + f', {time.time() - start:.1f} s', flush=True)
                    for p in problems: print(f'     {p}')
                    failed += problems
            abroad = [u for u in asked if not u.startswith((PAGE.as_uri(), 'data:'))]
            failed += abroad + wrong
            print(
                f'{"FAIL" if abroad or wrong else "ok  "} {name}: nothing is asked of the network, nothing is on the '
                'console', *abroad, *wrong, sep='\n     ' if abroad or wrong else '')
        found = dict(command='python scripts/explore.py --keep', browser=f'Chromium {browser.version}',
                     states_compared=len(SEEN), differences={k: float(f'{v:.1e}') for k, v in WORST.items()})
        pictures = {} if failed or not keep else {f'nbs/images/explorable_{k}.png': picture(browser, *v)
                                                  for k, v in PICTURES.items()}
        browser.close()
    print(json.dumps(found))
    if failed: sys.exit(f'explore: {len(failed)} problems')
    if keep:
        Path('results/explorable.json').write_text(json.dumps(found, indent=1) + '\n')
        for path, png in pictures.items(): Path(path).write_bytes(png)
    print('explore: all went well')
