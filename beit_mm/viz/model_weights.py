"""Models that are built from a checkpoint alone, without a config."""

import re

from torch import nn

from ..checkpoint import read_checkpoint
from ..checkpoint.files import read_file
from ..checkpoint.loading import fit_checkpoint
from ..checkpoint.model_spec import ModelSpec, infer_spec
from ..checkpoint.published import NORMALIZATIONS
from ..checkpoint.state_dicts import find_weights
from ..models import VQKD, BEiT, DiscreteVAE, Tokenizer


class ModelWeights:
    """A checkpoint of any project that builds its own model.

    `normalization` holds mean and std of its images (0 … 255, RGB).
    """

    def __init__(self, source: str):
        self.source = source
        self.checkpoint = read_checkpoint(source)
        meta = self.checkpoint.meta
        self.spec: ModelSpec = infer_spec(self.checkpoint.state, meta.get('num_heads'))
        self.normalization: dict = meta.get('normalization') or self._default_normalization()

    def _default_normalization(self) -> dict[str, list[float]]:
        channels = self.spec.in_channels
        if self.spec.kind == 'segmentor' and self.checkpoint.origin != 'hf' and channels == 3:
            return NORMALIZATIONS['imagenet']
        return {name: values[:1] * channels for name, values in NORMALIZATIONS['half'].items()}

    def backbone(self, num_heads: int | None = None) -> BEiT:
        """Build the backbone. Pass `num_heads` if the checkpoint has no relative position bias."""
        self._check_kind('backbone', 'mim', 'classifier', 'segmentor')
        settings = self.spec.backbone_settings() | dict(out_indices=-1)
        if num_heads:
            settings['arch'] = settings['arch'] | dict(num_heads=num_heads)
        return self._load(BEiT(**settings))

    def mim_head(self) -> nn.Linear:
        """Build the linear layer from features to codes."""
        self._check_kind('mim')
        state = self.checkpoint.part('head.proj.')
        head = nn.Linear(*reversed(state['weight'].shape))
        head.load_state_dict(state)
        return head.eval()

    def tokenizer(self) -> Tokenizer:
        """Build the tokenizer; without a decoder in the checkpoint it cannot decode ids."""
        self._check_kind('tokenizer', 'vqkd')
        if self.spec.kind == 'vqkd':
            return self._load(VQKD(**self.tokenizer_settings()))
        model = self._load(DiscreteVAE(**self.tokenizer_settings()))
        if 'decoder.input.weight' not in self.checkpoint.state:
            model.decoder = None
        return model

    def target_fingerprint(self) -> int:
        """Return the fingerprint of the tokenizer of this pre-training, or 0 if it is unknown."""
        state, _ = find_weights(read_file(self.source), self.source)
        return int(state.get('target_fingerprint', 0))

    def _check_kind(self, *kinds: str) -> None:
        if self.spec.kind not in kinds:
            raise ValueError(
                f'{self.source} holds a {self.spec.kind}, expected a {" or ".join(kinds)}'
            )

    def _load(self, model: nn.Module) -> nn.Module:
        state, _ = fit_checkpoint(self.checkpoint, model)
        model.load_state_dict(state, strict=False)
        return model.eval()

    def tokenizer_settings(self) -> dict:
        """Return the arguments of `DiscreteVAE`, or those of `VQKD` without a teacher."""
        state = self.checkpoint.state
        if self.spec.kind == 'vqkd':
            vocab_size, code_dims = state['codebook.codes'].shape
            encoder = self.spec.backbone_settings()
            return dict(vocab_size=vocab_size, code_dims=code_dims, encoder=encoder)
        blocks = re.findall(r'encoder\.group_(\d+)\.block_(\d+)\.', '\n'.join(state))
        decoder = state.get('decoder.input.weight')
        return dict(
            vocab_size=self.spec.classes,
            width=len(state['encoder.input.weight']),
            groups=max(int(group) for group, _ in blocks),
            blocks=max(int(block) for _, block in blocks),
            in_channels=self.spec.in_channels,
            **({} if decoder is None else dict(width_in=len(decoder))),
        )
