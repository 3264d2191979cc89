"""Compare a config with the nearest recipe of the paper.

    summary = read_summary('configs/….py')
    recipe, mismatches = find_nearest(summary)
    findings = compare(summary, recipe)

A rule is a function (summary, recipe) → findings. `CONTRADICTIONS` are mistakes, whatever the recipe
is meant to be; `preflight` uses them too. `DIFFERENCES` depend on the paper's values.
"""

from collections.abc import Callable, Iterator

from .finding import OFF, Finding, show_ratio, show_value
from .paper import SETTINGS, PaperRecipe, agrees, is_close
from .summary import ConfigSummary

Rule = Callable[[ConfigSummary, PaperRecipe], Iterator[Finding]]
DECAYED = ('relative position tables', 'mask_token')  # officially, of all that `decayed` names


def compare(summary: ConfigSummary, recipe: PaperRecipe) -> list[Finding]:
    """Return all findings: contradictions first (`stops` is True), then differences."""
    rules = [*CONTRADICTIONS, *DIFFERENCES]
    return [finding for rule in rules for finding in rule(summary, recipe)]


# -- contradictions --------------------------------------------------------------------------------


def schedule_ends_with_run(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    end, length = summary['end'], summary['length']
    if summary['stalled'] or end is None or length is None or is_close(end, length):
        return
    if end < length and is_close(end, recipe.values.get('end')):
        return  # DALL-E's learning rate is constant afterwards
    min_lr = show_value(summary['min_lr'])
    effect = f'training stops before lr reaches {min_lr}'
    if end < length:
        rest = show_value(length - end)
        effect = f'the last {rest} {summary["unit"]} train at lr {min_lr}'
    expected = f'{show_value(length)}, where the run ends'
    yield Finding('end of the schedule', effect, show_value(end), expected)


def schedule_moves(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    if summary['stalled']:
        effect = (
            'the run counts iterations and never ends an epoch, so lr keeps its first value: '
            'set by_epoch=False'
        )
        yield Finding('unit of the schedule', effect, 'epochs', summary['unit'])


def warmup_ends_before_run(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    warmup, length = summary['warmup'], summary['length']
    if warmup and length and warmup >= length:
        effect = f'the run of {show_value(length)} {summary["unit"]} ends while lr still rises'
        expected = show_value(recipe.values.get('warmup'))
        yield Finding('warm-up', effect, show_value(warmup), expected)


def lr_fits_batch(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    """Apply the linear rule: lr is for the batch of auto_scale_lr, or else for the paper's."""
    if summary['auto_scale'] or not summary.batch or not summary['lr']:
        return
    base, lr, batch = summary['base_batch'], summary['lr'], recipe.values.get('batch')
    paper_lr = recipe.values.get('lr')
    if base and base not in (summary.step_batch, summary.batch):
        meant, here = base, summary.step_batch
        fix = f'pass --auto-scale-lr, or set lr={lr * here / meant:.3g}'
    elif batch and not base and is_close(lr, paper_lr) and not is_close(summary.batch, batch):
        meant, here = batch, summary.batch
        fix = f'set lr={lr * here / meant:.3g}'
    else:
        return
    yield Finding(
        'lr for this batch',
        f'{show_ratio(meant / here)} the step per image: {fix}; other number of processes: --gpus N',
        f'{show_value(lr)} is for {show_value(meant)}, the batch is {show_value(here)}',
        f'{show_value(paper_lr)} for {show_value(batch)}',
    )


def head_fits_vocabulary(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    vocabulary, predicted = summary['vocabulary'], summary['predicted']
    if vocabulary and predicted and vocabulary != predicted:
        effect = f'the target has {vocabulary} values: set model.head.out_channels={vocabulary}'
        expected = f'{show_value(recipe.values.get("vocabulary"))} on both sides'
        yield Finding('channels of the head', effect, show_value(predicted), expected)


def num_masked_is_one_number(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    model, mask = summary['model_num_masked'], summary['num_masked']
    if summary['recover'] == 'masked' and model and mask and model != mask:
        effect = 'a mask does not fit: training stops' if model < mask else 'places stay unused'
        yield Finding(
            'num_masked',
            f'{effect}; set both to the same number',
            f'{model}, the mask {mask}',
            f'{show_value(recipe.values.get("num_masked"))}, as in the mask',
        )


def grids_are_equal(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    patches = summary['patch_grid']
    grids = {
        'grid of tokens': summary['token_grid'],
        'grid of the mask': summary['mask_grid'],
    }
    for what, grid in grids.items():
        if grid and patches and grid != patches:
            effect = (
                f'the image has {show_value(patches)} patches per side, and each needs one entry: '
                'change the size of the view or the grid'
            )
            expected = show_value(recipe.values.get('mask_grid'))
            yield Finding(what, effect, show_value(grid), expected)


def normalization_is_that_of_pretraining(
    summary: ConfigSummary, recipe: PaperRecipe
) -> Iterator[Finding]:
    here, before = summary['mean_std'], summary['start_mean_std']
    if not here or not before or is_close(here, before):
        return
    reason = None
    if is_close(here, recipe.values.get('mean_std')):
        reason = recipe.exceptions.get('mean_std')
    effect = reason or 'the weights get images with another shift and scale than in their training'
    expected = f'that of the starting weights, {show_value(before)}'
    yield Finding('mean and std', effect, show_value(here), expected, stops=not reason)


def cls_token_is_not_decayed(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    if summary['decayed'] and summary['decayed']['cls_token'] and summary['weight_decay']:
        reason = recipe.exceptions.get('cls_token')
        effect = reason or 'outside UPerNet no published figure was made so: exempt it'
        yours = show_value(summary['weight_decay'])
        yield Finding('weight decay of cls_token', effect, yours, OFF, stops=not reason)


CONTRADICTIONS: list[Rule] = [
    schedule_ends_with_run,
    schedule_moves,
    warmup_ends_before_run,
    lr_fits_batch,
    head_fits_vocabulary,
    num_masked_is_one_number,
    grids_are_equal,
    normalization_is_that_of_pretraining,
    cls_token_is_not_decayed,
]

# -- differences -----------------------------------------------------------------------------------


def _difference(what: str, expected: object, yours: object, effect: str) -> Finding:
    return Finding(what, effect, show_value(yours), show_value(expected), stops=False)


def batch_and_lr(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    batch, lr = recipe.values.get('batch'), recipe.values.get('lr')
    if not (batch and summary.batch and lr and summary['lr']):
        return
    if not is_close(summary.batch, batch):
        effect = f'{summary.factors}; {show_ratio(summary.batch / batch)} the images'
        yield _difference('images per update', batch, summary.batch, effect)
    if not is_close(summary['lr'], lr):
        ratio = summary['lr'] / summary.batch / (lr / batch)
        step = f"{show_ratio(ratio)} the paper's step per image"
        if is_close(ratio, 1):
            step = 'the same step per image as in the paper'
        scaled = ', scaled by auto_scale_lr' if summary['auto_scale'] else ''
        yield _difference('lr', lr, summary['lr'], f'lr / batch: {step}{scaled}')


def total_images(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    """Compare runs that count iterations: accumulation turns iterations into fewer updates."""
    length = summary['length']
    if {summary['unit'], recipe.values['unit']} != {'iterations'} or not length:
        return
    if not summary.step_batch:
        return
    accumulation = recipe.values.get('accumulation', 1)
    paper = recipe.values['length'] * recipe.values['batch'] // accumulation
    yours = length * summary.step_batch
    if not is_close(yours, paper):
        updates = f'{length // summary["accumulation"]} updates of {summary.batch} images'
        effect = f"{show_ratio(yours / paper)} the paper's: {updates}"
        yield _difference('total images', paper, yours, effect)


def decay_of_special_tensors(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    decay = summary['weight_decay']
    for tensor, decayed in (summary['decayed'] or {}).items():
        if tensor == 'cls_token' or not decay or decayed == (tensor in DECAYED):
            continue
        what = f'weight decay of {tensor}'
        if decayed:
            yield _difference(what, OFF, decay, 'it decays towards 0, officially it does not')
        else:
            yield _difference(what, decay, OFF, 'officially it decays towards 0')


def normalization(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    here, paper, before = (
        summary['mean_std'],
        recipe.values.get('mean_std'),
        summary['start_mean_std'],
    )
    if not (here and paper) or is_close(here, paper):
        return
    if summary['task'] == 'pretrain':
        effect = 'all training that starts from these weights has to use it too'
    elif not before:
        effect = 'right only for weights pre-trained with it; the config does not show their source'
    elif is_close(here, before):
        effect = 'as in the training of the starting weights'
    else:
        return  # `normalization_is_that_of_pretraining` names it
    yield _difference('mean and std', paper, here, effect)


def compared_values(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    for name, (what, effect) in SETTINGS.items():
        paper, yours = recipe.values.get(name), summary[name]
        if paper is None or yours is None or agrees(summary, recipe, name):
            continue
        if summary['target'] == 'pixels' and name in ('vocabulary', 'token_size'):
            continue
        paper, yours = show_value(paper), show_value(yours)
        if name in ('length', 'warmup'):
            paper, yours = f'{paper} {recipe.values["unit"]}', f'{yours} {summary["unit"]}'
        yield _difference(what, paper, yours, effect)


def positions(summary: ConfigSummary, recipe: PaperRecipe) -> Iterator[Finding]:
    """Compare with table 5: plain ViT and BEiT+ are both the paper's, the rest are ablations."""
    variant = summary['variant']
    if variant in (None, 'mixed'):
        return
    paper = OFF if variant == 'vanilla' else dict(base=0.1, large=1e-5).get(summary['arch'])
    if paper and not is_close(summary['layer_scale'], paper):
        effect = 'how much a block adds at the start; trained weights bring their own'
        yield _difference('LayerScale at the start', paper, summary['layer_scale'], effect)
    paper = 'relative, shared' if summary['task'] == 'pretrain' else 'relative, per layer'
    if variant == 'BEiT+' and summary['positions'] != paper:
        effect = 'pre-training shares one table between layers, later training has one per layer'
        yield _difference('positions', paper, summary['positions'], effect)


DIFFERENCES: list[Rule] = [
    batch_and_lr,
    total_images,
    decay_of_special_tensors,
    normalization,
    positions,
    compared_values,
]
