"""Inferencers for tokenizers, pre-trained models and attention maps.

    from beit_mm.apis import TokenizerInferencer
    inferencer = TokenizerInferencer('configs/tokenizer/….py', 'work_dirs/…/….pth')
    result = inferencer('photos', batch_size=8, img_out_dir='pictures', pred_out_dir='ids')
    result['predictions'][0]['ids']

Inferencers apply the pipeline of `test_dataloader`. mmpretrain and mmseg have inferencers for
classification and segmentation.
"""

import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from ..models import BEiT, BEiTPretrainer, Tokenizer, TokenTarget
from ..models.attention import attention_of_blocks
from ..models.dvae_losses import psnr
from ..viz.fill import draw_tokens, fill_in
from ..viz.images import gray_out, overlay_heat, to_uint8
from ..viz.inputs import to_rgb
from ..viz.tokens import color_tokens
from .base_inferencer import Inferencer, make_samples


class TokenizerInferencer(Inferencer):
    """Inferencer of `ids` [h, w], the tokens of an image.

    A tokenizer that decodes images has `psnr` (dB) of the reconstruction as well. Pictures: the
    image and its reconstruction, or else its tokens in colors.
    """

    def check_model(self, model: nn.Module) -> None:
        if not isinstance(model, Tokenizer):
            raise ValueError(f'the model is a {type(model).__name__}: expected a Tokenizer')
        self.fields = ('ids', 'psnr') if model.can_decode else ('ids',)

    @torch.no_grad()
    def forward(self, inputs: dict) -> list[BaseDataElement]:
        image = self.model.data_preprocessor(inputs, False)['inputs']
        found = dict(ids=self.model.tokens(image), image=image)
        if self.model.can_decode:
            found['reconstruction'] = self.model.decode(found['ids'])
            found['psnr'] = psnr(found['reconstruction'], image)
        return make_samples(**found)

    def draw(self, sample: BaseDataElement) -> list[np.ndarray]:
        image = to_uint8(sample.image.numpy())
        if 'reconstruction' in sample:
            return [image, to_uint8(sample.reconstruction.numpy())]
        return [image, color_tokens(sample.ids.numpy(), self.model.vocab_size, image.shape[:2])]


class FillInInferencer(Inferencer):
    """Inferencer of `mask` [h, w], `ids` [h, w] and `guessed` [h, w], the most likely masked ids.

    `ids` are the true tokens; `guessed` keeps them where the image is visible. Pictures: the
    visible patches, `guessed` and `ids` as `draw_tokens` shows them, at the size of the model's
    image.
    """

    fields = ('mask', 'ids', 'guessed')

    def check_model(self, model: nn.Module) -> None:
        if not isinstance(model, BEiTPretrainer) or not isinstance(model.target, TokenTarget):
            raise ValueError(
                f'the model is a {type(model).__name__}: expected a BEiTPretrainer with a '
                'TokenTarget'
            )

    @torch.no_grad()
    def forward(self, inputs: dict) -> list[BaseDataElement]:
        model = self.model
        batch = model.data_preprocessor(inputs, False)['inputs']
        ids = model.target(batch)
        mask = batch.get('mask', torch.zeros_like(ids, dtype=torch.bool))
        guessed = fill_in(model.backbone, model.head, batch['patch_view'], ids, mask)
        image = inputs['inputs']['patch_view']
        return make_samples(mask=mask, ids=ids, guessed=guessed, image=image)

    @torch.no_grad()
    def draw(self, sample: BaseDataElement) -> list[np.ndarray]:
        image = sample.image.numpy().transpose(1, 2, 0)
        tokenizer = self.model.target.tokenizer
        ids = torch.stack([sample.guessed, sample.ids])
        drawn = draw_tokens(tokenizer, ids, image.shape[:2])
        pictures = [mmcv.imresize(picture, image.shape[1::-1]) for picture in drawn]
        return [gray_out(image, sample.mask.numpy()), *pictures]


class AttentionInferencer(Inferencer):
    """Inferencer of `attention` [heads, h, w] of the middle patch in the last of `out_indices`.

    It takes any model with a BEiT backbone. Pictures: the image, and the mean of the heads over
    it. `tools/visualize.py attention` shows other patches and blocks.
    """

    fields = ('attention',)

    def check_model(self, model: nn.Module) -> None:
        if not isinstance(getattr(model, 'backbone', None), BEiT):
            raise ValueError(
                f'the model is a {type(model).__name__}: expected one with a BEiT backbone'
            )

    @torch.no_grad()
    def forward(self, inputs: dict) -> list[BaseDataElement]:
        backbone = self.model.backbone
        batch = self.model.data_preprocessor(inputs, False)['inputs']
        image = batch['patch_view'] if isinstance(batch, dict) else batch
        h, w = (side // backbone.patch_size for side in image.shape[-2:])
        middle = 1 + h // 2 * w + w // 2
        blocks = attention_of_blocks(backbone, image, lambda weights: weights[:, :, middle, 1:])
        low = image.amin((1, 2, 3), keepdim=True)
        high = image.amax((1, 2, 3), keepdim=True)
        visible = (image - low) / (high - low).clamp_min(1e-6)
        return make_samples(attention=blocks[-1].unflatten(-1, (h, w)), image=visible)

    def draw(self, sample: BaseDataElement) -> list[np.ndarray]:
        image = to_rgb(to_uint8(sample.image.numpy()))
        return [image, overlay_heat(image, sample.attention.mean(0).numpy())]
