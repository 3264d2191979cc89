"""The comparison with the paper: our configs agree, and each known trap is found and named."""

import importlib.util
import runpy
from pathlib import Path

import pytest

from beit_mm.config_check.comparison import compare
from beit_mm.config_check.finding import HALF, Finding
from beit_mm.config_check.paper import RECIPES, find_nearest
from beit_mm.config_check.summary import ConfigSummary, read_summary

pytestmark = pytest.mark.any_stack

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
TASKS = 'pretrain', 'classification', 'segmentation', 'tokenizer', 'ablations'
OURS = [path for task in TASKS for path in sorted(CONFIGS.glob(f'{task}/*.py'))]
UNPUBLISHED = 'in1k-ft_upernet', 'in22k-ft_setr-pup'  # no table has them
PRETRAIN = 'pretrain/beit_vit-base-p16_8xb256-amp-coslr-800e_in1k'
FINETUNE = 'classification/beit-base-p16_8xb128-amp-coslr-100e_in1k'
SETR = 'segmentation/vit-base_setr-pup_8xb2-amp-160k_ade20k-512x512'
UPERNET = 'segmentation/beit-base_upernet_8xb2-amp-160k_ade20k-512x512'
LARGE = 'segmentation/beit-large_in22k-ft_upernet_8xb1-amp-320k_ade20k-640x640'
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
    summary = read_summary(str(path))
    recipe, mismatches = find_nearest(summary)
    findings = compare(summary, recipe)
    assert names(findings, True) == set()
    assert all(summary[name] is not None for name in recipe.identity)
    if path.parent.name == 'ablations' or any(part in path.stem for part in UNPUBLISHED):
        return
    assert mismatches == []
    assert {'large', 'base'} & set(path.stem.replace('_', '-').split('-')) <= {summary['arch']}
    intended = {'weight decay of cls_token'} if 'upernet' in path.stem else set()
    if 'in22k-pre' in path.stem or 'in22k-ft_upernet' in path.stem:
        intended |= {'mean and std'}
    assert names(findings, False) == intended


def test_every_recipe_of_the_paper_has_a_config():
    reached = {find_nearest(read_summary(str(path)))[0].title for path in OURS}
    assert len(RECIPES) == 25 and {recipe.title for recipe in RECIPES} <= reached


@pytest.mark.parametrize(
    'name', ['pretrain', 'classification', 'segmentation', 'tokenizer', 'pretrain_112']
)  # fmt: skip
def test_a_quickstart_config_contradicts_nothing(name):
    summary = summarize(f'quickstart/{name}')
    recipe, mismatches = find_nearest(summary)
    assert names(compare(summary, recipe), True) == set()
    assert (summary['arch'] == 'other') == ('arch' in mismatches)


@pytest.mark.parametrize(
    ('name', 'options', 'variant'),
    [
        (PRETRAIN, {}, 'vanilla'),
        (FINETUNE, {}, 'BEiT+'),
        (FINETUNE, {'model.backbone.layer_scale': None}, 'mixed'),
        (PRETRAIN, {'model.backbone.layer_scale': 0.1}, 'LayerScale'),
    ],
)  # fmt: skip
def test_variant_of_the_architecture(name, options, variant):
    assert summarize(name, options)['variant'] == variant


def test_a_frozen_backbone_is_a_linear_probe():
    recipe, mismatches = find_nearest(summarize(FINETUNE, {'model.backbone.frozen_stages': 12}))
    assert recipe.title == 'linear probe on ImageNet-1k, base (app. D)' and mismatches == []


# -- contradictions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'options', 'what'),
    [
        (PRETRAIN, {'param_scheduler.1.end': 300}, 'end of the schedule'),
        (PRETRAIN, {'param_scheduler.1.end': 900}, 'end of the schedule'),
        (PRETRAIN, {'param_scheduler.0.end': 800}, 'warm-up'),
        (PRETRAIN, {'train_dataloader.batch_size': 64}, 'lr for this batch'),
        (PRETRAIN, {'train_dataloader.batch_size': 64, 'auto_scale_lr': None}, 'lr for this batch'),
        (PRETRAIN, {'model.head.out_channels': 1024}, 'channels of the head'),
        (PRETRAIN, {'model.num_masked': 60}, 'num_masked'),
        (PRETRAIN, {f'{PIPELINE}.3.token_size': 224}, 'grid of tokens'),
        (PRETRAIN, {f'{PIPELINE}.4.grid': 12}, 'grid of the mask'),
        (SETR, {'param_scheduler.1.by_epoch': True}, 'unit of the schedule'),
        (SETR, {'optim_wrapper.paramwise_cfg.decay_cls_token': True}, 'weight decay of cls_token'),
        (TOKENIZER, {'train_cfg.max_iters': 100_000}, 'end of the schedule'),
    ],
)  # fmt: skip
def test_a_contradiction_is_the_only_one_found(name, options, what):
    assert names(find(name, options), True) == {what}


def test_a_schedule_that_ends_before_the_run():
    (found,) = [each for each in find(LARGE, {'param_scheduler.1.end': 160000}) if each.stops]
    assert (found.what, found.yours) == ('end of the schedule', '160000')
    assert found.effect == 'the last 160000 iterations train at lr 0'


def test_a_decayed_cls_token_in_upernet_is_explained():
    assert 'weight decay of cls_token' in names(find(UPERNET), False)
    assert find(UPERNET, {'optim_wrapper.paramwise_cfg.decay_cls_token': False}) == []


