"""What masked image modeling predicts: visual tokens (the paper) or pixels (Table 4's ablation)."""

import hashlib

import torch
from torch import Tensor

from ..registry import MODELS, WEIGHT_INITIALIZERS
from ..utils.arguments import check_choices, check_integers

RECOVER = ('masked', 'all')
DTYPES = dict(float32=None, float16=torch.float16, bfloat16=torch.bfloat16)


class Target:
    """`recover`: predict the 'masked' patches, or 'all' (Table 4). `channels`: width of the head that predicts."""

    def __init__(self, channels: int, recover: str):
        if recover not in RECOVER:
            raise ValueError(f"recover={recover!r} is unknown: choose 'masked' or 'all'")
        self.channels, self.recover = channels, recover


@MODELS.register_module()
class TokenTarget(Target):
    """Ids of the visual tokens, int64 [B, h, w], from the batch's `token_ids` or by a frozen tokenizer from `token_view`.

    The tokenizer is no submodule on purpose: it stays in eval mode, gets no gradient, and is not written into
    checkpoints. Configs build without its weights; without them, training stops with FileNotFoundError.

    Args:
        tokenizer: config of a `DiscreteVAE`.
        checkpoint: its weights, or DALL-E's (`beit_mm.checkpoint.load_tokenizer`).
        recover: predict the 'masked' patches, or 'all' (Table 4).
        dtype: 'float32', or 'float16' or 'bfloat16' for all of it but the last convolution, which takes half the time. The
            official code has float16 on a GPU. A few ids in a thousand differ then, in bfloat16 one or two in a hundred.
    """

    def __init__(
        self,
        tokenizer: dict,
        checkpoint: str | None = None,
        recover: str = 'masked',
        dtype: str = 'float32',
    ):
        if (
            not isinstance(tokenizer, dict)
            or 'type' not in tokenizer
            or not isinstance(checkpoint, str | None)
        ):
            raise TypeError(
                f'tokenizer={tokenizer!r}, checkpoint={checkpoint!r}: give a config, and a path or None'
            )
        check_choices(DTYPES, dtype=dtype)
        self.half = DTYPES[dtype]
        self._tokenizer, self._loaded, self.checkpoint = MODELS.build(tokenizer), False, checkpoint
        self.cached: int | None = (
            None  # fingerprint of the ids in a token cache; `engine.CachedTokens` tells
        )
        self._tokenizer.eval().requires_grad_(False)
        super().__init__(self._tokenizer.vocab_size, recover)

    @property
    def tokenizer(self):
        """The trained `DiscreteVAE`; its weights are read at the first use."""
        if not self._loaded:
            load_tokenizer = WEIGHT_INITIALIZERS.get('load_tokenizer')
            if self.checkpoint is None:
                raise FileNotFoundError(
                    'visual tokens need a trained tokenizer, and none was given. Train one, '
                    '`python tools/train.py configs/tokenizer/CONFIG.py`, then pass its file: '
                    '`--cfg-options model.target.checkpoint=work_dirs/…/….pth`'
                )
            load_tokenizer(self._tokenizer, self.checkpoint)
            self._loaded = True
        return self._tokenizer

    def fingerprint(self) -> int:
        """63 bits of the SHA-256 of the tokenizer's encoder: tells whose tokens a run has learned.

        With ids from a token cache and no weights at hand, that of the cache.
        """
        if self.checkpoint is None and self.cached is not None:
            return self.cached
        digest = hashlib.sha256()
        for parameter in self.tokenizer.encoder.parameters():
            digest.update(parameter.detach().cpu().float().numpy().tobytes())
        return int.from_bytes(digest.digest()[:8], 'big') >> 1

    def compile(self, backend: str = 'inductor') -> None:
        """The tokenizer from now on; its weights are not needed yet, nor ever where ids are cached."""
        self._tokenizer.ids = torch.compile(self._tokenizer.ids, backend=backend)

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        if 'token_ids' in inputs:
            return inputs['token_ids']
        if 'token_view' not in inputs:
            raise ValueError(
                'the batch has neither a token_view nor cached token_ids: set TwoViews.token_size'
            )
        view = inputs['token_view']
        with torch.autocast(view.device.type, enabled=False):  # whatever the model's precision
            return self.tokenizer.to(view.device).tokens(view, self.half)


@MODELS.register_module()
class PixelTarget(Target):
    """The patches' own pixels, each patch with mean 0 and variance 1: f32 [B, h, w, C·p²] of `patch_view`.

    Args:
        in_channels: of the images, C.
    """

    def __init__(self, patch_size: int = 16, recover: str = 'masked', in_channels: int = 3):
        check_integers(1, patch_size=patch_size, in_channels=in_channels)
        super().__init__(in_channels * patch_size**2, recover)
        self.patch_size = patch_size

    def fingerprint(self) -> int:
        return 0

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        p = self.patch_size
        patches = inputs['patch_view'].unfold(2, p, p).unfold(3, p, p)  # [B, C, h, w, p, p]
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).float()
        variance, mean = torch.var_mean(patches, -1, keepdim=True)
        return (patches - mean) * torch.rsqrt(variance + 1e-6)
