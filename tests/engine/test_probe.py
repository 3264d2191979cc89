"""A probe changes nothing in a run and warns of a model that does not learn."""

import json
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
from torch.nn.functional import one_hot
from trials import toy

from beit_mm.engine import Probe, launch, process_group
from beit_mm.engine.hooks.probe import choose_images

pytestmark = pytest.mark.usefixtures('unformatted')


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('drawn')
    shapes.write(folder, train=8, val=20, size=64, segmentation_train=2, segmentation_val=1, jobs=1)
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
    loader = SimpleNamespace(batch_sampler=SimpleNamespace(batch_size=2))
    logger = MMLogger.get_current_instance()
    probe = Probe(**settings)
    probe.before_train(
        SimpleNamespace(
            cfg=cfg, model=model, train_dataloader=loader, max_iters=max_iters, logger=logger
        )
    )
    return probe


def train(cfg: Config, *hooks: dict, build=Runner.from_cfg) -> tuple[dict, list[dict]]:
    """Return the weights after three iterations, and the lines of the log that a probe wrote.

    The run has no KeyedRandomness, which would hide that a probe draws random numbers.
    """
    cfg.custom_hooks = list(hooks)
    runner = build(cfg)
    runner.train()
    lines = [
        json.loads(line)
        for log in Path(cfg.work_dir).glob('*/vis_data/scalars.json')
        for line in log.read_text().splitlines()
    ]
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
        cfg.train_cfg.update(max_iters=3, val_interval=2)
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

    port = toy.free_port()
    logs = [tmp_path / f'{rank}.log' for rank in (0, 1)]
    processes = [
        toy.start(call, rank, log=logs[rank], rank=rank, ranks=2, port=port) for rank in (0, 1)
    ]
    for rank, process in enumerate(processes):
        process.join(120)
        assert process.exitcode == 0, logs[rank].read_text()[-3000:]
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


def test_a_model_that_has_learned_its_images_has_no_warning(data, tmp_path):
    cfg = make_config('pretrain', data, tmp_path)
    model = make_model(cfg)
    probe = make_probe(cfg, model, num_images=9)
    inputs = [model.data_preprocessor(batch, False)['inputs'] for batch in probe.batches]
    features = []
    hook = model.head.proj.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    with torch.no_grad():  # fits the head to these images
        model.target.tokenizer.init_codebook(torch.cat([batch['token_view'] for batch in inputs]))
        samples = [sample for batch in inputs for sample in model.predict(dict(batch))]
        hook.remove()
        ids = torch.stack([sample.target for sample in samples])
        valid = torch.stack([sample.valid for sample in samples])
        features = torch.cat(features)
        wanted = one_hot(ids[valid], model.head.proj.out_features).float()
        model.head.proj.weight.copy_(torch.linalg.lstsq(features[valid], wanted).solution.T)
        model.head.proj.bias.zero_()
    values, warnings = probe.measure(model)
    assert values['masked_accuracy'] > 2 * values['marginal_accuracy'] and warnings == []


def test_modes_of_modules_are_restored(data, tmp_path):
    cfg = make_config('pretrain', data, tmp_path)
    cfg.model.backbone.frozen_stages = 1
    model = make_model(cfg).train()
    modes = [module.training for module in model.modules()]
    make_probe(cfg, model, num_images=2).measure(model)
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2


@pytest.mark.parametrize(
    ('num_images', 'max_iters', 'interval'), [(12, 2000, 600), (2, 20_000, 200)]
)
def test_by_default_a_hundred_images_are_trained_on_per_measured_one(
    num_images, max_iters, interval, data, tmp_path
):
    cfg = make_config('pretrain', data, tmp_path)
    probe = make_probe(cfg, make_model(cfg), max_iters, num_images=num_images)
    assert probe.interval == interval  # batches of 2


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
    with pytest.raises(ValueError, match='Probe measures a BEiT or a DiscreteVAE, not Linear'):
        make_probe(cfg, torch.nn.Linear(1, 1))
