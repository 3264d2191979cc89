"""VQ-KD, the tokenizer of BEiT v2 (https://arxiv.org/abs/2208.06366, sec. 2.2).

Shapes: B images [B, C, H, W] in [0, 1], a grid (h, w) of N = h·w patches, K codes of d dimensions,
D channels of the teacher.
"""

from collections.abc import Iterable
from itertools import chain

import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..registry import MODELS
from ..utils.arguments import check_integers, check_numbers
from .beit import BEiT
from .codebook import IMAGES_AT_ONCE
from .cosine_codebook import CosineCodebook
from .dvae_losses import at_least_float32
from .histogram import histogram, perplexity
from .tokenizer import Tokenizer, add_fields, check_images


@MODELS.register_module()
class VQKD(Tokenizer):
    """Vector-quantized knowledge distillation: codes from which the teacher's features are decoded.

    An encoder maps each patch to a unit vector, the nearest code replaces it, and a decoder
    reconstructs the features that a frozen teacher has for the patch. Gradients pass the
    quantization unchanged. The loss is the mean of 1 − cosine over patches plus `beta` times the
    mean squared difference between vector and code.

    Args:
        vocab_size, code_dims: number of codes, K, and their dimensions, d.
        encoder: arguments of `BEiT`; the defaults are arch='base' and abs_pos_embed=True.
        decoder_layers: number of blocks of the decoder, of the encoder's width.
        teacher: config of a `Teacher`. Without it there is no decoder, and the model gives tokens
            only.
        beta: weight of the distance to the code.
        decay: share of a code that remains in one update.
        init_cfg: `dict(type='Pretrained', checkpoint=…)`; every key must match.
    """

    def __init__(
        self,
        vocab_size: int = 8192,
        code_dims: int = 32,
        encoder: dict | None = None,
        decoder_layers: int = 1,
        teacher: dict | None = None,
        beta: float = 1.0,
        decay: float = 0.99,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        check_integers(2, vocab_size=vocab_size)
        check_integers(1, code_dims=code_dims, decoder_layers=decoder_layers)
        check_numbers(0, beta=beta, decay=decay)
        if decay >= 1:
            raise ValueError(f'decay={decay}: expected a share below 1')
        self.vocab_size, self.beta = vocab_size, beta
        self.encoder = BEiT(**dict(arch='base', abs_pos_embed=True) | (encoder or {}))
        self.stride, dims = self.encoder.patch_size, self.encoder.embed_dims
        self.in_channels = self.encoder.patch_embed.proj.in_channels
        self.encoder_head = _make_head(dims, code_dims)
        self.codebook = CosineCodebook(vocab_size, code_dims, decay)
        self.teacher = self.decoder = self.decoder_head = None
        if teacher is not None:
            self.teacher = MODELS.build(teacher)
            arch = dict(
                embed_dims=dims,
                num_layers=decoder_layers,
                num_heads=self.encoder.num_heads,
                feedforward_channels=self.encoder.blocks[0].mlp.fc1.out_features,
            )
            # The grid of codes is an image of d channels, whose patches have one pixel.
            self.decoder = BEiT(arch, self.encoder.grid, 1, code_dims, abs_pos_embed=True)
            self.decoder_head = _make_head(dims, self.teacher.channels)

    def loss(self, images: Tensor, data_samples: list | None = None) -> dict[str, Tensor]:
        """Return the loss, its terms, and the use of the codebook; update the codes in training."""
        vectors = self.encode(images)
        ids = self.codebook.nearest(vectors)
        codes = self.codebook(ids)
        cosine = self._compare(vectors + (codes - vectors).detach(), images).mean()
        distance = F.mse_loss(vectors, codes)
        counts = histogram(ids, self.vocab_size)
        if self.training:
            counts = self.codebook.update(vectors.detach().flatten(0, 2), ids.flatten())
        return dict(
            loss=1 - cosine + self.beta * distance,
            cosine=cosine.detach(),
            code_distance=distance.detach(),
            codes_used=(counts > 0).sum().float(),
            perplexity=perplexity(counts),
        )

    @torch.no_grad()
    def predict(self, images: Tensor, data_samples: list | None = None) -> list[BaseDataElement]:
        """Return one sample per image: `ids` [h, w]; with a teacher the mean `cosine` to it."""
        ids = self.tokens(images)
        fields = dict(ids=ids)
        if self.teacher is not None:
            fields['cosine'] = self._compare(self.codebook(ids), images).mean((1, 2))
        return add_fields(data_samples, fields)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Return the ids int64 [B, h, w] of the nearest codes.

        Under autocast the encoder is computed in half precision, its head and the scores of the
        codes are not.
        """
        return self.codebook.nearest(self.encode(images))

    @torch.no_grad()
    def match(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids and the cosine between each patch's vector and its code, [B, h, w] each."""
        vectors = self.encode(images)
        ids = self.codebook.nearest(vectors)
        return ids, (vectors * self.codebook(ids)).sum(-1)

    def encode(self, images: Tensor) -> Tensor:
        """Return unit vectors [B, h, w, d] of the patches, before quantization."""
        check_images(images, self.stride)
        grid = tuple(side // self.stride for side in images.shape[-2:])
        (features,) = self.encoder(2 * images - 1)
        with torch.autocast(images.device.type, enabled=False):
            vectors = self.encoder_head(at_least_float32(features[:, 1:]))
            return F.normalize(vectors, dim=-1).unflatten(1, grid)

    def decode_features(self, codes: Tensor) -> Tensor:
        """Return the reconstruction [B, h, w, D] of the teacher's features from codes."""
        if self.teacher is None:
            raise ValueError('VQKD has no teacher to learn from: set model.teacher')
        (features,) = self.decoder(codes.permute(0, 3, 1, 2))
        return self.decoder_head(features[:, 1:]).unflatten(1, codes.shape[1:3])

    def _compare(self, codes: Tensor, images: Tensor) -> Tensor:
        """Return the cosine [B, h, w] between decoded codes and the teacher's features."""
        decoded = self.decode_features(codes)
        features = self.teacher(images, codes.shape[1:3]).movedim(1, -1)
        return F.cosine_similarity(at_least_float32(decoded), at_least_float32(features), dim=-1)

    @torch.no_grad()
    def init_codebook(self, images: Tensor) -> None:
        """Start the codes at clusters of the patches' vectors, by 10 iterations of k-means.

        Raises ValueError if the images have fewer patches than there are codes.
        """
        parts = [self.encode(part).flatten(0, 2) for part in images.split(IMAGES_AT_ONCE)]
        vectors = torch.cat(parts)
        if len(vectors) < self.vocab_size:
            per_image = len(vectors) // len(images)
            raise ValueError(
                f'{self.vocab_size} codes cannot start from {len(vectors)} patches of '
                f'{len(images)} images: set num_images of InitCodebook to at least '
                f'{-(-self.vocab_size // per_image)}, or lower vocab_size'
            )
        self.codebook.start(vectors)

    def token_tensors(self) -> Iterable[Tensor]:
        parts = chain(self.encoder.parameters(), self.encoder_head.parameters())
        return [*parts, self.codebook.codes]

    def init_weights(self) -> None:
        """Initialize all parts or load a checkpoint, then check that the teacher fits.

        Raises FileNotFoundError if the teacher has no weights.
        """
        super().init_weights()
        if self.teacher is not None:
            grid = self.encoder.grid
            size = tuple(side * self.stride for side in grid)
            self.teacher.check(size, grid)

    def reset_parameters(self) -> None:
        for part in (self.encoder, self.decoder):
            if part is not None:
                part.init_weights()
        for head in (self.encoder_head, self.decoder_head):
            for layer in (head or ())[::2]:
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.02, b=0.02)
                nn.init.zeros_(layer.bias)
        self.codebook.reset_parameters()


def _make_head(dims: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dims, dims), nn.Tanh(), nn.Linear(dims, channels))
