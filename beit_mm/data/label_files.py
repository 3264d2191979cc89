"""Reading of label maps: one number per pixel, as large as the image, with known classes."""

import numpy as np

from .image_files import (
    MAX_PIXELS,
    BadSample,
    apply_orientation,
    exif_orientation,
    open_image,
    read_bytes,
)

IGNORE = 255  # value of pixels without a label, in mmpretrain and mmseg
NUMBER_MODES = ('1', 'L', 'P', 'I', 'I;16', 'I;16B', 'I;16L')  # Pillow's modes with one channel


def read_labels(
    path: str,
    shown: tuple[int, int],
    orientation: int = 1,
    max_pixels: int = MAX_PIXELS,
    backend_args: dict | None = None,
) -> np.ndarray:
    """Read the values of a label map, [H, W], turned like its image. Raises BadSample.

    `shown` is (height, width) of the image after its EXIF `orientation` was applied. The size of a
    label map without an orientation tells whether it is already turned. If it cannot tell, the
    label map is refused.
    """
    with open_image(path, read_bytes(path, backend_args), max_pixels) as image:
        if image.mode not in NUMBER_MODES:
            expected = 'expected a class number per pixel (mode L or P)'
            raise BadSample(f'{path} has colors (mode {image.mode}), {expected}')
        own_orientation = exif_orientation(image)
        labels = apply_orientation(np.asarray(image), own_orientation)

    if orientation != 1 and own_orientation == 1:
        stored = shown[::-1] if orientation >= 5 else shown
        if stored == shown:
            raise BadSample(
                f'{path}: its image has the EXIF orientation {orientation}, and its size does not '
                'tell whether it is turned too. Turn the pixels of the image and remove its tag'
            )
        if labels.shape == stored:
            labels = apply_orientation(labels, orientation)
    if labels.shape != tuple(shown):
        sizes = [f'{width}×{height}' for height, width in (labels.shape, shown)]
        raise BadSample(f'{path} has {sizes[0]} pixels, expected {sizes[1]} as in its image')
    return labels


def to_classes(
    path: str,
    labels: np.ndarray,
    num_classes: int | None,
    reduce_zero_label: bool,
    label_map: dict[int, int] | None = None,
) -> np.ndarray:
    """Convert a label map to classes, uint8 [H, W], as mmseg's LoadAnnotations. Raises BadSample."""
    table = class_of_values(num_classes, reduce_zero_label, label_map)
    used = count_values(path, labels) > 0
    if wrong := np.flatnonzero(used & (table < 0)).tolist():
        expected = expected_values(len(label_map) if label_map else num_classes, reduce_zero_label)
        raise BadSample(f'{path} has the value {", ".join(map(str, wrong[:5]))}, {expected}')
    return table.astype(np.uint8)[labels.astype(np.uint8)]


def class_of_values(
    num_classes: int | None, reduce_zero_label: bool, label_map: dict[int, int] | None = None
) -> np.ndarray:
    """Return the class of each value 0 … 255: 255 if it is ignored, -1 if it has no class.

    Args:
        num_classes: None accepts every value.
        reduce_zero_label: 0 is unlabeled, and 1 is the first class.
        label_map: from the classes of the data set to those that the config chose.
    """
    table = np.arange(256)
    if reduce_zero_label:
        table = np.where(np.isin(table, (0, IGNORE)), IGNORE, table - 1)
    known = label_map or range(IGNORE if num_classes is None else num_classes)
    is_known = np.isin(table, [*known, IGNORE])
    if label_map:
        table = np.array([label_map.get(value, value) % 256 for value in table.tolist()])
    return np.where(is_known, table, -1)


def count_values(path: str, labels: np.ndarray) -> np.ndarray:
    """Return the number of pixels with each value 0 … 255. Raises BadSample for other values."""
    for value in (int(labels.min()), int(labels.max())):
        if not 0 <= value <= 255:
            raise BadSample(f'{path} has the value {value}, expected 0 … 255')
    return np.bincount(labels.ravel(), minlength=256)


def expected_values(num_classes: int | None, reduce_zero_label: bool) -> str:
    first, ignored = (1, '0 or 255') if reduce_zero_label else (0, '255')
    last = IGNORE - 1 if num_classes is None else first + num_classes - 1
    setting = f'reduce_zero_label={reduce_zero_label}'
    return f'expected {first} … {last} for classes, {ignored} for ignored pixels ({setting})'
