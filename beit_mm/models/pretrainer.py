"""Masked image modeling, BEiT's pre-training (https://arxiv.org/abs/2106.08254, sec. 2.3). `BEiTPretrainer.loss` is all of it."""

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..registry import MODELS
from ..utils.arguments import check_integers, check_numbers


@MODELS.register_module()
class MIMDataPreprocessor(BaseDataPreprocessor):
    """Views uint8 → float on the device: `patch_view` normalized by mean and std, `token_view` in [0, 1].

    Args:
        mean, std: of each channel, 0 … 255; three channels are RGB.

    Raises ValueError for unequal numbers of values, values that are not finite, or a std that is not positive.
    """

    def __init__(
        self, mean: tuple = (123.675, 116.28, 103.53), std: tuple = (58.395, 57.12, 57.375)
    ):
        super().__init__(non_blocking=True)
        for name, values in dict(mean=mean, std=std).items():
            if not isinstance(values, list | tuple) or not values or len(values) != len(mean):
                raise ValueError(
                    f'{name}={values!r}: expected one number per channel, 0 … 255, as many in mean as in std'
                )
            check_numbers(**{f'{name}[{i}]': value for i, value in enumerate(values)})
        if not all(value > 0 for value in std):
            raise ValueError(f'std={std!r}: images are divided by it, so give positive numbers')
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), False)

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        inputs = dict(data['inputs'])
        for name in ('patch_view', 'token_view'):
            if name in inputs and inputs[name].dtype != torch.uint8:
                raise ValueError(
                    f'{name} is {inputs[name].dtype}: expected uint8, 0 … 255, as PackViews gives it'
                )
        view = inputs['patch_view'].float()
        if view.size(1) != len(self.mean):
            raise ValueError(
                f'images have {view.size(1)} channels, data_preprocessor has mean and std of {len(self.mean)}: give one number per '
                "channel, and read other numbers than 3 with LoadImageFromFile(color_type='unchanged')"
            )
        inputs['patch_view'] = (view - self.mean) / self.std
        if 'token_view' in inputs:
            inputs['token_view'] = inputs['token_view'].float() / 255
        return dict(inputs=inputs, data_samples=data.get('data_samples'))


