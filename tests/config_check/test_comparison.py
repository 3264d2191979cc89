"""The comparison with the paper: our configs agree, and each known trap is found and named."""

import importlib.util
import runpy
from pathlib import Path

import pytest

from beit_mm.config_check.comparison import compare
from beit_mm.config_check.finding import Finding
from beit_mm.config_check.paper import RECIPES, find_nearest
from beit_mm.config_check.summary import ConfigSummary, read_summary

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
TASKS = 'pretrain', 'classification', 'segmentation', 'tokenizer', 'ablations'
OURS = [path for task in TASKS for path in sorted(CONFIGS.glob(f'{task}/*.py'))]
UNPUBLISHED = 'in1k-ft_upernet', 'in22k-ft_setr-pup'  # no table has them
# part of a config's name: what differs from the nearest recipe on purpose
INTENDED = {
    'upernet': {'weight decay of cls_token'},
    'in1k-ft_upernet': {'lr', 'layer decay'},
    'in22k-pre': {'mean and std'},
    'in22k-ft_upernet': {'mean and std'},
    'in22k-ft_setr-pup': {'mean and std'},
    'random-mask': {'mask'},
    'no-mask': {'mask'},
    'recover-all': {'predicted patches'},
    'pixels': {'target'},
}
PRETRAIN = 'pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k'
FINETUNE = 'classification/beit-base-p16_8xb128-amp-coslr-100e_in1k'
SETR = 'segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512'
UPERNET = 'segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512'
BENCHMARK = 'benchmarks/beit-base-p16_8xb128-coslr-100e_in1k'
CHECKPOINT = 'https://models/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k_20221128-ab79e626.pth'
TOKENIZER = 'tokenizer/dvae_64xb8-coslr-3000k_in1k-256px'
PIPELINE = 'train_dataloader.dataset.dataset.pipeline'


def summarize(name: str, options: dict | None = None, **more: object) -> ConfigSummary:
    return read_summary(str(CONFIGS / f'{name}.py'), options, **more)


def find(name: str, options: dict | None = None, **more: object) -> list[Finding]:
    summary = summarize(name, options, **more)
    return compare(summary, find_nearest(summary)[0])


def names(findings: list[Finding], stops: bool) -> set[str]:
    return {finding.what for finding in findings if finding.stops == stops}


# -- which recipe a config is ----------------------------------------------------------------------


@pytest.mark.parametrize('path', OURS, ids=lambda path: path.stem)
def test_a_config_of_ours_differs_from_its_recipe_only_where_intended(path):
    """Compare every setting of the recipe, because the config shows all of them."""
    summary = read_summary(str(path))
    recipe, mismatches = find_nearest(summary)
    findings = compare(summary, recipe)
    parts = [values for part, values in INTENDED.items() if part in path.stem]
    assert names(findings, True) == set()
    assert names(findings, False) == set().union(*parts)
    assert bool(mismatches) == any(part in path.stem for part in UNPUBLISHED)
    assert {'large', 'base'} & set(path.stem.replace('_', '-').split('-')) <= {summary['arch']}
    hidden = {name for name in [*recipe.identity, *recipe.values] if summary[name] is None}
    unused = {'token_size', 'num_masked', 'min_block', 'mask_grid'}  # by some ablations
    assert summary.batch and hidden - {'batch'} <= (unused if 'ablations' in str(path) else set())


def test_every_recipe_of_the_paper_has_a_config():
    reached = {find_nearest(read_summary(str(path)))[0].title for path in OURS}
    assert len(RECIPES) == 42 and {recipe.title for recipe in RECIPES} <= reached


