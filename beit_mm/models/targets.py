"""Targets of masked image modeling: visual tokens, or pixels (an ablation, Table 4)."""

import torch
from torch import Tensor

from ..registry import MODELS, WEIGHT_INITIALIZERS
from ..utils.arguments import check_choices, check_integers
from ..utils.installation import command
from .tokenizer import Tokenizer

RECOVER = ('masked', 'all')
DTYPES = dict(float32=None, float16=torch.float16, bfloat16=torch.bfloat16)


@MODELS.register_module()
class TokenTarget:
    """Ids int64 [B, h, w] of visual tokens: the batch's `token_ids`, or those of its `token_view`.

    The tokenizer is frozen and no submodule, so checkpoints do not contain it. A config builds
    without its weights; training without them stops with FileNotFoundError.

    Args:
        tokenizer, checkpoint: config of a `Tokenizer`, such as `DiscreteVAE`, and its weights.
        recover: predict the 'masked' patches, or 'all' (Table 4).
        dtype: 'float32', or 'float16' (the official code on a GPU) or 'bfloat16', which take half
            the time. The scores of the codes are computed in float32 in any case. About 0.3 % of
            the ids of a `DiscreteVAE` differ in float16, 1 to 2 % in bfloat16.
    """

    def __init__(
        self,
        tokenizer: dict,
        checkpoint: str | None = None,
        recover: str = 'masked',
        dtype: str = 'float32',
    ):
        check_choices(DTYPES, dtype=dtype)
        check_choices(RECOVER, recover=recover)
        self.dtype = DTYPES[dtype]
        self.recover = recover
        self.checkpoint = checkpoint
        # May lack its weights, which the property `tokenizer` loads.
        self.tokenizer_module = MODELS.build(tokenizer)
        if not isinstance(self.tokenizer_module, Tokenizer):
            raise TypeError(
                f'tokenizer is a {type(self.tokenizer_module).__name__}: expected a subclass of '
                'beit_mm.models.Tokenizer, see docs/tokenizers.md'
            )
        self.tokenizer_module.eval().requires_grad_(False)
        self.channels = self.tokenizer_module.vocab_size
        self.has_weights = False
        # Fingerprint of the tokenizer of a token cache; the hook CachedTokens sets it.
        self.cached_fingerprint: int | None = None

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        if 'token_ids' in inputs:
            return inputs['token_ids']
        if 'token_view' not in inputs:
            raise ValueError(
                'the batch has neither a token_view nor cached token_ids: set TwoViews.token_size'
            )
        view = inputs['token_view']
        half = self.dtype is not None
        with torch.no_grad(), torch.autocast(view.device.type, self.dtype, enabled=half):
            return self.tokenizer.to(view.device).tokens(view)

    @property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer; its weights are loaded at the first use."""
        if self.has_weights:
            return self.tokenizer_module
        if self.checkpoint is None:
            raise FileNotFoundError(
                'visual tokens need a trained tokenizer, and none was given. Train one with '
                f'`{command("train")} configs/tokenizer/CONFIG.py`, then pass its file: '
                '`--cfg-options model.target.checkpoint=work_dirs/…/….pth`'
            )
        WEIGHT_INITIALIZERS.get('load_tokenizer')(self.tokenizer_module, self.checkpoint)
        self.has_weights = True
        return self.tokenizer_module

    def fingerprint(self) -> int:
        """Return the fingerprint of the tokenizer.

        If no checkpoint was given, return the fingerprint that a token cache recorded.
        """
        if self.checkpoint is None and self.cached_fingerprint is not None:
            return self.cached_fingerprint
        return self.tokenizer.fingerprint()


@MODELS.register_module()
class PixelTarget:
    """Pixels of each patch of `patch_view`, of mean 0 and variance 1: [B, h, w, C·p²]."""

    def __init__(self, patch_size: int = 16, recover: str = 'masked', in_channels: int = 3):
        check_choices(RECOVER, recover=recover)
        check_integers(1, patch_size=patch_size, in_channels=in_channels)
        self.patch_size = patch_size
        self.recover = recover
        self.channels = in_channels * patch_size**2

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        p = self.patch_size
        patches = inputs['patch_view'].unfold(2, p, p).unfold(3, p, p)  # [B, C, h, w, p, p]
        patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).float()
        variance, mean = torch.var_mean(patches, -1, keepdim=True)
        return (patches - mean) * torch.rsqrt(variance + 1e-6)

    def fingerprint(self) -> int:
        return 0
