"""All configs of the project, functions that shrink them to a size for a CPU, and code in a process of its own."""

import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from beit_mm.models import BEiTPretrainer
from beit_mm.registry import MODELS
from beit_mm.utils.config_tree import find_dataset, kind, nodes

ROOT = Path(__file__).parents[1]
CONFIGS = {
    str(path.relative_to(ROOT / 'configs'))[:-3]: path
    for path in sorted((ROOT / 'configs').rglob('*.py'))
    if not {'_base_', 'detection', 'lora', 'reproduce'} & set(path.parts)
    and path.stem != 'recipe'  # these have tests of their own
}
ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)
TOKENIZER = dict(vocab_size=32, width=8, blocks=1, width_in=8)
_runs = count()


def each(names: list[str]) -> list:
    """Return names to parametrize with; sizes, lengths and initial weights do not depend on the stack."""
    variant = 'large', '300e', '_in22k-', '_in1k-ft', '384px', '_random-mask'
    return [
        pytest.param(n, marks=[pytest.mark.any_stack] * any(part in n for part in variant))
        for n in names
    ]


def load(name: str) -> Config:
    return Config.fromfile(CONFIGS[name])


def backbone(cfg) -> dict:
    return next(node for node in nodes(cfg.model) if kind(node) == 'BEiT')


def shrink(cfg: Config, data: Path | None, work_dir: Path) -> Config:
    """Shrink a config in place: two batches of two from Shapes, a small arch, an eighth of a crop.

    Weights that do not exist are removed; a pre-training config gets a tokenizer, which is written to
    `work_dir`. With `data` None the config keeps its data.
    """
    init_default_scope(cfg.default_scope)
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'{work_dir.name}_{next(_runs)}'
    if 'name' in cfg.get('visualizer', {}):  # one per run and process
        cfg.visualizer.name = cfg.experiment_name
    for split, length in (('train', 4), ('val', 2), ('test', 1)):
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        loader.update(
            num_workers=0, batch_size=2 if split == 'train' else min(2, loader.batch_size)
        )
        for key in ('persistent_workers', 'pin_memory', 'prefetch_factor'):
            loader.pop(key, None)
        dataset = find_dataset(loader)
        dataset.indices = length
        if not data:
            continue
        ade = 'seg_map_path' in str(dataset.get('data_prefix'))
        dataset.data_root = str(data / ('ade20k' if ade else 'imagenet'))
        if 'ann_file' in dataset:
            dataset.ann_file = '' if ade else f'meta/{"train" if split == "train" else "val"}.txt'
    if cfg.train_cfg.type == 'EpochBasedTrainLoop':
        cfg.train_cfg.max_epochs = 1
    else:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    for scheduler in nodes(cfg.param_scheduler):
        scheduler.begin = 0  # the run is shorter than the warm-up
    for node in nodes([cfg.get('val_evaluator'), cfg.get('test_evaluator')]):
        if 'vocab_size' in node:
            node.vocab_size = TOKENIZER['vocab_size']
    shrink_model(cfg.model, work_dir)
    if cfg.default_scope == 'mmseg' and backbone(cfg).img_size > 224:
        shrink_crops(cfg)
    return cfg


def with_weights(name: str, folder: Path, data: Path | None = None) -> tuple[Config, Path]:
    """Shrink a config; write it and random weights on which its outputs depend to `folder`."""
    cfg = shrink(load(name), data, folder)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.save(dict(state_dict=model.state_dict()), folder / 'model.pth')
    cfg.dump(folder / 'config.py')
    return cfg, folder / 'model.pth'


def shrink_model(model: dict, work_dir: Path) -> None:
    shrink_sizes(model)
    for node in nodes(model):
        if kind(node) == 'TokenTarget' and not _exists(node):
            path = work_dir / 'tokenizer.pth'
            work_dir.mkdir(parents=True, exist_ok=True)
            torch.save(dict(state_dict=MODELS.build(node.tokenizer).state_dict()), path)
            node.checkpoint = str(path)
        elif kind(node) == 'Teacher' and not _exists(node):
            path = work_dir / 'teacher.pth'
            work_dir.mkdir(parents=True, exist_ok=True)
            backbone = MODELS.build(node.backbone)
            state = getattr(backbone, 'timm_model', backbone).state_dict()
            if node.get('projection'):
                state[node.projection] = torch.randn(node.channels, 32)
            torch.save(state, path)
            node.checkpoint = str(path)


