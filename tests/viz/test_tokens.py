"""The page about a tokenizer shows its ids, reconstructions and code usage."""

import numpy as np
import pytest
import torch

from beit_mm.models import DiscreteVAE
from beit_mm.viz import images, tokens

pytestmark = pytest.mark.any_stack

RNG = np.random.default_rng(0)


def test_the_page_has_the_tokenizers_ids_reconstructions_and_counts(tmp_path, monkeypatch):
    torch.manual_seed(0)
    tokenizer = DiscreteVAE(vocab_size=16, width=8, groups=3, blocks=1, width_in=8).eval()
    sizes = dict(a=(24, 16, 3), b=(16, 32, 3))  # the stride is 4
    inputs = {
        f'folder/<b>{name}.png': RNG.integers(0, 256, size, dtype=np.uint8)
        for name, size in sizes.items()
    }
    page, write_page = {}, tokens.write_page

    def record(path, template, **values):
        page.update(values)
        write_page(path, template, **values)

    monkeypatch.setattr(tokens, 'write_page', record)
    tokens.write_tokens(tmp_path / 'a.html', tokenizer, inputs)
    html = (tmp_path / 'a.html').read_text()

    palette, all_ids = tokens.code_colors(16), []
    for image, shown in zip(inputs.values(), page['images'], strict=True):
        given = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))[None]
        with torch.no_grad():
            sample = tokenizer.predict(given)[0]
        all_ids.append(sample.ids.flatten().numpy())
        original, colored, reconstructed = shown['pictures']
        assert np.array_equal(original, image)
        assert np.array_equal(colored[::4, ::4], palette[sample.ids.numpy()])
        assert np.array_equal(reconstructed, images.to_uint8(sample.reconstruction.numpy()))
    counts = np.bincount(np.concatenate(all_ids), minlength=16)
    assert f'{(counts > 0).sum()} of 16 codes in 56 tokens' in html
    assert '&lt;b&gt;a.png: 4×6 tokens' in html and '<b>' not in html and 'folder' not in html
    assert len(page['examples']) == (counts > 0).sum()
    assert f'>{counts.argmax()}: {100 * counts.max() / 56:.2g} %<' in html


def test_examples_are_patches_with_the_code_row_by_row():
    ids = [np.array([[0, 1], [1, 2]]), np.array([[1, 1, 1]])]
    pictures = [
        RNG.integers(0, 256, (n * 4, m * 4, 3), dtype=np.uint8) for n, m in ((2, 2), (1, 3))
    ]
    first, second = pictures
    sheet = tokens.draw_code(1, pictures, ids, stride=4)
    assert sheet.shape == (14, 14, 3)
    expected = [first[:4, 4:], first[4:, :4], second[:4, :4], second[:4, 4:8], second[:4, 8:]]
    for i, patch in enumerate(expected):
        row, column = 5 * (i // 3), 5 * (i % 3)
        assert np.array_equal(sheet[row : row + 4, column : column + 4], patch)
    assert (sheet[4] == 128).all() and (sheet[10:] == 128).all()
    assert (tokens.draw_code(7, pictures, ids, stride=4) == 128).all()


def test_colors_of_codes_are_distinct_and_neighbors_differ():
    colors = tokens.code_colors(512)
    assert colors.shape == (512, 3) and len(np.unique(colors, axis=0)) >= 500
    assert np.abs(np.diff(colors.astype(int), axis=0)).sum(1).min() >= 40
