"""A config against the paper's recipes: what differs and what that does, and what contradicts itself.

A rule is a pure function (facts, row) → findings. CONTRADICTIONS hold whatever the recipe is meant to be, and are worth
asking before any training; DIFFERENCES compare with a row of the paper's tables. From a Runner's config:

    found = facts(cfg.to_dict(), ranks=world_size)
    row, _ = nearest(found)
    findings = check(found, row)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..utils.config_tree import OFF
from .paper import DECAYED, Row, agrees, same
from .summary import HALF, IMAGENET, Facts


@dataclass(frozen=True)
class Finding:
    """`paper`, `yours`: the values as text; `contradiction`: training so cannot do what the config says it does."""

    what: str
    paper: str
    yours: str
    effect: str
    contradiction: bool = False


Rule = Callable[[Facts, Row], Iterator[Finding]]


def check(facts: Facts, row: Row) -> list[Finding]:
    """All findings, contradictions first."""
    return [finding for rule in (*CONTRADICTIONS, *DIFFERENCES) for finding in rule(facts, row)]


# -- contradictions ----------------------------------------------------------------------------------------------------


def schedule_ends_with_the_run(facts: Facts, row: Row) -> Iterator[Finding]:
    end, length = facts.end, facts.length
    if facts.stalled or end is None or length is None or same(end, length):
        return
    if same(end, row.values.get('end')) and end < length:  # DALL-E's is constant afterwards
        return
    if end < length:
        effect = f'the last {show(length - end)} {facts.unit} train at lr {show(facts.min_lr)}'
    else:
        effect = f'training stops before lr has come down to {show(facts.min_lr)}'
    yield Finding(
        'end of the schedule', f'{show(length)}, where the run ends', show(end), effect, True
    )


def schedule_moves(facts: Facts, row: Row) -> Iterator[Finding]:
    if facts.stalled:
        effect = 'the run counts iterations and never ends an epoch: lr stays as it starts; set by_epoch=False'
        yield Finding('unit of the schedule', facts.unit, 'epochs', effect, True)


def warmup_is_shorter_than_the_run(facts: Facts, row: Row) -> Iterator[Finding]:
    if facts.warmup and facts.length and facts.warmup >= facts.length:
        effect = f'the run of {show(facts.length)} {facts.unit} ends while lr still rises'
        yield Finding('warm-up', show(row.values.get('warmup')), show(facts.warmup), effect, True)


def rate_is_meant_for_the_batch(facts: Facts, row: Row) -> Iterator[Finding]:
    """The linear rule. A rate is for the batch that the config says (auto_scale_lr), else for the paper's."""
    if facts.auto_scale or not facts.batch or not facts.lr:
        return
    batch, base = row.values.get('batch'), facts.base_batch
    if base and base not in (facts.step_batch, facts.batch):
        meant, here = base, facts.step_batch
    elif (
        batch and not base and same(facts.lr, row.values.get('lr')) and not same(facts.batch, batch)
    ):
        meant, here = batch, facts.batch
    else:
        return
    mend = (
        f'pass --auto-scale-lr, or lr={facts.lr * here / meant:.3g}'
        if base
        else f'lr={facts.lr * here / meant:.3g}'
    )
    yield Finding(
        'lr for this batch',
        f'{show(row.values.get("lr"))} for {show(batch)}',
        f'{show(facts.lr)} is for {show(meant)}, the batch is {show(here)}',
        f'{times(meant / here)} the step an image: {mend}; other processes: --gpus N',
        True,
    )


def head_predicts_the_vocabulary(facts: Facts, row: Row) -> Iterator[Finding]:
    if facts.vocabulary and facts.predicted and facts.vocabulary != facts.predicted:
        paper = f'{show(row.values.get("vocabulary"))} on both sides'
        effect = f"the target has {facts.vocabulary} values: set the head's width to it"
        yield Finding('channels of the head', paper, show(facts.predicted), effect, True)


def as_many_are_read_as_are_masked(facts: Facts, row: Row) -> Iterator[Finding]:
    hidden = facts.recover == 'masked' and facts.budget and facts.num_masked
    if hidden and facts.num_masked != facts.budget:
        effect = (
            'a mask does not fit: training stops'
            if facts.num_masked < facts.budget
            else 'places stay unused'
        )
        paper = f'{show(row.values.get("budget"))}, as in the mask'
        yours = f'{facts.num_masked}, the mask {facts.budget}'
        yield Finding('num_masked', paper, yours, f'{effect}; set both to the same', True)


def a_token_for_each_patch(facts: Facts, row: Row) -> Iterator[Finding]:
    for what, grid in (('grid of tokens', facts.token_grid), ('grid of the mask', facts.mask_grid)):
        if grid and facts.patch_grid and grid != facts.patch_grid:
            effect = f'there are {show(facts.patch_grid)} patches a side: nothing to predict at some, or twice'
            yield Finding(what, show(row.values.get('mask_grid')), show(grid), effect, True)