def test_normalization_is_compared_with_that_of_pretraining():
    half = {
        'data_preprocessor.mean': [127.5] * 3,
        'data_preprocessor.std': [127.5] * 3,
        'model.head.init_cfg.std': 0.02,
    }
    findings = find(FINETUNE, half)
    assert names(findings, True) == {'mean and std'}
    assert names(findings, False) == {'std of the first head'}
    checkpoint = {'model.backbone.init_cfg.checkpoint': 'weights/beit_base_patch16_224_pt22k.pth'}
    assert names(find(FINETUNE, half | checkpoint), True) == set()


def host_config(host: str, name: str) -> str:
    folder = Path(importlib.util.find_spec(host).origin).parent
    return str(folder / '.mim/configs/beit' / name)


BENCHMARK = 'benchmarks/beit-base-p16_8xb128-coslr-100e_in1k'
CHECKPOINT = 'https://models/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k_20221128-ab79e626.pth'


@pytest.mark.parametrize(
    ('host', 'name', 'checkpoint', 'wrong', 'other'),
    [
        (
            'mmseg',
            'beit-large_upernet_8xb1-amp-160k_ade20k-640x640',
            None,
            {'end of the schedule'},
            'weight decay of cls_token',
        ),
        ('mmpretrain', BENCHMARK, None, set(), 'mean and std'),
        ('mmpretrain', BENCHMARK, CHECKPOINT, {'mean and std'}, 'std of the first head'),
        ('mmpretrain', 'beit_beit-base-p16_8xb256-amp-coslr-300e_in1k', None, set(), 'interpolation'),
    ],
)  # fmt: skip
def test_the_traps_in_configs_of_mmpretrain_and_mmseg(host, name, checkpoint, wrong, other):
    options = {'model.backbone.init_cfg.checkpoint': checkpoint} if checkpoint else {}
    findings = find(host_config(host, name), options)
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


# -- differences -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'options', 'what'),
    [
        (PRETRAIN, {'optim_wrapper.optimizer.betas': (0.9, 0.98)}, 'betas'),
        (PRETRAIN, {'optim_wrapper.optimizer.eps': 1e-6}, 'eps'),
        (PRETRAIN, {'optim_wrapper.clip_grad': None}, 'gradient clipping'),
        (PRETRAIN, {'param_scheduler.0.end': 40}, 'warm-up'),
        (PRETRAIN, {f'{PIPELINE}.3.scale': (0.2, 1.0)}, 'crop scale'),
        (PRETRAIN, {'model.target.recover': 'all'}, 'predicted patches'),
        (PRETRAIN, {'model.num_masked': 60, f'{PIPELINE}.4.num_masked': 60}, 'masked patches'),
        (PRETRAIN, {'model.data_preprocessor.mean': HALF[0], 'model.data_preprocessor.std': HALF[1]}, 'mean and std'),
        (FINETUNE, {'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.75}, 'layer decay'),
        (FINETUNE, {'model.backbone.drop_path_rate': 0.2}, 'drop path'),
        (FINETUNE, {'model.backbone.layer_scale': 1e-5}, 'LayerScale at the start'),
        (FINETUNE, {'model.backbone.rel_pos_bias': 'shared'}, 'positions'),
        (FINETUNE, {'optim_wrapper.optimizer.weight_decay': 0.3}, 'weight decay'),
        (SETR, {f'{PIPELINE}.3.cat_max_ratio': 1.0}, 'cat_max_ratio'),
    ],
)  # fmt: skip
def test_a_difference_is_the_only_finding(name, options, what):
    (found,) = find(name, options)
    assert (found.what, found.stops) == (what, False)
    assert found.expected != found.yours and found.effect


def test_the_ablations_of_table_4_state_their_cost():
    mask = dict(type='RandomMask', grid=14, num_masked=75)
    (found,) = find(PRETRAIN, {f'{PIPELINE}.4': mask})
    assert (found.what, found.yours) == ('mask', 'random') and '42.93' in found.effect
    pixels = {
        'model.target': dict(_delete_=True, type='PixelTarget'),
        'model.head.out_channels': 768,
        f'{PIPELINE}.3.token_size': None,
    }
    (found,) = find(PRETRAIN, pixels)
    assert (found.what, found.yours) == ('target', 'pixels') and '81.04' in found.effect


def test_no_rule_needs_a_setting_that_a_config_may_not_show():
    for recipe in RECIPES:
        assert compare(ConfigSummary(task=recipe.identity['task'][0]), recipe) == []


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('words', 'code', 'expected'),
    [
        ([f'configs/{UPERNET}.py'], 0, '0 contradictions (✗), 1 difference'),
        ([f'configs/{PRETRAIN}.py', '--gpus', '2'], 1, 'lr for this batch'),
        ([f'configs/{PRETRAIN}.py', '--gpus', '2', '--auto-scale-lr'], 0, 'scaled by auto_scale_lr'),
        ([f'configs/{LARGE}.py', '--cfg-options', 'param_scheduler.1.end=160000'], 1, '✗  end of the schedule'),
        (
            ['configs/quickstart/pretrain.py'],
            0,
            "none of the paper's recipes (size other); compared with the nearest:",
        ),
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


@pytest.mark.parametrize(
    'checkpoint', ['beit_base_patch16_224_pt1k_800ep', 'downloads/weights.pth']
)  # fmt: skip
def test_no_other_file_beside_a_checkpoint_is_run(checkpoint, tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / 'downloads'):
        folder.mkdir(exist_ok=True)
        (folder / 'other.py').write_text('raise SystemExit("was run")')
    monkeypatch.chdir(tmp_path)
    name = 'classification/vit-base-p16_8xb128-amp-coslr-100e_in1k'
    find(name, {'model.backbone.init_cfg.checkpoint': checkpoint})
