"""The paper's recipes against configs: ours agree, the known traps are found, and what is found is named right."""

import importlib.util
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from beit_mm.config_check import summary as facts
from beit_mm.config_check.comparison import CONTRADICTIONS, Finding, check
from beit_mm.config_check.paper import ROWS, nearest
from beit_mm.config_check.summary import HALF

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


def find(name: str, options: dict | None = None, **more: object) -> list[Finding]:
    found = facts.read(str(CONFIGS / f'{name}.py'), options, **more)
    return check(found, nearest(found)[0])


def named(findings: list[Finding], contradiction: bool) -> set[str]:
    return {finding.what for finding in findings if finding.contradiction == contradiction}


# -- which recipe a config is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize('path', OURS, ids=lambda path: path.stem)
def test_a_config_of_ours_is_a_recipe_of_the_paper_and_differs_only_where_that_is_meant(path):
    found = facts.read(str(path))
    row, misses = nearest(found)
    findings = check(found, row)
    assert named(findings, True) == set() and None not in (
        getattr(found, fact) for fact in row.identity
    )
    if path.parent.name == 'ablations' or any(part in path.stem for part in UNPUBLISHED):
        return
    assert misses == []
    assert {'large', 'base'} & set(path.stem.replace('_', '-').split('-')) <= {found.arch}
    meant = {'weight decay of cls_token'} if 'upernet' in path.stem else set()
    if 'in22k-pre' in path.stem or 'in22k-ft_upernet' in path.stem:
        meant |= {'mean and std'}
    assert named(findings, False) == meant


def test_every_recipe_of_the_paper_is_a_config_of_ours():
    reached = [nearest(facts.read(str(path)))[0].title for path in OURS]
    assert len(ROWS) == 25 and {row.title for row in ROWS} <= set(reached)


@pytest.mark.parametrize(
    'name, title',
    [
        (PRETRAIN, 'pre-training on ImageNet-1k, base, 800 epochs'),
        (
            'pretrain/beit_beit-large-p16_8xb256-amp-coslr-300e_in1k',
            'pre-training on ImageNet-1k, large, 300 epochs',
        ),
        (FINETUNE, 'ImageNet-1k fine-tuning, base, after self-supervision, 224 px'),
        (
            'classification/vit-large-p16_8xb64-amp-coslr-10e_in1k-384px',
            'ImageNet-1k at 384 px, large',
        ),
        (
            'classification/beit-base-p16_in22k-ft_8xb64-amp-coslr-30e_in1k-384px',
            'on ImageNet-22k, 384 px',
        ),
        (
            'segmentation/vit-base_in1k-ft_setr-pup_8xb2-amp-160k_ade20k-512x512',
            'SETR-PUP, base, after intermediate',
        ),
        (f'{LARGE}_ms', 'UPerNet, large, after intermediate fine-tuning on ImageNet-22k'),
    ],
)
def test_a_recipe_is_recognised(name, title):
    assert title in nearest(facts.read(str(CONFIGS / f'{name}.py')))[0].title


@pytest.mark.parametrize(
    'name', ['pretrain', 'classification', 'segmentation', 'tokenizer', 'pretrain_112']
)
def test_a_small_twin_contradicts_nothing_and_is_compared_with_the_nearest(name):
    found = facts.read(str(CONFIGS / f'quickstart/{name}.py'))
    row, misses = nearest(found)
    assert named(check(found, row), True) == set()
    assert (found.arch == 'other') == ('arch' in misses)


def test_variants_are_told_apart():
    assert facts.read(str(CONFIGS / f'{PRETRAIN}.py')).variant == 'vanilla'
    assert facts.read(str(CONFIGS / f'{FINETUNE}.py')).variant == 'BEiT+'
    assert (
        facts.read(str(CONFIGS / f'{FINETUNE}.py'), {'model.backbone.layer_scale': None}).variant
        == 'mixed'
    )
    assert (
        facts.read(str(CONFIGS / f'{PRETRAIN}.py'), {'model.backbone.layer_scale': 0.1}).variant
        == 'LayerScale'
    )


