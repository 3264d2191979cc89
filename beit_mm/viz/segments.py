"""What a segmentor sees in an image, over the image; and where it is wrong."""

from inspect import signature
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope

from ..checkpoint.loading import channels_of, load_model
from ..data.guard import replace_loaders
from ..data.reading import IGNORE, decode_bands, decode_image, decode_labels, read_bytes, to_classes
from . import draw
from .tokens import colours


class Segmentor:
    """A config's model with a checkpoint's weights, and what its test data set knows: classes, palette, pipeline.

    Raises ValueError for a config of no segmentor, or weights that are not this model's.
    """

    def __init__(self, cfg: Config, checkpoint: str):
        if not str(cfg.model.get('type')).endswith('EncoderDecoder'):
            raise ValueError(
                f'{cfg.filename} is the config of a {cfg.model.get("type")}, needed is an EncoderDecoder'
            )
        dataset = cfg.test_dataloader.dataset
        while 'pipeline' not in dataset and 'dataset' in dataset:
            dataset = dataset.dataset
        self.scope, self.model = cfg.default_scope, load_model(cfg, checkpoint)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
                kind = registry.get(dataset.type)
            known = kind.METAINFO | dict(dataset.get('metainfo') or {})
            labels = [
                step for step in dataset.pipeline if str(step.type).endswith('LoadAnnotations')
            ]
            self.pipeline = Compose(
                [TRANSFORMS.build(step) for step in dataset.pipeline if step not in labels]
            )
        replace_loaders(self.pipeline.transforms)
        self.classes: list[str] = list(known['classes'])
        self.palette: list = known.get('palette') or colours(len(self.classes)).tolist()
        self.error_color = draw.color_apart(self.palette)
        # As mmseg's LoadAnnotations: the transform's own word counts, else the data set's.
        default = signature(kind).parameters.get('reduce_zero_label')
        own = dataset.get('reduce_zero_label', default and default.default)
        said = labels[0].get('reduce_zero_label') if labels else None
        self.reduce_zero_label = bool(own if said is None else said)

    @property
    def channels(self) -> int:
        """Channels of the images that the model reads."""
        return channels_of(self.model.backbone)

    @torch.no_grad()
    def predict(self, path: str) -> np.ndarray:
        """Class ids [H, W] at the size of the image."""
        with DefaultScope.overwrite_default_scope(self.scope):
            sample = self.model.test_step(pseudo_collate([self.pipeline(dict(img_path=path))]))[0]
        return sample.pred_sem_seg.data[0].cpu().numpy()

    def truth(self, path: str, image_path: str) -> np.ndarray:
        """A label map's class ids [H, W], 255 where it is not labelled. Raises BadSample, as in training."""
        decode = decode_image if self.channels == 3 else decode_bands
        image, orientation = decode(image_path, read_bytes(image_path))
        ids = decode_labels(path, read_bytes(path), image.shape[:2], orientation)
        return to_classes(path, ids, len(self.classes), self.reduce_zero_label)


def wrong(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Bool [H, W]: labelled, and predicted as something else."""
    return (truth != IGNORE) & (predicted != truth)


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Return the number of labelled pixels of each (true class, predicted class): int64 [classes, classes]."""
    labelled = truth != IGNORE
    pairs = truth[labelled].astype(np.int64) * classes + predicted[labelled]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Return each class's IoU from a confusion matrix: f64 [classes], NaN where it is neither true nor predicted."""
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return np.divide(matrix.diagonal(), union, out=np.full(len(matrix), np.nan), where=union > 0)


class Scene(NamedTuple):
    """What is drawn of one image: pictures under `columns`, `text` on them, `classes` that occur, `confusion` with labels."""

    columns: list[str]
    pictures: list[np.ndarray]
    text: str
    classes: set[int]
    confusion: np.ndarray | None


def scene(model: Segmentor, path: str, image: np.ndarray, labels: Path | None) -> Scene:
    """Draw the prediction over an image uint8 RGB and, if given, the truth of its label map and the errors."""
    truth = None if labels is None else model.truth(str(labels), path)
    predicted = model.predict(path)
    columns, pictures = (
        ['image', 'predicted'],
        [image, draw.overlay(image, predicted, model.palette)],
    )
    seen = set(np.unique(predicted).tolist())
    if truth is None:
        return Scene(columns, pictures, Path(path).name, seen, None)
    errors, labelled = wrong(predicted, truth), truth != IGNORE
    pictures += [
        draw.overlay(image, truth, model.palette),
        draw.errors(image, errors, labelled, model.error_color),
    ]
    matrix = confusion(predicted, truth, len(model.classes))
    share = 1 - errors.sum() / max(labelled.sum(), 1)
    text = f'{Path(path).name}: {share:.1%} of {labelled.sum()} labelled pixels right, mIoU {mean_iou(matrix)}'
    seen |= set(np.unique(truth[labelled]).tolist())
    return Scene([*columns, 'truth', 'errors'], pictures, text, seen, matrix)


def mean_iou(matrix: np.ndarray) -> str:
    """Return the mean IoU of the classes that are true or predicted, in words."""
    known = iou(matrix)[~np.isnan(iou(matrix))]
    return f'{known.mean():.1%} of {len(known)} classes' if len(known) else '–'