def images_look_as_in_pretraining(facts: Facts, row: Row) -> Iterator[Finding]:
    here, before = facts.mean_std, facts.start_mean_std
    if not here or not before or same(here, before):
        return
    slip = row.slips.get('mean_std') if same(here, row.values.get('mean_std')) else None
    effect = slip or 'the weights get images shifted and scaled unlike those they were trained on'
    yield Finding(
        'mean and std', f'those of the start, {show(before)}', show(here), effect, not slip
    )


def cls_token_is_not_decayed(facts: Facts, row: Row) -> Iterator[Finding]:
    if facts.decayed and facts.decayed['cls_token'] and facts.weight_decay:
        slip = row.slips.get('cls_token')
        effect = slip or 'outside UPerNet no published figure was made so: exempt it'
        yield Finding('weight decay of cls_token', OFF, show(facts.weight_decay), effect, not slip)


CONTRADICTIONS: list[Rule] = [
    schedule_ends_with_the_run,
    schedule_moves,
    warmup_is_shorter_than_the_run,
    rate_is_meant_for_the_batch,
    head_predicts_the_vocabulary,
    as_many_are_read_as_are_masked,
    a_token_for_each_patch,
    images_look_as_in_pretraining,
    cls_token_is_not_decayed,
]

# -- differences -------------------------------------------------------------------------------------------------------


def batch_and_rate(facts: Facts, row: Row) -> Iterator[Finding]:
    batch, lr = row.values.get('batch'), row.values.get('lr')
    if not (batch and facts.batch and lr and facts.lr):
        return
    ratio = facts.lr / facts.batch / (lr / batch)
    step = (
        'the same step an image as in the paper'
        if same(ratio, 1)
        else f"{times(ratio)} the paper's step an image"
    )
    if not same(facts.batch, batch):
        effect = f'{facts.factors}; {times(facts.batch / batch)} the images'
        yield Finding('images an update', show(batch), show(facts.batch), effect)
    if not same(facts.lr, lr):
        scaled = ', scaled by auto_scale_lr' if facts.auto_scale else ''
        yield Finding('lr', show(lr), show(facts.lr), f'lr / batch: {step}{scaled}')


def images_in_all(facts: Facts, row: Row) -> Iterator[Finding]:
    """Accumulation turns iterations into fewer updates; in a run that counts epochs it does not matter."""
    if (
        facts.unit != row.values['unit']
        or facts.unit == 'epochs'
        or not (facts.length and facts.step_batch)
    ):
        return
    paper = row.values['length'] * row.values['batch'] // row.values.get('accumulation', 1)
    yours = facts.length * facts.step_batch
    if not same(yours, paper):
        effect = f"{times(yours / paper)} the paper's: {facts.length // facts.accumulation} updates of {facts.batch} images"
        yield Finding('images in all', show(paper), show(yours), effect)


def weight_decay_of_special_tensors(facts: Facts, row: Row) -> Iterator[Finding]:
    if not facts.decayed or not facts.weight_decay:
        return
    value = {True: show(facts.weight_decay), False: OFF}
    for tensor, decayed in facts.decayed.items():
        if tensor != 'cls_token' and decayed != (tensor in DECAYED):
            effect = (
                'it is drawn to 0, officially it is not'
                if decayed
                else 'officially it is drawn to 0'
            )
            yield Finding(f'weight decay of {tensor}', value[not decayed], value[decayed], effect)


def normalisation(facts: Facts, row: Row) -> Iterator[Finding]:
    here, paper = facts.mean_std, row.values.get('mean_std')
    if not (here and paper) or same(here, paper):
        return
    if facts.start_mean_std:  # then `images_look_as_in_pretraining` judges
        effect = (
            'as the weights that it starts from were trained'
            if same(here, facts.start_mean_std)
            else None
        )
    elif facts.task == 'pretrain':
        effect = 'all that starts from these weights has to use it too'
    else:
        effect = 'right only for weights that were pre-trained so; the config does not show which it starts from'
    if effect:
        yield Finding('mean and std', show(paper), show(here), effect)


def first_weights_of_the_head(facts: Facts, row: Row) -> Iterator[Finding]:
    paper = row.values.get('head_std')
    if paper and facts.head_std and not same(facts.head_std, paper):
        effect = (
            f'{times(facts.head_std / paper)} the first logits: the first steps push random gradients through the backbone; '
            'the paper starts at 0.02 × 0.001'
        )
        yield Finding('std of the first head', show(paper), show(facts.head_std), effect)


