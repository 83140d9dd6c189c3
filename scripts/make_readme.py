"""Write README.md from nbs/index.ipynb; with `--check` only say (exit code 1, and a diff) whether they differ.

The cells go through nbdev's own filter, as for the site, less the links to the site; relative links are made relative
to the repository's root."""
import difflib, os, re, sys
from base64 import b64decode
from pathlib import Path
from execnb.nbio import read_nb
from fastcore.script import call_parse
from nbdev.config import get_config
from nbdev.processors import FilterDefaults, add_links, insert_warning

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 'nbs/images/index'
HEAD = '<!-- Written from nbs/index.ipynb by scripts/make_readme.py: edit the notebook. -->'

class ReadmeFilter(FilterDefaults):
    def base_procs(self): return [p for p in super().base_procs() if p not in (add_links, insert_warning)]

def relink(md):
    """`md` with the targets of relative links and pictures, written as seen from nbs/, as seen from the root;
    fenced code is left alone."""
    def f(m):
        if re.match(r'[a-z]+:|#|/', m[2]): return m[0]
        return m[1] + os.path.normpath('nbs/' + m[2]) + m[3]
    parts = re.split(r'(^```.*?^```)', md, flags=re.M|re.S)
    return ''.join(p if i % 2 else re.sub(r'(\]\(|(?:src|href)=")([^)"\s]+)([)"])', f, p) for i, p in enumerate(parts))

def output_md(o, name, pictures):
    "Markdown of one output; a picture is added to `pictures` under a name made from `name`."
    if o.output_type == 'stream': return '```\n' + ''.join(o.text).rstrip() + '\n```' if o.name == 'stdout' else ''
    data = o.get('data', {})
    for kind in ('png', 'jpeg'):
        if f'image/{kind}' in data:
            path = f'{IMAGES}/{name}.{kind}'
            pictures[path] = b64decode(''.join(data[f'image/{kind}']))
            return f'![]({path})'
    for kind in ('markdown', 'html'):
        if f'text/{kind}' in data: return relink(''.join(data[f'text/{kind}']).rstrip())
    return '```\n' + ''.join(data.get('text/plain', [])).rstrip() + '\n```'

def readme():
    "The text of README.md and its pictures, a dict from path to bytes."
    nb = read_nb(ROOT/'nbs'/get_config().readme_nb)
    ReadmeFilter()(nb)
    front, parts, pictures = nb.frontmatter_, [], {}
    parts += [HEAD, f'# {front["title"]}'] + ([f'> {front["description"]}'] if 'description' in front else [])
    for c in nb.cells:
        if c.cell_type == 'markdown': parts.append(relink(c.source.strip()))
        if c.cell_type != 'code': continue
        src = '\n'.join(l for l in c.source.splitlines() if not l.startswith('#|')).strip()
        if src and c.directives_.get('echo:') != ['false']: parts.append(f'```python\n{src}\n```')
        if c.directives_.get('output:') == ['false']: continue
        parts += [output_md(o, f'{c.id}-{i}', pictures) for i, o in enumerate(c.get('outputs', []))]
    return '\n\n'.join(filter(None, parts)) + '\n', pictures

def differences():
    "Lines that say how README.md and its pictures differ from what the notebook gives; empty if they agree."
    text, pictures = readme()
    old = (ROOT/'README.md').read_text(encoding='utf-8').splitlines() if (ROOT/'README.md').exists() else []
    diff = list(difflib.unified_diff(old, text.splitlines(), 'README.md', 'nbs/index.ipynb', lineterm=''))
    kept = {p.relative_to(ROOT).as_posix(): p.read_bytes() for p in (ROOT/IMAGES).glob('*')}
    return diff + [f'{p}: not as the notebook gives it' for p in sorted(pictures.keys() | kept.keys())
                   if pictures.get(p) != kept.get(p)]

@call_parse
def main(
    check:bool=False  # Write nothing: fail and show a diff if README.md is not what the notebook gives
):
    "Write README.md from nbs/index.ipynb"
    os.chdir(ROOT)
    if check:
        diff = differences()
        if diff: sys.exit('\n'.join(diff) + '\nrun: python scripts/make_readme.py')
        return
    text, pictures = readme()
    for p in (ROOT/IMAGES).glob('*'): p.unlink()
    for p, data in pictures.items():
        (ROOT/p).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/p).write_bytes(data)
    (ROOT/'README.md').write_text(text, encoding='utf-8')
