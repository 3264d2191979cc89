"""An ablation at another scale has the same parts in other sizes."""

import pytest
from mmengine.config import Config
from recipe import chain
from reproduce import plan, scale
from reproduce.ablations import ABLATIONS, CLAIMS, METRIC_OF_TASK
from reproduce.scale import Scale
from small import ROOT

from beit_mm.config_check.preflight import preflight
from beit_mm.registry import MODELS
from beit_mm.utils.config_tree import find, kind, nodes

pytestmark = pytest.mark.any_stack

HOUR, PAPER = (Scale.read(ROOT / f'configs/reproduce/{name}.py') for name in ('hour', 'paper'))
PRETRAINED = [name for name, one in ABLATIONS.items() if one.config and not one.start]
FULL_LENGTH = [name for name in PRETRAINED if ABLATIONS[name].length == 1]


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def parts(cfg: dict) -> set[str]:
    """Return the types of a config's parts, without those that change with the scale or only speed."""
    loops = {'AmpOptimWrapper', 'OptimWrapper', 'EpochBasedTrainLoop', 'IterBasedTrainLoop'}
    return {kind(node) for node in nodes(cfg)} - loops - {'Throughput', 'CompileBlocks', ''}


@pytest.mark.parametrize('name', PRETRAINED)
def test_an_ablation_keeps_its_parts_and_builds_small(name):
    large = Config.fromfile(ABLATIONS[name].config).to_dict()
    small = plan.pretrain_config(HOUR, name)
    assert parts(small) == parts(large)
    for key in ('abs_pos_embed', 'rel_pos_bias', 'layer_scale', 'mask_token'):
        assert small['model']['backbone'].get(key) == large['model']['backbone'].get(key)
    assert small['model']['target'].get('recover') == large['model']['target'].get('recover')
    MODELS.build(small['model'])  # raises if the head does not fit the target
    views = find(small['train_dataloader'], 'TwoViews')
    assert (views['size'], views['token_size']) == (64, None if 'pixels' in name else 32)
    for mask in nodes(small['train_dataloader']):
        if 'Mask' in kind(mask):
            min_block = 4 if kind(mask) == 'BlockwiseMask' else None
            assert (mask['grid'], mask['num_masked'], mask.get('min_block')) == (8, 25, min_block)


def test_at_the_papers_scale_an_ablation_is_its_config_but_for_the_length():
    for name in FULL_LENGTH:
        expected = Config.fromfile(ABLATIONS[name].config).to_dict()
        assert name == 'other-tokenizer' or plan.pretrain_config(PAPER, name) == expected
    assert plan.pretrain_config(PAPER, 'longer')['train_cfg']['max_epochs'] == 800
    steps = {
        name: plan.pretrain_config(HOUR, name)['train_cfg']['max_iters'] for name in PRETRAINED
    }
    assert {steps[name] for name in FULL_LENGTH} == {steps['beit']}
    assert steps['quarter'] == round(steps['beit'] / 4)


def test_a_size_can_depend_on_the_parts_own_and_none_stays_none():
    part = dict(type='x.Part', n=8, gone=None)
    cfg = dict(a=part, b=[dict(type='Part', n=7)], keep=1, swap=dict(type='Old', q=1))
    sizes = {'Part': dict(n={8: 80, 7: 70}, gone=5, new=3)}
    small = scale.apply_scale(cfg, sizes, dict(swap=dict(_delete_=True, type='New')))
    assert small['a'] == dict(type='x.Part', n=80, gone=None, new=3)
    assert small['b'] == [dict(type='Part', n=70, gone=5, new=3)]
    assert small['swap'] == dict(type='New') and small['keep'] == 1
    assert cfg['a'] == dict(type='x.Part', n=8, gone=None)


LARGE = [pytest.param(n, list(ABLATIONS), marks=pytest.mark.long) for n in ('hour', 'gpu', 'paper')]


@pytest.mark.parametrize('name, ablations', [('minutes', ['scratch', 'pixels']), *LARGE])
def test_each_stage_passes_the_checks_before_training(name, ablations, tmp_path):
    """Except those that look for images and checkpoints."""
    chosen = Scale.read(ROOT / f'configs/reproduce/{name}.py')
    for stage in plan.make_recipe(chosen, ablations, 1, tmp_path).stages:
        cfg = Config.fromfile(stage.config)
        cfg.merge_from_dict(chain.parse_options(chain.stage_options(stage, 1, [])))
        findings = [str(finding) for finding in preflight(cfg) if finding.stops]
        assert [text for text in findings if 'not found' not in text] == [], stage


def test_ablations_and_claims_have_the_values_in_the_headers_of_the_configs():
    for one in ABLATIONS.values():
        if one.config and not one.start:
            header = (ROOT / one.config).read_text().split('_base_ =')[0]
            assert all(f'{value:.2f}' in header for value in one.paper.values()), one
    gaps = {(claim.better, claim.worse): claim.gap for claim in CLAIMS}
    assert gaps['beit', 'pixels'] == dict(top1=1.82, mIoU=3.27)
    assert gaps['longer', 'beit'] == dict(top1=0.33, mIoU=0.93)
    assert set().union(*(claim.gap for claim in CLAIMS)) == set(METRIC_OF_TASK.values())
