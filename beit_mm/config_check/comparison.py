"""Compare a config with the nearest recipe of the paper.

    summary = read_summary('configs/….py')
    recipe, mismatches = find_nearest(summary)
    findings = compare(summary, recipe)

A rule is a function (summary, recipe) → findings. Findings that stop are contradictions: mistakes,
whatever the recipe is meant to be. `preflight` uses them too. The others are differences from the
paper's values.
"""

from collections.abc import Callable, Iterator

from .finding import OFF, Finding, show_value
from .paper import SETTINGS, PaperRecipe, agrees, is_close
from .summary import ConfigSummary

DECAYED = ('relative position tables', 'mask_token')  # officially, of all that `decayed` names
HEAD = 'the target has {} values: set model.head.out_channels to it'
MASKED = 'the mask hides {}: set both to the same number'
GRID = 'the image has {} patches per side, and each needs one entry: change the view or the grid'
EQUAL_SETTINGS = [  # name in the table, setting, the setting that has to be equal, effect
    ('channels of the head', 'predicted', 'vocabulary', HEAD),
    ('num_masked', 'model_num_masked', 'num_masked', MASKED),
    ('grid of tokens', 'token_grid', 'patch_grid', GRID),
    ('grid of the mask', 'mask_grid', 'patch_grid', GRID),
]


def compare(summary: ConfigSummary, recipe: PaperRecipe) -> list[Finding]:
    """Return all findings: contradictions first (`stops` is True), then differences."""
    findings = [finding for rule in COMPARISON_RULES for finding in rule(summary, recipe)]
    return sorted(findings, key=lambda finding: not finding.stops)