@MODELS.register_module()
class BEiTPretrainer(BaseModel):
    """Backbone, target and head of masked image modeling.

    `inputs`: `patch_view` f32 [B, C, H, W], `token_view` f32 in [0, 1] (or `token_ids` int64 [B, h, w]), and `mask` bool
    [B, h, w] unless nothing is hidden.

    Args:
        num_masked: hidden patches per image, M, as in the mask transform; places that a smaller mask leaves unused do not count.

    Raises ValueError when the head's width is not the target's, a mask hides more than `num_masked`, or the grids differ.
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
        self.backbone, self.target, self.head = (
            MODELS.build(backbone),
            MODELS.build(target),
            MODELS.build(head),
        )
        check_integers(1, num_masked=num_masked)
        self.num_masked = num_masked
        if self.head.proj.out_features != self.target.channels:
            raise ValueError(
                f'the head predicts {self.head.proj.out_features} channels, the target has {self.target.channels} '
                f"(a tokenizer's vocabulary, or 3·p² pixels): set model.head.out_channels={self.target.channels}"
            )
        self.register_buffer('target_fingerprint', torch.zeros((), dtype=torch.int64))

    def init_weights(self) -> None:
        super().init_weights()
        self.target_fingerprint.fill_(
            self.target.fingerprint()
        )  # a missing tokenizer stops the run here

    def forward(
        self, inputs: dict[str, Tensor], data_samples: list | None = None, mode: str = 'tensor'
    ):
        if mode not in ('loss', 'predict', 'tensor'):
            raise ValueError(f"mode={mode!r} is unknown: choose 'loss', 'predict' or 'tensor'")
        return dict(loss=self.loss, predict=self.predict, tensor=self.extract_feat)[mode](
            inputs, data_samples
        )

    def extract_feat(
        self, inputs: dict[str, Tensor], data_samples: list | None = None
    ) -> tuple[Tensor, ...]:
        """The backbone's features of `patch_view`, with the patches hidden that `mask`, if there is one, hides."""
        return self.backbone(inputs['patch_view'], inputs.get('mask'))

    def loss(
        self, inputs: dict[str, Tensor], data_samples: list | None = None
    ) -> dict[str, Tensor]:
        """Predict the target of the hidden patches from the others."""
        features, target, valid, _ = self._read(inputs)
        places = dict(masked_accuracy=valid)
        if self.target.recover == 'all':
            mask = inputs.get('mask')
            places = dict(accuracy_all=valid) | (
                {} if mask is None else dict(masked_accuracy=mask.flatten(1))
            )
        return self.head.loss(features, target, valid, places)

    def _read(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return features [B, M, D] and targets [B, M(, C)] of the places to predict, which of them count [B, M], and where they
        lie [B, M]."""
        mask, target = inputs.get('mask'), self.target(inputs)
        self._check_grid(inputs['patch_view'], target)
        patch_ids, valid = self._places(mask, target)
        (features,) = self.backbone(inputs['patch_view'], mask, patch_ids)
        target = target.flatten(1, 2)
        rows = (
            patch_ids if target.ndim == 2 else patch_ids[..., None].expand(-1, -1, target.size(-1))
        )
        return features, target.gather(1, rows), valid, patch_ids

    def _places(self, mask: Tensor | None, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.target.recover == 'all':
            patch_ids = torch.arange(
                target.shape[1] * target.shape[2], device=target.device
            ).expand(len(target), -1)
            return patch_ids, torch.ones_like(patch_ids, dtype=torch.bool)
        if mask is None:
            raise ValueError(
                "recover='masked' needs a mask: add beit_mm.BlockwiseMask to the pipeline, or recover='all'"
            )
        return select_masked_patches(mask, self.num_masked)

    def _check_grid(self, patch_view: Tensor, target: Tensor) -> None:
        grid = tuple(side // self.backbone.patch_size for side in patch_view.shape[-2:])
        if tuple(target.shape[1:3]) != grid:
            raise ValueError(
                f'the token grid is {tuple(target.shape[1:3])}, the patch grid {grid}: they must be equal. '
                "Resize the token view (TwoViews.token_size) to the patch grid times the tokenizer's stride"
            )

    # -- evaluation: both terms of the paper's eq. 3 ---------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, inputs: dict[str, Tensor], data_samples: list | None = None
    ) -> list[BaseDataElement]:
        """Return one sample per image, with fields of its M places: `patch_ids`, `valid` (they count in the loss) and `hidden`.

        Of tokens: `target` and `prediction` (ids) and `log_p_tokens` (of the target, nats); with a token view, and a
        tokenizer that has its decoder, also `log_likelihood` of the image given its tokens (nats per image). Of pixels:
        `mse`.
        """
        features, target, valid, patch_ids = self._read(inputs)
        prediction = self.head(features).float()
        hidden = valid
        if self.target.recover == 'all':
            hidden = inputs['mask'].flatten(1) if 'mask' in inputs else torch.zeros_like(valid)
        fields = dict(patch_ids=patch_ids, valid=valid, hidden=hidden)
        if target.is_floating_point():
            fields['mse'] = (prediction - target).square().mean(-1)
        else:
            fields |= dict(target=target, prediction=prediction.argmax(-1))
            fields['log_p_tokens'] = prediction.log_softmax(-1).gather(-1, target[..., None])[
                ..., 0
            ]
            if 'token_view' in inputs and self.target.tokenizer.decoder is not None:
                dvae, view = self.target.tokenizer, inputs['token_view']
                likelihood = dvae.log_likelihood(dvae.decode_maps(dvae.tokens(view)), view)
                fields['log_likelihood'] = likelihood.sum((1, 2, 3))
        samples = data_samples or [BaseDataElement() for _ in target]
        for i, sample in enumerate(samples):
            sample.set_data({name: values[i] for name, values in fields.items()})
        return samples


def select_masked_patches(mask: Tensor, num_masked: int) -> tuple[Tensor, Tensor]:
    """Mask bool [B, h, w] → indices int64 [B, M] of the hidden patches first, and bool [B, M], which of them are hidden.

    Static shapes, no host sync. Raises ValueError when a mask hides more than `num_masked` (on a GPU a device assertion).
    """
    flat = mask.flatten(1)
    if num_masked > flat.size(1):
        raise ValueError(
            f'num_masked={num_masked} is more than the {flat.size(1)} patches of the grid'
        )
    within = (flat.sum(1) <= num_masked).all()
    if mask.device.type == 'cpu':
        if not within:
            raise ValueError(
                f'a mask hides {flat.sum(1).max()} patches, the model reads num_masked={num_masked}: set the same '
                'num_masked in the model and in the mask transform'
            )
    else:
        torch._assert_async(within, f'a mask hides more than num_masked={num_masked} patches')
    patch_ids = flat.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :num_masked]
    return patch_ids, flat.gather(1, patch_ids)
