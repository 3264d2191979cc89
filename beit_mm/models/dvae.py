"""Discrete VAE of DALL-E (https://arxiv.org/abs/2102.12092, app. A), BEiT's tokenizer.

Shapes: B images [B, C, H, W] in [0, 1], K codes, ids [B, h, w] with h = H / stride.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..registry import MODELS
from ..utils.arguments import check_choices, check_integers, check_numbers
from . import dvae_losses
from .codebook import init_codebook
from .distributed import mean_over_ranks
from .dvae_losses import LIKELIHOODS, at_least_float32, kl_to_uniform
from .dvae_networks import build_decoder, build_encoder
from .histogram import histogram, perplexity
from .tokenizer import Tokenizer, add_fields, check_images


@MODELS.register_module()
class DiscreteVAE(Tokenizer):
    """Discrete VAE; the defaults are those of DALL-E's published tokenizer.

    In training, codes are drawn by Gumbel-softmax, with a uniform prior. The loss is
    −ELBO / (C·H·W) in nats per subpixel, so `beta` has the paper's scale (β / 192 per token).

    Args:
        vocab_size: number of codes, K.
        width: channels of the first group; doubled from group to group.
        groups, blocks: groups of residual blocks, and blocks per group; the stride is
            2^(groups − 1).
        width_in: channels of the decoder after the codebook (`n_init` in the official code).
        in_channels: channels of the images, C.
        likelihood: 'logit_laplace' (the paper's) or 'mse'.
        beta, temperature: weight of the KL, and temperature of the Gumbel-softmax; `beit_mm.Anneal`
            hooks change them.
        information_weight, marginal_weight: weights of the two parts of the KL (`kl_to_uniform`).
            Equal weights are the paper's objective.
        init_cfg: `dict(type='Pretrained', checkpoint=…)`; every key must match.
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
        check_integers(1, groups=groups, blocks=blocks, width_in=width_in, in_channels=in_channels)
        check_integers(2, vocab_size=vocab_size)
        check_integers(4, width=width)
        check_numbers(1e-6, temperature=temperature)
        check_numbers(beta=beta)
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
        self.reset_parameters()

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        is_tensor = mode == 'tensor'
        return self.logits(inputs) if is_tensor else super().forward(inputs, data_samples, mode)

    def loss(self, images: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """Return −ELBO per subpixel, its terms, and the use of the codebook."""
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
        log_q = logits.log_softmax(1)
        ids = logits.argmax(1)
        out = self.decode_maps(ids)
        reconstruction = self._reconstruct(out)
        mean_color = images.mean((2, 3), keepdim=True).expand_as(images)
        fields = dict(
            ids=ids,
            reconstruction=reconstruction,
            log_likelihood=self.log_likelihood(out, images).sum((1, 2, 3)),
            kl=((log_q.exp() * log_q).sum(1) + math.log(self.vocab_size)).sum((1, 2)),
            psnr=dvae_losses.psnr(reconstruction, images),
            psnr_mean_color=dvae_losses.psnr(mean_color, images),
        )
        return add_fields(data_samples, fields)

    def logits(self, images: Tensor) -> Tensor:
        """Return unnormalized log q(z|x) [B, K, h, w]."""
        return self.encoder(self._map_images(images))

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Return the most likely ids int64 [B, h, w].

        Under autocast, all but the last convolution are computed in half precision, as in DALL-E's
        own code on a GPU. Rounding the logits as well would create ties between codes, and about
        20 % of the ids would change.
        """
        *body, output = self.encoder
        x = self._map_images(images)
        for part in body:
            x = part(x)
        dtype = next(output.parameters()).dtype
        if x.dtype == dtype:
            return output(x).argmax(1)
        with torch.autocast(x.device.type, enabled=False):
            return output(x.to(dtype)).argmax(1)

    @property
    def can_decode(self) -> bool:
        return self.decoder is not None

    def decode(self, ids: Tensor) -> Tensor:
        """Return images of ids int64 [B, h, w]."""
        return self._reconstruct(self.decode_maps(ids))

    def decode_maps(self, ids: Tensor) -> Tensor:
        """Return the decoder's output [B, 2·C, H, W] of ids, which `log_likelihood` reads."""
        if not self.can_decode:
            raise ValueError('the checkpoint holds the encoder alone: load one with a decoder')
        codes = F.one_hot(ids, self.vocab_size).permute(0, 3, 1, 2)
        return self.decoder(codes.to(self.decoder.input.weight.dtype))

    def init_codebook(self, images: Tensor, sharpness: float = 4.0) -> None:
        """Start the codebook from features of images, see `codebook.init_codebook`."""
        init_codebook(self.encoder, images, sharpness)

    def token_tensors(self) -> Iterable[Tensor]:
        return self.encoder.parameters()

    def reset_parameters(self) -> None:
        """Draw normal weights of variance 1 / fan-in and zero biases, as in the official code."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)

    def _map_images(self, images: Tensor) -> Tensor:
        check_images(images, self.stride)
        # Convolutions are a third faster with the channels last, on CPUs and on tensor cores.
        return dvae_losses.map_pixels(images).contiguous(memory_format=torch.channels_last)

    def _reconstruct(self, out: Tensor) -> Tensor:
        mean = torch.sigmoid(at_least_float32(out[:, : self.in_channels]))
        return dvae_losses.unmap_pixels(mean)
