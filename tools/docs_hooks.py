"""Hooks of mkdocs.yml that add pages from outside docs/ to the site, and change links to them."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    'README.md': 'index.md',
    'README_zh-CN.md': 'index_zh-CN.md',
    'CONTRIBUTING.md': 'CONTRIBUTING.md',
    'CHANGELOG.md': 'CHANGELOG.md',
    'LICENSE': 'LICENSE',
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    return re.sub(
        r'(?<=\]\()(?:docs/|\.\./)?([\w./-]+)', lambda link: PAGES.get(link[1], link[1]), markdown
    )
