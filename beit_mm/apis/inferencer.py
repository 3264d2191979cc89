"""Inferencers for what mmpretrain and mmseg have none for: a tokenizer, pre-training's guesses, attention.

    from beit_mm.apis import TokenizerInferencer
    inferencer = TokenizerInferencer('configs/tokenizer/….py', 'work_dirs/…/….pth')
    inferencer('photos', batch_size=8, img_out_dir='seen', pred_out_dir='ids')['predictions'][0]['ids']

They follow mmengine's BaseInferencer: a path, a folder, an array (uint8 BGR [H, W, 3], as OpenMMLab reads files) or a list
of paths and arrays goes through the pipeline of `test_dataloader`. They return `predictions` (numbers and lists) and, if asked
for, `visualization` (uint8 RGB pictures).
"""

import json
import os
from collections import Counter
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.infer import BaseInferencer
from mmengine.registry import FUNCTIONS, TRANSFORMS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..checkpoint.loading import load_model
from ..data.guard import DECODERS
from ..data.reading import OTHER_CHANNELS, SUFFIXES, decode_image, read_bytes
from ..data.seeded import seeded
from ..models import BEiT, BEiTPretrainer, DiscreteVAE, TokenTarget
from ..models.attention import attention_of_blocks
from ..models.dvae_losses import psnr
from ..viz import draw
from ..viz.fill import filled
from ..viz.inputs import shown


class Inferencer(BaseInferencer):
    """Base class of the three. Subclasses check the model (`_check`), return one sample per image (`forward`) and draw it (`draw`).

    Arguments of a call:

    - `inputs`: path, folder (with its sub-folders), array, or a list of paths and arrays.
    - `batch_size`: images per forward pass.
    - `return_datasamples`: return samples, tensors on the CPU, instead of numbers and lists.
    - `seed`: of what the pipeline draws (masks), with the image's place in the list.
    - `return_vis`: draw pictures and return them as `visualization`, which is empty otherwise.
    - `img_out_dir`, `pred_out_dir`: write one picture (PNG) and one prediction (JSON) per image, under the image's name, in
      the same sub-folders.

    Raises FileNotFoundError for a path or a folder without images, TypeError or ValueError for an array that is no image.
    """

    preprocess_kwargs = {'seed'}  # noqa: RUF012, the metaclass reads sets
    visualize_kwargs = {'img_out_dir', 'return_vis'}  # noqa: RUF012
    postprocess_kwargs = {'pred_out_dir'}  # noqa: RUF012
    numbers: tuple[str, ...] = ()  # fields of a sample that go into its prediction

    def __init__(
        self,
        model: str | Path | Config,
        weights: str | Path,
        device: str | None = None,
        show_progress: bool = True,
    ):
        cfg = model if isinstance(model, Config) else Config.fromfile(str(model))
        super().__init__(
            cfg, str(weights), device, cfg.get('default_scope', 'beit_mm'), show_progress
        )

    def _init_model(self, cfg: Config, weights: str, device: str) -> nn.Module:
        model = load_model(cfg, weights).to(device)
        self._check(model)
        return model

    def _check(self, model: nn.Module) -> None:
        raise NotImplementedError

    # -- images in ---------------------------------------------------------------------------------------------------

    def _init_pipeline(self, cfg: Config) -> Compose:
        dataset = cfg.test_dataloader.dataset
        while 'pipeline' not in dataset:
            dataset = dataset['dataset']
        # Files are read by `_read`; there are no labels.
        loads = [
            step
            for step in dataset['pipeline']
            if str(step['type']).split('.')[-1].startswith('Load')
        ]
        self.decode = DECODERS[
            next((step['color_type'] for step in loads if 'color_type' in step), 'color')
        ]
        steps = [step for step in dataset['pipeline'] if step not in loads]
        with DefaultScope.overwrite_default_scope(self.scope):
            return Compose([TRANSFORMS.build(step) for step in steps])

    def _init_collate(self, cfg: Config):
        return FUNCTIONS.get(
            cfg.test_dataloader.get('collate_fn', dict(type='pseudo_collate'))['type']
        )

    def _init_visualizer(self, cfg: Config) -> None:
        return None

    def _inputs_to_list(self, inputs) -> list:
        if isinstance(inputs, (list, tuple)):
            return list(inputs)
        if isinstance(inputs, (str, Path)) and Path(inputs).is_dir():
            names = fileio.list_dir_or_file(str(inputs), list_dir=False, recursive=True)
            files = sorted(Path(inputs, name) for name in names if name.lower().endswith(SUFFIXES))
            if not files:
                raise FileNotFoundError(
                    f'{inputs} and its sub-folders have no images: expected files that end with {", ".join(SUFFIXES)}'
                )
            return files
        return [inputs]

    def preprocess(self, inputs: list, batch_size: int = 1, seed: int = 0):
        for start in range(0, len(inputs), batch_size):
            samples = []
            for i, image in enumerate(inputs[start : start + batch_size], start):
                with seeded(seed, i):
                    samples.append(self.pipeline(self._read(image)))
            yield self.collate_fn(samples)

    def _read(self, image) -> dict:
        path = None if isinstance(image, np.ndarray) else str(image)
        if path is not None:
            image = self.decode(path, read_bytes(path))[0]
        elif image.dtype != np.uint8:
            raise TypeError(f'an array of {image.dtype} was given: uint8 is needed, 0 … 255')
        elif (
            image.ndim not in (2, 3)
            or not image.size
            or (self.decode is decode_image and image.shape[2:] != (3,))
        ):
            raise ValueError(
                f'an array of shape {image.shape} was given: expected [H, W, 3], BGR. {OTHER_CHANNELS}'
            )
        return dict(img=image, img_path=path, img_shape=image.shape[:2], ori_shape=image.shape[:2])

    # -- results out -------------------------------------------------------------------------------------------------

    def draw(self, sample: BaseDataElement) -> list[np.ndarray]:
        """Pictures of a sample, of one height, left to right."""
        raise NotImplementedError

    def visualize(
        self, inputs: list, preds: list, img_out_dir: str = '', return_vis: bool = False
    ) -> list[np.ndarray]:
        pictures = []
        for sample, name in zip(preds, _names(inputs), strict=True):
            sample.set_metainfo(dict(name=name))
            if not img_out_dir and not return_vis:
                continue
            picture = np.concatenate([shown(each) for each in self.draw(sample)], 1)
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
        found = [{field: _plain(sample.get(field)) for field in self.numbers} for sample in preds]
        for sample, numbers in zip(preds, found if pred_out_dir else (), strict=False):
            path = Path(pred_out_dir, f'{sample.name}.json')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(numbers) + '\n')
        return dict(predictions=preds if return_datasamples else found, visualization=visualization)


