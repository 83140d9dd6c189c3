"""Draw the house, `nbs/images/house.svg`, from the imports of the package: `python scripts/house.py`.

With `--check` it only says whether the picture is up to date. A module stands one floor above the highest module it
imports; imports inside functions are dashed, and of those that close a circle none lifts a module. An arrow that others
imply (a imports b and c, b imports c) is counted and not drawn. What is printed: modules, floors, arrows, circles."""
import ast, re, sys
from pathlib import Path
from fastcore.script import call_parse

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT/'nbs/images/house.svg'
COLORS = dict(door=('#fff3c4', 'the door: from pafm_nb import NAME'), method=('#d6e8d0', 'the method (0x)'),
              machinery=('#d9e4f2', 'data, models, machinery (1x)'), practice=('#e9dcf0', 'in practice (4x)'),
              experiments=('#f4ddd3', 'experiments and course (2x, 5x)'))
WIDTH, BOX, HEIGHT, FLOOR, LEFT = 1260, 104, 26, 74, 16

def modules():
    "Relative paths of the package's modules without the tests, by dotted name; the door is `pafm_nb`"
    lib = ROOT/'pafm_nb'
    paths = [p for p in sorted(lib.rglob('*.py')) if 'tests' not in p.parts]
    paths = [p for p in paths if p.name[0] != '_' or p == lib/'__init__.py']
    return {'.'.join(p.relative_to(lib).with_suffix('').parts).replace('__init__', 'pafm_nb'): p for p in paths}

def targets(node, name, known):
    "Modules of ours that an import statement in module `name` asks for"
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'import_module':
        return {str(getattr(a, 'value', '')).removeprefix('pafm_nb.') for a in node.args} & known
    if isinstance(node, ast.Import): return {a.name.removeprefix('pafm_nb.') for a in node.names} & known
    if not isinstance(node, ast.ImportFrom): return set()
    above = name.split('.')[:-node.level] if node.level else (node.module or '').split('.')
    if not node.level and above[0] != 'pafm_nb': return set()
    where = [*above, *(node.module or '').split('.')*bool(node.level)]
    where = [part for part in where if part and part != 'pafm_nb']
    whole = '.'.join(where)
    return {whole} & known or {'.'.join([*where, a.name]) for a in node.names} & known

def imports():
    "Two sets of arrows (from, to): of imports at the top of a module, and of those inside functions"
    files, top, late = modules(), set(), set()
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding='utf-8'))
        for node in ast.walk(tree):
            found = top if node in tree.body else late
            found |= {(name, to) for to in targets(node, name, set(files)) if to != name}
    return top, late - top

def floors(names, arrows):
    "The floor of each module, 0 at the ground; a circle raises"
    below, found = {n: [b for a, b in arrows if a == n] for n in names}, {}
    def floor(n, path=()):
        if n in path: raise ValueError(f'imports run in a circle: {" -> ".join([*path[path.index(n):], n])}')
        if n not in found: found[n] = 1 + max((floor(b, (*path, n)) for b in below[n]), default=-1)
        return found[n]
    for n in names: floor(n)
    return found

def reachable(start, arrows):
    "What `start` imports, over others"
    seen, todo = set(), [start]
    while todo:
        here = todo.pop()
        new = {b for a, b in arrows if a == here} - seen
        seen |= new; todo += new
    return seen

def circles(arrows):
    "Sets of modules that import each other, imports inside functions counted"
    over = {n: reachable(n, arrows) for n in {a for a, _ in arrows}}
    return sorted({tuple(sorted(m for m in over if m in over[n] and n in over[m])) for n in over if n in over[n]})

def wing(name, path):
    "The part of the house by the number of the notebook"
    if name == 'pafm_nb': return 'door'
    number = re.search(r'File to edit: .*/(\d)\d\w*\.ipynb', path.read_text(encoding='utf-8'))[1]
    return {'0': 'method', '1': 'machinery', '4': 'practice'}.get(number, 'experiments')

