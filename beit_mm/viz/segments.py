"""Predictions of a segmentor, drawn over images, and with label maps the errors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmseg.evaluation import IoUMetric

from ..checkpoint.loading import count_channels, load_model
from ..data.label_maps import IGNORE
from ..data.loaders import ReadLabels, replace_loaders
from ..utils.arguments import join_names
from ..utils.config_tree import find_dataset
from .images import magnify, outline_classes, overlay_errors, pick_error_color
from .inputs import read_model_image, to_rgb
from .pages import write_page

MIN_LABELED, MIN_CLASS = 0.05, 0.005  # shares of pixels below which an IoU is unreliable


class Segmentor:
    """A model with weights, and the classes, palette and pipeline of its config's test data set.

    Raises ValueError for a config without a segmentor, or weights of another model.
    """

    def __init__(self, cfg: Config, checkpoint: str):
        if not str(cfg.model.get('type')).endswith('EncoderDecoder'):
            raise ValueError(
                f'{cfg.filename} is a config of {cfg.model.get("type")}: expected EncoderDecoder'
            )
        dataset = find_dataset(cfg.test_dataloader)
        self.scope = cfg.default_scope
        self.model = load_model(cfg, checkpoint)
        with DefaultScope.overwrite_default_scope(self.scope):
            self.dataset = DATASETS.build(dict(dataset, lazy_init=True))
        self.classes, self.palette = (self.dataset.metainfo[k] for k in ('classes', 'palette'))
        self.error_color = pick_error_color(self.palette)
        replace_loaders(self.dataset.pipeline.transforms, len(self.classes))

    @torch.no_grad()
    def predict(
        self, path: str, labels: Path | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the predicted and the true class ids [H, W] of an image file and its label map.

        Unlabeled pixels are 255. Raises BadSample, as in training.
        """
        sample = dict(img_path=path, seg_map_path=labels, seg_fields=[])
        for name in ('label_map', 'reduce_zero_label'):
            sample[name] = getattr(self.dataset, name)
        for step in self.dataset.pipeline.transforms:
            if labels or not isinstance(step, ReadLabels):
                sample = step(sample)
        with DefaultScope.overwrite_default_scope(self.scope):
            found = self.model.test_step(pseudo_collate([sample]))[0]
        truth = found.gt_sem_seg.data[0].numpy() if labels else None
        return found.pred_sem_seg.data[0].cpu().numpy(), truth

    def draw(self, path: str, image: np.ndarray, labels: Path | None = None) -> dict:
        """Draw the prediction over an image, uint8 RGB, and with `labels` the truth and the errors.

        Returns the `name` of the image, `pictures` by name, the `classes` that occur, and with
        `labels` the `areas` of `measure_areas`, `mean_iou`, and `iou` of each class with its color.
        """
        predicted, truth = self.predict(path, labels)
        drawn = outline_classes(image, predicted, self.palette)
        found = dict(name=Path(path).name, classes=set(np.unique(predicted)), mean_iou='', iou={})
        found['pictures'] = dict(image=magnify(image), predicted=drawn)
        found['pixels'] = predicted.size
        if truth is not None:
            labeled = truth != IGNORE
            wrong = labeled & (predicted != truth)
            found['pictures'] |= dict(
                truth=outline_classes(image, truth, self.palette),
                errors=overlay_errors(image, wrong, labeled, self.error_color),
            )
            found['areas'] = areas = measure_areas(predicted, truth, len(self.classes))
            found['classes'] |= set(np.unique(truth[labeled]))
            found['mean_iou'] = mean_iou(areas)
            for i in areas[1].nonzero().flatten():
                iou = areas[0, i] / areas[1, i]
                found['iou'][f'{self.classes[i]} {iou:.1%}'] = self.palette[i]
        return found


def measure_areas(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> torch.Tensor:
    """Count the pixels per class in the intersection, in the union and in the labels: [3, K]."""
    pair = torch.from_numpy(predicted), torch.from_numpy(truth)
    intersection, union, _, labels = IoUMetric.intersect_and_union(*pair, num_classes, IGNORE)
    return torch.stack([intersection, union, labels]).double()


def mean_iou(areas: torch.Tensor) -> str:
    """Return the mean IoU of the classes that are labeled or predicted, as text."""
    intersection, union, _ = areas[:, areas[1] > 0]
    iou = intersection / union
    return f'mIoU {iou.mean():.1%} of {len(iou)} classes' if len(iou) else 'mIoU –'


def find_unreliable(areas: torch.Tensor, pixels: int, classes: Sequence[str]) -> list[str]:
    """Return what makes the IoU unreliable: classes with few pixels, and few labeled pixels."""
    labels = areas[2]
    labeled, remarks = labels.sum(), []
    if labeled < MIN_LABELED * pixels:
        remarks.append(f'{1 - labeled / pixels:.1%} of the pixels are ignored')
    rare = (labels > 0) & (labels < MIN_CLASS * labeled)
    if names := [classes[i] for i in rare.nonzero().flatten()]:
        remarks.append(f'less than {MIN_CLASS:.1%} of the labeled pixels are {join_names(names)}')
    return [f'{remark}: the IoU says little about other images' for remark in remarks]


def write_segments(
    path: Path,
    model: Segmentor,
    images: list[Path],
    labels: Path | None = None,
    bands: list[int] | None = None,
) -> None:
    """Write a page about image files. `labels` is a folder with a label map IMAGE.png per image."""
    scenes = []
    for file in images:
        image = to_rgb(read_model_image(file, count_channels(model.model.backbone)), bands)
        scenes.append(model.draw(str(file), image, labels and labels / f'{file.stem}.png'))
        print(f'{scenes[-1]["name"]}: {scenes[-1]["mean_iou"]}' if labels else scenes[-1]['name'])

    classes = sorted(set().union(*(scene['classes'] for scene in scenes)))
    colors = {model.classes[i]: model.palette[i] for i in classes}
    total, rows, remarks = '', [], []
    if labels:
        colors['errors: another class than the truth'] = model.error_color
        areas = sum(scene['areas'] for scene in scenes)
        total = f'all images: {mean_iou(areas)}'
        pixels = sum(scene['pixels'] for scene in scenes)
        remarks = find_unreliable(areas, pixels, model.classes)
        print(total, *remarks, sep='\n')
        for i in classes:
            both, union, labeled = areas[:, i].tolist()
            rows.append((model.classes[i], f'{both / union:.1%}', f'{labeled:.0f}'))
    values = dict(colors=colors, images=scenes, total=total, class_rows=rows, remarks=remarks)
    write_page(path, 'segments.html', title='What the segmentor sees', **values)
