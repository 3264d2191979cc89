"""Transforms that read images and label maps correctly, or raise BadSample.

They replace the loaders of mmcv and mmseg in data sets that are already built, because inferencers
of mmpretrain and mmseg look for the original names in configs.
"""

from collections.abc import Iterator

from mmcv.transforms import BaseTransform, LoadImageFromFile, TestTimeAug
from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from .image_files import COLOR_TYPES, MAX_PIXELS, BadSample, decoding, read_image, read_shape
from .label_maps import read_labels, to_classes

MMSEG_LOADER = 'mmseg.datasets.transforms.loading.LoadAnnotations'


class CheckLabel(BaseTransform):
    """Transform that raises BadSample for class labels outside of 0 … `num_classes` - 1."""

    def __init__(self, num_classes: int | None):
        self.num_classes = num_classes

    def transform(self, results: dict) -> dict:
        label = results.get('gt_label')
        if label is None:
            return results
        for value in label if isinstance(label, list | tuple) else (label,):
            if value < 0 or (self.num_classes is not None and value >= self.num_classes):
                last = '' if self.num_classes is None else self.num_classes - 1
                path = results.get('img_path')
                raise BadSample(f'{path} has the label {value}, expected 0 … {last}')
        return results


class ReadImage(BaseTransform):
    """Transform in the place of mmcv's LoadImageFromFile; also adds `exif_orientation`."""

    channels: int | None = None  # expected; mmpretrain and mmseg repeat a single channel silently

    def __init__(self, loader: LoadImageFromFile, max_pixels: int):
        self.loader, self.max_pixels = loader, max_pixels

    def transform(self, results: dict) -> dict:
        path, loader = results['img_path'], self.loader
        image, results['exif_orientation'] = read_image(
            path, loader.color_type, self.max_pixels, loader.backend_args
        )
        channels = image.shape[2] if image.ndim == 3 else 1
        if self.channels not in (None, channels):
            expected = f'expected {self.channels} as in mean and std of data_preprocessor'
            raise BadSample(f'{path} has {channels} channels, {expected}')
        results['img'] = image.astype('float32') if loader.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


class ReadLabels(BaseTransform):
    """Transform in the place of mmseg's LoadAnnotations: adds `gt_seg_map`; see `to_classes`."""

    def __init__(self, loader: BaseTransform, num_classes: int | None, max_pixels: int):
        self.loader, self.num_classes, self.max_pixels = loader, num_classes, max_pixels

    def transform(self, results: dict) -> dict:
        path, reduce_zero = results['seg_map_path'], results['reduce_zero_label']
        if self.loader.reduce_zero_label not in (None, reduce_zero):
            values = f'{reduce_zero} in the data set and {not reduce_zero} in LoadAnnotations'
            raise ValueError(f'reduce_zero_label is {values}: make them equal')
        orientation, image = results.get('exif_orientation'), results['img_path']
        if not orientation and (read_shape(image) or (None, 1))[1] != 1:  # a loader was kept
            given = f'{image} has an EXIF orientation, and its loader may have turned it'
            raise BadSample(f'{given}. Turn the pixels and remove the tag')
        labels = read_labels(
            path, results['ori_shape'], orientation or 1, self.max_pixels, self.loader.backend_args
        )
        results['gt_seg_map'] = to_classes(
            path, labels, self.num_classes, reduce_zero, results.get('label_map')
        )
        results['seg_fields'].append('gt_seg_map')
        return results


def replace_loaders(
    steps: list, num_classes: int | None = None, max_pixels: int = MAX_PIXELS
) -> None:
    """Replace loaders in place, except loaders with settings that `ReadImage` does not have."""
    for branch in branches(steps):
        for i, step in enumerate(branch):
            if type(step) is LoadImageFromFile:
                is_stock = step.imdecode_backend == 'cv2' and step.file_client_args is None
                if is_stock and not step.ignore_empty and step.color_type in COLOR_TYPES:
                    branch[i] = ReadImage(step, max_pixels)
            elif (
                f'{type(step).__module__}.{type(step).__name__}' == MMSEG_LOADER
                and step.imdecode_backend == 'pillow'  # its default
            ):
                branch[i] = ReadLabels(step, num_classes, max_pixels)


def branches(steps: list) -> Iterator[list]:
    """Yield the steps of a pipeline, and those of each branch of test-time augmentation."""
    yield steps
    for step in steps:
        if isinstance(step, TestTimeAug):
            for branch in step.subroutines:
                yield from branches(branch.transforms)


def leaves(dataset: Dataset) -> Iterator[BaseDataset]:
    """Yield the data sets with a pipeline that are inside of all wrappers."""
    if isinstance(dataset, BaseDataset):
        yield dataset
        return
    for inner in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if inner is not None:
            yield from leaves(inner)


def read_sample(dataset: BaseDataset, index: int) -> dict:
    """Run the loaders of a sample, no other transforms. Raises BadSample as training would."""
    results = dataset.get_data_info(index)
    for steps in branches(dataset.pipeline.transforms):
        for step in steps:
            if isinstance(step, ReadLabels) and 'gt_seg_map' in results:
                continue  # another branch has read it
            if isinstance(step, CheckLabel | ReadImage | ReadLabels):
                results = step.transform(results)
            elif isinstance(step, LoadImageFromFile):
                with decoding(results['img_path']):
                    results = step.transform(results)
    return results