def places(floor, wings, arrows):
    "(x, y) of each box: the method to the left, experiments to the right; rows by what they stand on"
    x, top = {}, max(floor.values())
    bands = dict(method=(0, 3), practice=(0, 3), door=(3, 8.2), machinery=(3, 8.2), experiments=(8.2, 11))
    def weight(n):
        below = sorted(x[b] for a, b in arrows if a == n)
        return sum(below)/max(len(below), 1), n
    for row in range(top + 1):
        for left, right in sorted({*bands.values()}):
            names = [n for n in floor if floor[n] == row and bands[wings[n]] == (left, right)]
            names.sort(key=weight)
            step = (right - left)/max(len(names), 1)
            x |= {n: (left + step*(i + .5))*WIDTH/11 - BOX/2 for i, n in enumerate(names)}
    return {n: (round(x[n]), 20 + FLOOR*(top - floor[n])) for n in floor}

def arrow(start, end, dashed):
    "A path from the foot of one box to the head of another"
    (x0, y0), (x1, y1) = start, end
    x0, x1, y0 = x0 + BOX//2, x1 + BOX//2, y0 + HEIGHT
    if y1 < y0: x0, y0, x1, y1 = x0, y0 - HEIGHT, x1, y1 + HEIGHT
    middle = (y0 + y1)/2
    style = ' stroke-dasharray="4 3"'*dashed
    return f'<path d="M{x0} {y0} C{x0} {middle:g} {x1} {middle:g} {x1} {y1}"{style}/>'

def picture():
    "The text of the picture, and a line that counts"
    files, (top, late) = modules(), imports()
    own = {(a, b) for a, b in top | late if 'pafm_nb' not in (a, b)}
    top, late = top & own, late & own
    ahead = {(a, b) for a, b in late if a not in reachable(b, top | late)}
    floor = floors([n for n in files if n != 'pafm_nb'], top | ahead)
    door = sorted({b for a, b in imports()[1] if a == 'pafm_nb'} - {'extras'})
    floor['pafm_nb'] = max(floor.values()) + 1
    wings = {n: wing(n, files[n]) for n in files}
    place = places(floor, wings, top | {('pafm_nb', b) for b in door})
    implied = {(a, c) for a, c in top if any(c in reachable(b, top) for x, b in top if x == a and b != c)}
    count = (f'{len(files) - 1} modules and the door, {max(floor.values())} floors, '
             f'{len(top)} import arrows and {len(late)} inside functions')
    lines = [arrow(place[a], place[b], (a, b) in late) for a, b in sorted(top - implied | late)]
    boxes = [box(n.removeprefix('experiments.'), *place[n], COLORS[wings[n]][0], n in door) for n in sorted(files)]
    return '\n'.join(frame(20 + FLOOR*(max(floor.values()) + 1), count, lines, boxes)), '\n'.join(
        [count, *('circle through functions: ' + ' '.join(c) for c in circles(top | late))])

def box(name, x, y, color, thick):
    "A module; a thick frame says that the door opens it"
    stroke = 'stroke="#222" stroke-width="2"' if thick else 'stroke="#99a"'
    return (f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="5" fill="{color}" {stroke}/>'
            f'<text x="{x + BOX//2}" y="{y + 17}" text-anchor="middle">{name}</text>')

def frame(bottom, count, lines, boxes):
    "The lines of the whole picture"
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 52}"'
    yield ' font-family="sans-serif" font-size="12">'
    yield f'<title>{count}</title>\n<rect width="{WIDTH}" height="{bottom + 52}" fill="white"/>'
    yield from ['<g fill="none" stroke="#445" stroke-opacity=".4">', *lines, '</g>', *boxes]
    for i, (color, text) in enumerate(COLORS.values()):
        x = LEFT + 232*i
        yield f'<rect x="{x}" y="{bottom}" width="18" height="14" rx="3" fill="{color}"/>'
        yield f'<text x="{x + 24}" y="{bottom + 12}">{text}</text>'
    yield f'<text x="{LEFT}" y="{bottom + 38}">{count}. A thick frame: the door opens it.'
    yield 'Arrows that others imply are not drawn; dashed: imported where used.</text>\n</svg>\n'

def differences():
    "A line if the picture is not what the imports give"
    if PICTURE.exists() and PICTURE.read_text(encoding='utf-8') == picture()[0]: return []
    return [f'{PICTURE.relative_to(ROOT).as_posix()}: not as the imports give it: run python scripts/house.py']

@call_parse
def main(
    check:bool=False  # Write nothing: fail if the picture is not what the imports give
):
    "Draw the house from the imports of the package"
    if check: sys.exit('\n'.join(differences()))
    text, count = picture()
    PICTURE.write_text(text, encoding='utf-8')
    print(count)
