"""The page about a tokenizer shows its ids, reconstructions and code usage."""

import numpy as np
import pytest
import torch

from beit_mm.models import VQKD, DiscreteVAE
from beit_mm.viz import images, tokens

pytestmark = pytest.mark.any_stack

RNG = np.random.default_rng(0)


def random_image(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@torch.no_grad()
def test_the_page_has_the_tokenizers_ids_reconstructions_and_counts(tmp_path, monkeypatch):
    torch.manual_seed(0)
    tokenizer = DiscreteVAE(vocab_size=16, width=8, groups=3, blocks=1, width_in=8).eval()
    inputs = {
        'folder/<b>a.png': random_image(24, 16),
        'folder/<b>b.png': random_image(16, 32),
    }  # stride 4
    page, write_page = {}, tokens.write_page

    def record(path, template, **values):
        page.update(values)
        write_page(path, template, **values)

    monkeypatch.setattr(tokens, 'write_page', record)
    tokens.write_tokens(tmp_path / 'a.html', tokenizer, inputs)
    palette, counts = tokens.code_colors(16), np.zeros(16, int)
    assert len(np.unique(palette, axis=0)) == 16
    for image, shown in zip(inputs.values(), page['images'], strict=True):
        pixels = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))[None]
        sample = tokenizer.predict(pixels)[0]
        counts += np.bincount(sample.ids.flatten(), minlength=16)
        original, colored, reconstructed = shown['pictures']
        assert np.array_equal(original, image)
        assert np.array_equal(colored[::4, ::4], palette[sample.ids.numpy()])
        assert np.array_equal(reconstructed, images.to_uint8(sample.reconstruction.numpy()))
    html = (tmp_path / 'a.html').read_text()
    assert f'{(counts > 0).sum()} of 16 codes in 56 tokens' in html
    assert '&lt;b&gt;a.png: 4×6 tokens' in html and '<b>' not in html and 'folder/' not in html
    assert len(page['examples']) == (counts > 0).sum()
    assert f'>{counts.argmax()}: {100 * counts.max() / 56:.2g} %<' in html


def test_examples_are_patches_with_the_code_row_by_row():
    ids = [np.array([[0, 1], [1, 2]]), np.array([[1, 1, 1]])]
    first, second = pictures = [random_image(8, 8), random_image(4, 12)]
    fits = [np.zeros(each.shape) for each in ids]
    sheet = tokens.draw_code(1, pictures, ids, fits, stride=4)
    assert sheet.shape == (14, 14, 3)
    expected = [first[:4, 4:], first[4:, :4], second[:4, :4], second[:4, 4:8], second[:4, 8:]]
    for i, patch in enumerate(expected):
        row, column = 5 * (i // 3), 5 * (i % 3)
        assert np.array_equal(sheet[row : row + 4, column : column + 4], patch)
    assert (sheet[4] == 128).all() and (sheet[10:] == 128).all()


def test_patches_that_fit_their_code_best_come_first():
    ids, picture = np.zeros((1, 3), int), random_image(4, 12)
    sheet = tokens.draw_code(0, [picture], [ids], [np.array([[0.1, 0.9, 0.5]])], stride=4)
    for place, patch in enumerate((1, 2, 0)):
        found = sheet[:4, 5 * place : 5 * place + 4]
        assert np.array_equal(found, picture[:, 4 * patch : 4 * patch + 4])


def test_vqkd_is_shown_by_the_patches_nearest_to_each_code(tmp_path, monkeypatch):
    torch.manual_seed(0)
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    encoder = dict(arch=arch, img_size=32, patch_size=8, patch_embed_std=0.2)
    tokenizer = VQKD(4, 6, encoder).eval()
    tokenizer.init_weights()
    inputs = {f'{i}.png': random_image(32, 32) for i in range(3)}
    page = {}
    monkeypatch.setattr(tokens, 'write_page', lambda path, template, **values: page.update(values))
    tokens.write_tokens(tmp_path / 'a.html', tokenizer, inputs)
    assert page['columns'] == ['image', 'tokens'] and len(page['images'][0]['pictures']) == 2
    pixels = torch.stack([torch.from_numpy(i.transpose(2, 0, 1) / 255) for i in inputs.values()])
    vectors = tokenizer.encode(pixels.float())
    ids = tokenizer.codebook.nearest(vectors)
    code = ids.flatten().bincount().argmax()
    similarity = (vectors @ tokenizer.codebook.codes[code]).masked_fill(ids != code, -2)
    best = similarity.flatten().topk(2).indices.tolist()
    for place, index in enumerate(best):
        image, row, column = np.unravel_index(index, (3, 4, 4))
        top, left = 8 * row, 8 * column
        expected = list(inputs.values())[image][top : top + 8, left : left + 8]
        found = page['examples'][0][:8, 9 * place : 9 * place + 8]
        assert np.array_equal(found, expected)
