"""tools/embed.py: features are the backbone's, survive an interruption, and find their like."""

import csv
import re
import shutil
from pathlib import Path

import embed
import numpy as np
import pytest
import torch
from embedding import features
from embedding.page import draw_components
from PIL import Image
from pyarrow import parquet
from small import randomize

from beit_mm.models import BEiT
from beit_mm.viz.inputs import normalize, read_model_image
from beit_mm.viz.model_weights import ModelWeights

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=32)
SIZE = 32  # of the images and the model: no resizing


def write_weights(path: Path, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model = BEiT(ARCH, img_size=SIZE, patch_size=8, rel_pos_bias='per_layer', mask_token=True)
    torch.save(dict(state_dict=randomize(model, 0.2).state_dict()), path)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Ten images of two classes: noise around black and around white."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(10):
        path = Path('data', ('black', 'white')[i % 2], f'{i}.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (SIZE, SIZE, 3)) + 190 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    write_weights(tmp_path / 'beit.pth')
    return tmp_path / 'data'


def run(*options: str, out: str = 'f.npz') -> dict[str, np.ndarray]:
    embed.main(['data', '--checkpoint', 'beit.pth', '--out', out, '--batch-size', '3', *options])
    with np.load(out) as file:
        return dict(file)


@pytest.mark.parametrize('feature', ['mean', 'cls', 'map'])
def test_features_are_those_of_the_block(feature):
    found = run('--block', '2', '--feature', feature)
    assert list(found['names']) == sorted(found['names']) and len(found['names']) == 10
    weights = ModelWeights('beit.pth')
    backbone = weights.backbone()
    outputs = []
    backbone.blocks[1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    for name, values in zip(found['names'], found['features'], strict=True):
        with torch.no_grad():
            backbone(normalize(read_model_image(Path('data', name)), weights.normalization))
        sequence = outputs.pop()[0].numpy()
        patches = sequence[1:].reshape(4, 4, 24)
        expected = dict(mean=patches.mean((0, 1)), cls=sequence[0], map=patches)[feature]
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)


def test_an_interrupted_run_goes_on(monkeypatch, capsys):
    whole = run('--knn')
    run_blocks, calls = features.block_outputs, []

    def fail_later(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_blocks(*arguments)

    monkeypatch.setattr(features, 'block_outputs', fail_later)
    with pytest.raises(KeyboardInterrupt):
        run('--knn', out='again.npz')
    capsys.readouterr()
    resumed = run('--knn', out='again.npz')
    assert len(calls) == 3 + 2  # batches of 3, 3 and then 3, 1
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)
    assert 'black' in str(resumed['names']) and not Path('again.partial').exists()


@pytest.mark.parametrize('change', ['weights', 'image', 'option'])
def test_what_was_stored_for_another_run_is_not_used(change, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(embed, 'write_features', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert Path('f.partial/done.npy').exists()
    if change == 'weights':
        write_weights(Path('beit.pth'), seed=1)
    elif change == 'image':
        shutil.copy('data/black/0.png', 'data/black/new.png')
    options = ['--block', '1'] if change == 'option' else []
    found = run(*options)
    fresh = run(*options, out='fresh.npz')
    assert np.array_equal(found['features'], fresh['features'])


def test_blocks_are_compared_by_nearest_neighbors(capsys):
    run('--knn')
    shown = capsys.readouterr().out
    assert 'nearest neighbors of 10 images of 2 classes' in shown
    assert re.findall(r'block  (\d)  100.0 %  best', shown) == ['1', '2', '3', '4']
    Path('labels.csv').write_text(
        'image,label\n' + ''.join(f'black/{2 * i}.png,{i % 2}\n' for i in range(4))
    )
    run('--knn', 'labels.csv')
    shown = capsys.readouterr().out
    assert 'nearest neighbors of 4 images of 2 classes' in shown and '100.0' not in shown


def test_bad_files_are_skipped_by_name(folder, capsys):
    (folder / 'white/3.png').write_bytes((folder / 'white/3.png').read_bytes()[:100])
    found = run('--knn')
    assert 'white/3.png' not in found['names'] and len(found['features']) == 9
    assert re.search(r'skipped: .*white/3\.png', capsys.readouterr().out)


def test_formats_hold_the_same_numbers():
    found = run()
    run_options = ['data', '--checkpoint', 'beit.pth', '--out']
    embed.main([*run_options, 'f.csv'])
    with open('f.csv', encoding='utf-8', newline='') as file:
        header, *rows = csv.reader(file)
    assert len(header) == 25 and [row[0] for row in rows] == list(found['names'])
    values = np.array([row[1:] for row in rows], np.float32)
    np.testing.assert_allclose(values, found['features'], rtol=1e-5, atol=1e-6)
    embed.main([*run_options, 'f.parquet'])
    table = parquet.read_table('f.parquet').to_pydict()
    assert table['name'] == list(found['names'])
    assert np.array_equal(np.float32(table['feature']), found['features'])


def test_the_page_shows_the_most_similar_image_first(folder):
    hostile = 'a<img src=x onerror=alert(1)>.png'
    pixels = np.array(Image.open(folder / 'white/5.png'))
    Image.fromarray(pixels ^ 1).save(folder / hostile)
    run('--page', 'page.html')
    page = Path('page.html').read_text()
    assert '<img src=x' not in page
    rows = page.split('<div class="row">')[1:]
    assert len(rows) == 11
    titles = [re.findall(r'<figure title="data/(.+?)"', row) for row in rows]
    nearest = {shown: first for shown, first, *_ in titles}
    assert nearest['white/5.png'].startswith('a&lt;') and len(titles[0]) == 7
    assert nearest['black/0.png'].startswith('black/')


def test_equal_patches_have_equal_colors():
    rng = torch.Generator().manual_seed(0)
    patches = [torch.randn(3, 4, 24, generator=rng) for _ in range(3)]
    patches.append(patches[0].flip(0))
    colors = draw_components(patches)
    assert np.array_equal(colors[3], colors[0][::-1])
    shown = np.concatenate([values.reshape(-1, 3) for values in colors]).astype(float)
    assert np.abs(np.corrcoef(shown.T) - np.eye(3)).max() < 0.1  # components are uncorrelated


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--block', '5'], '--block 5: beit.pth has 4 blocks'),
        (['--size', '30'], '--size 30: expected a multiple of the patch size 8'),
        (['--out', 'f.txt'], '--out f.txt: expected a file that ends with .npz, .csv, .parquet'),
        (['--feature', 'map', '--out', 'f.csv'], '--out f.csv: maps have an array per image'),
        (['--knn', 'none.csv'], 'none.csv'),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        embed.main(['data', '--checkpoint', 'beit.pth', *options])
