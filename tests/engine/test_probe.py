"""The probe changes nothing in a run, and finds the same however many ranks share its images."""

import json
import logging
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
from reports.summary import validations
from shapes import draw as shapes
from trials import toy

from beit_mm.engine import Probe
from beit_mm.engine.hooks.probe import choose

pytestmark = pytest.mark.usefixtures('unformatted')


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('drawn')
    shapes.write(folder, train=8, val=20, size=64, segmentation_train=2, segmentation_val=1, jobs=1)
    return folder


def config(name: str, data: Path, work_dir: Path) -> Config:
    torch.manual_seed(0)  # of the tokenizer that pre-training gets
    cfg = small.shrink(small.load(f'quickstart/{name}'), data, work_dir)
    cfg.val_dataloader.dataset.pop('indices', None)
    cfg.val_dataloader.dataset.get('dataset', {}).pop('indices', None)
    cfg.custom_hooks = []
    return cfg


def bare(cfg: Config, model: torch.nn.Module) -> SimpleNamespace:
    """What the hook reads of a Runner before training."""
    loader = SimpleNamespace(batch_sampler=SimpleNamespace(batch_size=2))
    logger = MMLogger.get_current_instance()
    return SimpleNamespace(
        cfg=cfg, model=model, train_dataloader=loader, max_iters=2000, logger=logger
    )


def built(cfg: Config, seed: int = 0) -> torch.nn.Module:
    init_default_scope(cfg.default_scope)
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def lines(work_dir: Path) -> list[dict]:
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize('name', ['pretrain', 'classification', 'tokenizer'])
def test_a_run_has_the_same_bits_with_a_probe_and_without(name, data, tmp_path):
    weights, found = [], {}
    for probe in (False, True):
        cfg = config(name, data, tmp_path / str(probe))
        cfg.train_cfg.update(max_iters=3, val_interval=2)
        cfg.train_dataloader.sampler.seed = 0
        if 'backbone' in cfg.model:
            cfg.model.backbone.update(drop_path_rate=0.5, frozen_stages=1)
        cfg.custom_hooks = [dict(type='beit_mm.Probe', interval=2, num_images=9)] if probe else []
        runner = Runner.from_cfg(
            cfg
        )  # without KeyedRandomness, which would hide that random numbers were used up
        runner.train()
        weights.append(runner.model.state_dict())
        found = lines(Path(cfg.work_dir))
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    probes = [line for line in found if any(key.startswith('probe/') for key in line)]
    assert [line['step'] for line in probes] == [2, 3]
    some = dict(
        pretrain={
            'knn_top1/layer_4',
            'attention_distance/layer_1/head_2',
            'masked_accuracy',
            'predicted_codes_used',
        },
        classification={'knn_top1/layer_1', 'linear_top1/layer_4', 'effective_rank/layer_2'},
        tokenizer={'codes_used', 'perplexity', 'psnr'},
    )
    assert {f'probe/{key}' for key in some[name]} <= probes[0].keys()


def test_probes_are_no_validations(data, tmp_path):
    from reports.summary import scalars

    log = tmp_path / 'a/vis_data/scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text(
        '{"lr": 1, "step": 2}\n{"mim/val_loss": 3.0, "step": 2}\n{"probe/val_loss": 9.0, "step": 2}\n'
    )
    assert validations(scalars(tmp_path), 'val_loss') == [(2, 3.0)]


def _of_a_rank(cfg: Config, out: Path) -> None:
    torch.distributed.init_process_group('gloo')
    probe, model = Probe(num_images=7), built(cfg)
    probe.before_train(bare(cfg, model))
    torch.save((len(probe.picks), probe.measure(model)), out / f'{torch.distributed.get_rank()}.pt')
    torch.distributed.destroy_process_group()


def test_two_ranks_share_the_images_and_find_what_one_does(data, tmp_path):
    cfg = config('pretrain', data, tmp_path)
    model, probe = built(cfg), Probe(num_images=7)
    probe.before_train(bare(cfg, model))
    alone, alarms = probe.measure(model)
    port = toy.free_port()
    ranks = [
        toy.start(
            _of_a_rank, cfg, tmp_path, log=tmp_path / f'{rank}.log', rank=rank, ranks=2, port=port
        )
        for rank in (0, 1)
    ]
    for rank in ranks:
        rank.join()
    found = [torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1)]
    assert [share for share, _ in found] == [4, 3]
    for _, (values, said) in found:
        assert values == pytest.approx(alone, rel=1e-4) and said == alarms


@pytest.mark.parametrize('name', ['knn_top1', 'attention_distance', 'code_usage', 'masked_tokens'])
def test_measures_are_taken_one_by_one(name, data, tmp_path):
    cfg = config('pretrain', data, tmp_path)
    model, alone, all_of_them = (
        built(cfg),
        Probe(num_images=6, measures=[name]),
        Probe(num_images=6),
    )
    found = []
    for probe in (alone, all_of_them):
        probe.before_train(bare(cfg, model))
        found.append(probe.measure(model)[0])
    assert found[0] and found[0].items() <= found[1].items()


