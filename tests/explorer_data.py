"""Read the data of an explorer's page as its script does."""

import base64
import json

import numpy as np

from beit_mm.viz.explorer import Maps


def read_page(text: str) -> list[tuple[str, Maps]]:
    """Return names and maps; `factor` is not in a page."""
    data = text.partition('id="data">')[2].partition('</script>')[0]
    found = []
    for entry in json.loads(data)['images']:
        cells = entry['grid'][0] * entry['grid'][1]
        rows = entry['layers'], entry['heads'] + 1
        raw = {name: base64.b64decode(entry[name]) for name in ('levels', 'maximum', 'to_cls')}
        levels = np.frombuffer(raw['levels'], np.uint8).reshape(*rows, cells, cells)
        maximum = np.frombuffer(raw['maximum'], '<f4').reshape(*rows, cells)
        to_cls = np.frombuffer(raw['to_cls'], '<f4').reshape(*rows, cells)
        found.append((entry['name'], Maps(levels, maximum, to_cls, tuple(entry['grid']), None)))
    return found


def restore(maps: Maps) -> np.ndarray:
    """Return the attention f32 [L, H + 1, C, C]."""
    return (maps.levels.astype(np.float32) / 255) ** 2 * maps.maximum[..., None]
