"""Each mistake in a config is found before anything is built, and no config of ours has one."""

import copy
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from small import ARCH, CONFIGS, each, load, shrink
from torch.distributed import HashStore

from beit_mm.config_check.finding import Finding
from beit_mm.config_check.metrics import reported_keys
from beit_mm.config_check.preflight import preflight, share_findings
from beit_mm.config_check.report import format_list
from beit_mm.config_check.run import check_work_dir
from beit_mm.models import BEiT
from beit_mm.registry import METRICS

ROOT = Path(__file__).parents[2]


def small_config(name: str, data: Path, work_dir: Path) -> Config:
    """Return a config with its own schedule and length, a small model, and data that exist."""
    real, cfg = load(name), shrink(load(name), data, work_dir)
    cfg.train_cfg, cfg.param_scheduler = real.train_cfg, real.param_scheduler
    return cfg


def describe(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings]


@pytest.mark.parametrize('name', each(CONFIGS))
def test_no_small_config_of_ours_has_a_finding(name, few_shapes, tmp_path):
    findings = preflight(small_config(name, few_shapes, tmp_path))
    of_the_data = 'lr for this batch', 'no pixel of'  # there are few images
    for finding in findings:
        assert not finding.stops and any(words in str(finding) for words in of_the_data), finding


@pytest.mark.parametrize('name', each(CONFIGS))
def test_a_config_of_ours_lacks_only_files(name):
    ranks = next((n for n in (64, 32, 16) if f'{n}xb' in name), 8)
    findings = describe(preflight(load(name), ranks))
    lacks = 'not found', 'no tokenizer is given', 'lr for this batch', 'teacher has no weights'
    assert [words for words in findings if not any(part in words for part in lacks)] == []
    assert 'quickstart' in name or 'lr for this batch' not in str(findings)


# -- mistakes --------------------------------------------------------------------------------------

TOKENIZER, PRETRAIN = 'quickstart/tokenizer', 'quickstart/pretrain'
CLASSIFY, SEGMENT = 'quickstart/classification', 'quickstart/segmentation'
DATA, INIT = 'train_dataloader.dataset.dataset', 'model.backbone.init_cfg'
SAVE_BEST = 'default_hooks.checkpoint.save_best'
RESNET = dict(
    type='ResNet', depth=18, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,),
    base_channels=8,
)  # fmt: skip
HOST = dict(
    _delete_=True, type='ImageClassifier', backbone=RESNET, neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
)  # fmt: skip


def pretrained(checkpoint: str) -> dict:
    return dict(_delete_=True, type='Pretrained', checkpoint=checkpoint)