def schedule_fits_run(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    end, length, unit = summary['end'], summary['length'], summary['unit']
    warmup, min_lr = summary['warmup'], show_value(summary['min_lr'])
    if summary['stalled']:
        effect = 'the run never ends an epoch, so lr keeps its first value: set by_epoch=False'
        yield Finding('unit of the schedule', effect, 'epochs', unit)
    elif end and length and not is_close(end, length):
        effect = f'training stops before lr reaches {min_lr}'
        if end < length:
            effect = f'the last {show_value(length - end)} {unit} train at lr {min_lr}'
        then_constant = end < length and is_close(end, recipe.values.get('end'))  # DALL-E's
        if not then_constant:
            expected = f'{show_value(length)}, where the run ends'
            yield Finding('end of the schedule', effect, show_value(end), expected)
    if warmup and length and warmup >= length:
        effect = f'the run of {show_value(length)} {unit} ends while lr still rises'
        yield Finding('warm-up', effect, show_value(warmup), f'under {show_value(length)}')


def lr_fits_batch(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    """Apply the linear rule: lr is for the batch of auto_scale_lr, or else for the paper's."""
    lr, base = summary['lr'], summary['base_batch']
    paper_lr, paper_batch = recipe.values.get('lr'), recipe.values.get('batch')
    here = summary.step_batch if base else summary.batch
    meant = base or (paper_batch if is_close(lr, paper_lr) else None)
    if summary['auto_scale'] or not (here and lr and meant) or meant == summary.batch:
        return
    if not is_close(here, meant):
        fix = f'{"pass --auto-scale-lr, or " if base else ""}set lr={lr * here / meant:.3g}'
        yield Finding(
            'lr for this batch',
            f'{meant / here:.3g}× the step per image: {fix}; other number of processes: --gpus N',
            f'{show_value(lr)} is for {show_value(meant)}, the batch is {show_value(here)}',
            f'{show_value(paper_lr)} for {show_value(paper_batch)}',
        )


def settings_are_equal(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    for what, name, other, effect in EQUAL_SETTINGS:
        here, expected = summary[name], summary[other]
        if here and expected and here != expected:
            expected = show_value(expected)
            yield Finding(what, effect.format(expected), show_value(here), expected)


def normalization(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    here, before = summary['mean_std'], summary['start_mean_std']
    paper = recipe.values.get('mean_std')
    if here and len(here[0]) != 3:
        return  # images with other channels have their own mean and std
    if here and before and not is_close(here, before):
        reason = recipe.exceptions.get('mean_std') if is_close(here, paper) else None
        effect = reason or 'the weights were trained on images with another shift and scale'
        expected = f'that of the starting weights, {show_value(before)}'
        yield Finding('mean and std', effect, show_value(here), expected, stops=not reason)
    elif here and paper and not is_close(here, paper):
        effect = 'has to be the same in pre-training and in all training that starts from it'
        yield _difference('mean and std', paper, here, effect)


def decayed_tensors(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    decay = show_value(summary['weight_decay'])
    for tensor, is_decayed in (summary['decayed'] or {}).items():
        officially = tensor in DECAYED
        if summary['weight_decay'] and is_decayed != officially:
            reason = recipe.exceptions.get(tensor)
            effect = reason or f'officially it {"decays" if officially else "does not decay"}'
            values = (decay, OFF) if is_decayed else (OFF, decay)
            stops = tensor == 'cls_token' and not reason  # no published figure was made so
            yield Finding(f'weight decay of {tensor}', effect, *values, stops)


def batch_and_lr(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    batch, lr = recipe.values.get('batch'), recipe.values.get('lr')
    if not (batch and summary.batch and lr and summary['lr']):
        return
    if not is_close(summary.batch, batch):
        effect = f'{summary.factors}; {summary.batch / batch:.3g}× the images'
        yield _difference('images per update', batch, summary.batch, effect)
    if not is_close(summary['lr'], lr):
        ratio = summary['lr'] / summary.batch / (lr / batch)
        step = 'the same' if is_close(ratio, 1) else f"{ratio:.3g}× the paper's"
        scaled = ', scaled by auto_scale_lr' if summary['auto_scale'] else ''
        yield _difference('lr', lr, summary['lr'], f'{step} step per image{scaled}')


def total_images(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    """Compare runs that count iterations: accumulation turns iterations into fewer updates."""
    units, length = {summary['unit'], recipe.values['unit']}, summary['length']
    if units != {'iterations'} or not length or not summary.step_batch:
        return
    accumulation = recipe.values.get('accumulation', 1)
    paper = recipe.values['length'] * recipe.values['batch'] // accumulation
    yours = length * summary.step_batch
    if not is_close(yours, paper):
        updates = f'{length // summary["accumulation"]} updates of {summary.batch} images'
        effect = f"{yours / paper:.3g}× the paper's: {updates}"
        yield _difference('total images', paper, yours, effect)


def positions(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    """Compare with table 5: plain ViT and BEiT+ are both the paper's, the rest are ablations."""
    variant = summary['variant']
    if variant in (None, 'mixed'):
        return
    paper = OFF if variant == 'vanilla' else dict(base=0.1, large=1e-5).get(summary['arch'])
    paper = recipe.values.get('layer_scale', paper)
    if paper and not is_close(summary['layer_scale'], paper):
        effect = 'how much a block adds at the start; trained weights bring their own'
        yield _difference('LayerScale at the start', paper, summary['layer_scale'], effect)
    paper = 'relative, shared' if summary['task'] == 'pretrain' else 'relative, per layer'
    if variant == 'BEiT+' and summary['positions'] != paper:
        effect = 'pre-training shares one table between layers, later training has one per layer'
        yield _difference('positions', paper, summary['positions'], effect)


def compared_values(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    for name, (what, effect) in SETTINGS.items():
        paper, yours = recipe.values.get(name), summary[name]
        is_token = name == 'vocabulary' and summary['target'] == 'pixels'
        if None in (paper, yours) or is_token or agrees(summary, recipe, name):
            continue
        if name in ('length', 'warmup'):
            paper = f'{show_value(paper)} {recipe.values["unit"]}'
            yours = f'{show_value(yours)} {summary["unit"]}'
        yield _difference(what, paper, yours, effect)


def _difference(what: str, expected: object, yours: object, effect: str) -> Finding:
    return Finding(what, effect, show_value(yours), show_value(expected), stops=False)


COMPARISON_RULES: list[Callable[[ConfigSummary, PaperRecipe], Iterator[Finding]]] = [
    schedule_fits_run,
    lr_fits_batch,
    settings_are_equal,
    normalization,
    decayed_tensors,
    batch_and_lr,
    total_images,
    positions,
    compared_values,
]