def test_scenes_of_any_size_are_measured_without_classes(data, tmp_path):
    cfg = config('segmentation', data, tmp_path)
    cfg.val_dataloader.dataset.pipeline.insert(
        1, dict(type='Resize', scale=(90, 60), keep_ratio=False)
    )
    probe, model = Probe(num_images=2), built(cfg)
    probe.before_train(bare(cfg, model))
    names = {name.split('/')[0] for name in probe.measure(model)[0]}
    assert names == {'effective_rank', 'attention_distance'}


def test_every_second_epoch_is_measured_and_the_last(data, tmp_path):
    cfg = config('classification', data, tmp_path)
    cfg.train_dataloader.sampler.infinite = False
    cfg.train_cfg = dict(by_epoch=True, max_epochs=3)
    cfg.custom_hooks = [
        dict(type='beit_mm.Probe', by_epoch=True, interval=2, num_images=4, measures=['knn_top1'])
    ]
    Runner.from_cfg(cfg).train()
    assert [line['step'] for line in lines(tmp_path) if 'probe/seconds' in line] == [
        4,
        6,
    ]  # two batches an epoch


def test_a_dead_run_is_called_dead(data, tmp_path):
    cfg = config('pretrain', data, tmp_path)
    model, probe = built(cfg), Probe(num_images=9)
    with torch.no_grad():
        model.backbone.patch_embed.proj.weight.zero_()
        model.head.proj.weight.zero_()
    probe.before_train(bare(cfg, model))
    _, (alarm,) = probe.measure(model)  # at the marginal is where every run begins
    assert 'features collapse' in alarm and 'effective rank 1.00' in alarm
    probe.begins = False
    values, (_, alarm) = probe.measure(model)
    assert 'the model ignores the image' in alarm and values['predicted_codes_used'] == 1


def test_a_run_that_learns_is_left_in_peace(data, tmp_path):
    cfg = config('pretrain', data, tmp_path)
    model, probe = built(cfg), Probe(num_images=9)
    probe.before_train(bare(cfg, model))
    probe.begins = False
    views = torch.cat(
        [model.data_preprocessor(batch, False)['inputs']['token_view'] for batch in probe.batches]
    )
    with torch.no_grad():  # a model that has learned these images: its head is fitted to them
        model.target.tokenizer.init_codebook(views)  # that its tokens differ
        read = [
            model._read(model.data_preprocessor(batch, False)['inputs']) for batch in probe.batches
        ]
        x, ids = (torch.cat([part[i].flatten(0, 1) for part in read]) for i in (0, 1))
        x = x[torch.cat([part[2].flatten() for part in read])]
        ids = ids[torch.cat([part[2].flatten() for part in read])]
        wanted = torch.nn.functional.one_hot(ids, model.head.proj.out_features).float()
        model.head.proj.weight.copy_(torch.linalg.lstsq(x, wanted).solution.T)
        model.head.proj.bias.zero_()
    values, alarms = probe.measure(model)
    assert values['masked_accuracy'] > 2 * values['marginal_accuracy'] and alarms == []


def test_a_tokenizer_that_forgot_its_codes_is_named(data, tmp_path):
    cfg = config('tokenizer', data, tmp_path)
    model, probe = built(cfg), Probe(num_images=5)
    with torch.no_grad():
        model.encoder.output.conv.bias[3] = 1e6
    probe.before_train(bare(cfg, model))
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    MMLogger.get_current_instance().addHandler(handler)
    values, _ = probe.measure(model)
    assert values['codes_used'] == 1 and any(
        'the codebook is collapsing: 1 of 32 codes' in words for words in said
    )


def test_frozen_parts_still_evaluate_and_the_others_train_behind_a_measurement(data, tmp_path):
    cfg = config('pretrain', data, tmp_path)
    cfg.model.backbone.frozen_stages = 1
    model, probe = built(cfg).train(), Probe(num_images=2)
    probe.before_train(bare(cfg, model))
    modes = [module.training for module in model.modules()]
    probe.measure(model)
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2


def test_the_interval_keeps_it_rare(data, tmp_path):
    cfg = config('pretrain', data, tmp_path)
    probe = Probe(num_images=12)
    probe.before_train(bare(cfg, built(cfg)))
    assert probe.interval == 600  # 2 images a step: 1200 for 12
    probe = Probe(num_images=2)
    runner = bare(cfg, built(cfg))
    runner.max_iters = 20_000
    probe.before_train(runner)
    assert probe.interval == 200  # a hundredth of the run


def test_images_are_of_few_classes_and_always_the_same():
    labels = np.repeat(np.arange(1000), 50)
    picks = choose(labels, 500)
    assert len(picks) == 500 and len(np.unique(labels[picks])) == 20 and (np.diff(picks) > 0).all()
    assert (picks == choose(labels, 500)).all() and len(choose(labels[:30], 500)) == 30


def test_what_cannot_be_measured_is_an_error_at_the_start(data, tmp_path):
    with pytest.raises(ValueError, match='give None, or a list of knn_top1'):
        Probe(measures=['knn'])
    cfg = config('tokenizer', data, tmp_path)
    with pytest.raises(
        ValueError, match='DiscreteVAE on these images has no knn_top1; it allows code_usage'
    ):
        Probe(measures=['knn_top1']).before_train(bare(cfg, built(cfg)))
    with pytest.raises(ValueError, match='the config has no probe_dataloader'):
        Probe(dataloader='probe_dataloader').before_train(bare(cfg, built(cfg)))