# -- mistakes and differences ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'options', 'what', 'stops'),
    [
        (PRETRAIN, {'train_dataloader.batch_size': 64, 'auto_scale_lr': None}, 'lr for this batch', True),
        (SETR, {'optim_wrapper.paramwise_cfg.decay_cls_token': True}, 'weight decay of cls_token', True),
        (TOKENIZER, {'train_cfg.max_iters': 100_000}, 'end of the schedule', True),
        (PRETRAIN, {'optim_wrapper.optimizer.betas': (0.9, 0.98)}, 'betas', False),
        (PRETRAIN, {'optim_wrapper.clip_grad': None}, 'gradient clipping', False),
        (PRETRAIN, {'param_scheduler.0.end': 40}, 'warm-up', False),
        (PRETRAIN, {'model.num_masked': 60, f'{PIPELINE}.4.num_masked': 60}, 'masked patches', False),
        (FINETUNE, {'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.75}, 'layer decay', False),
        (FINETUNE, {'model.backbone.layer_scale': 1e-5}, 'LayerScale at the start', False),
        (FINETUNE, {'model.backbone.rel_pos_bias': 'shared'}, 'positions', False),
        (SETR, {f'{PIPELINE}.3.cat_max_ratio': 1.0}, 'cat_max_ratio', False),
    ],
)  # fmt: skip
def test_a_change_is_found_and_explained(name, options, what, stops):
    found = [each for each in find(name, options) if each.stops >= stops]
    assert [(each.what, each.stops) for each in found] == [(what, stops)]
    assert found[0].expected != found[0].yours and found[0].effect


def test_normalization_is_compared_with_that_of_pretraining():
    half = {f'data_preprocessor.{key}': [127.5] * 3 for key in ('mean', 'std')}
    assert names(find(FINETUNE, half), True) == {'mean and std'}
    checkpoint = {'model.backbone.init_cfg.checkpoint': 'weights/beit_base_patch16_224_pt22k.pth'}
    assert names(find(FINETUNE, half | checkpoint), True) == set()


@pytest.mark.parametrize(
    ('project', 'name', 'checkpoint', 'wrong', 'other'),
    [
        ('mmseg', 'beit-large_upernet_8xb1-amp-160k_ade20k-640x640', None, {'end of the schedule'}, 'weight decay of cls_token'),
        ('mmpretrain', BENCHMARK, None, set(), 'mean and std'),
        ('mmpretrain', BENCHMARK, CHECKPOINT, {'mean and std'}, 'std of the first head'),
        ('mmpretrain', 'beit_beit-base-p16_8xb256-amp-coslr-300e_in1k', None, set(), 'interpolation'),
    ],
)  # fmt: skip
def test_the_traps_in_configs_of_mmpretrain_and_mmseg(project, name, checkpoint, wrong, other):
    folder = Path(importlib.util.find_spec(project).origin).parent / '.mim/configs/beit'
    options = {'model.backbone.init_cfg.checkpoint': checkpoint} if checkpoint else {}
    findings = find(str(folder / name), options)
    assert names(findings, True) == wrong and other in names(findings, False)


@pytest.mark.parametrize(('end', 'what'), [(500_455, set()), (100_000, {'end of the schedule'})])
def test_a_cosine_in_iterations_is_compared_with_a_run_in_epochs(end, what):
    """800 epochs are 500 455 iterations."""
    cosine = dict(type='CosineAnnealingLR', by_epoch=False, begin=5000, end=end, eta_min=1e-5)
    warmup = dict(type='LinearLR', by_epoch=False, end=6255, start_factor=1e-3)
    assert names(find(PRETRAIN, {'param_scheduler': [warmup, cosine]}), True) == what


@pytest.mark.parametrize(
    ('options', 'auto_scale'),
    [
        ({}, True),
        ({'auto_scale_lr.enable': True}, False),
        ({'optim_wrapper.optimizer.lr': 1.5e-3 / 4, 'auto_scale_lr.base_batch_size': 512}, False),
    ],
)  # fmt: skip
def test_a_rate_scaled_with_the_batch_is_a_difference(options, auto_scale):
    findings = find(PRETRAIN, options, gpus=2, auto_scale=auto_scale)
    assert names(findings, True) == set()
    assert names(findings, False) == {'images per update', 'lr'}
    assert 'the same step per image' in str(findings)


def test_accumulation_counts_as_batch_and_costs_updates():
    options = {'optim_wrapper.accumulative_counts': 2, 'train_dataloader.batch_size': 1}
    (found,) = find(SETR, options)
    assert (found.what, found.stops) == ('total images', False)
    assert '80000 updates of 16 images' in found.effect
    options = {'train_dataloader.batch_size': 128, 'optim_wrapper.accumulative_counts': 2}
    assert find(PRETRAIN, options) == []


def test_no_rule_needs_a_setting_that_a_config_may_not_show():
    for recipe in RECIPES:
        assert compare(ConfigSummary(task=recipe.identity['task'][0]), recipe) == []


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('words', 'code', 'expected'),
    [
        ([f'configs/{UPERNET}.py'], 0, '0 contradictions (✗), 1 difference'),
        ([f'configs/{PRETRAIN}.py', '--gpus', '2'], 1, '✗  lr for this batch'),
        ([f'configs/{PRETRAIN}.py', '--gpus', '2', '--auto-scale-lr'], 0, 'the same step per image'),
        (['configs/quickstart/pretrain.py'], 0, "none of the paper's recipes (arch=other); compared with"),
        (['nowhere.py'], 2, 'error: no config at nowhere.py'),
        (['configs/_base_/default_runtime.py'], 2, 'the backbone is missing: expected one of BEiT'),
        ([f'configs/{PRETRAIN}.py', '--gpus', '0'], 2, 'error: --gpus 0: expected at least 1'),
        (['configs/quickstart/pretrain.py', '--auto-scale-lr'], 2, 'no auto_scale_lr.base_batch_size'),
    ],
)  # fmt: skip
def test_exit_code_of_the_command(words, code, expected, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        runpy.run_path('tools/recipe.py')['main'](['check', *words])
    out = capsys.readouterr()
    assert end.value.code == code and expected in (out.err if code == 2 else out.out)
    assert code != 2 or len(out.err.splitlines()) == 1


@pytest.mark.parametrize('checkpoint', ['beit_base_patch16_224_pt1k_800ep', 'downloads/a.pth'])
def test_no_other_file_beside_a_checkpoint_is_run(checkpoint, tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / 'downloads'):
        folder.mkdir(exist_ok=True)
        (folder / 'other.py').write_text('raise SystemExit("was run")')
    monkeypatch.chdir(tmp_path)
    find(FINETUNE, {'model.backbone.init_cfg.checkpoint': checkpoint})
