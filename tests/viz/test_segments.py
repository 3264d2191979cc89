"""Pictures of a segmentor show what the test pipeline of its config predicts, and its errors."""

from pathlib import Path

import numpy as np
import pytest
import small
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from shapes import draw as shapes

from beit_mm.viz.images import overlay_classes
from beit_mm.viz.inputs import read_image
from beit_mm.viz.segments import Segmentor, mean_iou, measure_areas


@pytest.fixture
def cfg(tmp_path):
    shapes.write(
        tmp_path, train=10, val=10, size=64, segmentation_train=4, segmentation_val=2, jobs=1
    )
    return small.shrink(small.load('quickstart/segmentation'), tmp_path, tmp_path)


@pytest.fixture
def trained(cfg, tmp_path):
    """A model with random weights, and its checkpoint."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    return model, str(tmp_path / 'a.pth')


def test_prediction_and_truth_are_those_of_the_configs_data_set(cfg, trained):
    model, checkpoint = trained
    with DefaultScope.overwrite_default_scope('mmseg'):
        item = DATASETS.build(cfg.test_dataloader.dataset)[0]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([item]))[0]
    ours = Segmentor(cfg, checkpoint)
    predicted, truth = ours.predict(sample.img_path, sample.seg_map_path)
    assert len(np.unique(predicted)) > 1
    assert np.array_equal(predicted, sample.pred_sem_seg.data[0].numpy())
    assert np.array_equal(predicted, ours.predict(sample.img_path)[0])
    assert np.array_equal(truth, sample.gt_sem_seg.data[0].numpy())
    assert ours.classes[0] == 'background' and len(ours.palette) == 11

    image = read_image(sample.img_path)
    scene = ours.draw(sample.img_path, image, Path(sample.seg_map_path))
    assert scene['columns'] == ['image', 'predicted', 'truth', 'errors']
    assert scene['classes'] == set(np.unique(predicted)) | set(np.unique(truth)) - {255}
    assert np.array_equal(scene['pictures'][1], overlay_classes(image, predicted, ours.palette))
    correct = (predicted == truth)[truth != 255]
    assert f'{correct.mean():.1%} of {len(correct)} labelled pixels correct' in scene['summary']
    assert (
        scene['areas'][0].sum() == correct.sum()
        and f'mIoU {mean_iou(scene["areas"])}' in scene['summary']
    )
    assert ours.draw(sample.img_path, image, None)['columns'] == scene['columns'][:2]


def test_mean_iou_is_over_classes_that_are_labelled_or_predicted():
    predicted, truth = np.array([[0, 1, 1, 1]]), np.array([[0, 1, 2, 255]])
    areas = measure_areas(predicted, truth, 4)
    assert areas.tolist() == [[1, 1, 0, 0], [1, 2, 1, 0], [1, 1, 1, 0]]
    assert mean_iou(areas) == '50.0% of 3 classes' and mean_iou(0 * areas) == '–'


def test_another_model_is_an_error(cfg, trained):
    cfg.model.decode_head.num_classes = 7
    with pytest.raises(ValueError, match=r'a\.pth does not fit this EncoderDecoder'):
        Segmentor(cfg, trained[1])
    cfg.model.type = 'ImageClassifier'
    with pytest.raises(ValueError, match='config of ImageClassifier: expected EncoderDecoder'):
        Segmentor(cfg, trained[1])
