"""Learning rates, weight decay, β and τ at each step, against the formulas of the paper.

A run is shortened (four steps per epoch, or a hundredth of the iterations): the curves depend only
on the fraction of the run.
"""

import math
import re
from functools import cache
from itertools import count

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from small import CONFIGS, each, load, nodes
from torch.utils.data import DataLoader

from beit_mm.config_check.paper import find_nearest
from beit_mm.config_check.summary import read_summary
from beit_mm.registry import MODELS

STEPS = 4  # per epoch
SHORTER = 100
TOKENIZER = 'tokenizer/dvae_64xb8-coslr-3000k_in1k-256px'
PAPER = [name for name in CONFIGS if not name.startswith('quick')]
FINETUNE = [name for name in PAPER if name != TOKENIZER]
# part of a config's name: what the paper does not state, or what differs from the nearest recipe
UNSTATED = {
    'vit-base-p16_8xb64-amp-coslr-10e_in1k-384px': dict(layer_decay=0.85),
    'vit-large-p16_8xb64-amp-coslr-10e_in1k-384px': dict(layer_decay=0.9),
    '10e_in1k-384px': dict(lr=2e-5, min_lr=1e-6, warmup=1, weight_decay=1e-8),
    'linear-probe': dict(min_lr=0, warmup=0),
    'in1k-ft_upernet': dict(lr=3e-5, layer_decay=0.9),
}
LONG_WARMUP = 'beitv2-base-p16_in21k-ft'  # 20 of 30 epochs
_runs = count()


def shorten(cfg: Config) -> Config:
    """Keep a hundredth of the iterations, in place; the number of epochs stays."""
    for node in nodes([cfg.train_cfg, cfg.param_scheduler]):
        for key in ('begin', 'end', 'max_iters'):  # epochs are fewer than 1000
            if node.get(key, 0) >= 1000:
                node[key] //= SHORTER
    return cfg


def rates(cfg: Config, folder, steps: int = STEPS) -> list[float]:
    """Return the learning rate of each iteration, from the schedulers that a Runner builds."""
    length = cfg.train_cfg.get('max_iters', steps)  # iteration-based runs restart a shorter loader
    runner = Runner(
        model=torch.nn.Linear(1, 1),
        work_dir=str(folder),
        train_dataloader=DataLoader([0] * length),
        train_cfg={k: v for k, v in cfg.train_cfg.items() if not k.startswith('val')},
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=cfg.optim_wrapper.optimizer.lr)),
        param_scheduler=cfg.param_scheduler,
        experiment_name=f'{folder.name}_{next(_runs)}',
        log_level='ERROR',
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    schedulers, values = runner.build_param_scheduler(runner.param_schedulers), []
    for _ in range(runner.max_iters):
        values += runner.optim_wrapper.get_lr()['lr']
        for scheduler in schedulers:
            assert not scheduler.by_epoch
            scheduler.step()
    return values


def cosine(fraction: float, top: float, bottom: float) -> float:
    return bottom + (top - bottom) * (1 + math.cos(math.pi * fraction)) / 2


@cache
def recipe(name: str) -> dict:
    """Return the values of the paper, which `tests/config_check` compares with the config."""
    values = dict(find_nearest(read_summary(str(CONFIGS[name])))[0].values)
    for part, more in UNSTATED.items():
        values |= more if part in name else {}
    return values


