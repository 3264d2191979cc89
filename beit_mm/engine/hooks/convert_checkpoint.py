"""`load_from` a checkpoint of any project, and the normalisation that a run's weights were trained with."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ...checkpoint.loading import check_lora, convert_to
from ...models import BEiT, BEiTPretrainer, DiscreteVAE
from ...registry import HOOKS
from ...utils.unwrap_model import unwrap_model


@HOOKS.register_module()
class ConvertCheckpoint(Hook):
    """Make the checkpoint of `load_from` one of this model, whoever wrote it: renamed, positions fitted, each key accounted for.

    It also stores mean, std and channel order of the data preprocessor in each checkpoint, and warns if a run normalizes its
    images in another way than its weights were trained with. tools/train.py and test.py add this hook themselves.

    Args:
        strict: a key of the model that the checkpoint lacks is an error (testing), not a new part that training begins with.

    Raises ValueError that names the keys of the backbone that do not fit, or when a run is resumed with another tokenizer.
    """

    priority = 'VERY_HIGH'

    def __init__(self, strict: bool = False):
        self.strict = strict
        self.normalization = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = unwrap_model(runner)
        if any(type(module).__name__ == 'LoRAModel' for module in model.modules()):
            check_lora(checkpoint.get('state_dict', checkpoint), runner.cfg.get('load_from'))
        if not isinstance(model, DiscreteVAE) and not isinstance(
            getattr(model, 'backbone', None), BEiT
        ):
            return
        source = f'load_from={runner.cfg.get("load_from")}'
        state, meta = convert_to(model, checkpoint, source, self.strict)
        checkpoint['state_dict'] = state
        self.normalization = meta.get('normalization')
        if isinstance(model, BEiTPretrainer):
            self._keep_fingerprint(runner, model.target_fingerprint, checkpoint['state_dict'])

    def _keep_fingerprint(self, runner: Runner, own: Tensor, state: dict[str, Tensor]) -> None:
        """Weights that a run begins with may have learned any tokenizer's ids; one that goes on has to learn the same."""
        theirs = state.get('target_fingerprint', own)
        if (
            not (own and theirs) or own.item() == theirs.item()
        ):  # 0: pixels, or a model that is tested only
            return
        words = f'{runner._load_from or runner.work_dir} learned the tokens of another tokenizer than the one of this run'
        if runner._resume:
            raise ValueError(
                f'resume: {words}: set model.target.checkpoint, or the cache, to what it began with, or begin a new run from '
                'its weights, with load_from and without --resume'
            )
        runner.logger.warning(words)
        state['target_fingerprint'] = own.clone()

    def before_train(self, runner: Runner) -> None:
        model = unwrap_model(runner)
        learned = self.normalization or getattr(
            getattr(model, 'backbone', None), 'pretrained_normalization', None
        )
        own = _normalization(model)
        if (
            not learned or not own or len(own['mean']) != len(learned['mean'])
        ):  # other channels are not comparable
            return
        if any(
            abs(a - b) > 0.5
            for k in ('mean', 'std')
            for a, b in zip(own[k], learned[k], strict=True)
        ):
            runner.logger.warning(
                f'the weights were trained on images normalized by {_words(learned)}, this run normalizes by {_words(own)}: set '
                'data_preprocessor.mean and .std to those of the weights'
            )
        order, fed = learned.get('channel_order', 'rgb'), own.get('channel_order')
        if fed and fed != order:
            setting = 'to_rgb' if hasattr(model.data_preprocessor, 'to_rgb') else 'bgr_to_rgb'
            runner.logger.warning(
                f'the weights were trained on {order.upper()} images, this run feeds {fed.upper()}: set '
                f'data_preprocessor.{setting}={order == "rgb"}'
            )

    before_test = before_train

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if normalization := _normalization(unwrap_model(runner)):
            checkpoint['meta']['normalization'] = normalization


def _normalization(model: nn.Module) -> dict[str, list[float] | str] | None:
    """Return mean and std (0 … 255) of the data preprocessor, and the order of three channels; None if it has no mean.

    Loaders read BGR. `MIMDataPreprocessor` has no setting for the order: its views are RGB.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    parts = {name: getattr(preprocessor, name, None) for name in ('mean', 'std')}
    if not all(isinstance(part, Tensor) for part in parts.values()):
        return None
    found = {name: [round(v, 4) for v in part.flatten().tolist()] for name, part in parts.items()}
    # mmpretrain's, then those of onedl's and of OpenMMLab's mmseg.
    settings = ('to_rgb', '_channel_conversion', 'channel_conversion')
    to_rgb = next(
        (getattr(preprocessor, name) for name in settings if hasattr(preprocessor, name)), True
    )
    return found | (
        dict(channel_order='rgb' if to_rgb else 'bgr') if len(found['mean']) == 3 else {}
    )


def _words(normalization: dict[str, list[float]]) -> str:
    return ', '.join(f'{name} {normalization[name]}' for name in ('mean', 'std'))
