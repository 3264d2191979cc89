"""Find the mistakes in a config before the first iteration, all in one list.

A rule is a function config → findings. The rules about the recipe are in `comparison.py`.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from datetime import timedelta

from mmengine.config import Config
from torch.distributed import Store, rendezvous

from . import files, images, labels, metrics, names, run
from .comparison import compare
from .finding import Finding
from .paper import find_nearest
from .report import format_list
from .summary import summarize
from .weights import check_weights

CHECK_MINUTES = 30  # other ranks wait so long for rank 0
# Raised by rules, mmengine and models for a value of another type than expected.
ERRORS = AssertionError, AttributeError, IndexError, KeyError, OSError, TypeError, ValueError
CHECKS: list[Callable[[dict], Iterator[Finding]]] = [
    names.check_runner_keys, names.check_types_and_arguments, names.check_optimizer_keys,
    files.check_files,
    labels.check_labels, labels.check_ignored_class,
    run.check_loop, run.check_schedules, run.check_vocabularies, run.check_work_dir,
    run.check_anneal_hooks, run.check_workers, run.check_palettes, run.check_batch_norm,
    run.check_pretrained,
    metrics.check_save_best, metrics.check_topk,
    images.check_image_sizes, images.check_test_sizes, images.check_test_batch,
    images.check_channels, images.check_channel_order, images.check_color_transforms,
]  # fmt: skip
# Short tries such as `--cfg-options train_cfg.max_iters=9` break these rules, and have to run.
REMARKS = 'lr for this batch', 'end of the schedule', 'warm-up'


def preflight(cfg: Config, ranks: int = 1) -> list[Finding]:
    """Return what is wrong with training with `cfg` on `ranks` processes: errors, then remarks."""
    plain = cfg.to_dict()
    names.find_classes.cache_clear()
    findings = [finding for rule in CHECKS for finding in _apply(rule, plain)]
    findings += _apply(_check_recipe, plain, ranks)
    has_errors = any(finding.stops for finding in findings)
    for finding in _apply(check_weights, plain):
        if finding.what != 'check weights' or not has_errors:  # an error above may be the reason
            findings.append(finding)
    return sorted(dict.fromkeys(findings), key=lambda finding: not finding.stops)


def preflight_on_rank_0(cfg: Config) -> list[Finding]:
    """Call `preflight` on rank 0, print its findings there, and return them on all ranks.

    The ranks talk through the store of the process group that `launch` makes later.
    """

    def check() -> list[Finding]:
        if findings := preflight(cfg, ranks):
            print(format_list(cfg, findings), file=sys.stderr, flush=True)
        return findings

    ranks = 1
    if cfg.get('launcher', 'none') == 'none':
        return check()
    store, rank, ranks = next(rendezvous('env://', timeout=timedelta(minutes=CHECK_MINUTES)))
    return share_findings(store, rank, ranks, check)


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
    for found in compare(summary, recipe):
        if found.stops:
            yield replace(found, stops=found.what not in REMARKS)
