"""Scales: configs that say how large each part is, and which settings all runs share.

configs/reproduce/shapes.py explains the entries of a scale.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat

from mmengine.config import Config

from beit_mm.utils.config_tree import kind, nodes, walk

KEYS = {
    'data', 'prepare', 'seeds', 'ablations', 'note', 'comparison', 'tokenizers', 'pretrain',
    'classification', 'segmentation', 'curves',
}  # fmt: skip
RENAMED_KEYS = dict(rows='ablations', budget='comparison')  # 0.2.0, codespell:ignore


@dataclass(frozen=True)
class Scale:
    """A scale's name, its content and the folder of the data."""

    name: str
    cfg: dict
    data: str

    @classmethod
    def read(cls, path: Path, data: str | None = None) -> 'Scale':
        """Read a scale file. Raises FileNotFoundError."""
        if not path.is_file():
            known = ', '.join(sorted(file.stem for file in path.parent.glob('*.py')))
            raise FileNotFoundError(f'no scale {path.stem}: expected one of {known}')
        cfg = Config.fromfile(str(path)).to_dict()
        check_keys(path, cfg)
        return cls(path.stem, cfg, data or cfg['data'])


def check_keys(path: Path, cfg: dict) -> None:
    """Raise ValueError if a scale file has a key that nothing reads."""
    if old := sorted(cfg.keys() & RENAMED_KEYS.keys()):
        raise ValueError(f'{path}: {old[0]} was renamed: write {RENAMED_KEYS[old[0]]!r}')
    for key in sorted(cfg.keys() - KEYS):
        raise ValueError(
            f'{path}: unknown key {key!r}: expected {", ".join(sorted(KEYS))}. Remove a helper '
            f'variable at the end of the file: del {key}'
        )


def apply_scale(config: dict, parts: dict[str, dict], whole: dict) -> dict:
    """Return the config with other sizes of its parts, merged with the settings `whole`.

    `parts` maps the type of a part to its settings. A part's None stays None; a dict that has the
    part's own value as a key, such as `out_channels={8192: 512, 768: 192}`, gives the value for it.
    """
    cfg = deepcopy(config)
    for node in list(nodes(cfg)):
        for key, value in parts.get(kind(node), {}).items():
            own = node.get(key)
            if key in node and own is None:
                continue
            is_choice = isinstance(value, dict) and not isinstance(own, dict) and own in value
            node[key] = value[own] if is_choice else value
    merged = Config(cfg)
    merged.merge_from_dict(deepcopy(whole))  # a copy, since it removes `_delete_`
    return merged.to_dict()


def write_ablation_config(path: Path, cfg: dict, origin: str) -> None:
    lines = [f'{key} = {pformat(value, 4, 120)}' for key, value in cfg.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join([f'# {origin}, at another scale', *lines]) + '\n')


def data_options(cfg: dict, data: str) -> dict[str, str]:
    """Return options that move each `data_root` from 'data/' or 'data/quickstart/' to `data`."""
    loaders = {name: node for name, node in cfg.items() if name.endswith('_dataloader')}
    options = {}
    for path, node in walk(loaders):
        if 'data_root' in node:
            parts = [part for part in Path(node['data_root']).parts if 'quickstart' not in part]
            options[f'{path}.data_root'] = '/'.join([data, *parts[1:]])
    return options
