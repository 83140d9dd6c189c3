"Package metadata, all of it read from settings.ini."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

status = {'1': 'Planning', '2': 'Pre-Alpha', '3': 'Alpha', '4': 'Beta', '5': 'Production/Stable'}[cfg['status']]
minor = int(cfg['min_python'].split('.')[1])
extras = {name.removesuffix('_requirements'): cfg[name].split()
          for name in cfg if name.endswith('_requirements')}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    keywords=cfg['keywords'].split(),
    classifiers=[f"Development Status :: {cfg['status']} - {status}",
                 f"Intended Audience :: {cfg['audience']}",
                 'Topic :: Scientific/Engineering :: Artificial Intelligence',
                 f"Natural Language :: {cfg['language']}",
                 *[f'Programming Language :: Python :: 3.{m}' for m in range(minor, 14)]],
    package_dir={'': '.'},  # an editable install is then a path, which type checkers follow
    packages=find_packages(include=['pafm_nb', 'pafm_nb.*']),
    package_data={'pafm_nb': ['py.typed', 'weights/*.safetensors']},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
