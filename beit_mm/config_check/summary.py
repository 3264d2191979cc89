"""Summarize the training in a BEiT config of this project, mmpretrain or mmseg.

Nothing is built and no data is read: the summary is a function of the config's text.
"""

import re
from pathlib import Path

from mmengine.config import Config

from ..utils.config_tree import find, get, kind, nodes
from .finding import HALF, IMAGENET
from .summary_model import summarize_model
from .summary_optimizer import find_decayed_tensors, summarize_optimizer, summarize_schedule

DATASET_SIZES = dict(IN1k=1_281_167, IN22k=14_197_122, ADE20K=20_210)  # training sets
PUBLIC = re.compile(r'pt22k|ft22k|in2[12]k')  # in the names of weights pre-trained on ImageNet-22k
V2, V2_EPOCHS = 'beitv2_', 1600  # in names of weights of BEiT v2; their epochs unless they say 300e
BACKBONES = ('BEiT', 'BEiTViT', 'BEiTPretrainViT')


class ConfigSummary(dict):
    """Settings of a config by name.

    A setting that the config does not show is None, and a part that it does not use is 'off'.

    - Which recipe it is: `task` (tokenizer, pretrain, classification, segmentation), `method` (v1,
      v2), `arch` (base, large, other), `variant` (vanilla, LayerScale, BEiT+, mixed), `frozen`,
      `data`, `start` (self-supervised, IN1k, IN22k: training of the weights that it starts from),
      `start_length` (epochs of their pre-training).
    - Batch: `ranks`, `per_rank`, `accumulation`, `base_batch`, `auto_scale`; `lr` after scaling.
    - Schedule, counted in `unit`: `length`, `warmup`, `end`. `stalled`: the run never moves it.
    - Optimizer: `decayed` is a dict kind of tensor → whether it has weight decay.
    """

    def __missing__(self, name: str) -> None:
        return None

    @property
    def step_batch(self) -> int | None:  # images per iteration
        return self['per_rank'] and self['ranks'] * self['per_rank']

    @property
    def batch(self) -> int | None:  # images per update of the weights
        return self.step_batch and self.step_batch * self['accumulation']

    @property
    def factors(self) -> str:
        """Return the factors of `batch` as text: processes × images × accumulation."""
        accumulated = f' × {self["accumulation"]}' if self['accumulation'] > 1 else ''
        return f'{self["ranks"]} × {self["per_rank"]}{accumulated}'


