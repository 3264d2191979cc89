"""Discrete VAE: DALL-E's encoder and decoder (https://arxiv.org/abs/2102.12092, app. A; official `dall_e` package, MIT).

An image [B, C, H, W] in [0, 1] becomes ids [B, h, w] of a codebook of K, and an image again; h = H / stride with
stride = 2^(groups − 1). Trained by Gumbel-softmax with a uniform prior; frozen, it is BEiT's tokenizer.
"""

import math

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..registry import MODELS, WEIGHT_INITIALIZERS
from ..utils.arguments import check_integers, check_numbers, pretrained_checkpoint
from .block import can_read
from .distributed import broadcast_, histogram, mean_over_ranks
from .dvae_networks import decoder, encoder

EPS = 0.1  # pixels are mapped into [EPS, 1 − EPS], where the logit-Laplace density is well-behaved


def map_pixels(x: Tensor) -> Tensor:
    return (1 - 2 * EPS) * x + EPS


def unmap_pixels(x: Tensor) -> Tensor:
    return ((x - EPS) / (1 - 2 * EPS)).clamp(0, 1)


def at_least_f32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


# -- likelihoods: (decoder output [B, 2·C, H, W], image in [0, 1]) → log p(x | z), nats of each subpixel [B, C, H, W] ------


def logit_laplace(out: Tensor, image: Tensor) -> Tensor:
    """DALL-E app. A.3: the density on (0, 1) of the sigmoid of a Laplace variable, at the mapped pixels."""
    mu, log_b = at_least_f32(out).chunk(2, 1)
    x = map_pixels(image)
    return (
        -(torch.logit(x) - mu).abs() * torch.exp(-log_b)
        - log_b
        - math.log(2)
        - torch.log(x * (1 - x))
    )


def gaussian(out: Tensor, image: Tensor) -> Tensor:
    """Unit variance: the squared error up to a constant."""
    return -0.5 * (
        torch.sigmoid(at_least_f32(out).chunk(2, 1)[0]) - map_pixels(image)
    ) ** 2 - 0.5 * math.log(2 * math.pi)


def laplace(out: Tensor, image: Tensor) -> Tensor:
    """Unit scale: the absolute error up to a constant."""
    return -(torch.sigmoid(at_least_f32(out).chunk(2, 1)[0]) - map_pixels(image)).abs() - math.log(
        2
    )


LIKELIHOODS = dict(logit_laplace=logit_laplace, mse=gaussian, l1=laplace)


