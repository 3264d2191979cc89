"""`load_from` with a checkpoint of any project, and the normalization that its weights expect."""

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ...checkpoint.loading import check_lora, convert_to, count_channels
from ...models import VQKD, BEiT, BEiTPretrainer, Tokenizer
from ...registry import HOOKS
from ...utils.unwrap_model import unwrap_model

# Settings of the channel order: of mmpretrain, and of two versions of mmseg. Loaders read BGR.
_TO_RGB = ('to_rgb', '_channel_conversion', 'channel_conversion')


@HOOKS.register_module()
class ConvertCheckpoint(Hook):
    """Hook that converts the checkpoint of `load_from` to the model of the run.

    Keys get this project's names, positions are resized to the model's grid, and the log reports
    every key. Each saved checkpoint stores mean, std and channel order of the data preprocessor. A
    run that normalizes its images in another way than its weights were trained with logs a warning.
    `launch.build_runner` adds this hook to every run.

    Args:
        strict: a key that the checkpoint lacks is an error (testing). Otherwise the model keeps its
            own initialization (training).

    Raises ValueError for keys that do not fit, and if a run is resumed with another tokenizer.
    """

    priority = 'VERY_HIGH'

    def __init__(self, strict: bool = False):
        self.strict = strict
        self.normalization = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model, path = unwrap_model(runner), runner.cfg.get('load_from')
        if any(type(module).__name__ == 'LoRAModel' for module in model.modules()):
            check_lora(checkpoint.get('state_dict', checkpoint), path)
        if not isinstance(getattr(model, 'backbone', model), BEiT | Tokenizer):
            return
        state, meta = convert_to(model, checkpoint, f'load_from={path}', self.strict)
        checkpoint['state_dict'] = state
        self.normalization = meta.get('normalization')
        if isinstance(model, BEiTPretrainer):
            self._check_fingerprint(runner, model.target_fingerprint, state)

    def _check_fingerprint(self, runner: Runner, own: Tensor, state: dict[str, Tensor]) -> None:
        """Compare tokenizers: a resumed run needs the same one, a new run may change it."""
        loaded = state.get('target_fingerprint', own)
        if own == loaded or not own or not loaded:  # 0: pixels, or a model without a tokenizer
            return
        path = runner._load_from or runner.work_dir
        message = f'{path} learned the tokens of another tokenizer than the one of this run'
        if runner._resume:
            raise ValueError(
                f'--resume: {message}. Set model.target.checkpoint, or the token cache, as in the '
                'first run, or start a new run with load_from and without --resume'
            )
        runner.logger.warning(message)
        state['target_fingerprint'] = own.clone()

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner)
        backbone = getattr(model, 'backbone', model)
        expected = self.normalization or getattr(backbone, 'pretrained_normalization', None)
        if expected and len(expected['mean']) == count_channels(model):
            for warning in _compare(expected, _find_normalization(model), model.data_preprocessor):
                runner.logger.warning(warning)

    before_test = before_train

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = unwrap_model(runner)
        normalization = _find_normalization(model)
        if 'mean' in normalization:
            checkpoint['meta']['normalization'] = normalization
        if isinstance(model, VQKD):  # no weight tells the number of heads
            checkpoint['meta']['num_heads'] = model.encoder.num_heads


def _find_normalization(model: nn.Module) -> dict[str, list[float] | str]:
    """Return `mean` and `std` per channel (0 … 255) and `channel_order`, if they are known."""
    preprocessor, found = getattr(model, 'data_preprocessor', None), {}
    channels = count_channels(model)
    for name in ('mean', 'std'):
        if isinstance(values := getattr(preprocessor, name, None), Tensor):
            values = [round(value, 4) for value in values.flatten().tolist()]
            found[name] = values * channels if len(values) == 1 else values
    settings = [getattr(preprocessor, name) for name in _TO_RGB if hasattr(preprocessor, name)]
    # MIMDataPreprocessor has no setting: its views are RGB.
    if channels == 3 and (settings or found):
        found['channel_order'] = 'rgb' if not settings or settings[0] else 'bgr'
    return found


def _compare(expected: dict, own: dict, preprocessor: nn.Module) -> list[str]:
    """Return a warning for each difference to the normalization that weights were trained with."""
    warnings, order = [], expected.get('channel_order', 'rgb')
    pairs = [(own.get(name), expected[name]) for name in ('mean', 'std')]
    if not all(ours and np.allclose(ours, theirs, rtol=0, atol=0.5) for ours, theirs in pairs):
        given = _format(own) if 'mean' in own else 'no mean and std'
        warnings.append(
            f'the weights were trained on images normalized with {_format(expected)}, this run '
            f'normalizes with {given}: set data_preprocessor.mean and .std to those of the weights'
        )
    if own.get('channel_order', order) != order:
        setting = 'to_rgb' if hasattr(preprocessor, 'to_rgb') else 'bgr_to_rgb'
        warnings.append(
            f'the weights were trained on {order.upper()} images, this run reads '
            f'{own["channel_order"].upper()}: set data_preprocessor.{setting}={order == "rgb"}'
        )
    return warnings


def _format(normalization: dict[str, list[float]]) -> str:
    return f'mean {normalization["mean"]}, std {normalization["std"]}'
