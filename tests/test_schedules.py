"""Learning rates, weight decay, β and τ at each step, against the formulas of the paper and the official code.

A run is shortened (four steps an epoch, or a hundredth of the iterations): the curves depend on the share alone.
"""

import math
import re
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from recipes import ADE20K, IMAGENET, LINEAR_PROBE
from small import CONFIGS, each, load, nodes
from torch.utils.data import DataLoader

from beit_mm.engine.cpu import adapt_to_cpu
from beit_mm.registry import HOOKS, MODELS

TRAINING = [name for name in CONFIGS if not name.endswith('_ms')]
STEPS = 4  # an epoch
SHORTER = 100
_runs = count()


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor', **kwargs) -> dict:
        return dict(loss=self.weight.sum())


def shortened(cfg: Config) -> Config:
    """A hundredth of the iterations, in place; epochs stay."""
    for node in nodes([cfg.train_cfg, cfg.param_scheduler]):
        if 'max_iters' in node or node.get('by_epoch') is False:
            node |= {
                key: node[key] // SHORTER
                for key in ('begin', 'end', 'max_iters')
                if node.get(key, 0) >= 1000
            }
    return cfg


def toy_runner(cfg: Config, folder, steps: int = STEPS, accumulate: int = 1, **kwargs) -> Runner:
    """A Runner of the config's loop and schedule, whose model has one weight."""
    length = cfg.train_cfg.get(
        'max_iters', steps
    )  # a loader that ends inside an iteration-based run sleeps
    return Runner(
        model=Toy(),
        work_dir=str(folder),
        train_dataloader=DataLoader([dict(inputs=torch.zeros(1))] * length, batch_size=1),
        train_cfg={k: v for k, v in cfg.train_cfg.items() if not k.startswith('val')},
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=cfg.optim_wrapper.optimizer.lr),
            accumulative_counts=accumulate,
        ),
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(checkpoint=None, logger=None, timer=None),
        experiment_name=f'{folder.name}_{next(_runs)}',
        log_level='ERROR',
        **kwargs,
    )


def rates(cfg: Config, folder, steps: int = STEPS) -> list[float]:
    """The learning rate of each iteration of a whole run, from the schedulers that a Runner builds for it."""
    runner, values = toy_runner(cfg, folder, steps), []
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    schedulers = runner.build_param_scheduler(runner.param_schedulers)
    for _ in range(runner.max_iters):
        values += runner.optim_wrapper.get_lr()['lr']
        for scheduler in schedulers:
            assert not scheduler.by_epoch
            scheduler.step()
    return values


# -- the curves of the paper -------------------------------------------------------------------------------------------


def cosine(share: float, top: float, bottom: float) -> float:
    return bottom + (top - bottom) * (1 + math.cos(math.pi * share)) / 2


