"""Names in a report are text, whatever they hold: no element, attribute or direction of the page comes from them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fuzz.chance import examples
from hypothesis import example, given
from hypothesis import strategies as st
from reports import recipe_report as report

from beit_mm.viz import draw

pytestmark = pytest.mark.any_stack

HOSTILE = [
    '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", '</title><svg onload=alert(1)>',
    '</style><b>', '<!--', '-->', ']]>', '&lt;script&gt;', '&#60;i&#62;', '</code></p></details><iframe src=//x>',
    'a\u202egpj.exe', '\u2066\u2067x', '\u200f\u061c', '\x00\x1b[31m', '\udcff', 'javascript:alert(1)', '{{7*7}}', '图像 é',
]  # fmt: skip
TURNING = set(map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
words = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(alphabet='<>"\'&;/=-! ascript\u202e\u2067\x00é', min_size=1, max_size=20),
)
files = words.map(lambda name: name.replace('/', '∕').replace('\0', '')[:60] or 'a').map(
    lambda name: name.strip('. ') or 'a'
)


class Page(HTMLParser):
    """`elements`: tags with the names of their attributes and those values that are no picture's; `words`: all text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.words = [], ''
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append(
            (tag, [(name, None if name in ('alt', 'src') else value) for name, value in attrs])
        )
        self.words += ''.join(value for name, value in attrs if name == 'alt')

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f'a comment: {data}')

    handle_decl_of_more = handle_pi = unknown_decl = handle_comment

    def handle_data(self, data: str) -> None:
        self.words += data


def write(folder: Path, stage: str, title: str) -> Page:
    """A report on two stages that were classifiers, with the names given and the title everywhere else."""
    names = [f'{stage}/scratch', f'{stage}/{stage}']
    for name in names:
        log = folder / name / '20260101/vis_data'
        log.mkdir(parents=True, exist_ok=True)
        (log / 'config.py').write_text(
            "model = dict(type='ImageClassifier')\ndefault_scope = 'mmpretrain'\n"
        )
        lines = [
            {'lr': 0.1, 'loss': 2.0, 'step': 5},
            {'accuracy/top1': 50.0},
            {'lr': 0.1, 'loss': 1.0, 'step': 9},
        ]
        (log / 'scalars.json').write_text(
            '\n'.join(map(json.dumps, [*lines, {'accuracy/top1': 60.0}]))
        )
        (folder / name / 'last_checkpoint').write_text('a.pth')
        (folder / name / 'a.pth').touch()
        record = dict(
            wall_s=3.0, peak_rss_gib=1.0, commands=[f'python tools/train.py {title}'], weights={}
        )
        (folder / name / 'stage.json').write_text(json.dumps(record))
    values = dict(top1=60.0, marginal_entropy=1.0)
    summary = {
        stage: {'scratch': values, stage: values, 'marginal_entropy': 1.5},
        'wall_s': dict(prepare=1.0), 'peak_rss_gib': 1.0, 'versions': {title: title}, 'seeds': title,
    }  # fmt: skip
    report.write(folder / 'report.html', folder, names, summary, title, title)
    return Page((folder / 'report.html').read_text(encoding='utf-8'))


def same_page_with(harmless: Page, hostile: Page, *names: str) -> None:
    assert hostile.elements == harmless.elements
    assert not TURNING & set(hostile.words)
    for name in names:  # all of it is there to be read
        assert all(run in hostile.words for run in re.findall('[A-Za-z0-9]+', name))


@examples(25)
@given(stage=files, title=words)
@example(stage='\u202egnp.<b>', title='</script><script>alert(1)</script>')
def test_a_hostile_name_makes_no_element_and_no_attribute(stage, title, tmp_path_factory):
    stage = stage if stage != 'scratch' else 'a'
    harmless = write(tmp_path_factory.mktemp('harmless'), 'harmless', 'harmless')
    same_page_with(harmless, write(tmp_path_factory.mktemp('hostile'), stage, title), title)


@pytest.mark.parametrize('name', HOSTILE)
def test_nor_does_one_in_pictures_charts_and_legends(name):
    def page(name: str) -> Page:
        picture = np.zeros((2, 2, 3), np.uint8)
        html = draw.line_chart({name: [(0, 1.0), (1, 2.0)]}, {name: 1.5}, name)
        html += (
            draw.picture_table([name], [[picture]])
            + draw.text_table([name], [[name]])
            + draw.legend({name: 'red'})
        )
        return Page(html)

    same_page_with(page('harmless'), page(name), name)


def test_nothing_in_a_page_runs(tmp_path):
    page = write(tmp_path, HOSTILE[1].replace('/', ''), HOSTILE[0])
    assert not any(
        tag in ('script', 'iframe', 'object', 'embed', 'link', 'base') for tag, _ in page.elements
    )
    assert not any(
        name.startswith('on') or 'href' in name for _, attrs in page.elements for name, _ in attrs
    )
