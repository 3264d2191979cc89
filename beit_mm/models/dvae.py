"""Discrete VAE of DALL-E (https://arxiv.org/abs/2102.12092, app. A), BEiT's tokenizer.

Shapes: B images [B, C, H, W] in [0, 1], K codes, ids [B, h, w] with h = H / stride.
"""

import math

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..registry import MODELS, WEIGHT_INITIALIZERS
from ..utils.arguments import check_choices, check_integers, check_numbers, pretrained_checkpoint
from .codebook import init_codebook
from .distributed import mean_over_ranks
from .dvae_losses import (
    LIKELIHOODS,
    at_least_float32,
    kl_to_uniform,
    map_pixels,
    psnr,
    unmap_pixels,
)
from .dvae_networks import build_decoder, build_encoder
from .histogram import histogram, perplexity
from .tracing import can_read_values


@MODELS.register_module()
class DiscreteVAE(BaseModel):
    """Discrete VAE; the defaults are those of DALL-E's published tokenizer.

    In training, codes are drawn by Gumbel-softmax, with a uniform prior. The loss is
    −ELBO / (C·H·W) in nats per subpixel, so `beta` has the paper's scale (β / 192 per token).

    Args:
        vocab_size: number of codes, K.
        width: channels of the first group; doubled from group to group.
        groups: groups of residual blocks; the stride is 2^(groups − 1).
        blocks: residual blocks per group.
        width_in: channels of the decoder after the codebook (`n_init` in the official code).
        in_channels: channels of the images, C.
        likelihood: 'logit_laplace' (the paper's) or 'mse'.
        beta, temperature: weight of the KL, and temperature of the Gumbel-softmax; `beit_mm.Anneal`
            hooks change them.
        information_weight, marginal_weight: weights of the two parts of the KL (`kl_to_uniform`).
            Equal weights are the paper's objective.
        init_cfg: `dict(type='Pretrained', checkpoint=…)`; every key must match.

    Raises ValueError for wrong settings, for image sides that are no multiple of the stride, and
    for pixels outside [0, 1].
    """

    def __init__(
        self,
        vocab_size: int = 8192,
        width: int = 256,
        groups: int = 4,
        blocks: int = 2,
        width_in: int = 128,
        in_channels: int = 3,
        likelihood: str = 'logit_laplace',
        beta: float = 0.0,
        temperature: float = 1.0,
        information_weight: float = 1.0,
        marginal_weight: float = 1.0,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        check_choices(LIKELIHOODS, likelihood=likelihood)
        check_integers(2, vocab_size=vocab_size)
        check_integers(4, width=width)
        check_integers(1, groups=groups, blocks=blocks, width_in=width_in, in_channels=in_channels)
        check_numbers(beta=beta)
        check_numbers(information_weight=information_weight, marginal_weight=marginal_weight)
        check_numbers(1e-6, temperature=temperature)
        self.vocab_size = vocab_size
        self.stride = 2 ** (groups - 1)
        self.in_channels = in_channels
        self.log_likelihood = LIKELIHOODS[likelihood]
        self.beta = beta
        self.temperature = temperature
        self.information_weight = information_weight
        self.marginal_weight = marginal_weight
        self.encoder = build_encoder(width, groups, blocks, vocab_size, in_channels)
        self.decoder = build_decoder(width, groups, blocks, vocab_size, width_in, in_channels)
        self._reset_parameters()

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        modes = dict(loss=self.loss, predict=self.predict, tensor=self.logits)
        check_choices(modes, mode=mode)
        return modes[mode](inputs, data_samples)

    def loss(self, images: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """Return −ELBO per subpixel of images in [0, 1], its terms, and the use of the codebook."""
        logits = at_least_float32(self.logits(images))
        codes = F.gumbel_softmax(logits, self.temperature, dim=1)
        out = self.decoder(codes.to(self.decoder.input.weight.dtype))
        reconstruction = -self.log_likelihood(out, images).mean()
        information, marginal = kl_to_uniform(logits.log_softmax(1))
        kl = self.information_weight * information + self.marginal_weight * marginal
        subpixels_per_token = self.in_channels * self.stride**2
        counts = mean_over_ranks(histogram(logits.argmax(1), self.vocab_size))
        elbo = -(reconstruction + (information + marginal) / subpixels_per_token)
        return dict(
            loss=reconstruction + self.beta / subpixels_per_token * kl,
            elbo=elbo.detach(),
            reconstruction=reconstruction.detach(),
            information=information.detach(),
            marginal_kl=marginal.detach(),
            codes_used=(counts > 0).sum().float(),
            perplexity=perplexity(counts),
        )

    @torch.no_grad()
    def predict(self, images: Tensor, data_samples: list | None = None) -> list[BaseDataElement]:
        """Return one sample per image, which says how well its tokens describe it.

        Fields: `ids` [h, w], `reconstruction` [C, H, W], `log_likelihood` and `kl` in nats per
        image, `psnr` and `psnr_mean_color` (of an image of its mean color) in dB.
        """
        logits = at_least_float32(self.logits(images))
        ids = logits.argmax(1)
        log_q = logits.log_softmax(1)
        kl = ((log_q.exp() * log_q).sum(1) + math.log(self.vocab_size)).sum((1, 2))
        out = self.decode_maps(ids)
        log_likelihood = self.log_likelihood(out, images).sum((1, 2, 3))
        reconstructions = self._reconstruct(out)
        mean_colors = images.mean((2, 3), keepdim=True).expand_as(images)
        samples = data_samples or [BaseDataElement() for _ in images]
        for i, sample in enumerate(samples):
            fields = dict(
                ids=ids[i],
                reconstruction=reconstructions[i],
                log_likelihood=log_likelihood[i],
                kl=kl[i],
                psnr=psnr(reconstructions[i], images[i]),
                psnr_mean_color=psnr(mean_colors[i], images[i]),
            )
            sample.set_data(fields)
        return samples

    def logits(self, images: Tensor, data_samples: list | None = None) -> Tensor:
        """Return unnormalized log q(z|x) [B, K, h, w] of images in [0, 1]."""
        return self.encoder(self._map_images(images))

    @torch.no_grad()
    def tokens(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return the most likely ids int64 [B, h, w] of images in [0, 1].

        With `dtype` bfloat16 or float16, all but the last convolution are computed in it, as in
        DALL-E's own code on a GPU. Rounding the logits as well would create ties between codes, and
        about 20 % of the ids would change.
        """
        return self.argmax_ids(self._map_images(images), dtype)

    def argmax_ids(self, mapped: Tensor, dtype: torch.dtype | None) -> Tensor:
        """Return the ids of mapped images; `TokenTarget.compile` compiles this part of `tokens`."""
        if dtype is None:
            return self.encoder(mapped).argmax(1)
        *body, output = self.encoder
        x = mapped
        with torch.autocast(x.device.type, dtype):
            for part in body:
                x = part(x)
        return output(at_least_float32(x)).argmax(1)

    def decode(self, ids: Tensor) -> Tensor:
        """Return images [B, C, H, W] in [0, 1] of ids int64 [B, h, w]."""
        return self._reconstruct(self.decode_maps(ids))

    def decode_maps(self, ids: Tensor) -> Tensor:
        """Return the decoder's output [B, 2·C, H, W], which `log_likelihood` reads, of ids.

        Raises ValueError if the checkpoint held the encoder alone.
        """
        if self.decoder is None:
            raise ValueError(
                'the tokenizer has no decoder, because its checkpoint holds the encoder alone: '
                'load a checkpoint with both to decode tokens'
            )
        codes = F.one_hot(ids, self.vocab_size).permute(0, 3, 1, 2)
        return self.decoder(codes.to(self.decoder.input.weight.dtype))

    def init_codebook(self, images: Tensor, sharpness: float = 4.0) -> None:
        """Start the codebook from features of images, see `codebook.init_codebook`."""
        init_codebook(self.encoder, images, sharpness)

    def init_weights(self) -> None:
        """Initialize all parameters, then load the checkpoint of `init_cfg`."""
        self._reset_parameters()
        source = pretrained_checkpoint(self.init_cfg, 'DiscreteVAE')
        if source is not None:
            load_tokenizer = WEIGHT_INITIALIZERS.get('load_tokenizer')
            load_tokenizer(self, source)
        self._is_init = True

    def _reset_parameters(self) -> None:
        """Draw normal weights of variance 1 / fan-in and zero biases, as in the official code."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)

    def _reconstruct(self, out: Tensor) -> Tensor:
        return unmap_pixels(torch.sigmoid(at_least_float32(out[:, : self.in_channels])))

    def _map_images(self, images: Tensor) -> Tensor:
        self._check_images(images)
        # Convolutions are a third faster with the channels last, on CPUs and on tensor cores.
        return map_pixels(images).contiguous(memory_format=torch.channels_last)

    def _check_images(self, images: Tensor) -> None:
        if not images.is_floating_point():
            raise TypeError(
                f'images are {images.dtype}, expected float in [0, 1]: divide uint8 pixels by 255'
            )
        shape = tuple(images.shape)
        if images.ndim != 4 or images.size(1) != self.in_channels or not len(images):
            raise ValueError(
                f'images of shape {shape}: expected a batch [B, {self.in_channels}, H, W] of at '
                'least one image; pass image[None] for one image, or set in_channels'
            )
        height, width = shape[2:]
        if height % self.stride or width % self.stride or not images.numel():
            raise ValueError(
                f'image of {height}×{width} pixels is no multiple of the stride {self.stride} of '
                'the tokenizer: resize it'
            )
        if can_read_values(images):
            low, high = images.aminmax()
            if not (low >= 0 and high <= 1):  # also for NaN
                raise ValueError(
                    f'pixels are {low.item():.3g} … {high.item():.3g}, expected [0, 1]: pass the '
                    'image before normalization, divided by 255'
                )
