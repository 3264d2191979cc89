"""The size of images after a pipeline is known, or nothing is said about it."""

import pytest
from PIL import Image

from beit_mm.config_check.images import check_test_batch, size_after

CROP = dict(type='RandomCrop', crop_size=64)


@pytest.mark.parametrize(
    ('steps', 'size'),
    [
        ([dict(type='RandomResizedCrop', scale=64), dict(type='AutoAugment')], (64, 64)),
        ([dict(type='mmpretrain.EfficientNetCenterCrop', crop_size=64)], (64, 64)),
        ([dict(type='Resize', scale=(64, 32)), dict(type='RandomErasing')], (32, 64)),
        ([CROP, dict(type='RandomCutOut', n_holes=1)], (64, 64)),
        ([CROP, dict(type='ResizeEdge', scale=32)], (32, 32)),
        ([CROP, dict(type='Pad', size_divisor=32)], None),
        ([CROP, dict(type='RandomChoice', transforms=[])], None),
    ],
)
def test_the_size_after_a_pipeline_is_known_unless_a_step_may_change_it(steps, size):
    assert size_after(steps) == size


def test_validation_images_of_different_sizes_are_named(tmp_path):
    for height in (8, 16):
        Image.new('RGB', (8, height)).save(tmp_path / f'{height}.png')
    dataset = dict(data_root=str(tmp_path), data_prefix=dict(img_path='.'), pipeline=['read'])
    cfg = dict(default_scope='mmseg', val_dataloader=dict(batch_size=2, dataset=dataset))
    (finding,) = check_test_batch(cfg)
    assert 'has images of 8×8 and 16×8 pixels, which do not fit in one batch' in str(finding)
    dataset['pipeline'].append(dict(type='Resize', scale=(8, 8)))
    assert not list(check_test_batch(cfg))
