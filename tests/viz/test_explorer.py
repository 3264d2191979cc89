"""The explorer's page holds the maps that were computed, nothing of the world outside, and answers clicks and keys."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import browser

from beit_mm.models import BEiT
from beit_mm.viz import attention, explorer

pytestmark = pytest.mark.any_stack

SCREENSHOTS = Path(__file__).parents[2] / 'work_dirs/screenshots'
EVIL = (
    '</script><script>document.title="evil"</script><img src=x onerror=alert(1)> "&'
    + 80 * 'x'
    + '.png'
)


@pytest.fixture(scope='module')
def backbone() -> BEiT:
    torch.manual_seed(0)
    arch = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=32)
    model = BEiT(arch, img_size=32, patch_size=8, rel_pos_bias='shared').eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


SIZES = {'first.png': (40, 64), EVIL: (48, 48)}


@pytest.fixture(scope='module')
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(1, 3, *size, generator=generator) for name, size in SIZES.items()}


@pytest.fixture(scope='module')
def page(backbone, inputs, tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    images = {
        name: (
            rng.integers(0, 256, (*SIZES[name], 3), dtype=np.uint8),
            explorer.read(backbone, image),
        )
        for name, image in inputs.items()
    }
    path = tmp_path_factory.mktemp('page') / 'a b.html'
    explorer.write(path, images, EVIL, [EVIL])
    return path


def test_the_data_of_the_page_are_the_maps_that_were_computed(page, backbone, inputs):
    found = explorer.unpack(page.read_text())
    assert [name for name, _ in found] == list(inputs)
    for (_, maps), image in zip(found, inputs.values(), strict=True):
        whole = attention.attention_of_blocks(backbone, image)
        through = attention.attention_rollout([each[0].mean(0) for each in whole])
        grid = image.shape[2] // 8, image.shape[3] // 8
        assert (maps.grid, maps.factor, maps.levels.shape[:2]) == (grid, 1, (3, 3))
        shown = attention.dequantise(maps.levels, maps.top)
        for layer in range(3):
            true = torch.cat([whole[layer][0], through[layer][None]]).numpy()[:, 1:]
            assert (
                np.abs(shown[layer] - true[..., 1:]) <= maps.top[layer][..., None] / 510 + 1e-7
            ).all()
            assert np.abs(maps.to_cls[layer] - true[..., 0]).max() <= 1e-6


def test_names_are_text_and_nothing_is_fetched(page):
    text = page.read_text()
    tags, options = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append((tag, dict(attributes)))

        def handle_data(self, data):
            if tags and tags[-1][0] == 'option':
                options.append(data)

    Reader().feed(text)
    assert [attributes for tag, attributes in tags if tag == 'script'] == [
        dict(type='application/json', id='data'),
        {},
    ]
    assert not [tag for tag, _ in tags if tag in ('img', 'link', 'iframe')] and options[:2] == list(
        SIZES
    )
    assert not re.search(r'https?:|//cdn|url\(|@import|fetch\(|XMLHttp', text)


def test_a_large_grid_is_pooled_into_the_limit(backbone, inputs):
    image = torch.randn(1, 3, 64, 72, generator=torch.Generator().manual_seed(2))
    whole = explorer.read(backbone, image)
    small = explorer.read(backbone, image, limit=9 * 20**2)
    assert (whole.grid, small.grid, small.factor) == (
        (8, 9),
        (4, 5),
        2,
    ) and small.levels.size <= 9 * 20**2
    shown = [attention.dequantise(maps.levels, maps.top) for maps in (whole, small)]
    for maps, each in zip((whole, small), shown, strict=True):
        assert (
            np.abs(each.sum(-1) + maps.to_cls - 1) <= each.shape[-1] * maps.top / 510 + 1e-5
        ).all()
    pooled = attention.pool(torch.from_numpy(shown[0]), (8, 9), 2)[0].numpy()
    assert np.abs(pooled - shown[1]).max() <= 0.01
    with pytest.raises(
        ValueError,
        match='9 maps of 8×9 patches do not fit into 100 bytes: give fewer images, or a smaller --size',
    ):
        explorer.read(backbone, image, limit=100)


# -- in a browser ------------------------------------------------------------------------------------------------------

CENTRE = """(() => {{ const box = document.querySelector({0!r}).getBoundingClientRect();
    return [box.left + box.width * {1}, box.top + box.height * {2}]; }})()"""
PIXELS = "document.querySelector('#view').toDataURL()"
STATUS = "document.querySelector('#status').textContent"
READY = 'document.body?.dataset.ready !== undefined'


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp('profile')) as shown:
        yield shown


def expected(maps: explorer.Maps, layer: int, which: str, row: int, column: int) -> str:
    """What the page should say of a patch."""
    place = row * maps.grid[1] + column
    heads = attention.dequantise(maps.levels, maps.top)[layer - 1, :, place]
    shares = (
        heads[:-1].mean(0)
        if which == 'mean'
        else heads[-1]
        if which == 'rollout'
        else heads[int(which) - 1]
    )
    best = shares.argmax()
    return f'Most from column {best % maps.grid[1] + 1}, row {best // maps.grid[1] + 1}: '


def test_clicks_and_keys_show_other_maps(chromium, page):
    (_, maps), (_, second) = explorer.unpack(page.read_text())
    chromium.open(page, 1200, 900, READY)
    start = chromium.value(PIXELS)
    chromium.click(
        *chromium.value(CENTRE.format('#view', 0.05, 0.9))
    )  # of 8×5 patches the one below on the left
    after_click, said = chromium.value(PIXELS), chromium.value(STATUS)
    assert start != after_click and said.startswith(
        'Patch in column 1, row 5; layer 3, mean of the heads.'
    )
    assert expected(maps, 3, 'mean', 4, 0) in said
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    chromium.screenshot(SCREENSHOTS / 'explorer.png')
    chromium.key('ArrowRight'), chromium.key('ArrowUp')
    said = chromium.value(STATUS)
    assert 'column 2, row 4;' in said and expected(maps, 3, 'mean', 3, 1) in said
    (
        chromium.key('ArrowLeft'),
        chromium.key('ArrowLeft'),
        chromium.key('ArrowDown'),
        chromium.key('ArrowDown'),
    )
    assert 'column 1, row 5;' in chromium.value(STATUS)  # not beyond the edge
    assert chromium.value(PIXELS) == after_click
    chromium.click(*chromium.value(CENTRE.format('input[value="2"]', 0.5, 0.5)))
    assert 'head 2.' in chromium.value(STATUS) and expected(maps, 3, '2', 4, 0) in chromium.value(
        STATUS
    )
    chromium.key('ArrowLeft'), chromium.key('ArrowLeft')  # within the group of maps
    assert 'rollout.' in chromium.value(STATUS) and expected(
        maps, 3, 'rollout', 4, 0
    ) in chromium.value(STATUS)
    grey = chromium.value(PIXELS)
    chromium.click(*chromium.value(CENTRE.format('#color', 0.5, 0.5)))
    assert chromium.value(PIXELS) != grey and chromium.value('location.hash').endswith('&color=1')
    chromium.click(*chromium.value(CENTRE.format('#color', 0.5, 0.5)))
    assert chromium.value(PIXELS) == grey
    chromium.value("document.querySelector('#layer').focus()")
    chromium.key('ArrowLeft')
    assert 'layer 2, rollout' in chromium.value(STATUS) and expected(
        maps, 2, 'rollout', 4, 0
    ) in chromium.value(STATUS)
    assert chromium.value('location.hash') == '#image=0&patch=1,5&layer=2&map=rollout'
    chromium.value(
        "(image => { image.value = 1; image.dispatchEvent(new Event('change')); })(document.querySelector('#image'))"
    )
    chromium.value(
        'new Promise(done => { const look = () => document.body.dataset.ready === "1" ? done() : setTimeout(look, 20); look(); })'
    )
    assert expected(second, 2, 'rollout', 4, 0) in chromium.value(STATUS)


def test_the_patch_that_is_drawn_is_the_one_clicked_and_the_brightest_the_one_named(chromium, page):
    (_, maps), _ = explorer.unpack(page.read_text())
    chromium.open(page, 1200, 900, READY)
    chromium.click(*chromium.value(CENTRE.format('#view', 0.7, 0.1)))  # column 6, row 1
    sample = """(() => {{ const view = document.querySelector('#view'), context = view.getContext('2d'), found = [];
        for (let row = 0; row < {0}; row++) for (let column = 0; column < {1}; column++)
            found.push([...context.getImageData((column + .5) * view.width / {1}, (row + .5) * view.height / {0}, 1, 1).data]);
        return found; }})()"""
    pixels = np.array(chromium.value(sample.format(*maps.grid)))[:, :3]
    shares = attention.dequantise(maps.levels, maps.top)[2, :-1, 5].mean(0)
    grey = pixels - 0.6 * explorer.draw.HEAT[(255 * shares / shares.max()).round().astype(int)]
    assert (np.ptp(grey, axis=1) <= 3).all()  # what is left of each pixel has no colour


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_everything_fits_a_phone_and_can_be_reached_by_keyboard(chromium, page, scheme):
    chromium.command(
        'Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value=scheme)]
    )
    chromium.open(page, 360, 740, READY)
    chromium.screenshot(SCREENSHOTS / f'explorer_phone_{scheme}.png')
    assert chromium.value('document.documentElement.scrollWidth') <= 360
    chromium.click(*chromium.value(CENTRE.format('#view', 0.05, 0.05)))
    assert chromium.value(STATUS).startswith('Patch in column 1, row 1;')
    reached = []
    chromium.value('document.activeElement.blur()')
    for _ in range(7):
        chromium.key('Tab')
        reached.append(
            chromium.value(
                'document.activeElement.id || document.activeElement.name || document.activeElement.tagName'
            )
        )
    assert {'view', 'image', 'layer', 'map', 'SUMMARY'} <= set(reached)
    unnamed = """[...document.querySelectorAll('input, select, [tabindex]')].filter(
        e => !e.labels?.length && !e.getAttribute('aria-label')).length"""
    assert chromium.value(unnamed) == 0


def test_the_page_speaks_to_nobody_and_has_no_error(chromium, page):
    chromium.heard.clear()
    chromium.open(page, 800, 700, READY)
    asked = [
        m['params']['request']['url']
        for m in chromium.heard
        if m['method'] == 'Network.requestWillBeSent'
    ]
    assert asked and all(url.startswith(('file:', 'data:')) for url in asked)
    assert not [m for m in chromium.heard if m['method'] == 'Runtime.exceptionThrown']
    assert chromium.value('document.title') == 'What a patch attends to'