def test_a_frozen_backbone_is_a_linear_probe():
    row, misses = nearest(
        facts.read(str(CONFIGS / f'{FINETUNE}.py'), {'model.backbone.frozen_stages': 12})
    )
    assert row.title == 'linear probe on ImageNet-1k, base (app. D)' and misses == []


# -- the traps ---------------------------------------------------------------------------------------------------------


def test_a_schedule_that_ends_at_half_of_the_run_is_found():
    (found,) = [f for f in find(LARGE, {'param_scheduler.1.end': 160000}) if f.contradiction]
    assert (found.what, found.yours) == ('end of the schedule', '160000')
    assert found.effect == 'the last 160000 iterations train at lr 0'


def test_a_decayed_cls_token_is_explained_in_upernet_and_wrong_elsewhere():
    assert 'weight decay of cls_token' in named(find(UPERNET), False)
    decay = {'optim_wrapper.paramwise_cfg.decay_cls_token': True}
    assert named(find(SETR, decay), True) == {'weight decay of cls_token'}
    spared = {'optim_wrapper.paramwise_cfg.decay_cls_token': False}
    assert find(UPERNET, spared) == []


def test_another_mean_than_in_pretraining_and_a_head_of_full_size_are_found():
    half = {
        'data_preprocessor.mean': [127.5] * 3,
        'data_preprocessor.std': [127.5] * 3,
        'model.head.init_cfg.std': 0.02,
    }
    findings = find(FINETUNE, half)
    assert named(findings, True) == {'mean and std'} and named(findings, False) == {
        'std of the first head'
    }
    public = half | {
        'model.backbone.init_cfg.checkpoint': 'checkpoints/beit_base_patch16_224_pt22k.pth'
    }
    assert named(find(FINETUNE, public), True) == set()


HOSTS = {
    host: Path(importlib.util.find_spec(host).origin).parent / '.mim/configs/beit'
    for host in ('mmpretrain', 'mmseg')
}
BENCHMARK = 'benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py'
MODELS = 'https://models/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k_20221128-ab79e626.pth'


@pytest.mark.parametrize(
    'host, name, options, wrong, other',
    [
        ('mmseg', 'beit-large_upernet_8xb1-amp-160k_ade20k-640x640.py', {}, 'end of the schedule', 'weight decay of cls_token'),
        ('mmpretrain', BENCHMARK, {}, None, 'mean and std'),
        ('mmpretrain', BENCHMARK, {'model.backbone.init_cfg.checkpoint': MODELS}, 'mean and std', 'std of the first head'),
        ('mmpretrain', 'beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py', {}, None, 'interpolation'),
    ],
)  # fmt: skip
def test_the_traps_are_found_in_the_hosts_own_configs(host, name, options, wrong, other):
    findings = find(str(HOSTS[host] / name)[:-3], options)
    assert named(findings, True) == ({wrong} if wrong else set()) and other in named(
        findings, False
    )


# -- contradictions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, options, what',
    [
        (PRETRAIN, {'param_scheduler.1.end': 300}, 'end of the schedule'),
        (PRETRAIN, {'param_scheduler.1.end': 900}, 'end of the schedule'),
        (PRETRAIN, {'param_scheduler.0.end': 800}, 'warm-up'),
        (PRETRAIN, {'train_dataloader.batch_size': 64}, 'lr for this batch'),
        (PRETRAIN, {'train_dataloader.batch_size': 64, 'auto_scale_lr': None}, 'lr for this batch'),
        (PRETRAIN, {'model.head.out_channels': 1024}, 'channels of the head'),
        (PRETRAIN, {'model.num_masked': 60}, 'num_masked'),
        (
            PRETRAIN,
            {'train_dataloader.dataset.dataset.pipeline.3.token_size': 224},
            'grid of tokens',
        ),
        (PRETRAIN, {'train_dataloader.dataset.dataset.pipeline.4.grid': 12}, 'grid of the mask'),
        (SETR, {'param_scheduler.1.by_epoch': True}, 'unit of the schedule'),
        (TOKENIZER, {'train_cfg.max_iters': 100_000}, 'end of the schedule'),
    ],
)
def test_a_contradiction_is_found_alone(name, options, what):
    assert named(find(name, options), True) == {what}


