"""tools/visualize.py from end to end on small checkpoints."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
import visualize
from explorer_data import read_page
from PIL import Image

from beit_mm.models import BEiT, DiscreteVAE
from beit_mm.models.attention import attention_of_blocks
from beit_mm.viz import images, inputs
from beit_mm.viz.model_weights import ModelWeights

ARCH = dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=64)


def run(command: str) -> None:
    visualize.main(command.split())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with a photo, a pre-training, its tokenizer, and a tokenizer of other codes."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save('photo.png')
    settings = dict(img_size=32, patch_size=8, rel_pos_bias='shared', mask_token=True)
    backbone = small.randomize(BEiT(ARCH, **settings))
    state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    state |= {'head.proj.weight': torch.randn(16, 64), 'head.proj.bias': torch.zeros(16)}
    torch.save(state, 'mim.pth')
    for name, vocab_size in (('vae', 16), ('other', 9)):
        tokenizer = DiscreteVAE(vocab_size=vocab_size, width=8, groups=2, blocks=1, width_in=8)
        torch.save(tokenizer.state_dict(), f'{name}.pth')
    encoder = {k: v for k, v in tokenizer.state_dict().items() if k.startswith('encoder.')}
    torch.save(encoder, 'encoder.pth')
    return tmp_path


def test_commands_in_the_documentation_are_accepted():
    lines = (small.ROOT / 'docs/look.md').read_text().splitlines()
    commands = [line.split()[2:] for line in lines if 'python tools/visualize.py' in line]
    verbs = {visualize.make_visualize_parser().parse_args(command).command for command in commands}
    assert verbs == {'attention', 'fill', 'tokens', 'segment'}


def test_pictures_show_the_attention_of_the_selected_patch_on_the_original_image(capsys):
    run('attention photo.png --checkpoint mim.pth --layer 1 --patch 69,10 --out seen')
    printed = capsys.readouterr().out
    assert 'photo.png: 70×50 pixels, input 48×32, 6×4 patches' in printed
    assert 'column 6, row 1: 4 pictures' in printed
    weights, photo = ModelWeights('mim.pth'), inputs.read_model_image('photo.png')
    given = inputs.normalize(inputs.resize(photo, (32, 48)), weights.normalization)
    attention = attention_of_blocks(weights.backbone(), given)[0][0, :, 1 + 5, 1:]
    heads = attention.view(2, 4, 6).numpy()
    rollout = heads.mean(0) / 2
    rollout[0, 5] = 1  # the residual adds to the patch itself, which must not scale the others
    others = np.sort(np.delete(rollout.flatten(), 5))
    expected = {'mean': (heads.mean(0),), 'rollout': (rollout, others[1], others[20])}
    expected |= {f'head-0{i + 1}': (heads[i],) for i in range(2)}
    assert len(list(Path('seen').iterdir())) == len(expected)
    for name, drawing in expected.items():
        framed = images.frame_patch(images.overlay_heat(photo, *drawing), (0, 5), (4, 6))
        drawn = cv2.imread(f'seen/photo_layer-01_patch-6-1_{name}.png')[..., ::-1]
        assert np.array_equal(drawn, framed)


def test_the_page_holds_every_image_also_two_of_one_name(capsys):
    Path('b').mkdir()
    Path('b/photo.png').symlink_to(Path('photo.png').resolve())
    run('attention photo.png b/photo.png --checkpoint mim.pth --size 48 --html a/page.html')
    found = read_page(Path('a/page.html').read_text())
    assert [name for name, _ in found] == ['photo.png', 'b/photo.png']
    assert {(maps.grid, maps.levels.shape) for _, maps in found} == {((6, 8), (2, 3, 48, 48))}
    assert 'mim written by beit_mm, 2 layers of 2 heads' in capsys.readouterr().out


def test_fill_and_tokens_write_pages_for_the_tokenizer_of_the_pre_training():
    state = torch.load('mim.pth')
    fingerprint = ModelWeights('vae.pth').tokenizer().fingerprint()
    torch.save(state | dict(target_fingerprint=torch.tensor(fingerprint)), 'known.pth')
    fill = 'fill photo.png --checkpoint known.pth --tokenizer vae.pth'
    run(f'{fill} --ratios 0.3 0.5 --masks 1 --out a.html')
    assert Path('a.html').read_text().count('<img') == 2 * 3
    run('tokens photo.png --tokenizer vae.pth --size 32 --out b.html')
    assert 'photo.png: 22×16 tokens' in Path('b.html').read_text()
    run('tokens photo.png --tokenizer encoder.pth --size 32 --out c.html')
    assert 'PSNR' in Path('b.html').read_text() and 'PSNR' not in Path('c.html').read_text()
    torch.save(state | dict(target_fingerprint=torch.tensor(12345)), 'known.pth')
    with pytest.raises(SystemExit, match=r'known\.pth was trained with another tokenizer than vae'):
        run(fill)


def test_the_config_of_a_tokenizer_builds_it(folder):
    small.with_weights('quickstart/tokenizer', folder)
    for name, config in (('a', '--config config.py'), ('b', '')):
        run(f'tokens photo.png --tokenizer model.pth {config} --size 32 --out {name}.html')
    assert Path('a.html').read_text() == Path('b.html').read_text()
    small.with_weights('quickstart/pretrain', folder)
    with pytest.raises(SystemExit, match=r'config\.py has a BEiTPretrainer: expected a Tokenizer'):
        run('tokens photo.png --tokenizer model.pth --config config.py')


def test_segment_writes_a_page(folder, drawn):
    small.with_weights('quickstart/segmentation', folder, drawn)
    photos = sorted((drawn / 'ade20k/images/validation').iterdir())[:2]
    end = f'--labels {drawn}/ade20k/annotations/validation --out segment.html'
    run(f'segment config.py model.pth {photos[0]} {photos[1]} {end}')
    html = Path('segment.html').read_text()
    assert html.count('<img') == 4 * 2
    assert 'errors: another class than the truth</span>' in html and 'background</span>' in html
    with pytest.raises(SystemExit, match=r'error: .*/photo\.png cannot be read'):
        run(f'segment config.py model.pth photo.png {end}')


MIM = '--checkpoint mim.pth'
MISTAKES = {
    f'attention photo.png {MIM} --layer 3': r'--layer 3: expected 1 to 2',
    f'attention photo.png {MIM} --patch middle': r'--patch middle: expected a pixel X,Y',
    f'attention photo.png {MIM} --patch 70,9': r'no pixel 70,9 in an image of 70×50: expected 0,0 to 69,49',
    f'attention photo.png {MIM} --patch 1,2 --html a.html': r'remove it, or remove --html',
    f'attention gone.png {MIM}': r'gone\.png not found: expected an image file',
    'attention photo.png --checkpoint vae.pth': r'holds a tokenizer, expected a backbone or mim',
    f'fill photo.png {MIM} --tokenizer other.pth': r'predicts 16 codes, other\.pth has 9',
    f'fill photo.png {MIM} --tokenizer vae.pth --ratios 0.4 1': r'--ratios 1: expected shares',
    'tokens photo.png --tokenizer vae.pth --config gone.py': r'gone\.py not found: expected a config',
    f'segment {small.ROOT}/configs/quickstart/classification.py a.pth photo.png': r'expected EncoderDec',
    'segment gone.py segment.pth photo.png': r'gone\.py not found: expected a config',
}


@pytest.mark.parametrize('command', MISTAKES)
def test_a_mistake_is_one_line_that_says_the_fix(command):
    with pytest.raises(SystemExit, match=MISTAKES[command]) as stopped:
        run(command)
    assert str(stopped.value).startswith('error: ') and '\n' not in str(stopped.value)
