"""The hook that watches a run: non-finite steps, collapsed losses, diverged and hanging ranks."""

from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..registry import HOOKS
from ..utils.arguments import check_integers, join_names
from ..utils.installation import command
from ..utils.unwrap_model import unwrap_model
from .find_checkpoint import find_resume_checkpoint
from .nonfinite_steps import Step, skip_nonfinite_steps
from .process_group import collective_timeout
from .rank_monitor import RankMonitor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
# Log key → its value when nothing is learned, and the warning.
COLLAPSED = {
    'loss': (
        0,
        'the loss was exactly 0, so nothing is learned. In label maps, all pixels may be ignored '
        '(255, and 0 with reduce_zero_label=True) or have one class: '
        f'{command("check_data")} CONFIG prints how often each class occurs',
    ),
    'codes_used': (
        1,
        'all patches got the same code, so the tokenizer learns nothing: the codebook has '
        'collapsed. Stop the run; use a lower learning rate or the InitCodebook hook, for a '
        'DiscreteVAE a larger marginal_weight or a slower temperature schedule',
    ),
}


@dataclass(frozen=True)
class Batch:
    """Record of one iteration, kept until the next check; `finite` bool [N] for its N losses."""

    iteration: int
    files: list[str]
    losses: list[str]
    finite: Tensor | None