def test_a_cosine_in_iterations_is_compared_with_a_run_in_epochs():
    def ending(at: int) -> dict:
        cosine = dict(type='CosineAnnealingLR', by_epoch=False, begin=5000, end=at, eta_min=1e-5)
        return {
            'param_scheduler': [
                dict(type='LinearLR', by_epoch=False, end=6255, start_factor=1e-3),
                cosine,
            ]
        }

    assert named(find(PRETRAIN, ending(int(800 * 1281167 / 2048))), True) == set()
    assert named(find(PRETRAIN, ending(100_000)), True) == {'end of the schedule'}


def test_a_rate_scaled_with_the_batch_is_a_difference_and_no_contradiction():
    for options, more in [
        ({}, dict(gpus=2, auto_scale=True)),
        (
            {'optim_wrapper.optimizer.lr': 1.5e-3 / 4, 'auto_scale_lr.base_batch_size': 512},
            dict(gpus=2),
        ),
        ({'auto_scale_lr.enable': True}, dict(gpus=2)),
    ]:
        findings = find(PRETRAIN, options, **more)
        assert named(findings, True) == set() and named(findings, False) == {
            'images an update',
            'lr',
        }
        assert 'the same step an image' in next(f.effect for f in findings if f.what == 'lr')
    assert named(find(PRETRAIN, gpus=2), True) == {'lr for this batch'}


def test_accumulation_counts_as_batch_and_costs_updates():
    halved = {'train_dataloader.batch_size': 1, 'optim_wrapper.accumulative_counts': 2}
    findings = find(SETR, halved)
    assert named(findings, True) == set() and named(findings, False) == {'images in all'}
    assert '80000 updates of 16 images' in findings[0].effect
    assert (
        find(PRETRAIN, {'train_dataloader.batch_size': 128, 'optim_wrapper.accumulative_counts': 2})
        == []
    )


