"""Pictures of a segmentor show what the test pipeline of its config predicts, and its errors."""

from pathlib import Path

import numpy as np
import pytest
import small
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from shapes import draw as shapes

from beit_mm.checkpoint.loading import load_model
from beit_mm.viz.images import outline_classes
from beit_mm.viz.inputs import read_model_image
from beit_mm.viz.segments import Segmentor, find_unreliable, mean_iou, measure_areas


def test_prediction_and_truth_are_those_of_the_configs_data_set(tmp_path):
    sizes = dict(train=10, val=10, size=64, segmentation_train=4, segmentation_val=2)
    shapes.draw_dataset(tmp_path, **sizes, jobs=1)
    cfg, checkpoint = small.with_weights('quickstart/segmentation', tmp_path, tmp_path)
    item = DATASETS.build(cfg.test_dataloader.dataset)[0]
    with torch.no_grad():
        sample = load_model(cfg, checkpoint).test_step(pseudo_collate([item]))[0]
    ours = Segmentor(cfg, str(checkpoint))
    predicted, truth = ours.predict(sample.img_path, sample.seg_map_path)
    assert len(np.unique(predicted)) > 1
    assert np.array_equal(predicted, sample.pred_sem_seg.data[0].numpy())
    assert np.array_equal(predicted, ours.predict(sample.img_path)[0])
    assert np.array_equal(truth, sample.gt_sem_seg.data[0].numpy())
    assert ours.classes[0] == 'background' and len(ours.palette) == 11

    image = read_model_image(sample.img_path)
    scene = ours.draw(sample.img_path, image, Path(sample.seg_map_path))
    assert list(scene['pictures']) == ['image', 'predicted', 'truth', 'errors']
    assert scene['classes'] == set(np.unique(predicted)) | set(np.unique(truth)) - {255}
    shown = outline_classes(image, predicted, ours.palette)
    assert np.array_equal(scene['pictures']['predicted'], shown)
    labeled = truth != 255
    assert scene['areas'][0].sum() == (predicted == truth)[labeled].sum()
    expected = {}
    for i in np.union1d(predicted[labeled], truth[labeled]):
        of_class = (predicted[labeled] == i), (truth[labeled] == i)
        iou = np.logical_and(*of_class).sum() / np.logical_or(*of_class).sum()
        expected[f'{ours.classes[i]} {iou:.1%}'] = ours.palette[i]
    assert scene['iou'] == expected and scene['mean_iou'] == mean_iou(scene['areas'])
    assert list(ours.draw(sample.img_path, image)['pictures']) == ['image', 'predicted']

    cfg.model.decode_head.num_classes = 7
    with pytest.raises(ValueError, match=r'model\.pth does not fit this EncoderDecoder'):
        Segmentor(cfg, str(checkpoint))


def test_mean_iou_is_over_classes_that_are_labelled_or_predicted():
    predicted, truth = np.array([[0, 1, 1, 1]]), np.array([[0, 1, 2, 255]])
    areas = measure_areas(predicted, truth, 4)
    assert areas.tolist() == [[1, 1, 0, 0], [1, 2, 1, 0], [1, 1, 1, 0]]
    assert mean_iou(areas) == 'mIoU 50.0% of 3 classes' and mean_iou(0 * areas) == 'mIoU –'


def test_few_pixels_make_an_iou_unreliable():
    names = ['sky', 'cat', 'dog']
    areas = torch.tensor([[0, 0, 0], [0, 0, 0], [9000, 46, 954]]).double()
    (rare,) = find_unreliable(areas, 20_000, names)
    assert rare.startswith('less than 0.5% of the labeled pixels are cat:')
    ignored, _ = find_unreliable(areas, 200_001, names)
    assert ignored.startswith('95.0% of the pixels are ignored:')
    even = torch.tensor([[0, 0, 0], [0, 0, 0], [9000, 50, 950]]).double()
    assert find_unreliable(even, 200_000, names) == []