def kl_to_uniform(log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(q(z|x) ‖ uniform) of log q [B, K, h, w] as its two parts, in nats a token; their sum is the KL.

    information: I(x; z) = mean of KL(q ‖ q̄); marginal: KL(q̄ ‖ uniform), q̄ the mean of q over tokens and ranks.
    """
    q = log_q.exp()
    negative_entropy = (q * log_q).sum(1).mean()
    marginal = mean_over_ranks(q.mean((0, 2, 3)))
    negative_marginal_entropy = torch.special.xlogy(marginal, marginal.clamp_min(1e-30)).sum()
    return negative_entropy - negative_marginal_entropy, negative_marginal_entropy + math.log(
        log_q.size(1)
    )


@MODELS.register_module()
class DiscreteVAE(BaseModel):
    """DALL-E's discrete VAE; the defaults are the published tokenizer's (8192 codes, stride 8).

    Args:
        vocab_size: codes, K.
        width: channels of the first group, doubled from group to group.
        groups, blocks: 4 groups of 2 residual blocks as published; the stride is 2^(groups − 1).
        width_in: decoder channels after the codebook (`n_init`).
        in_channels: of the images, C.
        likelihood: 'logit_laplace', 'mse' or 'l1'.
        beta, temperature: KL weight and Gumbel-softmax temperature; `beit_mm.Anneal` hooks move them.
        information_weight, marginal_weight: of the KL's two parts. Equal ones are the paper's objective.
        straight_through: one-hot samples forward, soft gradients backward.
        init_cfg: `dict(type='Pretrained', checkpoint=…)`, every key must match; with checkpoint None from scratch.

    The loss is −ELBO / (C·H·W), nats a subpixel, so that `beta` means what it does in the paper (β / 192 a token).
    Raises ValueError for an unknown likelihood, a side that is no multiple of the stride, or pixels outside [0, 1].
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
        straight_through: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        if not isinstance(likelihood, str) or likelihood not in LIKELIHOODS:
            raise ValueError(
                f'likelihood={likelihood!r} is unknown: choose one of {", ".join(LIKELIHOODS)}'
            )
        check_integers(2, vocab_size=vocab_size)
        check_integers(4, width=width)
        check_integers(1, groups=groups, blocks=blocks, width_in=width_in, in_channels=in_channels)
        check_numbers(
            beta=beta, information_weight=information_weight, marginal_weight=marginal_weight
        )
        check_numbers(1e-6, temperature=temperature)
        vocab_size, width, groups, blocks, width_in = map(
            int, (vocab_size, width, groups, blocks, width_in)
        )
        self.vocab_size, self.stride, self.log_likelihood = (
            vocab_size,
            2 ** (groups - 1),
            LIKELIHOODS[likelihood],
        )
        self.beta, self.temperature = beta, temperature
        self.information_weight, self.marginal_weight = information_weight, marginal_weight
        self.straight_through = straight_through
        self.in_channels = int(in_channels)
        self.encoder = encoder(width, groups, blocks, vocab_size, self.in_channels)
        self.decoder = decoder(width, groups, blocks, vocab_size, width_in, self.in_channels)
        self._reset_parameters()

    # -- the two maps ----------------------------------------------------------------------------------------------

    def logits(self, image: Tensor) -> Tensor:
        """Image [B, C, H, W] in [0, 1] → unnormalised log q(z|x) [B, K, h, w]."""
        return self.encoder(self._mapped(image))

    def _mapped(self, image: Tensor) -> Tensor:
        check_image(image, self.stride, self.in_channels)
        # Convolutions are a third faster with the channels last, on CPUs as on tensor cores.
        return map_pixels(image).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def tokens(self, image: Tensor, half: torch.dtype | None = None) -> Tensor:
        """Image [B, C, H, W] in [0, 1] → the likeliest ids, int64 [B, h, w].

        Args:
            half: bfloat16 or float16 for all but the last convolution, as DALL-E's own code does it with float16 on a GPU.
                Rounded logits would be equal so often that every fifth id would be another one.
        """
        return self.ids(self._mapped(image), half)

    def ids(self, x: Tensor, half: torch.dtype | None) -> Tensor:
        """What `CompileBlocks` compiles of `tokens`: all behind the checks of the image, which is mapped here."""
        if half is None:
            return self.encoder(x).argmax(1)
        *body, output = self.encoder
        with torch.autocast(x.device.type, half):
            for part in body:
                x = part(x)
        return output(at_least_f32(x)).argmax(1)

    def decode_maps(self, ids: Tensor) -> Tensor:
        """Ids int64 [B, h, w] → the decoder's output [B, 2·C, H, W], which `log_likelihood` reads.

        Raises ValueError where an encoder was loaded alone.
        """
        if self.decoder is None:
            raise ValueError(
                'this tokenizer was loaded from an encoder alone, so it has ids and no pictures: load both halves'
            )
        codes = F.one_hot(ids, self.vocab_size).permute(0, 3, 1, 2)
        return self.decoder(codes.to(self.decoder.input.weight.dtype))

    def decode(self, ids: Tensor) -> Tensor:
        """Ids int64 [B, h, w] → image [B, C, H, W] in [0, 1]."""
        return unmap_pixels(
            torch.sigmoid(at_least_f32(self.decode_maps(ids)[:, : self.in_channels]))
        )

    # -- training --------------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        if mode not in ('loss', 'predict', 'tensor'):
            raise ValueError(f"mode={mode!r} is unknown: choose 'loss', 'predict' or 'tensor'")
        return dict(loss=self.loss, predict=self.predict, tensor=self._tensor)[mode](
            inputs, data_samples
        )

    def loss(self, inputs: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """−ELBO a subpixel of images [B, C, H, W] in [0, 1], and what to watch: KL parts, code usage, perplexity."""
        logits = at_least_f32(self.logits(inputs))
        codes = F.gumbel_softmax(logits, self.temperature, hard=self.straight_through, dim=1)
        out = self.decoder(codes.to(self.decoder.input.weight.dtype))
        reconstruction = -self.log_likelihood(out, inputs).mean()
        information, marginal = kl_to_uniform(logits.log_softmax(1))
        kl = self.information_weight * information + self.marginal_weight * marginal
        subpixels = self.in_channels * self.stride**2  # a token stands for
        counts = mean_over_ranks(histogram(logits.argmax(1), self.vocab_size))
        return dict(
            loss=reconstruction + self.beta / subpixels * kl,
            elbo=-(reconstruction + (information + marginal) / subpixels).detach(),
            reconstruction=reconstruction.detach(),
            information=information.detach(),
            marginal_kl=marginal.detach(),
            codes_used=(counts > 0).sum().float(),
            perplexity=perplexity(counts),
        )

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list[BaseDataElement]:
        """A sample an image: `ids` [h, w], `reconstruction` [C, H, W], and in nats an image `log_likelihood`, `kl`; dB `psnr`."""
        logits = at_least_f32(self.logits(inputs))
        ids, log_q = logits.argmax(1), logits.log_softmax(1)
        out = self.decode_maps(ids)
        image = unmap_pixels(torch.sigmoid(at_least_f32(out[:, : self.in_channels])))
        samples = data_samples or [BaseDataElement() for _ in inputs]
        log_likelihood = self.log_likelihood(out, inputs).sum((1, 2, 3))
        kl = ((log_q.exp() * log_q).sum(1) + math.log(self.vocab_size)).sum((1, 2))
        for i, sample in enumerate(samples):
            sample.set_data(
                dict(
                    ids=ids[i], reconstruction=image[i], log_likelihood=log_likelihood[i], kl=kl[i]
                )
            )
            sample.set_data(
                dict(
                    psnr=psnr(image[i], inputs[i]),
                    psnr_mean_color=psnr(mean_color(inputs[i]), inputs[i]),
                )
            )
        return samples

    def _tensor(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        return self.logits(inputs)

    # -- weights ---------------------------------------------------------------------------------------------------

    def _reset_parameters(self) -> None:
        """Official init: normal weights of variance 1 / fan-in, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)

    def init_weights(self) -> None:
        """Set every parameter to its initial value, then load the checkpoint of `init_cfg`, if any."""
        self._reset_parameters()
        if (source := pretrained_checkpoint(self.init_cfg, 'DiscreteVAE')) is not None:
            load_tokenizer = WEIGHT_INITIALIZERS.get('load_tokenizer')
            load_tokenizer(self, source)
        self._is_init = True

    @torch.no_grad()
    def init_codebook(self, images: Tensor, sharpness: float = 4.0) -> None:
        """Make each code the feature of a patch of these images [B, C, H, W], chosen far apart (k-means++), and each logit
        −`sharpness` · (squared distance to the code) / 2, in units of a patch's mean squared distance to its code.

        Codes that are nearly the same are never told apart later on, and what tells them apart cannot be predicted.
        Raises ValueError when there are no more different patches than codes.
        """
        some = map_pixels(images).split(
            16
        )  # all at once would need a large part of a GPU at the paper's width
        features = (
            torch.cat([self.encoder[:-1](part).relu() for part in some])
            .permute(0, 2, 3, 1)
            .flatten(0, 2)
        )
        codes, distance = spread_out(features, self.vocab_size)
        if not distance.any():
            raise ValueError(
                f'{len(features)} patches of {len(images)} images are too few different ones for {self.vocab_size} codes: '
                'give InitCodebook more images, or lower vocab_size'
            )
        rows = codes * sharpness / distance.mean()
        conv = self.encoder.output.conv
        conv.weight.copy_(broadcast_(rows[..., None, None].contiguous()))
        conv.bias.copy_(broadcast_(-(rows * codes).sum(1) / 2))


def spread_out(features: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """k-means++ seeding: `number` of the features [P, D], and each feature's squared distance to the nearest [P]."""
    chosen, distance = [], torch.ones(len(features), device=features.device)
    for _ in range(number):
        chosen.append(features[torch.multinomial(distance + 1e-12, 1)])
        to_last = (
            torch.cdist(features, chosen[-1], compute_mode='donot_use_mm_for_euclid_dist')
            .squeeze(1)
            .square()
        )
        distance = to_last if len(chosen) == 1 else torch.minimum(distance, to_last)
    return torch.cat(chosen), distance


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of a histogram [K]: the number of equally used codes that would carry as much."""
    p = counts / counts.sum()
    return torch.special.entr(p).sum().exp()


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of two images in [0, 1]."""
    return -10 * torch.log10(F.mse_loss(a, b.to(a.dtype)).clamp_min(1e-10))


def mean_color(image: Tensor) -> Tensor:
    """The image [C, H, W] that is everywhere the mean colour: what a reconstruction must beat."""
    return image.mean((1, 2), keepdim=True).expand_as(image)


def check_image(image: Tensor, stride: int, channels: int) -> None:
    """Raise TypeError if a tokenizer's input is not float; ValueError for another shape, or values outside [0, 1].

    The range is checked only where the values can be read (`can_read`): on a CPU, outside of tracers.
    """
    if not image.is_floating_point():
        raise TypeError(
            f'the tokenizer needs a float image in [0, 1], got {image.dtype}: divide uint8 pixels by 255'
        )
    if image.ndim != 4 or not len(image):
        raise ValueError(
            f'images of shape {tuple(image.shape)}: expected a batch [B, C, H, W] of at least one; pass image[None] for one image'
        )
    if image.size(1) != channels:
        raise ValueError(
            f'images of {image.size(1)} channels, expected in_channels={channels} as the tokenizer was built'
        )
    if image.shape[-2] % stride or image.shape[-1] % stride or not image.numel():
        raise ValueError(
            f"image of {image.shape[-2]}×{image.shape[-1]} is no multiple of the tokenizer's stride {stride}"
        )
    if can_read(image):
        low, high = image.aminmax()
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(
                f'the tokenizer needs pixels in [0, 1], got {low.item():.3g} … {high.item():.3g}: give it the plain image, '
                'neither 0 … 255 nor normalised by mean and std'
            )
