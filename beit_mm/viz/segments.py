"""Segmentation of images by a trained model, drawn over them, with errors where labels are given."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmseg.evaluation import IoUMetric

from ..checkpoint.loading import channels_of, load_model
from ..data.label_files import IGNORE
from ..data.loaders import ReadLabels, replace_loaders
from .images import overlay_classes, overlay_errors, pick_error_color
from .inputs import read_image, to_rgb
from .pages import write_page
from .tokens import code_colors


class Scene(NamedTuple):
    """Pictures of one image under their column heads.

    `areas` [3, K]: pixels per class of the intersection, of the union and of the labels.
    """

    columns: list[str]
    pictures: list[np.ndarray]
    summary: str
    classes: set[int]
    areas: torch.Tensor | None


class Segmentor:
    """The model of a config with weights, and the test data set's classes, palette and pipeline.

    Raises ValueError for a config without a segmentor, or weights of another model.
    """

    def __init__(self, cfg: Config, checkpoint: str):
        if not str(cfg.model.get('type')).endswith('EncoderDecoder'):
            raise ValueError(
                f'{cfg.filename} is a config of {cfg.model.get("type")}: expected EncoderDecoder'
            )
        dataset = cfg.test_dataloader.dataset
        while 'pipeline' not in dataset and 'dataset' in dataset:
            dataset = dataset.dataset
        self.scope = cfg.default_scope
        self.model = load_model(cfg, checkpoint)
        with DefaultScope.overwrite_default_scope(self.scope):
            self.dataset = DATASETS.build(dict(dataset, lazy_init=True))
        self.classes: list[str] = list(self.dataset.metainfo['classes'])
        own_palette = (dataset.get('metainfo') or {}).get('palette')
        if own_palette or self.dataset.METAINFO.get('palette'):
            self.palette: list = self.dataset.metainfo['palette']
        else:
            self.palette = code_colors(len(self.classes)).tolist()
        self.error_color = pick_error_color(self.palette)
        self.steps = self.dataset.pipeline.transforms
        replace_loaders(self.steps, len(self.classes))

    @property
    def channels(self) -> int:
        """Return the number of channels of the model's images."""
        return channels_of(self.model.backbone)

    @torch.no_grad()
    def predict(self, path: str, labels: str | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the predicted class ids [H, W] of an image file, and those of its label map.

        Unlabelled pixels are 255. Raises BadSample, as in training.
        """
        sample = dict(img_path=path, seg_fields=[])
        if labels:
            sample |= dict(
                seg_map_path=labels,
                label_map=self.dataset.label_map,
                reduce_zero_label=self.dataset.reduce_zero_label,
            )
        for step in self.steps:
            if labels or not isinstance(step, ReadLabels):
                sample = step(sample)
        with DefaultScope.overwrite_default_scope(self.scope):
            found = self.model.test_step(pseudo_collate([sample]))[0]
        truth = found.gt_sem_seg.data[0].numpy() if labels else None
        return found.pred_sem_seg.data[0].cpu().numpy(), truth

    def draw(self, path: str, image: np.ndarray, labels: Path | None) -> Scene:
        """Draw the prediction over an image, uint8 RGB, and with labels the truth and errors."""
        predicted, truth = self.predict(path, labels and str(labels))
        columns = ['image', 'predicted']
        pictures = [image, overlay_classes(image, predicted, self.palette)]
        classes = set(np.unique(predicted).tolist())
        if truth is None:
            return Scene(columns, pictures, Path(path).name, classes, None)

        labelled = truth != IGNORE
        wrong = labelled & (predicted != truth)
        pictures.append(overlay_classes(image, truth, self.palette))
        pictures.append(overlay_errors(image, wrong, labelled, self.error_color))
        areas = measure_areas(predicted, truth, len(self.classes))
        accuracy = 1 - wrong.sum() / max(labelled.sum(), 1)
        summary = (
            f'{Path(path).name}: {accuracy:.1%} of {labelled.sum()} labelled pixels correct, '
            f'mIoU {mean_iou(areas)}'
        )
        classes |= set(np.unique(truth[labelled]).tolist())
        return Scene([*columns, 'truth', 'errors'], pictures, summary, classes, areas)


def measure_areas(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> torch.Tensor:
    """Count pixels per class: [3, K] of the intersection, of the union and of the labels."""
    pair = torch.from_numpy(predicted), torch.from_numpy(truth)
    both, union, _, labels = IoUMetric.intersect_and_union(*pair, num_classes, IGNORE)
    return torch.stack([both, union, labels]).double()


def class_iou(areas: torch.Tensor) -> torch.Tensor:
    """Return the IoU per class [K], NaN for classes that are neither labelled nor predicted."""
    return areas[0] / areas[1]


def mean_iou(areas: torch.Tensor) -> str:
    """Describe the mean IoU of the classes that are labelled or predicted."""
    present = class_iou(areas)[areas[1] > 0]
    return f'{present.mean():.1%} of {len(present)} classes' if len(present) else '–'


def write_segments(
    path: Path,
    config: str,
    checkpoint: str,
    images: list[str],
    labels: Path | None = None,
    bands: list[int] | None = None,
) -> None:
    """Write a page about image files; `labels` is a folder of label maps NAME OF THE IMAGE.png."""
    model = Segmentor(Config.fromfile(config), checkpoint)
    scenes = []
    for file in images:
        label_map = labels and labels / f'{Path(file).stem}.png'
        image = to_rgb(read_image(file, model.channels), bands)
        scenes.append(model.draw(file, image, label_map))
        print(scenes[-1].summary)

    classes = sorted(set().union(*(scene.classes for scene in scenes)))
    colors = {model.classes[i]: _css(model.palette[i]) for i in classes}
    total, rows = '', []
    if labels:
        colors['errors: another class than the truth'] = _css(model.error_color)
        areas = sum(scene.areas for scene in scenes)
        total = f'all images: mIoU {mean_iou(areas)}'
        print(total)
        iou = class_iou(areas)
        rows = [(model.classes[i], f'{iou[i]:.1%}', f'{areas[2, i]:.0f}') for i in classes]
    write_page(
        path,
        'segments.html',
        title='What the segmentor sees',
        colors=colors,
        images=scenes,
        total=total,
        class_rows=rows,
    )


def _css(color: Sequence[int]) -> str:
    return f'rgb({",".join(map(str, color))})'
