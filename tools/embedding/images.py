"""Images as the inputs of a backbone."""

import csv
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from beit_mm.data.image_files import BadSample
from beit_mm.viz.inputs import fit_size, normalize, read_model_image, resize
from beit_mm.viz.model_weights import ModelWeights


class Images(Dataset):
    """Image files for the backbone of a checkpoint, as in the test of a classifier.

    The shorter side is resized to `size` pixels, and the center is cropped to a square.
    """

    def __init__(self, paths: list[Path], weights: ModelWeights, size: int):
        self.paths, self.size = paths, size
        self.channels, self.normalization = weights.spec.in_channels, weights.normalization

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        """Return the index and the image [C, size, size], or why it cannot be read."""
        try:
            image = read_model_image(self.paths[index], self.channels)
        except BadSample as error:
            return index, str(error)
        image = resize(image, fit_size(image.shape[:2], self.size, 1))
        top, left = ((side - self.size) // 2 for side in image.shape[:2])
        image = image[top : top + self.size, left : left + self.size]
        return index, normalize(image, self.normalization)[0]


def collate(samples: list[tuple[int, Tensor | str]]) -> tuple[list[int], Tensor, dict[int, str]]:
    """Return the indices and images [B, C, H, W] of a batch, and the faults of the others."""
    images = {index: image for index, image in samples if isinstance(image, Tensor)}
    faults = {index: reason for index, reason in samples if isinstance(reason, str)}
    return list(images), torch.stack([*images.values()]) if images else torch.empty(0), faults


def read_classes(table: Path | None, names: list[str]) -> dict[str, str]:
    """Return image → class, from a CSV file with the columns image and label, or from folders.

    Raises ValueError if the table lacks the columns, or fewer than two classes have images.
    """
    if table is None:
        labels = {name: Path(name).parts[0] for name in names if len(Path(name).parts) > 1}
    else:
        with table.open(encoding='utf-8-sig', newline='') as file:
            rows = list(csv.DictReader(file))
        if rows and not {'image', 'label'} <= rows[0].keys():
            raise ValueError(f'{table} has the columns {", ".join(rows[0])}: expected image,label')
        labels = {row['image']: row['label'] for row in rows}
        labels = {name: labels[name] for name in names if name in labels}
    if len(set(labels.values())) < 2:
        source = table or 'the folders of the images'
        raise ValueError(
            f'{source}: expected images of at least two classes, one folder per class, or a table '
            'with the columns image and label'
        )
    return labels
