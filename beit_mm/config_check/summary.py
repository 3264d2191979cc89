"""What a config says about its training: one flat record for any BEiT config, ours, mmpretrain's or mmseg's.

A fact is None where the config does not show it or has no such part, and OFF where such a part is left out. Nothing is
built and no data is read: `facts` is a function of the config's text.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ..utils.config_tree import find, get, kind, nodes
from . import summary_parts as parts
from . import summary_schedule as optimization

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and std, 0 … 255
HALF = ((127.5,) * 3, (127.5,) * 3)
IMAGES = dict(IN1k=1_281_167, IN22k=14_197_122, ADE20K=20_210)  # to train on
PUBLIC = re.compile(
    r'pt22k|ft22k|in2[12]k'
)  # in the names of all weights that were pre-trained on ImageNet-22k
BACKBONES = ('BEiT', 'BEiTViT', 'BEiTPretrainViT')


@dataclass(frozen=True)
class Facts:
    # which recipe it is
    task: str  # tokenizer, pretrain, classification, segmentation
    arch: str | None = None  # base, large, other
    variant: str | None = None  # vanilla, LayerScale (vanilla with it), BEiT+, mixed
    frozen: bool = False  # the whole backbone, as in a linear probe
    start: str | None = (
        None  # self-supervised, IN1k, IN22k: what made the weights that it starts from
    )
    px: int | None = None
    head: str | None = None
    data: str | None = None  # a key of IMAGES
    # images an update, and the rate that is meant for them
    ranks: int = 1
    per_rank: int | None = None
    accumulation: int = 1
    base_batch: int | None = None
    auto_scale: bool = False
    lr: float | None = None  # after scaling
    min_lr: float | None = None
    # schedule, in the unit that the run counts in; `stalled` is a schedule that this run never moves
    unit: str = 'epochs'
    length: int | None = None
    warmup: float | None = None
    end: float | None = None
    stalled: bool = False
    # optimizer
    optimizer: str | None = None
    betas: tuple | None = None
    eps: float | None = None
    weight_decay: float | None = None
    decayed: dict[str, bool] | None = None  # kind of tensor → has weight decay
    layer_decay: float | str | None = None
    clip: float | str | None = None
    # model
    positions: str | None = None
    layer_scale: float | str | None = None
    drop_path: float | None = None
    taps: tuple | None = None
    head_std: float | None = None
    label_smoothing: float | str | None = None
    mixup: float | str | None = None
    cutmix: float | str | None = None
    # images
    mean_std: tuple | None = None
    start_mean_std: tuple | None = None  # of the weights that it starts from
    jitter: tuple | str | None = None
    flip: float | str | None = None
    crop_scale: tuple | None = None
    crop_ratio: tuple | None = None
    interpolation: str | None = None
    rand_augment: tuple | str | None = None
    erasing: float | str | None = None
    test_crop: float | None = None
    resize_range: tuple | None = None
    cat_max_ratio: float | None = None
    stride: int | str | None = None
    # masked image modeling
    target: str | None = None  # tokens, pixels
    recover: str | None = None  # masked, all
    vocabulary: int | None = None
    predicted: int | None = None  # channels of the head
    num_masked: int | None = None
    mask: str | None = None  # blockwise, random, off
    budget: int | None = None
    min_block: int | None = None
    token_px: int | None = None
    token_grid: float | None = None
    patch_grid: float | None = None
    mask_grid: int | None = None
    # tokenizer
    likelihood: str | None = None
    kl: tuple | str | None = None  # last weight, updates until it is reached
    temperature: tuple | str | None = None
    ema: float | str | None = None

    @property
    def step_batch(self) -> int | None:
        """Images an iteration."""
        return self.per_rank and self.ranks * self.per_rank

    @property
    def batch(self) -> int | None:
        """Images an update of the weights."""
        return self.step_batch and self.step_batch * self.accumulation

    @property
    def factors(self) -> str:
        """Of `batch`: processes × images, × accumulation where there is any."""
        return f'{self.ranks} × {self.per_rank}' + (
            f' × {self.accumulation}' if self.accumulation > 1 else ''
        )


def read(
    path: str, options: dict | None = None, gpus: int | None = None, auto_scale: bool = False
) -> Facts:
    """The facts of a config file under `--cfg-options`; `gpus` None takes the file name's (8xb256), or 1.

    Raises FileNotFoundError for a missing file, ValueError for a config of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}: give a file like configs/pretrain/….py')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    cfg, named = cfg.to_dict(), re.search(r'(\d+)xb\d+', Path(path).stem)
    origin, source = _config_of(_checkpoint(cfg), Path(path).parent), None
    if origin and origin.resolve() != Path(path).resolve():
        with suppress(ValueError):  # it starts from a model that is none of BEiT's
            source = facts(Config.fromfile(str(origin)).to_dict())
    try:
        return facts(cfg, gpus or (int(named[1]) if named else 1), auto_scale, source)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


