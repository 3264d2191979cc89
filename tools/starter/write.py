"""Write the config of a task for a folder of images."""

import os
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from mmengine.config import Config

from beit_mm.checkpoint.published import NORMALIZATIONS
from beit_mm.utils.installation import command, is_checkout
from beit_mm.utils.own_configs import PREFIX

from .data import Data, read_data
from .lengths import (
    choose_batch_size,
    choose_codes,
    choose_epochs,
    choose_iterations,
    choose_workers,
)
from .models import DEFAULT_WEIGHTS, DIMS, Device, Weights, choose_base, inspect_weights

CONFIGS = Path(__file__).parents[2] / 'configs'
ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name('templates')),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters['repr'] = repr
TASK_TITLES = dict(
    tokenizer='Tokenizer',
    pretrain='Pre-training',
    classification='Classification',
    segmentation='Segmentation',
)
LARGE = 8  # times the view: decoding takes longer than training
TOKENIZER_LR = 1e-4  # DALL-E's


def write_config(
    task: str,
    folder: Path,
    out: Path,
    weights: str | None,
    device: Device,
    mask_folder: Path | None = None,
    ask_zero: Callable[[str], str] = str,
    colors: Path | None = None,
) -> None:
    """Write `out`, and lists of images where a folder has no splits.

    `ask_zero` is called if masks have the value 0, see `masks.read_values`.

    Raises ValueError for data or weights that do not fit the task.
    """
    start = choose_weights(task, weights, device)
    data = read_data(task, folder, out, mask_folder, ask_zero, colors)
    path = CONFIGS / choose_base(task, start)
    base = Config.fromfile(path)
    labels = f'{len(data.classes)} classes' if data.classes else 'no labels'
    values = dict(
        title=f'{TASK_TITLES[task]} for the images in {folder.as_posix()} ({labels}).',
        out=out.as_posix(),
        train=command('train'),
        base=name_base(path, out),
        device=device,
        data=data,
        weights=start,
        small=start.size == 'small',
        dims=DIMS[start.size],
        workers=choose_workers(device),
    )
    values |= choose_length(task, start, device, base, len(data.train.names))
    values |= choose_inputs(task, start, base, data)
    if task != 'segmentation':
        advise_smaller_copies(folder, data, values['view'])
    text = ENVIRONMENT.get_template(f'{task}.py.jinja').render(values)
    out.write_text(text.lstrip('\n'), encoding='utf-8')


def name_base(path: Path, out: Path) -> str:
    """Return how `out` names its base: by a path in a checkout, by the package if installed."""
    if is_checkout():
        return Path(os.path.relpath(path, out.parent.resolve())).as_posix()
    return PREFIX + path.relative_to(CONFIGS).as_posix()


def next_commands(task: str, out: Path) -> list[str]:
    """Return the command that trains the config, and the one after it."""
    run, new_config = f'work_dirs/{out.stem}', command('new_config')
    follow = dict(
        tokenizer=f'{new_config} pretrain DATA --weights {run}',
        pretrain=f'{new_config} classification DATA --weights {run}',
        classification=f'{command("test")} {out} {run}',
        segmentation=f'{command("test")} {out} {run}',
    )
    return [f'{command("train")} {out}', follow[task]]


def advise_smaller_copies(folder: Path, data: Data, view: int) -> None:
    """Print a command if most of the time would go into decoding pixels that no view keeps."""
    shorter, longer = sorted((data.images.height, data.images.width))
    if shorter >= LARGE * view:
        side = 2 * view * longer // shorter
        print(
            f'remark: the images have about {shorter} pixels, and the model sees {view}. Smaller '
            f'copies are read much faster: {command("shrink_images")} {folder} {folder}_small '
            f'--side {side}'
        )


