"""The base class of this project's inferencers, which reads inputs and writes results."""

import os
from pathlib import Path

import mmcv
import mmengine
import numpy as np
import torch
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.infer import BaseInferencer
from mmengine.registry import FUNCTIONS, TRANSFORMS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn

from ..checkpoint.loading import load_model
from ..data.image_files import BANDS_ADVICE, SUFFIXES, read_image
from ..data.seeded import seeded
from ..utils.config_tree import find_dataset, kind
from ..viz.inputs import check_file, to_rgb


class Inferencer(BaseInferencer):
    """A BaseInferencer of mmengine. Subclasses check the model, predict a batch and draw samples.

    Arguments of a call:

    - `inputs`: path, folder with sub-folders, array (uint8 BGR [H, W, 3], as OpenMMLab reads
      files), or a list of paths and arrays.
    - `batch_size`: images per forward pass.
    - `return_datasamples`: return samples with tensors on the CPU instead of numbers and lists.
    - `seed`: seeds the random transforms (masks), together with the index of the image.
    - `return_vis`: return pictures (uint8 RGB) as `visualization`, which is empty otherwise.
    - `img_out_dir`, `pred_out_dir`: write one picture (PNG) and one prediction (JSON) per image,
      with the image's name, in the same sub-folders.

    Raises FileNotFoundError for a path that does not exist or a folder without images, TypeError
    or ValueError for an array that is no image.
    """

    preprocess_kwargs = {'seed'}  # noqa: RUF012, the metaclass reads sets
    visualize_kwargs = {'img_out_dir', 'return_vis'}  # noqa: RUF012
    postprocess_kwargs = {'pred_out_dir'}  # noqa: RUF012
    fields: tuple[str, ...] = ()  # the fields of a sample that are returned and written

    def __init__(
        self,
        model: str | Path | Config,
        weights: str | Path,
        device: str | None = None,
        show_progress: bool = True,
    ):
        cfg = model if isinstance(model, Config) else Config.fromfile(str(model))
        scope = cfg.get('default_scope', 'beit_mm')
        super().__init__(cfg, str(weights), device, scope, show_progress)

    def check_model(self, model: nn.Module) -> None:
        """Raise ValueError for a model that this inferencer cannot use."""
        raise NotImplementedError

    def draw(self, sample: BaseDataElement) -> list[np.ndarray]:
        """Return pictures of a sample from left to right. All have the same height."""
        raise NotImplementedError

    def _init_model(self, cfg: Config, weights: str, device: str) -> nn.Module:
        model = load_model(cfg, weights).to(device)
        self.check_model(model)
        return model

    def _init_pipeline(self, cfg: Config) -> Compose:
        # `_read` replaces the transforms that load files; there are no labels.
        self.color_type, steps = 'color', []
        for step in find_dataset(cfg.test_dataloader)['pipeline']:
            if kind(step).startswith('Load'):
                self.color_type = step.get('color_type', self.color_type)
            else:
                steps.append(step)
        with DefaultScope.overwrite_default_scope(self.scope):
            return Compose([TRANSFORMS.build(step) for step in steps])

    def _init_collate(self, cfg: Config):
        collate = cfg.test_dataloader.get('collate_fn', dict(type='pseudo_collate'))
        return FUNCTIONS.get(collate['type'])

    def _init_visualizer(self, cfg: Config) -> None:
        return None

    def _inputs_to_list(self, inputs) -> list:
        if isinstance(inputs, (str, Path)) and Path(inputs).is_dir():
            names = fileio.list_dir_or_file(str(inputs), list_dir=False, recursive=True)
            files = sorted(Path(inputs, name) for name in names if name.lower().endswith(SUFFIXES))
            if not files:
                raise FileNotFoundError(
                    f'{inputs} and its sub-folders have no images: expected files that end with '
                    f'{", ".join(SUFFIXES)}'
                )
            return files
        images = inputs if isinstance(inputs, list | tuple) else [inputs]
        for image in images:
            if not isinstance(image, np.ndarray):
                check_file(image)
        return images

    def preprocess(self, inputs: list, batch_size: int = 1, seed: int = 0):
        for start in range(0, len(inputs), batch_size):
            samples = []
            for i, image in enumerate(inputs[start : start + batch_size], start):
                with seeded(seed, i):
                    samples.append(self.pipeline(self._read(image)))
            yield self.collate_fn(samples)

    def _read(self, image) -> dict:
        path = None if isinstance(image, np.ndarray) else str(image)
        if path:
            image = read_image(path, self.color_type)[0]
        elif image.dtype != np.uint8:
            raise TypeError(f'the array has dtype {image.dtype}: expected uint8, 0 … 255')
        size, channels = image.shape[:2], image.shape[2:]
        bgr_expected = self.color_type == 'color'
        if image.ndim not in (2, 3) or not image.size or (bgr_expected and channels != (3,)):
            raise ValueError(
                f'the array has shape {image.shape}: expected [H, W, 3], BGR. {BANDS_ADVICE}'
            )
        return dict(img=image, img_path=path, img_shape=size, ori_shape=size)

    def visualize(
        self, inputs: list, preds: list, img_out_dir: str = '', return_vis: bool = False
    ) -> list[np.ndarray]:
        pictures = []
        for sample, name in zip(preds, output_names(inputs), strict=True):
            sample.set_metainfo(dict(name=name))
            if not img_out_dir and not return_vis:
                continue
            picture = np.concatenate([to_rgb(part) for part in self.draw(sample)], 1)
            if img_out_dir:
                mmcv.imwrite(picture[..., ::-1], str(Path(img_out_dir, f'{name}.png')))
            if return_vis:
                pictures.append(picture)
        return pictures

    def postprocess(
        self,
        preds: list,
        visualization: list,
        return_datasamples: bool = False,
        pred_out_dir: str = '',
    ) -> dict:
        found = [{field: sample.get(field).tolist() for field in self.fields} for sample in preds]
        if pred_out_dir:
            for sample, values in zip(preds, found, strict=True):
                mmengine.dump(values, Path(pred_out_dir, f'{sample.name}.json'))
        predictions = preds if return_datasamples else found
        return dict(predictions=predictions, visualization=visualization)


def output_names(inputs: list) -> list[str]:
    """Return a unique name per input: its path in the common folder of all, without the suffix.

    An array is named by its index. If two names are equal, all names start with their indices.
    """
    paths = [None if isinstance(image, np.ndarray) else os.path.abspath(image) for image in inputs]
    folders = [os.path.dirname(path) for path in paths if path]
    root = os.path.commonpath(folders) if folders else ''
    names = [
        Path(os.path.relpath(path, root)).with_suffix('') if path else Path(f'{i:06d}')
        for i, path in enumerate(paths)
    ]
    if len(set(names)) < len(names):
        names = [name.with_name(f'{i:06d}_{name.name}') for i, name in enumerate(names)]
    return list(map(str, names))


def make_samples(**fields: torch.Tensor) -> list[BaseDataElement]:
    """Split batches of fields into one sample per image, on the CPU."""
    rows = zip(*(values.cpu() for values in fields.values()), strict=True)
    return [BaseDataElement(**dict(zip(fields, row, strict=True))) for row in rows]