def _exists(weights: dict | None) -> bool:
    return bool(weights and weights.get('checkpoint')) and Path(weights['checkpoint']).is_file()


def shrink_sizes(model: dict) -> None:
    for node in nodes(model):
        if kind(node) == 'BEiT':
            node.update(
                arch=dict(ARCH),
                init_cfg=node.get('init_cfg') if _exists(node.get('init_cfg')) else None,
            )
            if node.get('patch_aggregation'):
                node.patch_aggregation.layer = 2
            node.frozen_stages = min(node.get('frozen_stages', -1), ARCH['num_layers'])
            indices = node.get('out_indices', -1)
            is_single = isinstance(indices, int)
            node.out_indices = min(indices, 2) if is_single else (0, 1, 2, 3)[-len(indices) :]
        elif kind(node) == 'DiscreteVAE':
            node.update(TOKENIZER)
        elif kind(node) == 'VQKD':
            node.update(vocab_size=TOKENIZER['vocab_size'])
            node.encoder.arch = dict(ARCH)
        elif kind(node) == 'Teacher':
            node.channels = node.channels if node.get('projection') else 32
        elif kind(node) == 'TIMMBackbone':
            node.update(embed_dim=32, depth=2, num_heads=2)
        elif kind(node) in ('LinearClsHead', 'MultiLabelLinearClsHead'):
            node.update(in_channels=32, init_cfg=None)
        elif kind(node) == 'MIMHead':
            tokens = node.out_channels in (8192, 512)
            node.update(
                in_channels=32,
                out_channels=TOKENIZER['vocab_size'] if tokens else node.out_channels,
            )
        elif kind(node) in ('SETRPUPHead', 'FCNHead', 'UPerHead'):
            node.update(in_channels=[32] * 4 if kind(node) == 'UPerHead' else 32, channels=8)
        elif kind(node) == 'Feature2Pyramid':
            node.update(embed_dim=32)


def shrink_crops(cfg: Config) -> None:
    for node in nodes([cfg.model, cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader]):
        for key in ('img_size', 'size', 'crop_size', 'stride', 'scale'):
            if isinstance(node.get(key), int):
                node[key] //= 8
            elif isinstance(node.get(key), (list, tuple)):
                node[key] = tuple(side // 8 for side in node[key])


def make_pretrainer(target: dict, channels: int, num_masked: int, **backbone) -> BEiTPretrainer:
    """Return masked image modeling of images of 32 pixels, which have a grid of 4×4 patches."""
    backbone = dict(type='BEiT', arch=ARCH, img_size=32, patch_size=8, mask_token=True) | backbone
    width = backbone['arch']['embed_dims']
    head = dict(type='MIMHead', in_channels=width, out_channels=channels)
    return BEiTPretrainer(backbone, target, head, num_masked)


def same_tensors(one: dict, other: dict) -> bool:
    """Return whether two state dicts have the same keys and bits."""
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def run_python(code: str, *paths: object) -> subprocess.CompletedProcess:
    """Run code in a new process on this stack, with `paths` in front of all others."""
    places = [*map(str, paths), os.environ.get('PYTHONPATH', ''), str(ROOT)]
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(filter(None, places)))
    command = [sys.executable, '-c', code]
    return subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True)


def randomize(model: nn.Module, std: float = 0.3) -> nn.Module:
    """Draw all parameters, in place, so that outputs depend on each of them."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def read_scalars(work_dir: Path) -> list[dict]:
    """Return the lines that runs in this folder logged."""
    texts = [path.read_text() for path in sorted(work_dir.glob('*/vis_data/scalars.json'))]
    return [json.loads(line) for text in texts for line in text.splitlines()]
