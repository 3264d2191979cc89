"""Masked image modeling (https://arxiv.org/abs/2106.08254, sec. 2.3): `BEiTPretrainer.loss`.

Shapes: B images, N = h·w patches, D channels, M patches per image whose target is predicted.
"""

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..registry import MODELS
from ..utils.arguments import check_choices, check_integers
from .block import take_rows
from .dvae import DiscreteVAE
from .embeddings import grid_of
from .tracing import can_read_values


@MODELS.register_module()
class BEiTPretrainer(BaseModel):
    """Backbone, target and head of masked image modeling.

    `inputs` holds `patch_view` float [B, C, H, W], `token_view` float in [0, 1] or `token_ids`
    int64 [B, h, w], and `mask` bool [B, h, w] unless nothing is masked.

    Args:
        num_masked: masked patches per image, M, as in the mask transform. Smaller masks are
            allowed; the unused positions do not count in the loss.
    """

    def __init__(
        self,
        backbone: dict,
        target: dict,
        head: dict,
        num_masked: int = 75,
        data_preprocessor: dict | None = None,
    ):
        super().__init__(data_preprocessor or dict(type='beit_mm.MIMDataPreprocessor'))
        check_integers(1, num_masked=num_masked)
        self.num_masked = num_masked
        self.backbone = MODELS.build(backbone)
        self.target = MODELS.build(target)
        self.head = MODELS.build(head)
        if self.head.proj.out_features != self.target.channels:
            raise ValueError(
                f'the head predicts {self.head.proj.out_features} channels, the target has '
                f'{self.target.channels}: set model.head.out_channels={self.target.channels}'
            )
        self.register_buffer('target_fingerprint', torch.zeros((), dtype=torch.int64))

    def init_weights(self) -> None:
        """Initialize all parts; FileNotFoundError if the target needs a tokenizer and has none."""
        super().init_weights()
        self.target_fingerprint.fill_(self.target.fingerprint())

    def forward(self, inputs: dict, data_samples: list | None = None, mode: str = 'tensor'):
        modes = dict(loss=self.loss, predict=self.predict, tensor=self.extract_feat)
        check_choices(modes, mode=mode)
        return modes[mode](inputs, data_samples)

    def loss(self, inputs: dict, data_samples: list | None = None) -> dict[str, Tensor]:
        """Predict the target of the masked patches from the other patches (paper, eq. 1).

        With patch aggregation the loss is that of both outputs of the backbone, added (BEiT v2).
        """
        mask = inputs.get('mask')
        target = self._target_of_patches(inputs)
        patch_ids, valid, masked = self._select_patches(mask, target)
        features, *aggregated = self.backbone(inputs['patch_view'], mask, patch_ids)
        scored = {} if mask is None else dict(masked_accuracy=masked)
        if self.target.recover == 'all':
            scored['accuracy_all'] = valid
        return self.head.loss(features, take_rows(target, patch_ids), valid, scored, *aggregated)

    @torch.no_grad()
    def predict(self, inputs: dict, data_samples: list | None = None) -> list[BaseDataElement]:
        """Return one sample per image with both terms of the paper's eq. 3.

        Fields of the M predicted patches are `patch_ids`, `valid` (counts in the loss) and `hidden`
        (masked). Tokens have `target`, `prediction` (ids) and `log_p_tokens` (of the target, nats);
        pixels have `mse`. If the batch holds a token view and the tokenizer a decoder,
        `log_likelihood` is that of the image given its tokens (nats per image).
        """
        mask = inputs.get('mask')
        target = self._target_of_patches(inputs)
        patch_ids, valid, masked = self._select_patches(mask, target)
        features = self.backbone(inputs['patch_view'], mask, patch_ids)[0]
        target = take_rows(target, patch_ids)
        prediction = self.head(features).float()
        fields = dict(patch_ids=patch_ids, valid=valid, hidden=masked)
        if target.is_floating_point():
            fields['mse'] = (prediction - target).square().mean(-1)
        else:
            log_p = prediction.log_softmax(-1)
            fields['target'] = target
            fields['prediction'] = log_p.argmax(-1)
            fields['log_p_tokens'] = log_p.gather(-1, target[..., None])[..., 0]
            tokenizer, view = self.target.tokenizer_module, inputs.get('token_view')
            if view is not None and isinstance(tokenizer, DiscreteVAE) and tokenizer.can_decode:
                out = tokenizer.decode_maps(tokenizer.tokens(view))
                fields['log_likelihood'] = tokenizer.log_likelihood(out, view).sum((1, 2, 3))
        samples = data_samples or [BaseDataElement() for _ in target]
        for i, sample in enumerate(samples):
            sample.set_data({name: values[i] for name, values in fields.items()})
        return samples

    def extract_feat(self, inputs: dict, data_samples: list | None = None) -> tuple[Tensor, ...]:
        """Return the backbone's features of `patch_view`, masked if the inputs hold a mask."""
        return self.backbone(inputs['patch_view'], inputs.get('mask'))

    def _target_of_patches(self, inputs: dict) -> Tensor:
        """Return ids [B, N] or pixels [B, N, C·p²]."""
        target = self.target(inputs)
        grid = grid_of(inputs['patch_view'].shape, self.backbone.patch_size)
        if tuple(target.shape[1:3]) != grid:
            raise ValueError(
                f'the token grid is {tuple(target.shape[1:3])}, expected the patch grid {grid}: '
                'set TwoViews.token_size to the patch grid times the stride of the tokenizer'
            )
        return target.flatten(1, 2)

    def _select_patches(self, mask: Tensor | None, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the patches to predict, which of them count, and which are masked: [B, M] each."""
        if self.target.recover == 'all':
            patch_ids = torch.arange(target.size(1), device=target.device).expand(len(target), -1)
            valid = torch.ones_like(patch_ids, dtype=torch.bool)
            return patch_ids, valid, ~valid if mask is None else mask.flatten(1)
        if mask is None:
            raise ValueError(
                "recover='masked' needs a mask: add beit_mm.BlockwiseMask, or set recover='all'"
            )
        patch_ids, valid = select_masked_patches(mask, self.num_masked)
        return patch_ids, valid, valid


def select_masked_patches(mask: Tensor, num_masked: int) -> tuple[Tensor, Tensor]:
    """Return patch_ids int64 [B, M], masked patches first, and whether each one is masked, [B, M].

    The shapes are static, and nothing waits for the device. Raises ValueError if a mask has more
    than M = `num_masked` patches (on a GPU, an assertion on the device).
    """
    is_masked = mask.flatten(1)
    if num_masked > is_masked.size(1):
        raise ValueError(
            f'num_masked={num_masked} is more than the {is_masked.size(1)} patches of the grid'
        )
    fits = (is_masked.sum(1) <= num_masked).all()
    if not can_read_values(mask):
        torch._assert_async(fits, f'a mask has more than num_masked={num_masked} patches')
    elif not fits:
        raise ValueError(
            f'a mask has {is_masked.sum(1).max()} patches, the model reads '
            f'num_masked={num_masked}: set the same num_masked in the model and in the mask '
            'transform'
        )
    order = is_masked.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    patch_ids = order[:, :num_masked]
    return patch_ids, is_masked.gather(1, patch_ids)
