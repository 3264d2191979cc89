"""The explorer has the maps that were computed, loads nothing, and answers clicks and keys."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from explorer_data import read_page, restore
from markupsafe import escape

from beit_mm.models import BEiT
from beit_mm.models.attention import attention_of_blocks, attention_rollout
from beit_mm.viz import explorer
from beit_mm.viz.attention import find_limits, pool

pytestmark = pytest.mark.any_stack

ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=32)
SCREENSHOTS = Path(__file__).parents[2] / 'work_dirs/screenshots'
HOSTILE = '</script><script>document.title="evil"</script><img src=x onerror=alert(1)>&' + 80 * 'x'
SIZES = {'first.png': (40, 64), HOSTILE: (48, 48)}
GENERATOR = torch.Generator().manual_seed(1)
INPUTS = {name: torch.randn(1, 3, *size, generator=GENERATOR) for name, size in SIZES.items()}


@pytest.fixture(scope='module')
def backbone() -> BEiT:
    torch.manual_seed(0)
    model = BEiT(ARCH, img_size=32, patch_size=8, rel_pos_bias='shared').eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope='module')
def page(backbone, tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    images = []
    for name, image in INPUTS.items():
        pixels = rng.integers(0, 256, (*SIZES[name], 3), dtype=np.uint8)
        images.append((name, pixels, explorer.compute_maps(backbone, image)))
    path = tmp_path_factory.mktemp('page') / 'a b.html'
    explorer.write_explorer(path, images, HOSTILE, [HOSTILE])
    return path


def test_the_page_has_the_maps_that_were_computed(page, backbone):
    found = dict(read_page(page.read_text()))
    assert list(found) == list(INPUTS)
    for maps, image in zip(found.values(), INPUTS.values(), strict=True):
        heads = attention_of_blocks(backbone, image)
        rollout = attention_rollout([block[0].mean(0) for block in heads])
        assert maps.grid == (image.shape[2] // 8, image.shape[3] // 8)
        shown = restore(maps)
        for layer, (block, rolled) in enumerate(zip(heads, rollout, strict=True)):
            true = torch.cat([block[0], rolled[None]]).numpy()[:, 1:]
            tolerance = maps.maximum[layer][..., None] / 250 + 1e-7
            assert (np.abs(shown[layer] - true[..., 1:]) <= tolerance).all()
            assert np.abs(maps.to_cls[layer] - true[..., 0]).max() <= 1e-6


def test_names_are_text_and_nothing_is_loaded(page):
    text = page.read_text()
    assert re.findall(r'<option value="\d">(.*)</option>', text) == list(map(escape, SIZES))
    assert text.count('<script') == 2 and not re.search('<img|<link|<iframe', text)
    assert not re.search(r'https?:|//cdn|url\(|@import|fetch\(|XMLHttp', text)


def test_a_large_grid_is_pooled_into_the_limit(backbone):
    image = torch.randn(1, 3, 64, 72, generator=torch.Generator().manual_seed(2))
    full = explorer.compute_maps(backbone, image)
    pooled = explorer.compute_maps(backbone, image, max_bytes=9 * 20**2)
    assert (full.grid, pooled.grid, pooled.factor) == ((8, 9), (4, 5), 2)
    assert pooled.levels.size <= 9 * 20**2
    sums, cells = restore(pooled).sum(-1) + pooled.to_cls, 20
    assert (np.abs(sums - 1) <= cells * pooled.maximum / 250 + 1e-5).all()
    expected = pool(torch.from_numpy(restore(full)), (8, 9), 2).numpy()
    assert np.abs(expected - restore(pooled)).max() <= 0.01
    with pytest.raises(ValueError, match='9 maps of 8×9 patches do not fit into 100 bytes: pass'):
        explorer.compute_maps(backbone, image, max_bytes=100)


POINT = """(() => {{ const box = document.querySelector({0!r}).getBoundingClientRect();
    return [box.left + box.width * {1}, box.top + box.height * {2}]; }})()"""
PIXELS = "document.querySelector('#view').toDataURL()"
READY = 'document.body?.dataset.ready !== undefined'


def click(chromium, selector: str, x: float = 0.5, y: float = 0.5) -> None:
    chromium.click(*chromium.value(POINT.format(selector, x, y)))


def press(chromium, *keys: str) -> str:
    """Press keys and return the status line."""
    for key in keys:
        chromium.key(key)
    return chromium.value("document.querySelector('#status').textContent")


def set_value(chromium, element: str, value: object) -> None:
    chromium.value(f"""(e => {{ e.value = {value!r};
        for (const type of ['input', 'change']) e.dispatchEvent(new Event(type)); }})(
        document.querySelector('#{element}'))""")


def expected_status(maps: explorer.Maps, layer: int, name: str, row: int, column: int) -> str:
    rows = restore(maps)[layer - 1, :, row * maps.grid[1] + column]
    maps_by_name = dict(mean=rows[:-1].mean(0), rollout=rows[-1])
    best = maps_by_name.get(name, rows[int(name) - 1 if name.isdigit() else 0]).argmax()
    return f'Attends most to column {best % maps.grid[1] + 1}, row {best // maps.grid[1] + 1}: '


def test_clicks_and_keys_select_maps_and_request_nothing(chromium, page):
    (_, maps), (_, second) = read_page(page.read_text())
    chromium.events.clear()
    chromium.open(page, 1200, 900, READY)
    assert chromium.value('document.title') == 'What a patch attends to'
    start = chromium.value(PIXELS)
    click(chromium, '#view', 0.05, 0.9)  # the lower left one of 8×5 patches
    after_click, status = chromium.value(PIXELS), press(chromium)
    assert start != after_click
    assert status.startswith('Patch in column 1, row 5; layer 3, mean of the heads.')
    assert expected_status(maps, 3, 'mean', 4, 0) in status
    chromium.screenshot(SCREENSHOTS / 'explorer.png')

    status = press(chromium, 'ArrowRight', 'ArrowUp')
    assert 'column 2, row 4;' in status and expected_status(maps, 3, 'mean', 3, 1) in status
    status = press(chromium, 'ArrowLeft', 'ArrowLeft', 'ArrowDown', 'ArrowDown')
    assert 'column 1, row 5;' in status  # not beyond the border
    assert chromium.value(PIXELS) == after_click

    click(chromium, 'input[value="2"]')
    status = press(chromium)
    assert 'head 2.' in status and expected_status(maps, 3, '2', 4, 0) in status
    status = press(chromium, 'ArrowLeft', 'ArrowLeft')  # within the group of maps
    assert 'rollout.' in status and expected_status(maps, 3, 'rollout', 4, 0) in status
    overlaid = chromium.value(PIXELS)
    click(chromium, '#overlay')
    photograph = chromium.value(PIXELS)
    assert photograph != overlaid and chromium.value('location.hash').endswith('&overlay=off')
    click(chromium, '#overlay')
    set_value(chromium, 'opacity', 0)
    assert chromium.value(PIXELS) == photograph
    assert chromium.value('location.hash').endswith('&opacity=0')
    set_value(chromium, 'opacity', round(100 * explorer.OPACITY))
    assert chromium.value(PIXELS) == overlaid
    set_value(chromium, 'colors', 'viridis')
    assert chromium.value(PIXELS) != overlaid
    set_value(chromium, 'colors', 'inferno')

    chromium.value("document.querySelector('#layer').focus()")
    status = press(chromium, 'ArrowLeft')
    assert 'layer 2, rollout' in status and expected_status(maps, 2, 'rollout', 4, 0) in status
    assert chromium.value('location.hash') == '#image=0&patch=1,5&layer=2&map=rollout'
    set_value(chromium, 'image', 1)
    chromium.wait('document.body.dataset.ready === "1"')
    assert expected_status(second, 2, 'rollout', 4, 0) in press(chromium)

    requests = [e['params'] for e in chromium.events if e['method'] == 'Network.requestWillBeSent']
    assert requests and all(r['request']['url'].startswith(('file:', 'data:')) for r in requests)
    assert not [e for e in chromium.events if e['method'] == 'Runtime.exceptionThrown']


SAMPLE = """(() => {{
    const view = document.querySelector('#view'), context = view.getContext('2d'), found = [];
    for (let row = 0; row < {0}; row++) for (let column = 0; column < {1}; column++)
        found.push([...context.getImageData(
            (column + .5) * view.width / {1}, (row + .5) * view.height / {0}, 1, 1).data]);
    return found; }})()"""


@pytest.mark.parametrize('name', ['mean', 'rollout'])
@pytest.mark.parametrize('colors', ['inferno', 'viridis'])
def test_opaque_colors_are_those_of_the_shares(chromium, page, name, colors):
    (_, maps), _ = read_page(page.read_text())
    patch = 5  # column 6, row 1
    chromium.open(page, 1200, 900, READY)
    chromium.value(f'location.hash = "#patch=6,1&map={name}&opacity=100&colors={colors}"')
    chromium.wait(f'document.querySelector("input[value={name}]").checked')
    pixels = np.array(chromium.value(SAMPLE.format(*maps.grid)))[:, :3]
    of_maps = restore(maps)[2, :, patch]
    shares = dict(mean=of_maps[:-1].mean(0), rollout=of_maps[-1])[name]
    low, high = find_limits(name, shares.reshape(maps.grid), (0, 5))
    levels = (255 * (shares - low) / (high - low)).clip(0, 255)
    expected = explorer.HEAT_MAPS[colors][levels.round().astype(int)]
    assert np.abs(pixels - expected).max() <= 8  # of 255: levels round differently
    assert len(np.unique(levels.round())) >= len(levels) / 2  # several shades


def test_everything_fits_a_dark_phone_and_can_be_reached_by_keyboard(chromium, page):
    feature = dict(name='prefers-color-scheme', value='dark')
    chromium.command('Emulation.setEmulatedMedia', features=[feature])
    chromium.open(page, 360, 740, READY)
    chromium.screenshot(SCREENSHOTS / 'explorer_phone.png')
    assert chromium.value('document.documentElement.scrollWidth') <= 360
    click(chromium, '#view', 0.05, 0.05)
    assert press(chromium).startswith('Patch in column 1, row 1;')
    chromium.value('document.activeElement.blur()')
    reached = set()
    for _ in range(10):
        chromium.key('Tab')
        reached.add(chromium.value('(e => e.id || e.name || e.tagName)(document.activeElement)'))
    assert {'view', 'overlay', 'image', 'layer', 'map', 'opacity', 'colors', 'SUMMARY'} <= reached
    unnamed = """[...document.querySelectorAll('input, select, [tabindex]')].filter(
        e => !e.labels?.length && !e.getAttribute('aria-label')).length"""
    assert chromium.value(unnamed) == 0


def test_the_page_answers_clicks_inside_a_notebook(chromium, page, tmp_path):
    """There it is the `srcdoc` of a frame, which has no address to store the selection in."""
    path = tmp_path / 'notebook.html'
    path.write_text(
        f'<body style="margin:0"><iframe srcdoc="{escape(page.read_text())}" width=1200 height=900>'
    )
    inside = 'frames[0]?.document.body'
    chromium.open(path, 1300, 1000, f'{inside}?.dataset.ready !== undefined')
    status = f"{inside}.querySelector('#status').textContent"
    before = chromium.value(status)
    point = POINT.replace('document.', 'frames[0].document.')
    chromium.click(*chromium.value(point.format('#view', 0.05, 0.9)))
    assert chromium.value(status) != before and 'Patch in column 1, row 5' in chromium.value(status)