def choose_weights(task: str, source: str | None, device: Device) -> Weights:
    """Return the weights that a run starts from, and so the size of its model."""
    size = 'base' if device.gib else 'small'
    if task == 'tokenizer':
        if source:
            raise ValueError(f'--weights {source}: a tokenizer is trained from scratch')
        return Weights(None, size)
    if task == 'pretrain':
        if not source:
            raise ValueError(
                'pre-training needs a tokenizer: pass --weights with the folder of its run, such '
                'as work_dirs/my_tokenizer'
            )
        found = inspect_weights(source)
        if found.tokenizer is None:
            raise ValueError(f'--weights {source}: expected a tokenizer')
        return Weights(source, size, in_channels=found.in_channels, tokenizer=found.tokenizer)
    if source == 'none' or not (source or device.gib):
        return Weights(None, size, normalization=NORMALIZATIONS['imagenet'])
    found = inspect_weights(source or DEFAULT_WEIGHTS)
    if found.tokenizer:
        raise ValueError(f'--weights {source} is a tokenizer: expected a BEiT')
    return found


def choose_length(
    task: str, weights: Weights, device: Device, base: Config, num_images: int
) -> dict[str, object]:
    """Choose batch size, length and learning rate, with the reasons."""
    size, small = weights.size, weights.size == 'small'
    batch_size = choose_batch_size(task, size, device, num_images)
    if not small and task in ('pretrain', 'classification'):
        unit, length = 'epochs', choose_epochs(task, num_images)
        passes = length
    else:
        unit, length = 'iters', choose_iterations(task, size, num_images, batch_size)
        passes = length * batch_size / num_images
    lr, reason = base.optim_wrapper.optimizer.lr, 'that of the base config'
    base_batch = base.get('auto_scale_lr', {}).get('base_batch_size')
    if task == 'tokenizer' and not small:
        lr, reason = TOKENIZER_LR, "DALL-E's"
    elif not small:
        reason = f'{lr:g} of the base config is for a batch of {base_batch}'
        lr = float(f'{lr * batch_size / base_batch:.3g}')
    return dict(
        unit=unit,
        length=length,
        length_reason=f'about {passes:.3g} passes over {num_images} images',
        batch_size=batch_size,
        batch_reason='that of the base config' if small else f'for {device}, by estimate',
        lr=lr,
        lr_reason=reason,
    )


def choose_inputs(task: str, weights: Weights, base: Config, data: Data) -> dict[str, object]:
    """Choose sizes, normalization and settings of the weights."""
    small, num_images = weights.size == 'small', len(data.train.names)
    channels = data.images.channels
    if task == 'tokenizer':
        codes = choose_codes(weights.size, num_images)
        reason = "DALL-E's" if codes == 8192 else f'{num_images} images are too few for 8192'
        return dict(
            codes=codes,
            codes_reason=reason,
            view=56 if small else 256,
            init_images=min(num_images, 192),
        )
    view = 112 if small else base.get('crop_size', (224, 224))[0]
    if task == 'pretrain':
        if weights.in_channels != channels:
            raise ValueError(
                f'the images have {channels} channels, the tokenizer {weights.source} expects '
                f'{weights.in_channels}: train a tokenizer on these images'
            )
        return dict(view=view, token_size=14 * 2 ** (weights.tokenizer['groups'] - 1))
    reason = 'the name of published weights (docs/models.md)'
    if weights.source is None:
        reason = 'None trains from scratch; a pre-trained checkpoint learns faster'
    elif os.path.exists(weights.source):
        reason = 'where the run starts'
    settings = dict(view=view, weights_reason=reason, adapt='', normalization=None)
    if channels == 3 and weights.in_channels != 3:
        raise ValueError(
            f'the images are read as RGB, and {weights.source} expects {weights.in_channels} '
            'channels'
        )
    if channels != weights.in_channels:
        settings['normalization'] = dict(mean=data.images.mean, std=data.images.std)
        settings['normalization_reason'] = 'mean and std of a sample of the images'
        settings['adapt'] = ', adapt_patch_embed=True' if weights.source else ''
    elif weights.normalization != _normalization(base):
        settings['normalization'] = weights.normalization
        settings['normalization_reason'] = 'mean and std of the weights'
    return settings


def _normalization(base: Config) -> dict[str, list[float]]:
    preprocessor = base.get('data_preprocessor') or base.model.data_preprocessor
    return {name: [float(value) for value in preprocessor[name]] for name in ('mean', 'std')}