@HOOKS.register_module()
class Watchdog(Hook):
    """Hook that skips non-finite steps and stops a run that cannot recover.

    At each logging interval, logs the non-finite steps with their losses, gradients and files, and
    warns if nothing is learned (`COLLAPSED`). `tools/train.py` adds this hook to every run.

    Args:
        patience: number of consecutive non-finite steps that stop the run. Steps that a loss scaler
            skips while its scale is above 1 do not count.
        interval: iterations between checks; None: the LoggerHook's interval.
        checksum_interval: iterations between comparisons of the parameters of all ranks.

    Raises FloatingPointError after `patience` non-finite steps, or instead of saving non-finite
    weights; RuntimeError if ranks hold different weights. If a rank waits longer than
    env_cfg.dist_cfg.timeout (seconds), the process exits, see `RankMonitor`.
    """

    priority = 'ABOVE_NORMAL'  # before logs, checkpoints and averages

    def __init__(
        self, patience: int = 3, interval: int | None = None, checksum_interval: int = 200
    ):
        check_integers(1, patience=patience, checksum_interval=checksum_interval)
        if interval is not None:
            check_integers(1, interval=interval)
        self.patience, self.interval, self.checksum_interval = patience, interval, checksum_interval
        self.steps: list[Step] | None = None  # None: several optimizers, not watched
        self.batches: list[list[Batch]] = [[]]  # per step; the last step is not finished
        self.consecutive = 0  # non-finite steps
        self.monitor: RankMonitor | None = None
        self.warned: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        if not runner.max_iters:
            raise ValueError(
                'train_dataloader has no batch: the data set is smaller than a batch, and '
                'drop_last is set. Reduce train_dataloader.batch_size'
            )
        if self.interval is None:
            intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
            self.interval = intervals[0] if intervals else 50
        if isinstance(runner.optim_wrapper, OptimWrapper):
            self.steps = skip_nonfinite_steps(runner.optim_wrapper, unwrap_model(runner))
        else:
            runner.logger.warning('several optimizers: non-finite steps are not skipped')
        if get_world_size() > 1:
            self.monitor = RankMonitor(collective_timeout(runner.cfg))
            self.monitor.start()
            if self.steps is not None:
                runner.optim_wrapper.on_backward = lambda: self._tick(runner, 'backward')

    def before_train_iter(self, runner: Runner, **_: object) -> None:
        self._tick(runner, 'forward')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        self._tick(runner, 'data')
        if self.steps is not None:
            self._record(runner.iter + 1, data_batch, outputs or {})
        if self.every_n_train_iters(runner, self.interval):
            self.check_steps(runner)
            self.warn_if_collapsed(runner)
        if self.every_n_train_iters(runner, self.checksum_interval):
            self.compare_ranks(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self.check_steps(runner)

    def after_train(self, runner: Runner) -> None:
        self.check_steps(runner)
        if self.monitor:
            self.monitor.finish()

    def before_val_iter(self, runner: Runner, batch_idx: int, **_: object) -> None:
        self._tick(runner, f'validation batch {batch_idx + 1}')

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        self._tick(runner, 'end of validation')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        names = nonfinite_weights(unwrap_model(runner))
        if names:
            raise FloatingPointError(
                f'iteration {runner.iter + 1}: no checkpoint is written, these weights are not '
                f'finite: {join_names(names)}; {_last_checkpoint(runner)}'
            )

    def check_steps(self, runner: Runner) -> None:
        """Log the non-finite steps since the last check. Waits for the device."""
        if not self.steps:
            return
        flags = torch.stack([torch.stack([step.skipped, step.counts]) for step in self.steps])
        flags = flags.to(torch.uint8)
        all_reduce(flags, 'max')  # a loss may be non-finite on one rank only
        steps, batches = self.steps[:], self.batches[: len(self.steps)]
        self.steps.clear()
        del self.batches[:-1]

        bad, longest, scaled = [], 0, 0
        for step, its_batches, (skipped, counts) in zip(
            steps, batches, flags.tolist(), strict=True
        ):
            if not skipped:
                self.consecutive = 0
            elif not counts:
                scaled += 1
            else:
                self.consecutive += 1
                longest = max(longest, self.consecutive)
                bad.append((step, its_batches))
        if scaled:
            runner.logger.info(f'{scaled} steps skipped to lower the loss scale')
        if not bad:
            return
        words = f'{len(bad)} steps skipped because they were not finite:\n  ' + _describe(bad)
        if longest < self.patience:
            runner.logger.warning(words)
            return
        raise FloatingPointError(
            f'{words}\n{longest} in a row, patience={self.patience}: stopped. These steps did not '
            f'change the weights; {_last_checkpoint(runner)}. Fix the data, lower the learning '
            'rate or clip gradients, then continue with --resume'
        )

    def warn_if_collapsed(self, runner: Runner) -> None:
        """Warn once per run and log key if it had its value of `COLLAPSED` for a whole interval."""
        scalars = runner.message_hub.log_scalars
        for name, (value, words) in COLLAPSED.items():
            if name in self.warned or f'train/{name}' not in scalars:
                continue
            logged = scalars[f'train/{name}'].data[0][-self.interval :]
            if len(logged) == self.interval and all(logged == value):
                self.warned.add(name)
                first, last = runner.iter + 2 - self.interval, runner.iter + 1
                runner.logger.warning(f'iterations {first} … {last}: {words}')

    def compare_ranks(self, runner: Runner) -> None:
        if not isinstance(runner.model, DistributedDataParallel):
            return
        names = find_diverged_parameters(unwrap_model(runner))
        if names:
            raise RuntimeError(
                f'iteration {runner.iter + 1}: {len(names)} parameters differ between ranks: '
                f'{join_names(names)}. Some code changes them on one rank only, or a machine '
                f'computes wrong results; {_last_checkpoint(runner)}'
            )

    def _tick(self, runner: Runner, place: str) -> None:
        if self.monitor:
            self.monitor.tick(f'iteration {runner.iter + 1}, {place}')

    def _record(self, iteration: int, batch: object, outputs: dict) -> None:
        losses = {k: v for k, v in outputs.items() if 'loss' in k and isinstance(v, Tensor)}
        finite = None
        if losses:
            finite = torch.stack([value.detach().isfinite().all() for value in losses.values()])
        self.batches[-1].append(Batch(iteration, files_of(batch), list(losses), finite))
        if len(self.steps) == len(self.batches):  # the iteration ended a step
            self.batches.append([])


def nonfinite_weights(model: nn.Module) -> list[str]:
    """Return the names of parameters that are not finite, and of buffers with NaN.

    A buffer may hold −inf on purpose, such as an attention mask.
    """
    valid = {name: value.isfinite() for name, value in model.named_parameters()}
    valid |= {name: ~value.isnan() for name, value in model.named_buffers()}
    if not valid:
        return []
    return _where_false(list(valid), torch.stack([mask.all() for mask in valid.values()]))


def find_diverged_parameters(model: nn.Module) -> list[str]:
    """Return the names of parameters that differ between ranks in any bit. All ranks call it.

    Compares the minimum and the maximum over ranks of a checksum per parameter: the sum of its bit
    patterns, which does not depend on the order of addition.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    bits = [p.detach().contiguous().view(_INTEGERS[p.element_size()]) for p in parameters]
    sums = torch.stack([each.sum(dtype=torch.int64) for each in bits])
    extremes = torch.stack([sums, -sums])
    all_reduce(extremes, 'max')
    return _where_false(names, extremes[0] == -extremes[1])


def files_of(batch: object) -> list[str]:
    """Return the image path, or else the index, of each sample that has one."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    if not isinstance(samples, list | tuple):
        return []
    known = [getattr(sample, 'metainfo', {}) for sample in samples]
    names = [meta.get('img_path', meta.get('sample_idx')) for meta in known]
    return [str(name) for name in names if name is not None]


def _describe(bad: list[tuple[Step, list[Batch]]]) -> str:
    """Return one line for each of the first five non-finite steps. All ranks call it."""
    shown = bad[:5]
    ranks = all_gather_object([_cause(step, batches) for step, batches in shown])
    lines = []
    for (_, batches), *causes in zip(shown, *ranks, strict=True):
        # A non-finite loss makes every gradient NaN on all ranks, so only losses are reported.
        with_loss = [rank for rank, (has_loss, _) in enumerate(causes) if has_loss]
        words = [
            f'rank {rank}: {causes[rank][1]}' if len(ranks) > 1 else causes[rank][1]
            for rank in with_loss or range(len(ranks))
        ]
        first, last = batches[0].iteration, batches[-1].iteration
        iterations = f'{first} … {last}' if first < last else f'{last}'
        lines.append(f'iteration {iterations}: {" | ".join(words)}')
    if len(bad) > len(shown):
        lines.append(f'… and {len(bad) - len(shown)} more')
    return '\n  '.join(lines)


def _cause(step: Step, batches: list[Batch]) -> tuple[bool, str]:
    """Return whether a loss of this rank is not finite, and the tensors and files in words."""
    losses = []
    for batch in batches:
        if batch.finite is not None:
            losses += _where_false(batch.losses, batch.finite)
    files = join_names([file for batch in batches for file in batch.files])
    if losses:
        return True, f'losses {join_names(list(dict.fromkeys(losses)))}; samples: {files}'
    gradients = join_names(_where_false(step.names, step.finite))
    return False, f'gradients of {gradients}; samples: {files}'


def _where_false(names: list[str], flags: Tensor) -> list[str]:
    return [name for name, flag in zip(names, flags.tolist(), strict=True) if not flag]


def _last_checkpoint(runner: Runner) -> str:
    """Return which checkpoint --resume takes, in words. Rank 0 reads it completely to check it."""
    if not is_main_process():
        return 'rank 0 names the last good checkpoint'
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    folder = Path(getattr(hook, 'out_dir', None) or runner.work_dir)
    template = getattr(hook, 'filename_tmpl', None)
    try:
        path, _ = find_resume_checkpoint(Path(runner.work_dir), folder, template)
    except ValueError as error:  # none is intact
        return str(error)
    if path is None:
        return f'there is no checkpoint in {folder} yet'
    return f'the last good checkpoint is {path}'