# config, what is set, part of the finding
MISTAKES = [
    (CLASSIFY, {'train_cfg.max_iters': 5, 'param_scheduler.1.end': None}, 'param_scheduler.1.begin=5: the run ends at 5: raise train_cfg.max_iters'),
    (CLASSIFY, dict(optim_wraper={}), "optim_wraper: nothing reads this key: did you mean 'optim_wrapper'?"),
    (CLASSIFY, {'default_hooks.chekpoint': None}, "default_hooks.chekpoint: this hook is added to the default one"),  # codespell:ignore
    (PRETRAIN, {f'{DATA}.pipeline.2.type': 'TwoVews'},
     f"{DATA}.pipeline.2.type='TwoVews': no such class is registered: did you mean 'TwoViews'?"),
    (CLASSIFY, {'model.backbone.drop_path': 0.1},
     "model.backbone.drop_path: beit_mm.BEiT has no such argument: did you mean 'drop_path_rate'?"),
    (PRETRAIN, {f'{DATA}.pipeline.3.budget': 9}, "budget: this argument was renamed: write 'num_masked'"),  # codespell:ignore
    (PRETRAIN, dict(custom_hooks=[dict(type='json')]), "custom_hooks.0.type='json': no such class is registered"),
    (PRETRAIN, dict(custom_hooks=[dict(type='GuardData')]), "this class was renamed: write 'CheckSamples'"),
    (TOKENIZER, {SAVE_BEST: 'tokenizer/codes'}, "this key was renamed: write 'tokenizer/vocab_size'"),
    (SEGMENT, {'optim_wrapper.optimizer.weight_decy': 0.1}, "AdamW has no such argument: did you mean 'weight_decay'?"),
    (CLASSIFY, {'train_dataloader.num_worker': 2}, "DataLoader has no such argument: did you mean 'num_workers'?"),
    (CLASSIFY, {'optim_wrapper.paramwise_cfg.layer_decay': 0.9},
     "LayerDecayConstructor has no such argument: did you mean 'layer_decay_rate'?"),
    (TOKENIZER, {'optim_wrapper.paramwise_cfg': dict(norm_decay=0)},
     "DefaultOptimWrapperConstructor has no such argument: did you mean 'norm_decay_mult'?"),
    (SEGMENT, {'optim_wrapper.clip_grad.max_nrom': 1}, "has no such argument: did you mean 'max_norm'?"),
    (CLASSIFY, {f'{DATA}.data_root': 'nowhere'}, f'{DATA}: nowhere not found'),
    (SEGMENT, {f'{DATA}.data_prefix.seg_map_path': 'labels'}, 'labels not found'),
    (CLASSIFY, {INIT: pretrained('gone.pth')}, 'model.backbone.init_cfg: gone.pth not found'),
    (SEGMENT, dict(load_from='gone.pth'), 'load_from: gone.pth not found'),
    (PRETRAIN, {'model.target.checkpoint': None}, 'model.target: no tokenizer is given'),
    (PRETRAIN, {'train_dataloader.dataset.token_cache': 'nowhere'}, 'token_cache=nowhere: this is no token cache'),
    (CLASSIFY, {INIT: pretrained('short.pth')}, 'short.pth does not fit this BEiT'),
    (CLASSIFY, dict(load_from='short.pth'), 'short.pth does not fit this BEiT. Missing: blocks.3.'),
    (CLASSIFY, dict(load_from='alien.pth', model=HOST), 'alien.pth: none of its weights is in this model: it has stem.weight;'),
    (CLASSIFY, dict(model=HOST | dict(backbone=RESNET | dict(init_cfg=dict(type='Pretrained', checkpoint='alien.pth')))),
     'alien.pth: none of its weights is in this model: it has stem.weight;'),
    (PRETRAIN, {'model.target.tokenizer.width': 16}, 'does not fit this DiscreteVAE'),
    (CLASSIFY, {'model.head.num_classes': 5}, f'model.head.num_classes=5: {DATA} has 10 classes'),
    (CLASSIFY, {f'{DATA}.metainfo': None, f'{DATA}.ann_file': '', 'model.head.num_classes': 5},
     f'model.head.num_classes=5: {DATA} has'),
    (CLASSIFY, {'model.data_preprocessor.num_classes': 9}, 'data_preprocessor.num_classes=9: the head has 10'),
    (PRETRAIN, {'model.head.out_channels': 64}, 'channels of the head: 64'),
    (TOKENIZER, {'val_evaluator.vocab_size': 99}, 'val_evaluator.vocab_size=99: the tokenizer has 32 codes'),
    (PRETRAIN, {f'{DATA}.pipeline.3.grid': 5}, 'grid of the mask: 5'),
    (PRETRAIN, {f'{DATA}.pipeline.2.token_size': 64}, 'grid of tokens: 16'),
    (PRETRAIN, {'model.num_masked': 7}, 'num_masked: 7'),
    (SEGMENT, {'param_scheduler.1.by_epoch': True}, 'unit of the schedule'),
    (CLASSIFY, dict(train_cfg=dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=20)), 'an epoch never ends'),
    (TOKENIZER, {SAVE_BEST: 'auto'}, "set save_best='tokenizer/psnr' and rule='greater'"),
    (SEGMENT, {SAVE_BEST: 'miou'},
     "val_evaluator does not report this key, but aAcc, mIoU, mAcc: did you mean 'mIoU'?"),
    (TOKENIZER, {'default_hooks.checkpoint': dict(save_best='tokenizer/psnr', rule='less')},
     "rule='less' keeps the worst checkpoint: set 'greater'"),
    (PRETRAIN, {'default_hooks.checkpoint': dict(save_best='mim/accuracy_all', rule='greater')}, 'does not report this key'),
    (CLASSIFY, {'val_dataloader.persistent_workers': True, 'val_dataloader.num_workers': 0},
     'val_dataloader.persistent_workers=True: num_workers is 0'),
    (SEGMENT, {f'{DATA}.metainfo.palette': [[0, 0, 0]]}, '11 classes and 1 colors in the palette'),
    (SEGMENT, {'train_dataloader.batch_size': 1, 'model.decode_head':
               dict(type='mmseg.PSPHead', norm_cfg=dict(type='BN'), pool_scales=(1, 2))}, 'pools to 1×1, and BN needs'),
    (CLASSIFY, {'model.head.init_cfg': dict(_delete_=True, type='Pretrained', checkpoint=None)},
     'model.head.init_cfg: checkpoint is missing'),
    (TOKENIZER, {'model.in_channels': 4}, 'model.in_channels=4: '),
    (CLASSIFY, {'val_evaluator.topk': (1, 20)}, 'val_evaluator.topk=(1, 20): model.head has 10 classes: set topk=1'),
    (CLASSIFY, {'train_cfg.val_interval': 0}, 'train_cfg.val_interval=0: expected at least 1. For no validation'),
    (CLASSIFY, dict(work_dir=f'{__file__}/run'), 'test_preflight.py (Not a directory): set another work_dir'),
    (CLASSIFY, {'model.backbone.img_size': 68}, 'img_size=68: 68×68 pixels are no multiple of patch_size=8: set 64'),
    (PRETRAIN, {f'{DATA}.pipeline.2.size': 60, f'{DATA}.pipeline.2.token_size': None},
     f'{DATA}.pipeline: 60×60 pixels are no multiple of patch_size=8: set 56'),
    (CLASSIFY, {f'{DATA}.pipeline.1.type': 'beit_mm.ColorJitter'}, 'it has no effect without TwoViews'),
    (CLASSIFY, {f'{DATA}.pipeline.0.color_type': 'grayscale'},
     f'model.backbone.in_channels=3: {DATA}.pipeline.0 gives 1 channel(s): set in_channels=1 or color_type'),
    (CLASSIFY, {f'{DATA}.pipeline.0.color_type': 'unchanged', 'val_dataloader.dataset.pipeline.0.color_type': 'unchanged',
                'model.backbone.in_channels': 4}, 'data_preprocessor.mean has 3 values: expected 4'),
]  # fmt: skip
KEEP_RATIO = dict(_delete_=True, type='Resize', scale=(96, 64), keep_ratio=True)
REMARKS = [
    (SEGMENT, {SAVE_BEST: 'auto'}, "common classes decide aAcc, which it takes: set save_best='mIoU'"),
    (TOKENIZER, {'train_cfg.max_iters': 700, 'custom_hooks.1.iters': 1400},
     'custom_hooks.1.iters=1400: beta does not reach 0.02. Set it to 700'),
    (SEGMENT, {'model.backbone.type': BEiT, 'model.backbone.img_size': 96},
     'data_preprocessor.size gives 64×64 pixels, so positions are interpolated from 12×12 to 8×8 patches. Set img_size=64'),
    (CLASSIFY, {f'{DATA}.pipeline.1': dict(_delete_=True, type='RandomResizedCrop', scale=96)},
     f'model.backbone.img_size=64: {DATA}.pipeline gives 96×96 pixels'),
    (SEGMENT, {'val_dataloader.dataset.pipeline.1': KEEP_RATIO}, 'Set data_preprocessor.test_cfg=dict(size_divisor=8)'),
    (CLASSIFY, {'model.data_preprocessor.to_rgb': False}, 'its mean is for red, green, blue: set to_rgb=True'),
    (CLASSIFY, {'param_scheduler.1.end': 140}, 'end of the schedule: 140; training stops before lr reaches'),
    (SEGMENT, {'param_scheduler.1.end': 50}, 'end of the schedule: 50; the last 150 iterations train at lr 0'),
    (CLASSIFY, {'param_scheduler.0.end': 100}, 'warm-up: 100'),
    (CLASSIFY, {'default_hooks.checkpoint.by_epoch': True}, 'only one checkpoint is written, at the end'),
    (CLASSIFY, dict(load_from='some.pth', model=HOST), 'some.pth: backbone.bn1.bias, '),
    (CLASSIFY, dict(auto_scale_lr=dict(base_batch_size=4096)), 'lr for this batch'),
]  # fmt: skip


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    """Return a folder with checkpoints that do not fit the small models."""
    folder = tmp_path_factory.mktemp('weights')
    backbone = dict(img_size=64, patch_size=8, rel_pos_bias='per_layer', layer_scale=0.1)
    short = BEiT(ARCH | dict(num_layers=3), out_type='avg_featmap', **backbone)
    contents = dict(
        short={f'backbone.{key}': value for key, value in short.state_dict().items()},
        alien={'stem.weight': torch.zeros(2)},
        some={'head.fc.weight': torch.zeros(10, 8)},
    )
    for name, content in contents.items():
        torch.save(dict(state_dict=content), folder / f'{name}.pth')
    return folder


