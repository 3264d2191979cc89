"""A probe changes nothing in a run and warns of a model that does not learn."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from shapes import draw as shapes
from trials import toy

from beit_mm.engine import Probe, launch, process_group
from beit_mm.engine.hooks.probe import choose_images, find_guessing


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('drawn')
    shapes.draw_dataset(
        folder, train=8, val=20, size=64, segmentation_train=2, segmentation_val=1, jobs=1
    )
    return folder


def make_config(name: str, data: Path, work_dir: Path) -> Config:
    torch.manual_seed(0)  # of the tokenizer that pre-training gets
    cfg = small.shrink(small.load(f'quickstart/{name}'), data, work_dir)
    cfg.val_dataloader.dataset.pop('indices', None)
    cfg.val_dataloader.dataset.get('dataset', {}).pop('indices', None)
    cfg.custom_hooks = []
    return cfg


def make_model(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def make_probe(cfg: Config, model: torch.nn.Module, max_iters: int = 2000, **settings) -> Probe:
    """Return a probe that has read its images, as at the start of a run."""
    runner = SimpleNamespace(cfg=cfg, model=model, max_iters=max_iters)
    runner.train_dataloader = SimpleNamespace(batch_sampler=SimpleNamespace(batch_size=2))
    runner.logger = MMLogger.get_current_instance()
    probe = Probe(**settings)
    probe.before_train(runner)
    return probe


def train(cfg: Config, *hooks: dict, build=Runner.from_cfg) -> tuple[dict, list[dict]]:
    """Return the weights after three iterations, and the lines of the log that a probe wrote.

    The run has no KeyedRandomness, which would hide that a probe draws random numbers.
    """
    cfg.custom_hooks = list(hooks)
    runner = build(cfg)
    runner.train()
    lines = small.read_scalars(Path(cfg.work_dir))
    probed = [line for line in lines if any(key.startswith('probe/') for key in line)]
    return runner.model.state_dict(), probed


PROBE = dict(type='beit_mm.Probe', interval=2, num_images=9)
LOGGED = dict(
    pretrain=['knn_top1/layer_4', 'attention_distance/layer_1/head_2', 'masked_accuracy'],
    classification=['knn_top1/layer_1', 'linear_top1/layer_4', 'effective_rank/layer_2'],
    tokenizer=['codes_used', 'perplexity', 'psnr'],
)


@pytest.mark.parametrize('name', LOGGED)
def test_a_run_has_the_same_bits_with_a_probe_and_without(name, data, tmp_path):
    weights = []
    for hooks in ([], [PROBE]):
        cfg = make_config(name, data, tmp_path / str(len(hooks)))
        cfg.train_cfg.update(max_iters=3, val_interval=100)
        cfg.train_dataloader.sampler.seed = 0
        if 'backbone' in cfg.model:
            cfg.model.backbone.update(drop_path_rate=0.5, frozen_stages=1)
        state, lines = train(cfg, *hooks)
        weights.append(state)
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert [line['step'] for line in lines] == [2, 3]
    assert {f'probe/{key}' for key in LOGGED[name]} <= lines[0].keys()


def test_of_several_ranks_one_measures(data, tmp_path):
    cfg = make_config('pretrain', data, tmp_path)
    cfg.launcher = 'pytorch'

    def call(rank: int) -> None:
        state, lines = train(cfg, PROBE, build=launch.build_runner)
        process_group.leave()
        torch.save((state, len(lines)), tmp_path / f'{rank}.pt')

    toy.run_ranks(call, 2, tmp_path)
    (first, probed), (second, _) = (torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1))
    assert probed and all(torch.equal(value, second[key]) for key, value in first.items())


def test_scenes_of_any_size_are_measured_without_classes(data, tmp_path):
    cfg = make_config('segmentation', data, tmp_path)
    resize = dict(type='Resize', scale=(90, 60), keep_ratio=False)
    cfg.val_dataloader.dataset.pipeline.insert(1, resize)
    model = make_model(cfg)
    values, _ = make_probe(cfg, model, num_images=2).measure(model)
    assert {name.split('/')[0] for name in values} == {'effective_rank', 'attention_distance'}


def test_a_model_that_does_not_learn_has_warnings(data, tmp_path):
    cfg = make_config('pretrain', data, tmp_path)
    model = make_model(cfg)
    with torch.no_grad():
        model.backbone.patch_embed.proj.weight.zero_()
        model.head.proj.weight.zero_()
    probe = make_probe(cfg, model, num_images=9)
    _, (warning,) = probe.measure(model, is_first=True)  # every model guesses at first
    assert 'features collapse' in warning and 'effective rank 1.00' in warning
    values, (_, warning) = probe.measure(model)
    assert 'the model ignores the image' in warning and values['predicted_codes_used'] == 1


def test_a_model_has_a_warning_unless_it_is_above_chance(data, tmp_path):
    cfg = make_config('pretrain', data, tmp_path)
    model = make_model(cfg)
    assert make_probe(cfg, model, num_images=9).measure(model, is_first=True)[1] == []
    values = dict(marginal_accuracy=10.0, marginal_accuracy_all=10.0)
    for name in ('masked_accuracy', 'accuracy_all'):
        assert find_guessing({name: 11.9} | values, 900)  # two standard errors are 2 %
        assert not find_guessing({name: 12.1} | values, 900)


def test_by_default_a_hundred_images_are_trained_on_per_measured_one(data, tmp_path):
    cfg = make_config('pretrain', data, tmp_path)  # batches of 2
    model = make_model(cfg)
    assert make_probe(cfg, model, 2000, num_images=12).interval == 600
    assert make_probe(cfg, model, 20_000, num_images=2).interval == 200


def test_images_are_of_few_classes_and_always_the_same():
    labels = np.repeat(np.arange(1000), 50)
    chosen = choose_images(labels, 500)
    assert len(chosen) == 500 and (np.diff(chosen) > 0).all()
    assert len(np.unique(labels[chosen])) == 20
    assert (chosen == choose_images(labels, 500)).all()
    assert len(choose_images(labels[:30], 500)) == 30


def test_what_cannot_be_measured_is_an_error_before_training(data, tmp_path):
    cfg = make_config('tokenizer', data, tmp_path)
    with pytest.raises(ValueError, match='the config has no probe_dataloader'):
        make_probe(cfg, make_model(cfg), dataloader='probe_dataloader')
    with pytest.raises(ValueError, match='Probe measures a BEiT or a Tokenizer, not Linear'):
        make_probe(cfg, torch.nn.Linear(1, 1))