def _names(inputs: list) -> list[str]:
    """Return one name per input: its path without suffix in the folder that holds all of them, or its index if it is an array.

    The index stands before a name that others have too.
    """
    paths = [None if isinstance(image, np.ndarray) else os.path.abspath(image) for image in inputs]
    folders = {os.path.dirname(path) for path in paths if path}
    root = os.path.commonpath(folders) if folders else ''
    names = [
        Path(os.path.relpath(path, root)).with_suffix('') if path else Path(f'{i:06d}')
        for i, path in enumerate(paths)
    ]
    count = Counter(names)
    return [
        str(name if count[name] == 1 else name.with_name(f'{i:06d}_{name.name}'))
        for i, name in enumerate(names)
    ]


def _plain(value: Tensor):
    return value.tolist() if isinstance(value, Tensor) else value


def _samples(fields: dict[str, Tensor]) -> list[BaseDataElement]:
    """Batches of fields → a sample an image."""
    rows = zip(*(value.cpu() for value in fields.values()), strict=True)
    return [BaseDataElement(**dict(zip(fields, row, strict=True))) for row in rows]


# -- the three ---------------------------------------------------------------------------------------------------------


class TokenizerInferencer(Inferencer):
    """Image → `ids` [h, w] of its tokens, and `psnr` (dB) of what is drawn from them; pictures: the image, its reconstruction."""

    numbers = ('ids', 'psnr')

    def _check(self, model: nn.Module) -> None:
        if not isinstance(model, DiscreteVAE) or model.decoder is None:
            raise ValueError(
                f'a DiscreteVAE with both halves is needed, this is a {type(model).__name__}'
            )

    @torch.no_grad()
    def forward(self, inputs: dict) -> list[BaseDataElement]:
        image = self.model.data_preprocessor(inputs, False)['inputs']
        ids = self.model.tokens(image)
        drawn = self.model.decode(ids)
        quality = torch.stack([psnr(*pair) for pair in zip(drawn, image, strict=True)])
        return _samples(dict(ids=ids, psnr=quality, image=image, reconstruction=drawn))

    def draw(self, sample: BaseDataElement) -> list[np.ndarray]:
        return [draw.to_uint8(picture.numpy()) for picture in (sample.image, sample.reconstruction)]


