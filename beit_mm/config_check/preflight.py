"""Find the mistakes in a config before the first iteration, all in one list.

A rule is a function config → findings. The rules about the recipe are in `comparison.py`.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple
from datetime import timedelta

from mmengine.config import Config
from torch.distributed import Store, rendezvous

from . import comparison
from .files import check_files
from .finding import Finding
from .images import check_channel_order, check_channels, check_image_sizes, check_test_sizes
from .labels import check_ignored_class, check_labels
from .loaders import (
    check_batch_norm,
    check_color_transforms,
    check_palettes,
    check_pretrained,
    check_test_batch,
    check_workers,
)
from .metrics import check_save_best, check_topk
from .names import check_optimizer_keys, check_runner_keys, check_types_and_arguments, find_classes
from .paper import find_nearest
from .report import format_list
from .run import (
    check_anneal_hooks,
    check_loop,
    check_vocabularies,
    check_work_dir,
)
from .summary import summarize
from .weights import check_weights

CHECK_MINUTES = 30  # other ranks wait so long for rank 0
# Raised by rules, mmengine and models for a value of another type than expected.
ERRORS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
)
RULES: list[Callable[[dict], Iterator[Finding]]] = [
    check_runner_keys,
    check_types_and_arguments,
    check_optimizer_keys,
    check_files,
    check_labels,
    check_ignored_class,
    check_loop,
    check_vocabularies,
    check_save_best,
    check_topk,
    check_work_dir,
    check_anneal_hooks,
    check_image_sizes,
    check_test_sizes,
    check_channels,
    check_channel_order,
    check_workers,
    check_palettes,
    check_batch_norm,
    check_test_batch,
    check_color_transforms,
    check_pretrained,
]
# Short tries such as `--cfg-options train_cfg.max_iters=9` break these rules, and have to run.
REMARKS = (
    comparison.lr_fits_batch,
    comparison.schedule_ends_with_run,
    comparison.warmup_ends_before_run,
)


def preflight(cfg: Config, ranks: int = 1) -> list[Finding]:
    """Return what is wrong with training with `cfg` on `ranks` processes: errors, then remarks."""
    plain = cfg.to_dict()
    find_classes.cache_clear()
    findings = []
    for rule in RULES:
        findings += _apply(rule, plain)
    findings += _apply(_check_recipe, plain, ranks)
    in_weights = _apply(check_weights, plain)
    if any(finding.stops for finding in findings):  # an error above may be why they were not read
        in_weights = [finding for finding in in_weights if finding.what != 'check weights']
    findings += in_weights
    return sorted(dict.fromkeys(findings), key=lambda finding: not finding.stops)


def preflight_on_rank_0(cfg: Config) -> list[Finding]:
    """Call `preflight` on rank 0, print its findings there, and return them on all ranks.

    The ranks talk through the store of the process group that `launch` makes later.
    """

    def check(ranks: int = 1) -> list[Finding]:
        findings = preflight(cfg, ranks)
        if findings:
            print(format_list(cfg, findings), file=sys.stderr, flush=True)
        return findings

    if cfg.get('launcher', 'none') == 'none':
        return check()
    store, rank, ranks = next(rendezvous('env://', timeout=timedelta(minutes=CHECK_MINUTES)))
    return share_findings(store, rank, ranks, lambda: check(ranks))


def share_findings(
    store: Store, rank: int, ranks: int, find: Callable[[], list[Finding]]
) -> list[Finding]:
    """Call `find` on rank 0 and return its result on all ranks."""
    if rank:
        findings = [Finding(*values) for values in json.loads(store.get('preflight'))]
        store.set(f'preflight/{rank}', 'read')
        return findings
    findings = find()
    store.set('preflight', json.dumps([astuple(finding) for finding in findings]))
    # Rank 0 may exit next, and the store with it.
    store.wait([f'preflight/{other}' for other in range(1, ranks)])
    return findings


def _apply(rule: Callable, cfg: dict, *more: object) -> list[Finding]:
    """Return the findings of a rule, and one more if the rule cannot read a value."""
    findings = []
    try:
        findings.extend(rule(cfg, *more))
    except ERRORS as error:
        what = rule.__name__.strip('_').replace('_', ' ')
        effect = f'not finished, because a value cannot be read. {type(error).__name__}: {error}'
        findings.append(Finding(what, effect, stops=rule is check_weights))
    return findings


def _check_recipe(cfg: dict, ranks: int) -> Iterator[Finding]:
    try:
        summary = summarize(cfg, ranks)
    except ValueError:  # a model other than BEiT
        return
    recipe, _ = find_nearest(summary)
    for rule in comparison.CONTRADICTIONS:
        for found in rule(summary, recipe):
            if found.stops:
                stops = rule not in REMARKS
                yield Finding(found.what, found.effect, found.yours, found.expected, stops)