# -- differences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, options, what',
    [
        (PRETRAIN, {'optim_wrapper.optimizer.betas': (0.9, 0.98)}, 'betas'),
        (PRETRAIN, {'optim_wrapper.optimizer.eps': 1e-6}, 'eps'),
        (PRETRAIN, {'optim_wrapper.clip_grad': None}, 'gradient clipping'),
        (PRETRAIN, {'param_scheduler.0.end': 40}, 'warm-up'),
        (PRETRAIN, {'train_dataloader.dataset.dataset.pipeline.3.scale': (0.2, 1.0)}, 'crop scale'),
        (PRETRAIN, {'model.target.recover': 'all'}, 'predicted patches'),
        (PRETRAIN, {'model.num_masked': 60, 'train_dataloader.dataset.dataset.pipeline.4.num_masked': 60}, 'hidden patches'),
        (PRETRAIN, {'model.data_preprocessor.mean': HALF[0], 'model.data_preprocessor.std': HALF[1]}, 'mean and std'),
        (FINETUNE, {'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.75}, 'layer decay'),
        (FINETUNE, {'model.backbone.drop_path_rate': 0.2}, 'drop path'),
        (FINETUNE, {'model.backbone.layer_scale': 1e-5}, 'LayerScale at the start'),
        (FINETUNE, {'model.backbone.rel_pos_bias': 'shared'}, 'positions'),
        (FINETUNE, {'optim_wrapper.optimizer.weight_decay': 0.3}, 'weight decay'),
        (SETR, {'train_dataloader.dataset.dataset.pipeline.3.cat_max_ratio': 1.0}, 'cat_max_ratio'),
    ],
)  # fmt: skip
def test_a_difference_is_found_alone(name, options, what):
    (found,) = find(name, options)
    assert (
        found.what == what
        and not found.contradiction
        and found.paper != found.yours
        and found.effect
    )


def test_the_ablations_of_table_4_say_what_they_cost():
    random = find(
        PRETRAIN,
        {
            'train_dataloader.dataset.dataset.pipeline.4': dict(
                type='RandomMask', grid=14, num_masked=75
            )
        },
    )
    pixels = find(
        PRETRAIN,
        {'model.target': dict(_delete_=True, type='PixelTarget'), 'model.head.out_channels': 768,
         'train_dataloader.dataset.dataset.pipeline.3.token_size': None},
    )  # fmt: skip
    assert [(f.what, f.yours) for f in random] == [('mask', 'random')] and '42.93' in random[
        0
    ].effect
    assert [(f.what, f.yours) for f in pixels] == [('target', 'pixels')] and '81.04' in pixels[
        0
    ].effect


def test_rules_ask_for_nothing_that_a_config_may_not_show():
    for row in ROWS:
        assert check(facts.Facts(row.identity['task'][0]), row) == []


def test_a_rule_that_says_nothing_about_the_paper_holds_against_any_row():
    found = facts.read(str(CONFIGS / f'{PRETRAIN}.py'))
    wrong = replace(found, end=300)
    for row in ROWS:
        assert [f.what for rule in CONTRADICTIONS[:1] for f in rule(wrong, row)] == [
            'end of the schedule'
        ]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'words, code, said',
    [
        ([f'configs/{UPERNET}.py'], 0, '0 contradictions (✗), 1 difference'),
        ([f'configs/{PRETRAIN}.py', '--gpus', '2'], 1, 'lr for this batch'),
        (
            [f'configs/{PRETRAIN}.py', '--gpus', '2', '--auto-scale-lr'],
            0,
            'scaled by auto_scale_lr',
        ),
        (
            [f'configs/{LARGE}.py', '--cfg-options', 'param_scheduler.1.end=160000'],
            1,
            '✗  end of the schedule',
        ),
        (
            ['configs/quickstart/pretrain.py'],
            0,
            "none of the paper's recipes (size other); compared with the nearest:",
        ),
        (['nowhere.py'], 2, 'error: no config at nowhere.py'),
        (['configs/_base_/default_runtime.py'], 2, 'the backbone is not there, known are BEiT, '),
        ([f'configs/{PRETRAIN}.py', '--gpus', '0'], 2, 'error: --gpus 0: expected at least 1'),
        (
            ['configs/quickstart/pretrain.py', '--auto-scale-lr'],
            2,
            'no auto_scale_lr.base_batch_size',
        ),
    ],
)
def test_the_command_tells_by_its_exit_code(words, code, said, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        runpy.run_path('tools/recipe.py')['main'](['check', *words])
    out = capsys.readouterr()
    assert end.value.code == code and said in (out.err if code == 2 else out.out)
    assert code != 2 or len(out.err.splitlines()) == 1


@pytest.mark.parametrize(
    'checkpoint', ['beit_base_patch16_224_pt1k_800ep', 'weights.pth', 'downloads/weights.pth']
)
def test_no_python_file_is_run_that_lies_beside_a_checkpoint(checkpoint, tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / 'downloads'):
        folder.mkdir(exist_ok=True)
        (folder / 'other.py').write_text('raise SystemExit("was run")')
    monkeypatch.chdir(tmp_path)
    find(
        'classification/vit-base-p16_8xb128-amp-coslr-100e_in1k',
        {'model.backbone.init_cfg.checkpoint': checkpoint},
    )
