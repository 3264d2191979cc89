"""What is drawn of a segmentor is what its config's own test pipeline predicts, and errors are where labels say so."""

from pathlib import Path

import numpy as np
import pytest
import small
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, DefaultScope
from shapes import draw as shapes

from beit_mm.viz import draw
from beit_mm.viz.inputs import read_image
from beit_mm.viz.segments import Segmentor, confusion, iou, mean_iou, scene, wrong


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('segments')
    shapes.write(
        folder, train=10, val=10, size=64, segmentation_train=4, segmentation_val=2, jobs=1
    )
    return folder


@pytest.fixture
def cfg(place, tmp_path):
    return small.shrink(small.load('quickstart/segmentation'), place, tmp_path)


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
    model, path = trained
    with DefaultScope.overwrite_default_scope('mmseg'):
        item = DATASETS.build(cfg.test_dataloader.dataset)[0]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([item]))[0]
    ours = Segmentor(cfg, path)
    image_path, label_path = sample.img_path, sample.seg_map_path
    predicted, truth = ours.predict(image_path), ours.truth(label_path, image_path)
    assert (
        np.array_equal(predicted, sample.pred_sem_seg.data[0].numpy())
        and len(np.unique(predicted)) > 1
    )
    assert np.array_equal(truth, sample.gt_sem_seg.data[0].numpy())
    assert ours.classes[0] == 'background' and len(ours.palette) == 11 and ours.reduce_zero_label

    image = read_image(image_path)
    columns, pictures, text, seen, matrix = scene(ours, image_path, image, Path(label_path))
    assert columns == ['image', 'predicted', 'truth', 'errors'] and seen == set(
        np.unique(predicted)
    ) | set(np.unique(truth)) - {255}
    assert np.array_equal(pictures[1], draw.overlay(image, predicted, ours.palette))
    right = (predicted == truth)[truth != 255].mean()
    assert f'{right:.1%} of {(truth != 255).sum()} labelled pixels right' in text
    assert (
        matrix.diagonal().sum() == right * (truth != 255).sum()
        and f'mIoU {mean_iou(matrix)}' in text
    )
    assert scene(ours, image_path, image, None)[0] == columns[:2]


def test_iou_is_that_of_the_classes_that_are_true_or_predicted():
    predicted, truth = np.array([[0, 1, 1, 1]]), np.array([[0, 1, 2, 255]])
    matrix = confusion(predicted, truth, 4)
    assert matrix.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_equal(iou(matrix), [1, 0.5, 0, np.nan])
    assert mean_iou(matrix) == '50.0% of 3 classes' and mean_iou(0 * matrix) == '–'


def test_errors_are_labelled_pixels_of_another_class_alone():
    predicted, truth = np.array([[0, 1], [2, 3]]), np.array([[0, 2], [255, 3]])
    assert wrong(predicted, truth).tolist() == [[False, True], [False, False]]
    image = np.full((2, 2, 3), 100, np.uint8)
    drawn = draw.errors(image, wrong(predicted, truth), truth != 255, (9, 200, 0))
    assert (
        drawn[1, 0].tolist() == [0, 0, 0]
        and drawn[0, 0].tolist() == drawn[1, 1].tolist() == [114] * 3
    )
    assert drawn[0, 1].tolist() == [round(0.2 * 114 + 0.8 * c) for c in (9, 200, 0)]


def test_another_model_is_an_error(cfg, trained):
    cfg.model.decode_head.num_classes = 7
    with pytest.raises(
        ValueError,
        match=r'a\.pth does not fit this EncoderDecoder\. .*of another shape: decode_head\.',
    ):
        Segmentor(cfg, trained[1])
    cfg.model.type = 'ImageClassifier'
    with pytest.raises(
        ValueError, match='is the config of a ImageClassifier, needed is an EncoderDecoder'
    ):
        Segmentor(cfg, trained[1])