CASES = [(case, True) for case in MISTAKES] + [(case, False) for case in REMARKS]


@pytest.mark.parametrize(('case', 'stops'), CASES, ids=[case[2] for case, _ in CASES])
def test_a_mistake_is_found_and_explained(case, stops, few_shapes, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(weights)
    name, options, expected = case
    cfg = small_config(name, few_shapes, tmp_path)
    before = describe(preflight(cfg))
    cfg.merge_from_dict(copy.deepcopy(options))
    found = [finding for finding in preflight(cfg) if str(finding) not in before]
    assert any(expected in str(each) and each.stops == stops for each in found), describe(found)
    assert len(found) <= 4, describe(found)  # several rules may find the same mistake


def test_all_findings_come_in_one_list_errors_first(few_shapes, tmp_path):
    cfg = small_config(CLASSIFY, few_shapes, tmp_path)
    cfg.merge_from_dict({'optim_wraper': {}, 'param_scheduler.1.end': 40, 'load_from': 'gone.pth'})
    findings = preflight(cfg)
    stops = [finding.stops for finding in findings]
    assert sum(stops) == 2 and stops == sorted(stops, reverse=True)
    assert format_list(cfg, findings).count('✗ ') == 2


def test_the_script_prints_the_list_and_does_not_train(tmp_path, monkeypatch, capsys):
    work, options = str(tmp_path / 'run'), ['--cfg-options', 'model.head.num_classes=5']
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, 'argv', ['train.py', str(CONFIGS[CLASSIFY]), '--work-dir', work, *options]
    )
    with pytest.raises(SystemExit, match='nothing was trained: fix the config, or pass --force'):
        runpy.run_path(str(ROOT / 'tools/train.py'), run_name='__main__')
    printed = ''.join(capsys.readouterr())
    for expected in ('✗ model.head.num_classes=5', 'data/quickstart/imagenet not found'):
        assert expected in printed
    assert not (tmp_path / 'run').exists()