def read_summary(
    path: str, options: dict | None = None, gpus: int | None = None, auto_scale: bool = False
) -> ConfigSummary:
    """Summarize a config file with `--cfg-options`.

    Without `gpus`, the number of processes is the one in the file name (8xb256), or 1.

    Raises FileNotFoundError for a missing file, and ValueError as `summarize`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}: pass a file such as configs/pretrain/….py')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    cfg, named = cfg.to_dict(), re.search(r'(\d+)xb\d+', Path(path).stem)
    source = _summarize_source(cfg, Path(path).resolve())
    try:
        return summarize(cfg, gpus or (int(named[1]) if named else 1), auto_scale, source)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


def summarize(
    cfg: dict, ranks: int = 1, auto_scale: bool = False, source: ConfigSummary | None = None
) -> ConfigSummary:
    """Summarize a config for training on `ranks` processes; `source` is the run it starts from.

    Raises ValueError for a model other than BEiT, or if the learning rate is to be scaled and
    auto_scale_lr.base_batch_size is missing.
    """
    model = cfg.get('model') or {}
    auto_scale = auto_scale or bool(get(cfg, 'auto_scale_lr', 'enable'))
    if auto_scale and not get(cfg, 'auto_scale_lr', 'base_batch_size'):
        raise ValueError('no auto_scale_lr.base_batch_size: add it, the batch that lr is for')
    summary = ConfigSummary(task=_find_task(model), ranks=ranks, auto_scale=auto_scale)
    summary['data'] = _find_data(cfg)
    summary['per_rank'] = get(cfg, 'train_dataloader', 'batch_size')
    summary |= summarize_optimizer(cfg, summary)
    num_images = DATASET_SIZES.get(summary['data'])
    steps = num_images / summary.step_batch if num_images and summary.step_batch else None
    summary |= summarize_schedule(cfg, summary['lr'], steps)
    summary |= summarize_model(cfg, model, summary['task'])
    if summary['task'] != 'tokenizer':
        summary['mean_std'] = _find_mean_std(cfg, model, summary['task'])
        summary |= _summarize_start(_starting_checkpoint(cfg), source)
        summary['decayed'] = None if summary['frozen'] else find_decayed_tensors(cfg, summary)
    return ConfigSummary(summary)


# -- which run it is -------------------------------------------------------------------------------


def _find_task(model: dict) -> str:
    if kind(model) in ('DiscreteVAE', 'VQKD'):
        return 'tokenizer'
    backbone = kind(model.get('backbone'))
    if backbone not in BACKBONES:
        known = ', '.join(BACKBONES)
        raise ValueError(f'the backbone is {backbone or "missing"}: expected one of {known}')
    if 'target' in model or 'target_generator' in model:
        return 'pretrain'
    return 'segmentation' if 'decode_head' in model else 'classification'


def _find_data(cfg: dict) -> str | None:
    dataset = get(cfg, 'train_dataloader', 'dataset')
    known = dict(ImageNet='IN1k', ImageNet21k='IN22k', ADE20KDataset='ADE20K')
    if found := find(dataset, *known):
        return known[kind(found)]
    root = next((node['data_root'] for node in nodes(dataset) if node.get('data_root')), '')
    return {'data/imagenet': 'IN1k', 'data/imagenet22k': 'IN22k'}.get(str(root).rstrip('/'))


def _find_mean_std(cfg: dict, model: dict, task: str) -> tuple | None:
    given = (cfg.get('data_preprocessor') or {}) | (model.get('data_preprocessor') or {})
    default = IMAGENET if task == 'pretrain' else (None, None)
    mean, std = given.get('mean', default[0]), given.get('std', default[1])
    return (tuple(mean), tuple(std)) if mean and std else None


def _starting_checkpoint(cfg: dict) -> str | None:
    model = cfg.get('model') or {}
    inits = [get(model, 'backbone', 'init_cfg'), model.get('init_cfg')]
    pretrained = find(inits, 'Pretrained') or {}
    return pretrained.get('checkpoint') or model.get('pretrained') or cfg.get('load_from')


def _summarize_source(cfg: dict, path: Path) -> ConfigSummary | None:
    """Summarize the run whose weights a config starts from, by the runs before that one."""
    configs, paths, source = [cfg], [path], None
    while origin := _find_config_of(_starting_checkpoint(configs[-1]), paths[-1].parent):
        if origin.resolve() in paths:
            break
        paths.append(origin.resolve())
        configs.append(Config.fromfile(str(origin)).to_dict())
    for config in reversed(configs[1:]):
        try:
            source = summarize(config, source=source)
        except ValueError:  # a model other than BEiT
            source = None
    return source


def _find_config_of(checkpoint: str | None, folder: Path) -> Path | None:
    """Return the config of the run that wrote NAME/….pth: NAME.py beside it or near `folder`.

    No other file beside a checkpoint is read, because reading a config runs it.
    """
    run = Path(checkpoint or '').parent
    if not run.name or '://' in checkpoint:  # a published model, or a file outside a run's folder
        return None
    name = f'{run.name}.py'
    places = run / name, folder / name, *sorted(folder.parent.glob(f'*/{name}'))
    return next((path for path in places if path.is_file()), None)


def _summarize_start(checkpoint: str | None, source: ConfigSummary | None) -> dict:
    """Return what the weights were trained on, by the run's config or else by the file's name."""
    if source:
        is_pretrained = source['task'] == 'pretrain'
        return dict(
            method=source['method'],
            start='self-supervised' if is_pretrained else source['data'],
            start_length=source['length' if is_pretrained else 'start_length'],
            start_mean_std=source['mean_std'],
        )
    name = Path(checkpoint or '').name.lower()
    if name.startswith(V2):
        tuned = re.search('ft(21k|1k)', name)
        start = {'21k': 'IN22k', '1k': 'IN1k'}[tuned[1]] if tuned else 'self-supervised'
        length = 300 if '300e' in name else V2_EPOCHS
        return dict(method='v2', start=start, start_length=length, start_mean_std=IMAGENET)
    if PUBLIC.search(name):
        start = 'IN22k' if 'ft22k' in name else 'self-supervised'
        return dict(method='v1', start=start, start_mean_std=HALF)
    if name.startswith('beit_') and 'in1k' in name:
        return dict(method='v1', start='self-supervised', start_mean_std=IMAGENET)
    return {}
