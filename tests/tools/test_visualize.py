"""tools/visualize.py and tools/report.py from end to end on small checkpoints; mistakes are one line that says the mend."""

import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
from mmengine.registry import MODELS, DefaultScope
from shapes import draw as shapes

from beit_mm.models import BEiT, DiscreteVAE
from beit_mm.viz import attention, draw, explorer, inputs

ROOT = Path(__file__).parents[2]
ARCH = dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=64)


def tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


visualize, report = tool('visualize'), tool('report')


def run(words: str) -> None:
    visualize.main(words.split())


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A photo, two checkpoints that fit each other, one that does not, and Shapes."""
    folder = tmp_path_factory.mktemp('look')
    shapes.write(
        folder, train=10, val=10, size=64, segmentation_train=4, segmentation_val=2, jobs=1
    )
    torch.manual_seed(0)
    cv2.imwrite(
        str(folder / 'photo.png'),
        np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8),
    )
    backbone = BEiT(ARCH, img_size=32, patch_size=8, rel_pos_bias='shared', mask_token=True)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    torch.save(
        state | {'head.proj.weight': torch.randn(16, 64), 'head.proj.bias': torch.zeros(16)},
        folder / 'mim.pth',
    )
    torch.save(
        DiscreteVAE(vocab_size=16, width=8, groups=2, blocks=1, width_in=8).state_dict(),
        folder / 'vae.pth',
    )
    torch.save(
        DiscreteVAE(vocab_size=9, width=8, groups=2, blocks=1, width_in=8).state_dict(),
        folder / 'other.pth',
    )
    return folder


@pytest.fixture(autouse=True)
def there(place, tmp_path, monkeypatch):
    for path in place.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def segmentor(there) -> None:
    cfg = small.shrink(small.load('quickstart/segmentation'), Path.cwd(), Path('segment'))
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), 'segment.pth')
    cfg.dump('segment.py')


def test_every_command_of_the_page_is_one():
    text = (ROOT / 'docs/look.md').read_text()
    commands = [
        line.split()[2:]
        for line in text.splitlines()
        if line.startswith('python tools/visualize.py')
    ]
    assert {visualize.parser().parse_args(words).verb for words in commands} == {
        'attention',
        'fill',
        'tokens',
        'segment',
    }
    assert [
        link
        for link in re.findall(r'\]\(([^)#]+)', text)
        if '://' not in link and not (ROOT / 'docs' / link).exists()
    ] == []


def test_pictures_of_attention_are_at_the_images_resolution_and_show_the_patch_asked(capsys):
    run('attention photo.png --checkpoint mim.pth --layer 1 --patch 69,10 --out seen')
    printed = capsys.readouterr().out
    assert (
        'photo.png: 70×50 pixels, resized to 48×32, 6×4 patches' in printed
        and 'column 6, row 1: 4 pictures' in printed
    )
    found = {path.name: cv2.imread(str(path))[..., ::-1] for path in Path('seen').iterdir()}
    assert set(found) == {
        f'photo_layer-01_patch-6-1_{name}.png' for name in ('mean', 'rollout', 'head-01', 'head-02')
    }
    weights, photo = inputs.Weights('mim.pth'), inputs.read_image('photo.png')
    given = inputs.normalised(inputs.resized(photo, (32, 48)), weights.normalization)
    rows = (
        attention.attention_of_blocks(weights.backbone(), given)[0][0, :, 1 + 5, 1:]
        .view(2, 4, 6)
        .numpy()
    )
    for name, shares in (('mean', rows.mean(0)), ('head-02', rows[1])):
        drawn = draw.outline(draw.heat(photo, shares), (0, 5), (4, 6))
        assert np.array_equal(found[f'photo_layer-01_patch-6-1_{name}.png'], drawn)
    through = (
        rows.mean(0) / 2
    )  # and 0.5 more for the patch itself, beside which the others would be black
    through[0, 5] = 1
    others = np.delete(through.flatten(), 5).max()
    drawn = draw.outline(draw.heat(photo, through, others), (0, 5), (4, 6))
    assert np.array_equal(found['photo_layer-01_patch-6-1_rollout.png'], drawn)


def test_the_page_holds_every_image_also_two_of_one_name(capsys):
    Path('b').mkdir()
    Path('b/photo.png').symlink_to(Path('photo.png').resolve())
    run('attention photo.png b/photo.png --checkpoint mim.pth --size 48 --html a/page.html')
    found = explorer.unpack(Path('a/page.html').read_text())
    assert [(name, maps.grid, maps.levels.shape) for name, maps in found] == [
        (name, (6, 8), (2, 3, 48, 48)) for name in ('photo.png', 'photo.png (2)')
    ]
    assert (
        'masked image modeling written by beit_mm, 2 layers of 2 heads' in capsys.readouterr().out
    )


def test_fill_and_tokens_write_pages():
    run(
        'fill photo.png --checkpoint mim.pth --tokenizer vae.pth --ratios 0.3 0.5 --masks 1 --out fill.html'
    )
    assert Path('fill.html').read_text().count('<img') == 6
    run('tokens photo.png --tokenizer vae.pth --size 32 --out tokens.html')
    assert 'photo.png: 22×16 tokens' in Path('tokens.html').read_text()


def test_a_tokenizer_that_it_did_not_learn_from_is_an_error():
    state = torch.load('mim.pth')
    for fingerprint, wrong in (
        (inputs.Weights('vae.pth').token_target().fingerprint(), False),
        (12345, True),
    ):
        torch.save(state | dict(target_fingerprint=torch.tensor(fingerprint)), 'told.pth')
        command = 'fill photo.png --checkpoint told.pth --tokenizer vae.pth --out fill.html'
        if not wrong:
            run(command)
            continue
        with pytest.raises(
            SystemExit,
            match=r'told\.pth learned the tokens of another tokenizer than vae\.pth: give the one',
        ):
            run(command)


def test_segment_writes_a_page(segmentor):
    images = [str(path) for path in sorted(Path('ade20k/images/validation').iterdir())]
    labels = ['--labels', 'ade20k/annotations/validation']
    visualize.main(
        ['segment', 'segment.py', 'segment.pth', *images, *labels, '--out', 'segment.html']
    )
    html = Path('segment.html').read_text()
    assert (
        html.count('<img') == 4 * len(images)
        and 'errors: another class than the truth</span>' in html
        and 'background</span>' in html
    )


MISTAKES = {
    'attention photo.png --checkpoint mim.pth --layer 3': r'--layer 3: mim\.pth has the layers 1 … 2',
    'attention photo.png --checkpoint mim.pth --layer 0': r'--layer 0: mim\.pth has the layers 1 … 2',
    'attention photo.png --checkpoint mim.pth --patch 70,3': r'no pixel 70,3 in an image of 70×50: give 0,0 … 69,49',
    'attention photo.png --checkpoint mim.pth --patch middle': r'--patch middle: give a pixel as X,Y',
    'attention photo.png --checkpoint mim.pth --patch 1,2 --html a.html': r'every patch can be chosen',
    'attention photo.png --checkpoint mim.pth --size 0': r'--size 0: at least 1',
    'attention gone.png --checkpoint mim.pth': r'gone\.png, cannot be read: No such file',
    'attention mim.pth --checkpoint mim.pth': r'mim\.pth is no image',
    'attention photo.png --checkpoint vae.pth': r'vae\.pth holds a tokenizer, needed is a backbone or mim or',
    'attention photo.png --checkpoint gone.pth': r'no checkpoint at gone\.pth',
    'fill photo.png --checkpoint mim.pth --tokenizer other.pth': r'mim\.pth predicts 16 channels, other\.pth has 9 codes',
    'fill photo.png --checkpoint mim.pth --tokenizer vae.pth --ratios 40': r'lies between 0 and 1, given was 40',
    'fill photo.png --checkpoint mim.pth --tokenizer vae.pth --masks 0': r'--masks 0: at least 1',
    'tokens photo.png --tokenizer mim.pth': r'mim\.pth holds a mim, needed is a tokenizer',
    'segment gone.py segment.pth photo.png': r'no config at gone\.py',
}  # fmt: skip


@pytest.mark.parametrize('words', MISTAKES)
def test_a_mistake_is_one_line_that_says_the_mend(words):
    with pytest.raises(SystemExit, match=MISTAKES[words]) as stopped:
        run(words)
    assert str(stopped.value).startswith('error: ') and '\n' not in str(stopped.value)


def test_labels_that_are_not_there_are_named(segmentor):
    with pytest.raises(SystemExit, match=r'error: ade20k/photo\.png, cannot be read'):
        run('segment segment.py segment.pth photo.png --labels ade20k')


def test_a_report_of_no_run_is_one_line():
    with pytest.raises(SystemExit, match=r'error: gone has no run with logged numbers'):
        report.main(['gone'])
