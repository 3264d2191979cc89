"""A config at another scale: what stays is which parts it has, what changes is how large each is.

A scale names parts by their type, wherever they stand in a config, so one table does for a config and all its ablations:

    parts = dict(
        BEiT=dict(arch=…, img_size=64, patch_size=8),
        RandomMask=dict(grid=8, num_masked=25),            # of those configs that have one
        TwoViews=dict(size=64, token_size=32),         # what a config has switched off (None) stays off
        MIMHead=dict(out_channels={8192: 512, 768: 192}))  # a value that depends on the config's own

and then settings of the whole, as mmengine merges them: `train_cfg=dict(_delete_=True, max_iters=100, …)`.
"""

from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from pprint import pformat

from mmengine.config import Config

from beit_mm.utils.config_tree import kind, nodes


def scaled(config: dict, parts: dict[str, dict], whole: dict) -> dict:
    """The config at that scale; what is given stays as it is."""
    cfg = deepcopy(config)
    for node in list(nodes(cfg)):
        for key, value in parts.get(kind(node), {}).items():
            if key in node and node[key] is None:
                continue
            own = node.get(key)
            table = isinstance(value, dict) and not isinstance(own, dict) and own in value
            node[key] = value[own] if table else value
    merged = Config(cfg)
    merged.merge_from_dict(deepcopy(whole))  # it takes `_delete_` out of what it is given
    return merged.to_dict()


def write(path: Path, cfg: dict, origin: str) -> None:
    """As a config file."""
    lines = [
        f'# {origin}, at another scale',
        *(f'{key} = {pformat(value, 4, 120)}' for key, value in cfg.items()),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')


def data_options(cfg: dict, data: str) -> dict[str, str]:
    """Options that turn each `data_root` of the loaders, 'data/NAME' or 'data/quickstart/NAME', into `data/NAME`."""
    return {
        f'{where}.data_root': '/'.join(
            [
                data,
                *[p for p in Path(node['data_root']).parts if not p.startswith('quickstart')][1:],
            ]
        )
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')
        for where, node in _datasets(loader, cfg.get(loader))
    }


def _datasets(where: str, node: object) -> Iterable[tuple[str, dict]]:
    if isinstance(node, dict):
        if 'data_root' in node:
            yield where, node
        yield from _datasets(f'{where}.dataset', node.get('dataset'))
