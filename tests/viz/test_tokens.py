"""What is shown of a tokenizer is what it computes: ids, drawings, counts, and patches that have the code."""

import numpy as np
import pytest
import torch

from beit_mm.models import DiscreteVAE
from beit_mm.viz import draw, tokens

pytestmark = pytest.mark.any_stack

RNG = np.random.default_rng(0)


@pytest.fixture(scope='module')
def tokenizer() -> DiscreteVAE:
    torch.manual_seed(0)
    return DiscreteVAE(vocab_size=16, width=8, groups=3, blocks=1, width_in=8).eval()  # stride 4


IMAGES = {
    name: RNG.integers(0, 256, size, dtype=np.uint8)
    for name, size in (('a', (24, 16, 3)), ('b', (16, 32, 3)))
}


def test_ids_and_drawing_are_the_tokenizers_own(tokenizer):
    for image in IMAGES.values():
        ids, drawn = tokens.read(tokenizer, image)
        given = torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))[None]
        with torch.no_grad():
            sample = tokenizer.predict(given)[0]
        assert np.array_equal(ids, sample.ids.numpy()) and ids.shape == (
            image.shape[0] // 4,
            image.shape[1] // 4,
        )
        assert np.array_equal(drawn, draw.to_uint8(sample.reconstruction.numpy()))


def test_usage_counts_every_token_once(tokenizer):
    ids = [tokens.read(tokenizer, image)[0] for image in IMAGES.values()]
    counts = tokens.usage(ids, 16)
    assert len(counts) == 16 and counts.sum() == 6 * 4 + 4 * 8
    assert all(counts[code] == sum((each == code).sum() for each in ids) for code in range(16))


def test_examples_of_a_code_are_patches_with_that_code():
    ids = [np.array([[0, 1], [1, 2]]), np.array([[1, 1, 1]])]
    images = [RNG.integers(0, 256, (n * 4, m * 4, 3), dtype=np.uint8) for n, m in ((2, 2), (1, 3))]
    found = tokens.examples(images, ids, 1, 4, count=4)
    meant = [images[0][:4, 4:], images[0][4:, :4], images[1][:4, :4], images[1][:4, 4:8]]
    assert len(found) == 4 and all(map(np.array_equal, found, meant))
    assert tokens.examples(images, ids, 7, 4) == []


def test_colours_tell_codes_apart():
    colours = tokens.colours(512)
    assert colours.shape == (512, 3) and len(np.unique(colours, axis=0)) >= 500
    assert np.abs(np.diff(colours.astype(int), axis=0)).sum(1).min() >= 40


def test_the_page_has_every_image_every_number_and_no_name_as_markup(tokenizer):
    html = ''.join(
        tokens.sections(
            tokenizer, {f'folder/<b>{name}.png': image for name, image in IMAGES.items()}
        )
    )
    counts = tokens.usage([tokens.read(tokenizer, image)[0] for image in IMAGES.values()], 16)
    assert (
        f'{(counts > 0).sum()} of 16 codes in 56 tokens' in html
        and '&lt;b&gt;a.png: 4×6 tokens' in html
    )
    assert '<b>' not in html and 'folder' not in html
    assert (
        html.count('<figure>') == (counts > 0).sum()
        and f'>{counts.argmax()}: {100 * counts.max() / 56:.2g} %<' in html
    )


def test_tiles_lie_row_by_row():
    patches = [np.full((4, 4, 3), 10 * i, np.uint8) for i in range(1, 6)]
    sheet = draw.tile(patches, 3)
    assert sheet.shape == (14, 14, 3) and [
        sheet[1, 1, 0],
        sheet[1, 12, 0],
        sheet[6, 7, 0],
        sheet[12, 12, 0],
    ] == [
        10,
        30,
        50,
        128,
    ]