class FillInInferencer(Inferencer):
    """Image → `mask` [h, w], `ids` of its tokens and `guessed` ones, the likeliest where hidden, the true ones elsewhere.

    Pictures: what is seen, and guessed tokens decoded beside the true ones, at the size of the model's image.
    """

    numbers = ('mask', 'ids', 'guessed')

    def _check(self, model: nn.Module) -> None:
        if not isinstance(model, BEiTPretrainer) or not isinstance(model.target, TokenTarget):
            raise ValueError(
                f'a BEiTPretrainer of tokens is needed, this is a {type(model).__name__}'
            )

    @torch.no_grad()
    def forward(self, inputs: dict) -> list[BaseDataElement]:
        model, views = self.model, inputs['inputs']
        read = model.data_preprocessor(inputs, False)['inputs']
        ids = model.target(read)
        guessed = filled(ids, model.predict(read | dict(token_ids=ids)))
        mask = views.get('mask', torch.zeros_like(ids, dtype=torch.bool))
        return _samples(dict(mask=mask, ids=ids, guessed=guessed, image=views['patch_view']))

    @torch.no_grad()
    def draw(self, sample: BaseDataElement) -> list[np.ndarray]:
        image = sample.image.numpy().transpose(1, 2, 0)
        height, width = image.shape[:2]
        tokenizer = self.model.target.tokenizer
        ids = torch.stack([sample.guessed, sample.ids]).to(next(tokenizer.parameters()).device)
        decoded = [draw.to_uint8(picture.cpu().numpy()) for picture in tokenizer.decode(ids)]
        return [
            draw.hide(image, sample.mask.numpy()),
            *(mmcv.imresize(each, (width, height)) for each in decoded),
        ]


class AttentionInferencer(Inferencer):
    """Image → `attention` [heads, h, w]: how much the middle patch takes from each patch in the last block that is read.

    Of any model whose backbone is a BEiT. Pictures: the image, and the mean of the heads over it. For other patches and
    blocks `tools/visualize.py attention`.
    """

    numbers = ('attention',)

    def _check(self, model: nn.Module) -> None:
        if not isinstance(getattr(model, 'backbone', None), BEiT):
            raise ValueError(
                f'a model with a BEiT backbone is needed, this is a {type(model).__name__}'
            )

    @torch.no_grad()
    def forward(self, inputs: dict) -> list[BaseDataElement]:
        backbone, read = self.model.backbone, self.model.data_preprocessor(inputs, False)['inputs']
        image = read['patch_view'] if isinstance(read, dict) else read
        h, w = (side // backbone.patch_size for side in image.shape[-2:])
        middle = 1 + h // 2 * w + w // 2
        attention = attention_of_blocks(backbone, image, lambda a: a[:, :, middle, 1:])[
            -1
        ].unflatten(-1, (h, w))
        low, high = (
            bound(image, dim=(1, 2, 3), keepdim=True) for bound in (torch.amin, torch.amax)
        )
        return _samples(
            dict(attention=attention, image=(image - low) / (high - low).clamp_min(1e-6))
        )

    def draw(self, sample: BaseDataElement) -> list[np.ndarray]:
        image, mean = draw.to_uint8(sample.image.numpy()), sample.attention.mean(0).numpy()
        height, width = image.shape[:2]
        strength = mmcv.imresize(mean / mean.max(), (width, height), interpolation='bilinear')[
            ..., None
        ]
        return [image, (image * (0.25 + 0.75 * strength)).astype(np.uint8)]