def test_only_rank_0_checks_and_all_ranks_get_its_findings():
    store, calls = HashStore(), []
    findings = [Finding('a', 'b', 'c', 'd', False), Finding('e', 'f')]

    def check(rank: int) -> list[Finding]:
        return share_findings(store, rank, 4, lambda: calls.append(rank) or findings)

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(check, (3, 2, 1, 0))) == [findings] * 4
    assert calls == [0]


def test_targets_of_lora_are_no_types(few_shapes, tmp_path):
    cfg = small_config(CLASSIFY, few_shapes, tmp_path)
    targets = [dict(type='qkv'), dict(type='.*fc1')]
    cfg.model = dict(type='LoRAModel', module=cfg.model, alpha=1, rank=1, targets=targets)
    assert 'targets' not in str(describe(preflight(cfg)))


# -- single rules ----------------------------------------------------------------------------------

TOKENIZED = torch.ones(9 + 2, dtype=torch.double)  # sums, counts of two codes
TWO = torch.zeros(2, dtype=torch.int64)
PREDICTED = torch.ones(6 + 2, 2, dtype=torch.double)  # of masked and visible patches
RESULTS = [
    (dict(type='beit_mm.TokenizerMetric', vocab_size=2), TOKENIZED),
    (dict(type='beit_mm.MIMMetric'), PREDICTED),
    (dict(type='mmseg.IoUMetric', iou_metrics=['mIoU', 'mFscore']), (torch.ones(2),) * 4),
    (dict(type='mmpretrain.Accuracy', topk=(1, 2)), dict(pred_score=torch.ones(2), gt_label=TWO[:1])),
]  # fmt: skip


@pytest.mark.parametrize(('metric', 'result'), RESULTS)
def test_the_keys_that_a_metric_reports_are_known(metric, result):
    built = METRICS.build(metric)
    built.dataset_meta, built.results = dict(classes=['a', 'b']), [result]
    assert set(built.evaluate(1)) == set(reported_keys(metric))


def test_the_check_of_the_work_dir_leaves_no_files(tmp_path):
    assert list(check_work_dir(dict(work_dir=f'{tmp_path}/new/run'))) == []
    assert list(tmp_path.iterdir()) == []