# fact, its name in the table, what another value does
COMPARED = [
    ('length', 'length', "another length than the figures'; lr falls along it"),
    ('warmup', 'warm-up', 'too short diverges at this lr, too long wastes the run'),
    ('min_lr', 'lr at the end', 'how much the last steps still move'),
    ('optimizer', 'optimizer', "lr and decay are AdamW's"),
    ('betas', 'betas', 'how long gradients and their sizes are remembered'),
    ('eps', 'eps', 'damps steps where gradients are small'),
    ('weight_decay', 'weight decay', 'how strongly weights are drawn to 0'),
    ('layer_decay', 'layer decay', 'how much slower early layers learn than late ones'),
    ('clip', 'gradient clipping', 'caps the norm of an update; without it one bad batch can undo many'),
    ('drop_path', 'drop path', 'more regularises more; larger for large models and long runs'),
    ('taps', 'feature taps', 'which blocks the decode head reads'),
    ('mixup', 'mixup', 'labels are mixed less or more: it regularises'),
    ('cutmix', 'cutmix', 'labels are mixed less or more: it regularises'),
    ('label_smoothing', 'label smoothing', 'how sure the classifier is made to be'),
    ('px', 'pixels a side', 'another grid: positions are interpolated, cost grows with its square'),
    ('crop_scale', 'crop scale', 'how small a part of the image a view may show'),
    ('crop_ratio', 'crop ratio', 'how far a view is stretched'),
    ('interpolation', 'interpolation', 'other pixels, and other tokens of them'),
    ('flip', 'flip', 'mirrored images'),
    ('jitter', 'colour jitter', 'brightness, contrast, saturation'),
    ('rand_augment', 'RandAugment', 'strength and its spread'),
    ('erasing', 'random erasing', 'it regularises'),
    ('test_crop', 'test crop / image', 'how much of the image the test sees: moves top-1 by tenths'),
    ('resize_range', 'range of scales', 'sizes at which things are seen in training'),
    ('cat_max_ratio', 'cat_max_ratio', 'how much of a crop one class may fill'),
    ('stride', 'stride of the test', 'how much the windows of the test overlap'),
    ('target', 'target', 'table 4: tokens 82.86 top-1, 44.65 mIoU; pixels 81.04, 41.38'),
    ('recover', 'predicted patches', 'table 4: the masked 82.86 top-1, 44.65 mIoU; all 82.59, 40.93'),
    ('mask', 'mask', 'table 4: blockwise 82.86 top-1, 44.65 mIoU; random 82.77, 42.93; none, all predicted 81.67, 36.73'),
    ('budget', 'hidden patches', 'the share of the grid decides how hard the task is: about 40 % in the paper'),
    ('min_block', 'smallest block', 'how large the holes are'),
    ('mask_grid', 'grid of the mask', 'patches a side'),
    ('token_px', 'pixels of the token view', 'what the tokenizer reads'),
    ('vocabulary', 'vocabulary', 'how much one token tells'),
    ('likelihood', 'likelihood', 'what the reconstruction is judged by'),
    ('kl', 'weight of the KL (value, updates)', 'how evenly the codes are used'),
    ('temperature', 'temperature (value, updates)', 'how near to a choice of one code training ends'),
    ('ema', 'moving average of the weights', 'a checkpoint gives averaged weights'),
]  # fmt: skip


def compared_values(facts: Facts, row: Row) -> Iterator[Finding]:
    of_tokens = ('vocabulary', 'token_px') if facts.target == 'pixels' else ()
    for fact, what, effect in COMPARED:
        paper, yours = row.values.get(fact), getattr(facts, fact)
        if paper is None or yours is None or fact in of_tokens or agrees(facts, row, fact):
            continue
        units = (
            (f' {row.values["unit"]}', f' {facts.unit}')
            if fact in ('length', 'warmup')
            else ('', '')
        )
        yield Finding(what, show(paper) + units[0], show(yours) + units[1], effect)


def positions(facts: Facts, row: Row) -> Iterator[Finding]:
    """Table 5: the plain ViT and BEiT+ are both the paper's, what lies between is an ablation."""
    if facts.variant in (None, 'mixed'):
        return
    paper = {'base': 0.1, 'large': 1e-5}.get(facts.arch) if facts.variant != 'vanilla' else OFF
    if paper and not same(facts.layer_scale, paper):
        effect = 'how much a block adds at the start; trained weights bring their own'
        yield Finding('LayerScale at the start', show(paper), show(facts.layer_scale), effect)
    paper = f'relative, {"shared" if facts.task == "pretrain" else "per layer"}'
    if facts.variant == 'BEiT+' and facts.positions != paper:
        yield Finding(
            'positions',
            paper,
            facts.positions,
            'one table serves all layers in pre-training, each has its own later',
        )


DIFFERENCES: list[Rule] = [
    batch_and_rate,
    images_in_all,
    weight_decay_of_special_tensors,
    normalisation,
    first_weights_of_the_head,
    positions,
    compared_values,
]


def times(ratio: float) -> str:
    return f'{ratio:.3g}×' if ratio < 1000 else f'{ratio:.0f}×'


def show(value: object) -> str:
    """A value as it stands in the table."""
    if value is None:
        return 'not stated'
    if isinstance(value, tuple):
        return {IMAGENET: "ImageNet's", HALF: '127.5 / 127.5 (0.5)'}.get(value) or ', '.join(
            map(show, value)
        )
    return f'{value:.6g}' if isinstance(value, float) else str(value)
