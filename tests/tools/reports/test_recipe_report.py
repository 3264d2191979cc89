"""Names in a report are text: they add no element, attribute or change of text direction."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fuzz.chance import examples
from hypothesis import example, given
from hypothesis import strategies as st
from reports import recipe_report

pytestmark = pytest.mark.any_stack

HOSTILE = [
    '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", '</title><svg onload=alert(1)>',
    '</style><b>', '<!--', '-->', ']]>', '&lt;script&gt;', '&#60;i&#62;', '</code></p></details><iframe src=//x>',
    'a\u202egpj.exe', '\u2066\u2067x', '\u200f\u061c', '\x00\x1b[31m', '\udcff', 'javascript:alert(1)', '{{7*7}}', '图像 é',
]  # fmt: skip
TURNING = set(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
LETTERS = '<>"\'&;/=-! ascript\u202e\u2067\x00é'  # codespell:ignore
texts = st.one_of(st.sampled_from(HOSTILE), st.text(alphabet=LETTERS, min_size=1, max_size=20))
file_names = texts.map(lambda name: re.sub('[/\0]', '∕', name)[:60].strip('. ') or 'a')


class Page(HTMLParser):
    """`elements` are tags with attributes, except texts and pictures; `text` is all text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.text = [], ''
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        # Coordinates of the text in charts depend on its width.
        fixed = [(name, value) for name, value in attrs if name in ('class', 'id', 'style')]
        self.elements.append((tag, [name for name, _ in attrs], fixed))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f'a comment: {data}')

    handle_pi = unknown_decl = handle_comment

    def handle_data(self, data: str) -> None:
        self.text += data


def write(folder: Path, stage: str, title: str) -> Page:
    """Write a report on two classifiers with the stage's name, and the title everywhere else."""
    names = [f'{stage}/scratch', f'{stage}/{stage}']
    lines = []
    for step in (5, 9):
        lines += [{'lr': 0.1, 'loss': 9 / step, 'step': step}, {'accuracy/top1': 5.0 * step}]
    record = dict(wall_s=3.0, peak_rss_gib=1.0, commands=[f'train.py {title}'], weights={})
    for name in names:
        log = folder / name / '20260101/vis_data'
        log.mkdir(parents=True, exist_ok=True)
        (log / 'config.py').write_text("model = dict(type='ImageClassifier')\n")
        (log / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
        (folder / name / 'last_checkpoint').write_text('a.pth')
        (folder / name / 'a.pth').touch()
        (folder / name / 'stage.json').write_text(json.dumps(record))
    values = dict(top1=60.0, marginal_entropy=1.0)
    summary = {
        stage: {'scratch': values, stage: values, 'marginal_entropy': 1.5},
        'wall_s': dict(prepare=1.0),
        'peak_rss_gib': 1.0,
        'versions': {title: title},
        'seeds': title,
    }
    recipe_report.write(folder / 'report.html', folder, names, summary, title, title)
    return Page((folder / 'report.html').read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def harmless(tmp_path_factory) -> Page:
    return write(tmp_path_factory.mktemp('harmless'), 'harmless', 'harmless')


@examples(15)
@given(stage=file_names, title=texts)
@example(stage='\u202egnp.<b>', title='</script><script>alert(1)</script>')
def test_a_hostile_name_makes_no_element_and_no_attribute(stage, title, harmless, tmp_path_factory):
    stage = stage if stage != 'scratch' else 'a'
    hostile = write(tmp_path_factory.mktemp('hostile'), stage, title)
    assert hostile.elements == harmless.elements
    assert not TURNING & set(hostile.text)
    assert all(part in hostile.text for part in re.findall('[A-Za-z0-9]+', title))
    active = {'script', 'iframe', 'object', 'embed', 'link', 'base'}
    assert not active & {tag for tag, _, _ in hostile.elements}
    attributes = {name for _, names, _ in hostile.elements for name in names}
    assert not any(name.startswith('on') or 'href' in name for name in attributes)
