"""An ablation at another scale has the same parts in other sizes."""

import re

import pytest
from mmengine.config import Config
from recipe import chain
from reproduce import plan, scale
from reproduce.ablations import ABLATIONS, CLAIMS, TASKS
from reproduce.scale import Scale
from small import ROOT

from beit_mm.config_check.preflight import preflight
from beit_mm.registry import MODELS
from beit_mm.utils.config_tree import kind, nodes

pytestmark = pytest.mark.any_stack

HOUR = ROOT / 'configs/reproduce/hour.py'
PRETRAINED = [name for name in ABLATIONS if ABLATIONS[name].config and not ABLATIONS[name].start]


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)


def parts(cfg) -> set[str]:
    return {kind(node) for node in nodes(cfg) if kind(node)}


@pytest.mark.parametrize('row', PRETRAINED)
def test_a_row_keeps_its_parts_and_builds_small(row):
    large = Config.fromfile(ABLATIONS[row].config).to_dict()
    small = plan.pretrain_config(Scale.read(HOUR), row)
    loops = {'AmpOptimWrapper', 'OptimWrapper', 'EpochBasedTrainLoop', 'IterBasedTrainLoop'}
    speed = {'Throughput', 'CompileBlocks'}  # hooks that change no result
    assert parts(small) - loops - speed == parts(large) - loops - speed
    for key in ('abs_pos_embed', 'rel_pos_bias', 'layer_scale', 'mask_token'):
        assert small['model']['backbone'].get(key) == large['model']['backbone'].get(key)
    assert small['model']['target'].get('recover') == large['model']['target'].get('recover')
    model = MODELS.build(small['model'])  # the head's width is the target's, or this raises
    assert sum(p.numel() for p in model.parameters()) < 1e6
    pipeline = small['train_dataloader']['dataset']['dataset']['pipeline']
    views = next(step for step in pipeline if step['type'] == 'TwoViews')
    assert views['size'] == 64 and views['token_size'] == (None if 'pixels' in row else 32)
    for mask in (step for step in pipeline if 'Mask' in step['type']):
        assert (mask['grid'], mask['num_masked'], mask.get('min_block')) == (
            8,
            25,
            4 if mask['type'] == 'BlockwiseMask' else None,
        )


def test_rows_differ_in_length_alone_where_they_say_so():
    of = Scale.read(HOUR)
    steps = {row: plan.pretrain_config(of, row)['train_cfg']['max_iters'] for row in PRETRAINED}
    base = steps['beit']
    assert steps['longer'] == round(base * 8 / 3) and steps['quarter'] == round(base / 4)
    assert {steps[row] for row in PRETRAINED if ABLATIONS[row].length == 1} == {base}
    paper = Scale.read(ROOT / 'configs/reproduce/paper.py')
    assert plan.pretrain_config(paper, 'longer')['train_cfg']['max_epochs'] == 800


@pytest.mark.parametrize(
    'row', [row for row in PRETRAINED if ABLATIONS[row].length == 1 and row != 'other-tokenizer']
)
def test_at_the_papers_scale_a_row_is_its_config(row):
    paper = Scale.read(ROOT / 'configs/reproduce/paper.py')
    assert plan.pretrain_config(paper, row) == Config.fromfile(ABLATIONS[row].config).to_dict()


def test_a_value_may_depend_on_the_configs_own_and_off_stays_off():
    cfg = dict(
        a=dict(type='x.Part', n=8, gone=None),
        b=[dict(type='Part', n=7)],
        keep=1,
        swap=dict(type='Old', q=1),
    )
    small = scale.resize(
        cfg,
        {'Part': dict(n={8: 80, 7: 70}, gone=5, new=3)},
        dict(swap=dict(_delete_=True, type='New')),
    )
    assert small['a'] == dict(type='x.Part', n=80, gone=None, new=3) and small['b'] == [
        dict(type='Part', n=70, gone=5, new=3)
    ]
    assert small['swap'] == dict(type='New') and small['keep'] == 1
    assert cfg['a'] == dict(type='x.Part', n=8, gone=None)


@pytest.mark.parametrize(
    'name, rows',
    [
        ('minutes', ['scratch', 'pixels']),
        *(
            pytest.param(name, list(ABLATIONS), marks=pytest.mark.long)
            for name in ('hour', 'gpu', 'paper')
        ),
    ],
)
def test_every_stage_passes_what_a_run_checks_before_it_starts(name, rows, tmp_path):
    """But for images and checkpoints, which are not there."""
    of = Scale.read(ROOT / f'configs/reproduce/{name}.py')
    for stage in plan.make_recipe(of, rows, 1, tmp_path).stages:
        cfg = Config.fromfile(stage.config)
        cfg.merge_from_dict(chain.parse_options(chain.stage_options(stage, 1, [])))
        found = [str(finding) for finding in preflight(cfg) if finding.stops]
        assert [words for words in found if not re.search('not found', words)] == [], stage


def test_a_written_config_reads_the_same(tmp_path):
    cfg = plan.pretrain_config(Scale.read(HOUR), 'no-mask')
    scale.write_config(tmp_path / 'x.py', cfg, 'origin')
    assert Config.fromfile(str(tmp_path / 'x.py')).to_dict() == Config(cfg).to_dict()


def test_data_move():
    cfg = Config.fromfile('configs/quickstart/segmentation_112.py').to_dict()
    moved = scale.data_options(cfg, 'elsewhere/d')
    assert set(moved.values()) == {'elsewhere/d/ade20k'} and len(moved) == 3
    cfg = Config.fromfile(
        'configs/segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512.py'
    ).to_dict()
    assert set(scale.data_options(cfg, 'd').values()) == {'d/ade/ADEChallengeData2016'}


def test_rows_and_claims_have_the_papers_figures():
    """Of those with a config they stand in its head, as tests/test_reproduce_page.py compares with the page."""
    for row in ABLATIONS.values():
        if row.config and not row.start:
            head = (ROOT / row.config).read_text().split('_base_ =')[0]
            assert all(f'{figure:.2f}' in head for figure in row.paper.values()), row
    gaps = {(claim.better, claim.worse): claim.gap for claim in CLAIMS}
    assert gaps['beit', 'pixels'] == dict(top1=1.82, mIoU=3.27)
    assert gaps['longer', 'beit'] == dict(top1=0.33, mIoU=0.93)
    assert set().union(*(claim.gap for claim in CLAIMS)) == set(TASKS.values())
