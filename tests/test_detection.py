"""BEiT in a detector of MMDetection: it trains on boxes and predicts them, without compiled ops of mmcv."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import small
import torch
from mmengine.config import Config
from shapes import draw as shapes

from beit_mm.engine.launch import build_runner
from beit_mm.utils import packages

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs/detection/beit-base_gfl_8xb2-amp-12e_coco-640px.py'

pytestmark = [
    pytest.mark.usefixtures('unformatted'),
    pytest.mark.skipif(
        not packages.is_installed('mmdet'),
        reason='mmdet is not installed: `bash tools/test.sh --stack detection` installs it',
    ),
]
SIDE = 128


def find_boxes(labels: np.ndarray):
    """Yield (class 0 … 9, [x, y, width, height]) of each object in a label map of Shapes."""
    for label in range(2, labels.max() + 1):  # 0 is unlabeled, 1 the background
        stats = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))[2]
        for *box, area in stats[1:].tolist():
            if area > 16:
                yield label - 2, box


@pytest.fixture(scope='module')
def coco(tmp_path_factory) -> Path:
    """Return a folder of four scenes in COCO's layout."""
    out, images, annotations = tmp_path_factory.mktemp('coco'), [], []
    for number in range(4):
        pixels, labels, _ = shapes.scene(0, number, SIDE)
        cv2.imwrite(str(out / f'{number}.png'), pixels[..., ::-1])
        images.append(dict(id=number, file_name=f'{number}.png', width=SIDE, height=SIDE))
        for label, box in find_boxes(labels):
            annotation = dict(id=len(annotations) + 1, image_id=number, category_id=label, bbox=box)
            annotations.append(annotation | dict(area=box[2] * box[3], iscrowd=0))
    assert len(annotations) > 8
    categories = [dict(id=label, name=name) for label, name in enumerate(shapes.SPECIES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (out / 'boxes.json').write_text(json.dumps(content))
    return out


def toy(coco: Path, work_dir: Path) -> Config:
    cfg = Config.fromfile(CONFIG)
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    small.shrink_sizes(cfg.model)
    cfg.model.backbone.img_size = SIDE
    cfg.model.neck[1].update(in_channels=[32] * 4, out_channels=64)
    cfg.model.bbox_head.update(
        num_classes=len(shapes.SPECIES), in_channels=64, feat_channels=64, stacked_convs=1
    )
    cfg.model.test_cfg.score_thr = 0.0  # or two iterations find nothing
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        dataset = small.find_dataset(loader)
        dataset.update(data_root=str(coco), ann_file='boxes.json', data_prefix=dict(img=''))
        dataset.metainfo = dict(classes=tuple(shapes.SPECIES))
        for node in small.nodes(dataset.pipeline):
            if 'scale' in node:
                node.scale = (SIDE, SIDE)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(coco / 'boxes.json')
    cfg.train_cfg.max_epochs = 1
    return cfg


def test_a_detector_learns_four_scenes(coco, tmp_path):
    cfg = toy(coco, tmp_path)
    cfg.model.backbone.patch_embed_std = 0.2  # a short run
    cfg.optim_wrapper.optimizer.lr = 2e-3
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20)]
    cfg.train_cfg.update(max_epochs=80, val_interval=80)
    cfg.default_hooks.checkpoint.interval = 80
    runner = build_runner(cfg)
    runner.train()
    trained = runner.optim_wrapper.optimizer.state
    assert all(parameter in trained for parameter in runner.model.parameters())
    assert runner.message_hub.get_scalar('val/coco/bbox_mAP').current() > 0.6


def test_the_pyramid_of_the_config_at_full_size():
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        features = model.extract_feat(torch.zeros(1, 3, 640, 640))
    sides = [640 // stride for stride in (8, 16, 32, 64, 128)]
    assert [feature.shape for feature in features] == [(1, 256, side, side) for side in sides]