def expected_rates(name: str) -> list[float]:
    """Return the rate of each iteration in the shortened run."""
    values = recipe(name)
    top, bottom, length, warmup = (values[key] for key in ('lr', 'min_lr', 'length', 'warmup'))
    if name == TOKENIZER:  # DALL-E, app. A.2: falls for 1.2 of 3 million updates, then is constant
        falling = values['end'] // SHORTER
        return [cosine(min(1, i / falling), top, bottom) for i in range(length // SHORTER)]
    if values['unit'] == 'iterations':  # a line to 0, times a warm-up from 1e-6
        last, rising = length // SHORTER - 1, warmup // SHORTER - 1
        factors = [1e-6 + (1 - 1e-6) * min(1, i / rising) for i in range(last + 1)]
        return [top * (1 - i / last) * factor for i, factor in enumerate(factors)]
    rising = round(warmup * STEPS)
    if name.startswith('pretrain/') and 'in22k' in name:  # the official code counts steps
        rising = 10_000 // SHORTER
    falling = length * STEPS - rising
    values = [1e-6 + (top - 1e-6) * i / (rising - 1) for i in range(rising)]
    return values + [cosine(i / falling, top, bottom) for i in range(falling)]


@pytest.mark.parametrize('name', each(PAPER))
def test_every_step_has_the_learning_rate_of_the_paper(name, tmp_path):
    tolerance = dict(rel=1e-3) if name == TOKENIZER else dict(rel=1e-6, abs=1e-12)
    assert rates(shorten(load(name)), tmp_path) == pytest.approx(expected_rates(name), **tolerance)


@pytest.mark.parametrize('name', each([name for name in FINETUNE if LONG_WARMUP not in name]))
@pytest.mark.parametrize(('steps', 'factor'), [(2, 0.8), (7, 1.5)])
def test_a_schedule_follows_another_length_and_number_of_ranks(name, steps, factor, tmp_path):
    """`--cfg-options train_cfg.max_epochs=…` is enough; ranks change the steps per epoch."""
    cfg = shorten(load(name))
    key = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
    cfg.train_cfg[key] = round(cfg.train_cfg[key] * factor)
    found = rates(cfg, tmp_path, steps)
    assert len(found) == cfg.train_cfg[key] * (steps if key == 'max_epochs' else 1)
    assert found[-1] == pytest.approx(recipe(name)['min_lr'], abs=max(found) * 0.02)
    assert found[-1] == min(found[len(found) // 2 :])


# -- every parameter -------------------------------------------------------------------------------


def official_factors(name: str, parameter: str, dims: int) -> tuple[float, float]:
    """Return (factor of the learning rate, weight decay) of a parameter in the official code."""
    values, depth = recipe(name), 24 if 'large' in name else 12
    rate = 1.0 if values['layer_decay'] == 'off' else values['layer_decay']
    layer, inner = depth + 1, parameter.removeprefix('backbone.')
    if inner != parameter:
        if block := re.match(r'blocks\.(\d+)\.', inner):
            layer = int(block[1]) + 1
        elif inner in ('cls_token', 'mask_token', 'pos_embed') or inner.startswith('patch_embed.'):
            layer = 0
    position = re.sub('^(encoder|decoder).', '', inner)  # VQ-KD has two of each
    is_exempt = dims == 1 or position == 'pos_embed'  # 1-D: biases, norms, LayerScale
    if position == 'cls_token':
        is_exempt = 'upernet' not in name  # a slip with which UPerNet's figures were made
    return rate ** (depth + 1 - layer), 0.0 if is_exempt else values['weight_decay']


OFFICIAL = [name for name in FINETUNE if not re.search('ablations|300e|150e|linear-probe', name)]


@pytest.mark.parametrize('name', OFFICIAL)
def test_every_parameter_has_the_official_learning_rate_and_weight_decay(name):
    """Compare at the first, the warmest, the middle and the last iteration."""
    cfg, expected = shorten(load(name)), expected_rates(name)
    init_default_scope(cfg.default_scope)
    cfg.optim_wrapper.type = 'OptimWrapper'  # mixed precision needs a GPU
    cfg.optim_wrapper.pop('loss_scale', None)
    if cfg.get('data_preprocessor'):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    length = dict(end=cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters)
    defaults = dict(optimizer=wrapper, epoch_length=STEPS)
    schedulers = [
        PARAM_SCHEDULERS.build(length | one, default_args=defaults) for one in cfg.param_scheduler
    ]
    warmest = max(range(len(expected)), key=expected.__getitem__)
    assert 0 < warmest < len(expected) * (0.7 if LONG_WARMUP in name else 0.5)
    for iteration, rate in enumerate(expected):
        if iteration in (0, warmest, len(expected) // 2, len(expected) - 1):
            groups = wrapper.optimizer.param_groups
            found = {id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']}
            for parameter, p in model.named_parameters():
                factor, decay = official_factors(name, parameter, p.ndim)
                settings = found.pop(id(p))
                assert settings == pytest.approx((rate * factor, decay), rel=1e-6, abs=1e-15)
            assert not found
        for scheduler in schedulers:
            scheduler.step()


def test_beta_and_temperature_of_dall_e():
    """`tests/engine/test_anneal.py` shows the curve between these values."""
    hooks = [hook for hook in load(TOKENIZER).custom_hooks if hook.type == 'Anneal']
    values = {hook.attribute: (hook.start, hook.end, hook.iters) for hook in hooks}
    assert values == dict(beta=(0, 6.6, 5000), temperature=(1, 1 / 16, 150_000))