def curve(name: str) -> tuple[float, float, list[float]]:
    """(peak, end, the rate of each iteration) that the paper states for a config, in the shortened run."""
    folder, stem = name.split('/')
    if folder == 'tokenizer':  # DALL-E, app. A.2: falls for 1.2 of 3 million updates
        top, bottom, falling = 1e-4, 1.25e-6, 1_200_000 // SHORTER
        return (
            top,
            bottom,
            [cosine(min(1, i / falling), top, bottom) for i in range(3_000_000 // SHORTER)],
        )
    if stem in ADE20K:  # a line to 0, times a warm-up from 1e-6
        top, _, iters, _, warmup, *_ = ADE20K[stem]
        last, rising = iters // SHORTER - 1, warmup // SHORTER - 1
        return (
            top,
            0,
            [
                top * (1 - i / last) * (1e-6 + (1 - 1e-6) * min(1, i / rising))
                for i in range(last + 1)
            ],
        )
    if stem in LINEAR_PROBE:
        top, epochs, *_ = LINEAR_PROBE[stem]
        bottom, warmup = 0.0, 0
    elif stem in IMAGENET:
        top, _, epochs, warmup, *_ = IMAGENET[stem]
        bottom = 1e-6
    else:
        top, bottom, epochs, warmup = 1.5e-3, 1e-5, int(re.search(r'(\d+)e_', stem)[1]), 10
    rising = (
        10_000 // SHORTER if 'pretrain/' in name and 'in22k' in name else warmup * STEPS
    )  # official: steps there
    falling = epochs * STEPS - rising
    values = [1e-6 + (top - 1e-6) * i / (rising - 1) for i in range(rising)]
    return top, bottom, values + [cosine(i / falling, top, bottom) for i in range(falling)]


PAPER = [name for name in TRAINING if not name.startswith(('quickstart', 'tokenizer'))]


@pytest.mark.parametrize('name', each(PAPER))
def test_every_step_of_the_run_has_the_papers_learning_rate(name, tmp_path):
    top, bottom, expected = curve(name)
    got = rates(shortened(load(name)), tmp_path)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert max(got) == pytest.approx(top, rel=0.01)
    assert got[-1] == pytest.approx(bottom, abs=top * 0.01)


# -- the schedule ends where the run ends ------------------------------------------------------------------------------


def floor(cfg: Config) -> float:
    last = list(nodes(cfg.param_scheduler))[-1]
    return last.get('eta_min', last.get('eta_min_ratio', 0) * cfg.optim_wrapper.optimizer.lr)


@pytest.mark.parametrize('name', each(TRAINING))
def test_the_last_schedule_ends_where_the_run_ends(name, tmp_path):
    cfg = load(name)
    loop = cfg.train_cfg
    length = loop.get('max_epochs') or loop.max_iters
    end = list(nodes(cfg.param_scheduler))[-1].get('end', length)
    if name.startswith('tokenizer'):
        assert (end, length) == (1_200_000, 3_000_000)  # DALL-E's, constant afterwards
        return
    assert end == length
    got = rates(cfg if name.startswith('quickstart') else shortened(cfg), tmp_path)
    assert got[-1] == pytest.approx(floor(cfg), abs=max(got) * 0.02) == min(got[len(got) // 2 :])


@pytest.mark.parametrize('name', each(PAPER))
def test_also_with_other_epochs_or_iterations_and_another_number_of_ranks(name, tmp_path):
    """`--cfg-options train_cfg.max_epochs=…` is enough; ranks change the length of an epoch."""
    for steps, times in ((2, 0.8), (7, 1.5)):
        cfg = shortened(load(name))
        key = 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'
        cfg.train_cfg[key] = round(cfg.train_cfg[key] * times)
        got = rates(cfg, tmp_path, steps)
        assert len(got) == cfg.train_cfg[key] * (steps if key == 'max_epochs' else 1)
        assert (
            got[-1] == pytest.approx(floor(cfg), abs=max(got) * 0.02) == min(got[len(got) // 2 :])
        )


class Rates(Hook):
    def __init__(self):
        self.seen, self.updates = [], 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self.seen += runner.optim_wrapper.get_lr()['lr']
        self.updates += runner.optim_wrapper.should_update()


@pytest.mark.parametrize(
    'name',
    [
        name
        for name in PAPER
        if '320k' in name or name.startswith('classification/vit-base-p16_8xb128')
    ],
)
@pytest.mark.parametrize('accumulate', [1, 2, 3])
def test_iterations_are_counted_not_updates_when_gradients_are_accumulated(
    name, accumulate, tmp_path
):
    cfg, hook = load(name), Rates()
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.max_iters, cfg.param_scheduler[0].end = 40, 6
    runner = toy_runner(cfg, tmp_path, 2, accumulate, custom_hooks=[hook])
    runner.train()
    assert hook.seen == pytest.approx(rates(cfg, tmp_path, 2))
    assert hook.seen[-1] == pytest.approx(floor(cfg), abs=max(hook.seen) * 1e-3)
    assert hook.updates == math.ceil(len(hook.seen) / accumulate)


# -- every parameter ---------------------------------------------------------------------------------------------------


def settings(name: str) -> tuple[float, float]:
    """(layer decay, weight decay) that the tables state."""
    stem = name.split('/')[1]
    if stem in ADE20K:
        return ADE20K[stem][1], 0.05
    return (IMAGENET[stem][1], IMAGENET[stem][5]) if stem in IMAGENET else (1.0, 0.05)


def scale_and_decay(name: str, parameter: str, dims: int) -> tuple[float, float]:
    """(share of the learning rate, weight decay) of a parameter by the official rules."""
    depth, (rate, decay) = 24 if 'large' in name else 12, settings(name)
    parameter = (
        parameter.removeprefix('backbone.')
        if parameter.startswith('backbone.')
        else 'outside.' + parameter
    )
    block = re.match(r'blocks\.(\d+)\.', parameter)
    layer = int(block[1]) + 1 if block else depth + 1
    if parameter in ('cls_token', 'mask_token', 'pos_embed') or parameter.startswith(
        'patch_embed.'
    ):
        layer = 0
    spared = dims == 1 or parameter == 'pos_embed'  # biases, norms, LayerScale: all 1-D
    spared |= (
        parameter == 'cls_token' and 'upernet' not in name
    )  # a slip that UPerNet's figures were made with
    return rate ** (depth + 1 - layer), 0.0 if spared else decay


ONE_OF_EACH = [  # of base and large: pre-training, classification, SETR-PUP, UPerNet
    'pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k',
    'pretrain/beit_beit-large-p16_8xb256-amp-coslr-800e_in1k',
    *(f'classification/{name}' for name in IMAGENET),
    *(f'segmentation/{name}' for name in ADE20K),
]


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_every_parameter_has_its_learning_rate_and_weight_decay_throughout(name):
    cfg = shortened(load(name))
    init_default_scope(cfg.default_scope)
    adapt_to_cpu(cfg)
    if cfg.get('data_preprocessor'):
        cfg.model.data_preprocessor = cfg.data_preprocessor
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    _, _, expected = curve(name)
    length = dict(end=cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters)
    defaults = dict(optimizer=wrapper, epoch_length=STEPS)
    schedulers = [
        PARAM_SCHEDULERS.build(length | one, default_args=defaults) for one in cfg.param_scheduler
    ]
    warmup = max(range(len(expected)), key=expected.__getitem__)
    checked = 0
    for iteration, rate in enumerate(expected):
        if iteration in (0, warmup, len(expected) // 2, len(expected) - 1):
            found = {
                id(p): (g['lr'], g['weight_decay'])
                for g in wrapper.optimizer.param_groups
                for p in g['params']
            }
            for parameter, p in model.named_parameters():
                scale, decay = scale_and_decay(name, parameter, p.ndim)
                assert found.pop(id(p)) == pytest.approx(
                    (rate * scale, decay), rel=1e-6, abs=1e-15
                ), parameter
            assert not found
            checked += 1
        for scheduler in schedulers:
            scheduler.step()
    assert checked == 4 and 0 < warmup < len(expected) // 2


@pytest.mark.parametrize('name', LINEAR_PROBE)
def test_a_linear_probe_has_one_rate_and_two_parameters(name):
    cfg = load(f'classification/{name}')
    init_default_scope(cfg.default_scope)
    adapt_to_cpu(cfg)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert [(g['lr'], g['weight_decay'], len(g['params'])) for g in groups] == [
        (4e-3, 1e-4, 1),
        (4e-3, 0.0, 1),
    ]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        'head.fc.weight',
        'head.fc.bias',
    }


# -- the tokenizer -----------------------------------------------------------------------------------------------------


def test_the_tokenizers_learning_rate_is_dall_es(tmp_path):
    name = 'tokenizer/dvae_64xb8-coslr-3000k_in1k-256px'
    top, bottom, expected = curve(name)
    got = rates(shortened(load(name)), tmp_path)
    assert (got[0], got[-1]) == pytest.approx((top, bottom), rel=1e-3)
    assert got == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    'attribute, values',
    [
        # iteration: value; half a cosine written out with its √½
        (
            'beta',
            {0: 0, 1_250: 3.3 * (1 - 0.5**0.5), 2_500: 3.3, 5_000: 6.6, 5_001: 6.6, 2_999_999: 6.6},
        ),
        (
            'temperature',
            {
                0: 1,
                37_500: (17 + 15 * 0.5**0.5) / 32,
                75_000: 17 / 32,
                150_000: 1 / 16,
                2_999_999: 1 / 16,
            },
        ),
    ],
)
def test_beta_and_temperature_are_dall_es(attribute, values):
    cfg = load('tokenizer/dvae_64xb8-coslr-3000k_in1k-256px')
    hook = next(HOOKS.build(h) for h in cfg.custom_hooks if h.get('attribute') == attribute)
    model = SimpleNamespace(beta=0.0, temperature=1.0)
    for iteration, value in values.items():
        hook.before_train_iter(SimpleNamespace(model=model, iter=iteration), 0)
        assert getattr(model, attribute) == pytest.approx(value, rel=1e-12)
