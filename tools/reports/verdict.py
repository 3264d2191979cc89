"""One sentence about a run: does it learn? Pure functions of the values that the run has logged.

The rules, of which the first that applies counts:

- `diverged`: a logged training loss is not finite.
- A tokenizer has `collapsed` if it uses less than a tenth of its codes. It `learns nothing` if its
  PSNR is not above that of one mean color per image.
- A pre-training on tokens has `nothing to predict` if the entropy of its tokens is below ln 2. It
  is `not better than the marginal` if its loss is above 99 % of that entropy, or its accuracy is
  not above that of always predicting the most frequent token.
- Features have `collapsed` if `Probe` found an effective rank below 2 in the last block.
- A classifier is `not better than guessing` if its top-1 is at most 1.1 times 1 / number of
  classes. A segmentor is `not better than one class everywhere` if this holds for its mIoU.
- Without a metric of the kinds above, a run `does not learn` if the mean training loss of the last
  tenth of the log is less than 2 % below that of the first tenth.
- Otherwise it `learns`.
"""

import math
from statistics import mean
from typing import NamedTuple

from beit_mm.engine.measures import MIN_RANK
from beit_mm.engine.metrics import MIN_CODES_USED

MIN_ENTROPY = math.log(2)
MAX_LOSS = 0.99  # of the entropy
MIN_GAIN = 1.1  # over chance
MIN_FALL = 0.02  # of the training loss


class Verdict(NamedTuple):
    word: str  # such as 'learns'
    reason: str
    is_good: bool = False


def judge(
    losses: list[float],
    values: dict[str, float],
    last_rank: float | None = None,
    num_classes: int | None = None,
) -> Verdict:
    """Judge a run by its training losses in order, and the metrics of its last validation.

    `last_rank` is the effective rank of the last block.
    """
    broken = [i for i, loss in enumerate(losses) if not math.isfinite(loss)]
    if broken:
        return Verdict('diverged', f'logged loss {broken[0] + 1} of {len(losses)} is not finite')
    found = [
        _judge_tokenizer(values),
        _judge_pretraining(values),
        _judge_features(last_rank),
        _judge_task(values, num_classes),
    ]
    found = [verdict for verdict in found if verdict]
    problems = [verdict for verdict in found if not verdict.is_good]
    return (problems or found or [_judge_losses(losses)])[0]


def _judge_tokenizer(values: dict[str, float]) -> Verdict | None:
    if 'vocab_size' not in values:
        return None
    used = f'{values["codes_used"]:.0f} of {values["vocab_size"]:.0f} codes are used'
    if values['codes_used'] < MIN_CODES_USED * values['vocab_size']:
        return Verdict('collapsed', f'only {used}')
    if 'cosine' in values:
        cosine = f'the cosine with the features of the teacher is {values["cosine"]:.2f}'
        return Verdict('learns', f'{cosine}, and {used}', is_good=True)
    if 'psnr' not in values:
        return None
    gain = values['psnr'] - values['psnr_mean_color']
    if gain <= 0:
        psnr = f'PSNR {values["psnr"]:.1f} dB'
        mean_color = f'{values["psnr_mean_color"]:.1f} dB of one mean color per image'
        return Verdict('learns nothing', f'{psnr} is not above the {mean_color}')
    reason = f'decoded images are {gain:.1f} dB better than one mean color per image, and {used}'
    return Verdict('learns', reason, is_good=True)


def _judge_pretraining(values: dict[str, float]) -> Verdict | None:
    suffix = '' if 'marginal_entropy' in values else '_all'
    if 'marginal_entropy' + suffix not in values:
        return None
    accuracy = values['accuracy_all' if suffix else 'masked_accuracy']
    chance, loss = values['marginal_accuracy' + suffix], values['val_loss' + suffix]
    entropy = values['marginal_entropy' + suffix]
    if entropy < MIN_ENTROPY:
        text = f'nearly all tokens are the same: their entropy is {entropy:.2f} nats'
        return Verdict('nothing to predict', text)
    losses = f'the loss is {loss:.2f} nats per token, that of ignoring the image {entropy:.2f}'
    if loss > MAX_LOSS * entropy:
        return Verdict('not better than the marginal', losses)
    if accuracy <= chance:
        shares = f'{accuracy:.1f} % of the tokens are predicted correctly'
        text = f'{shares}, and {chance:.1f} % by always choosing the most frequent token'
        return Verdict('not better than the marginal', text)
    return Verdict('learns', losses, is_good=True)


def _judge_features(last_rank: float | None) -> Verdict | None:
    if last_rank is None or last_rank >= MIN_RANK:
        return None
    text = 'the last block gives all images nearly the same features'
    return Verdict('collapsed', f'{text} (effective rank {last_rank:.1f})')


def _judge_task(values: dict[str, float], num_classes: int | None) -> Verdict | None:
    if not num_classes:
        return None
    chance = 100 / num_classes
    if 'top1' in values:
        value, word = values['top1'], 'not better than guessing'
        text = f'top-1 is {value:.1f} %, guessing has {chance:.1f} %'
    elif 'mIoU' in values:
        value, word = values['mIoU'], 'not better than one class everywhere'
        text = f'mIoU is {value:.1f} %, one class everywhere has at most {chance:.1f} %'
    else:
        return None
    is_good = value > MIN_GAIN * chance
    return Verdict('learns' if is_good else word, text, is_good)


def _judge_losses(losses: list[float]) -> Verdict:
    if len(losses) < 2:
        return Verdict('too short to judge', f'{len(losses)} training losses are logged')
    count = max(len(losses) // 10, 1)
    first, last = mean(losses[:count]), mean(losses[-count:])
    text = f'the training loss goes from {first:.4g} to {last:.4g}'
    if first - last < MIN_FALL * abs(first):
        return Verdict('does not learn', text)
    return Verdict('learns', text, is_good=True)