def _config_of(checkpoint: str | None, folder: Path) -> Path | None:
    """Return the config that made work_dirs/NAME/….pth: NAME.py beside it, as a run leaves it, or near `folder`.

    No other file beside a checkpoint is read: reading a config runs it.
    """
    run = Path(checkpoint or '').parent
    if (
        not run.name or '://' in checkpoint
    ):  # a bare name is a published model or a file here, in no run's folder
        return None
    name = f'{run.name}.py'
    places = run / name, folder / name, *sorted(folder.parent.glob(f'*/{name}'))
    return next((path for path in places if path.is_file()), None)


def facts(
    cfg: dict, ranks: int = 1, auto_scale: bool = False, source: Facts | None = None
) -> Facts:
    """The facts of a config as nested dicts, on `ranks` processes; `source`: those of the run that it starts from.

    Raises ValueError for a model that is none of BEiT's, or a rate to be scaled without auto_scale_lr.base_batch_size.
    """
    model = cfg.get('model') or {}
    model = model.get('module', model)  # of a test at several scales
    scale = auto_scale or bool(get(cfg, 'auto_scale_lr', 'enable'))
    if scale and not get(cfg, 'auto_scale_lr', 'base_batch_size'):
        raise ValueError(
            'no auto_scale_lr.base_batch_size (the batch that the learning rate is for): add it'
        )
    task = _task(model)
    data, found = _data(cfg), dict(task=task, ranks=ranks, auto_scale=scale, start=None)
    found |= dict(
        data=data,
        per_rank=get(cfg, 'train_dataloader', 'batch_size'),
        mean_std=_mean_std(cfg, model, task),
    )
    found |= _start(_checkpoint(cfg), source) if task != 'tokenizer' else {}
    found |= optimization.optimizer(cfg, ranks, scale)
    found |= optimization.schedule(
        cfg, found['lr'], found['per_rank'] and IMAGES.get(data, 0) / (ranks * found['per_rank'])
    )
    train = get(
        next((n for n in nodes(get(cfg, 'train_dataloader', 'dataset')) if 'pipeline' in n), {}),
        'pipeline',
    )
    if task == 'tokenizer':
        return Facts(**found | parts.tokenizer_facts(cfg, model))
    found |= parts.backbone_facts(model['backbone'], cfg.get('default_scope'))
    found['decayed'] = None if found['frozen'] else optimization.decayed(cfg, found)
    found |= parts.augmentation_facts(train)
    if task == 'pretrain':
        found |= parts.masked_modeling_facts(model, train, found['px'])
    elif task == 'classification':
        found |= parts.classifier_facts(cfg, model)
    else:
        found |= parts.segmentor_facts(model, train)
    return Facts(**found)


# -- which run it is ---------------------------------------------------------------------------------------------------


def _task(model: dict) -> str:
    if kind(model) == 'DiscreteVAE':
        return 'tokenizer'
    if kind(model.get('backbone')) not in BACKBONES:
        raise ValueError(
            f'the backbone is {kind(model.get("backbone")) or "not there"}, known are {", ".join(BACKBONES)}'
        )
    if 'target' in model or 'target_generator' in model:
        return 'pretrain'
    return 'segmentation' if 'decode_head' in model else 'classification'


def _data(cfg: dict) -> str | None:
    train = get(cfg, 'train_dataloader', 'dataset')
    known = dict(ImageNet='IN1k', ImageNet21k='IN22k', ADE20KDataset='ADE20K')
    if found := find(train, *known):
        return known[kind(found)]
    roots = [str(node['data_root']).rstrip('/') for node in nodes(train) if node.get('data_root')]
    return dict([('data/imagenet', 'IN1k'), ('data/imagenet22k', 'IN22k')]).get(
        roots[0] if roots else None
    )


def _mean_std(cfg: dict, model: dict, task: str) -> tuple | None:
    given = (cfg.get('data_preprocessor') or {}) | (model.get('data_preprocessor') or {})
    default = IMAGENET if task == 'pretrain' else (None, None)
    mean, std = (given.get(key, value) for key, value in zip(('mean', 'std'), default, strict=True))
    return mean and std and (tuple(mean), tuple(std))


def _checkpoint(cfg: dict) -> str | None:
    model = cfg.get('model') or {}
    model = model.get('module', model)
    inits = [get(model, 'backbone', 'init_cfg'), model.get('init_cfg')]
    found = [node.get('checkpoint') for node in nodes(inits) if kind(node) == 'Pretrained']
    return next(filter(None, [*found, model.get('pretrained'), cfg.get('load_from')]), None)


def _start(checkpoint: str | None, source: Facts | None) -> dict:
    """What made the weights, and how their images were normalised: from the run's config, else from the file's name."""
    if source:
        start = 'self-supervised' if source.task == 'pretrain' else source.data
        return dict(start=start, start_mean_std=source.mean_std)
    name = Path(checkpoint or '').name.lower()
    if PUBLIC.search(name):
        return dict(start='IN22k' if 'ft22k' in name else 'self-supervised', start_mean_std=HALF)
    if name.startswith('beit_') and 'in1k' in name:
        return dict(start='self-supervised', start_mean_std=IMAGENET)
    return {}
