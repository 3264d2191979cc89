"""Models built from a checkpoint alone, without a config."""

from torch import Tensor, nn

from ..checkpoint.facts import Facts, describe
from ..checkpoint.files import read_file, state_of
from ..checkpoint.fit import check
from ..checkpoint.weights import IMAGENET, load_with_meta
from ..models import BEiT, DiscreteVAE, TokenTarget

PUBLISHED = dict(mean=[127.5] * 3, std=[127.5] * 3)  # of most published weights, in 0 … 255


class ModelWeights:
    """A checkpoint of any project that builds its own model.

    - `state`: the weights under this project's names
    - `origin`: the project that wrote them
    - `facts`: kind and sizes of the model
    - `normalization`: mean and std of its images (0 … 255, RGB)
    """

    def __init__(self, source: str):
        self.source = source
        self.state, self.origin, _, meta = load_with_meta(source)
        self.facts: Facts = describe(self.state, meta.get('num_heads'))
        self.normalization: dict = meta.get('normalization') or self._default_normalization()

    def _default_normalization(self) -> dict[str, list[float]]:
        channels = self.facts.in_channels
        if self.facts.kind == 'segmentor' and self.origin != 'hf' and channels == 3:
            return IMAGENET
        return {name: values[:1] * channels for name, values in PUBLISHED.items()}

    def backbone(self, num_heads: int | None = None) -> BEiT:
        """Build the backbone with all blocks.

        `num_heads` is needed if the checkpoint has no relative position bias.
        """
        self._check_kind('backbone', 'mim', 'classifier', 'segmentor')
        settings = self.facts.backbone() | dict(out_indices=-1)
        if num_heads:
            settings['arch'] = settings['arch'] | dict(num_heads=num_heads)
        return self._load(BEiT(**settings), self._select('backbone.'), 'BEiT')

    def mim_head(self) -> nn.Linear:
        """Build the linear layer from features to codes."""
        self._check_kind('mim')
        state = self._select('head.proj.')
        out_channels, in_channels = state['weight'].shape
        return self._load(nn.Linear(in_channels, out_channels), state, 'head')

    def tokenizer(self) -> DiscreteVAE:
        """Build the tokenizer. Raises ValueError if the checkpoint has no decoder."""
        self._check_kind('tokenizer')
        if 'decoder.input.weight' not in self.state:
            raise ValueError(
                f'{self.source} has an encoder only, expected encoder and decoder: images cannot '
                'be reconstructed without a decoder'
            )
        return self._load(DiscreteVAE(**self._tokenizer_settings()), self.state, 'tokenizer')

    def tokenizer_fingerprint(self) -> int:
        """Return the fingerprint of the tokenizer in this checkpoint."""
        self._check_kind('tokenizer')
        settings = dict(type='beit_mm.DiscreteVAE', **self._tokenizer_settings())
        return TokenTarget(settings, self.source).fingerprint()

    def target_fingerprint(self) -> int:
        """Return the fingerprint of the tokenizer of this pre-training, 0 if it is unknown."""
        state, _ = state_of(read_file(self.source), self.source)
        return int(state.get('target_fingerprint', 0))

    def _check_kind(self, *kinds: str) -> None:
        if self.facts.kind not in kinds:
            raise ValueError(
                f'{self.source} holds a {self.facts.kind}, expected a {" or ".join(kinds)}'
            )

    def _select(self, prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in self.state.items()
            if key.startswith(prefix)
        }

    def _load(self, model: nn.Module, state: dict[str, Tensor], name: str) -> nn.Module:
        check(model, state, self.source, name)
        model.load_state_dict(state, strict=False)
        return model.eval()

    def _tokenizer_settings(self) -> dict[str, int]:
        parts = [key.split('.') for key in self.state if key.startswith('encoder.group_')]
        blocks = [part[2] for part in parts if part[2].startswith('block_')]
        return dict(
            vocab_size=self.facts.channels,
            width=len(self.state['encoder.input.weight']),
            groups=max(int(part[1].removeprefix('group_')) for part in parts),
            blocks=max(int(block.removeprefix('block_')) for block in blocks),
            width_in=len(self.state['decoder.input.weight']),
            in_channels=self.facts.in_channels,
        )
