"""A run watches itself: no update by what is not finite, no checkpoint of it, ranks that stay in step and end together."""

from dataclasses import dataclass

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook, LoggerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, find_latest_checkpoint
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..registry import HOOKS
from ..utils.arguments import check_integers, join_names
from ..utils.unwrap_model import unwrap_model
from .bad_updates import Update, leave_out_bad_updates
from .ranks import Peers, apart, checksums


@dataclass(frozen=True)
class Batch:
    """What is kept of an iteration until the next look: `finite` bool [N] on the device, for each of the losses' names."""

    iteration: int
    files: list[str]
    names: list[str]
    finite: Tensor | None


# Logged number → its value when nothing is learned, and the warning.
DEAD = {
    'loss': (
        0,
        'the loss was exactly 0, so nothing is learned. In label maps, all pixels may be ignored (255, and 0 with '
        'reduce_zero_label=True) or have one class: python tools/check_data.py CONFIG prints how often each class occurs',
    ),
    'codes_used': (
        1,
        'all patches got the same code, so the tokenizer learns nothing: the codebook has collapsed. Stop the run; use a lower '
        'learning rate, the InitCodebook hook, a larger marginal_weight than information_weight or a slower temperature schedule',
    ),
}


@HOOKS.register_module()
class Watchdog(Hook):
    """Every run that `tools/train.py` starts has one; `custom_hooks=[dict(type='beit_mm.Watchdog', patience=9)]` changes it.

    Skips on the device each update whose loss or gradient is not finite (see `leave_out_bad_updates`). At each logging
    interval it logs the iterations with the losses, tensors and files concerned, and warns if nothing is
    learned (`DEAD`).

    Args:
        patience: so many updates in a row that are not finite stop the run. What a loss scaler leaves out while its scale is
            above 1 does not count.
        interval: iterations from look to look; None: the LoggerHook's.
        checksum_interval: iterations after which all ranks compare the checksums of their parameters.

    Raises FloatingPointError after `patience` bad updates, or instead of a checkpoint that is not finite; RuntimeError when
    ranks hold different weights. A rank that waits longer than env_cfg.dist_cfg.timeout (seconds) ends, see `Peers`.
    """

    priority = 'ABOVE_NORMAL'  # before logs, checkpoints and averages

    def __init__(
        self, patience: int = 3, interval: int | None = None, checksum_interval: int = 200
    ):
        check_integers(1, patience=patience, checksum_interval=checksum_interval)
        if interval is not None:
            check_integers(1, interval=interval)
        self.patience, self.interval, self.checksum_interval = patience, interval, checksum_interval
        self.updates: list[Update] | None = None  # None: not guarded
        self.batches: list[list[Batch]] = [[]]  # of each update; of the last one so far
        self.streak: list[int] = []  # the last iterations of bad updates in a row
        self.peers: Peers | None = None
        self.dead: set[str] = set()  # logged numbers that a warning has named

    def before_train(self, runner: Runner) -> None:
        self.interval = self.interval or next(
            (h.interval for h in runner.hooks if isinstance(h, LoggerHook)), 50
        )
        self.names, self.parameters = zip(*unwrap_model(runner).named_parameters(), strict=True)
        if isinstance(runner.optim_wrapper, OptimWrapper):
            self.updates = leave_out_bad_updates(runner.optim_wrapper, unwrap_model(runner))
        else:
            runner.logger.warning(
                'several optimizers: updates that are not finite are not left out'
            )
        if get_world_size() > 1:
            timeout = runner.cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
            self.peers = Peers(timeout)
            self.peers.start()
            if self.updates is not None:
                runner.optim_wrapper.on_backward = lambda: self._tick(runner, 'backward')

    def _tick(self, runner: Runner, place: str) -> None:
        if self.peers:
            self.peers.tick(f'iteration {runner.iter + 1}, {place}')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._tick(runner, 'forward')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        self._tick(runner, 'data')
        if self.updates is not None:
            self._keep(runner.iter + 1, data_batch, outputs or {})
        if self.every_n_train_iters(runner, self.interval):
            self.look(runner)
            self._warn_of_dead_runs(runner)
        if self.every_n_train_iters(runner, self.checksum_interval) and isinstance(
            runner.model, DistributedDataParallel
        ):
            self.compare(runner)

    def _warn_of_dead_runs(self, runner: Runner) -> None:
        """Warn, once in a run of each, if a logged number had its value of `DEAD` in each iteration of the interval."""
        scalars = runner.message_hub.log_scalars
        for name, (value, words) in DEAD.items():
            found = (
                scalars[f'train/{name}'].data[0][-self.interval :]
                if f'train/{name}' in scalars
                else ()
            )
            if name not in self.dead and len(found) == self.interval and all(found == value):
                self.dead.add(name)
                runner.logger.warning(
                    f'iterations {runner.iter + 2 - self.interval} … {runner.iter + 1}: {words}'
                )

    def _keep(self, iteration: int, batch: object, outputs: dict) -> None:
        losses = {k: v for k, v in outputs.items() if 'loss' in k and isinstance(v, Tensor)}
        finite = (
            torch.stack([v.detach().isfinite().all() for v in losses.values()]) if losses else None
        )
        self.batches[-1].append(Batch(iteration, files_of(batch), list(losses), finite))
        if len(self.updates) == len(self.batches):
            self.batches.append([])

    def after_train_epoch(self, runner: Runner) -> None:
        self.look(runner)

    def after_train(self, runner: Runner) -> None:
        self.look(runner)
        if self.peers:
            self.peers.finish()

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._tick(runner, f'validation batch {batch_idx + 1}')

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        self._tick(runner, 'validated')

    def look(self, runner: Runner) -> None:
        """The one wait for the device an interval: what was left out since the last look."""
        if not self.updates:
            return
        flags = torch.stack([torch.stack([u.left_out, u.counts]) for u in self.updates]).to(
            torch.uint8
        )
        if get_world_size() > 1:  # a bad loss of one rank counts on all
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        bad, longest = [], []
        for update, batches, (left_out, counts) in zip(
            self.updates, self.batches, flags.tolist(), strict=False
        ):
            if left_out and counts:
                bad.append((update, batches))
                self.streak.append(batches[-1].iteration)
                longest = max(longest, self.streak[:], key=len)
            elif not left_out:
                self.streak.clear()
        scaled = int(flags[:, 0].sum()) - len(bad)
        self.updates.clear()
        del self.batches[:-1]
        if scaled:
            runner.logger.info(f'{scaled} updates left out, to lower the loss scale')
        if not bad:
            return
        found = [_details(*each) for each in bad[:5]]
        lines = [
            _line(batches, ranks)
            for (_, batches), *ranks in zip(bad, *all_gather_object(found), strict=False)
        ]
        more = f'\n  … and {len(bad) - len(found)} more' if len(bad) > len(found) else ''
        words = (
            f'{len(bad)} updates left out, since they were not finite:\n  '
            + '\n  '.join(lines)
            + more
        )
        if len(longest) < self.patience:
            runner.logger.warning(words)
            return
        raise FloatingPointError(
            f'{words}\n{len(longest)} in a row, patience={self.patience}: stopped. The weights were not touched by them; '
            f'{_last_good(runner)}. Mend the data, lower the learning rate or clip gradients, then go on with --resume'
        )

    def compare(self, runner: Runner) -> None:
        mine = checksums(list(self.parameters))
        sums = [torch.empty_like(mine) for _ in range(get_world_size())]
        torch.distributed.all_gather(sums, mine)
        if words := apart(self.names, torch.stack(sums).tolist()):
            raise RuntimeError(
                f'iteration {runner.iter + 1}: ranks no longer hold the same weights, in {words}. Something changes them '
                f'on one rank alone, or a machine computes wrongly; {_last_good(runner)}'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        own, states = (
            set(dict(unwrap_model(runner).named_parameters())),
            [checkpoint.get('state_dict') or {}],
        )
        states.append({k: v for k, v in (checkpoint.get('ema_state_dict') or {}).items()})
        bad = [
            key
            for state in states
            for key, value in state.items()
            if isinstance(value, Tensor) and value.is_floating_point()
            # a buffer may hold −inf on purpose, such as a mask
            if not (
                value.isfinite() if key.removeprefix('module.') in own else ~value.isnan()
            ).all()
        ]
        if bad:
            raise FloatingPointError(
                f'iteration {runner.iter + 1}: no checkpoint is written, these weights are not finite: {join_names(bad)}; '
                f'{_last_good(runner)}'
            )


def files_of(batch: object) -> list[str]:
    """What the samples of a batch say of themselves: the path of the image, else its index; [] where they say nothing."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    known = (
        [getattr(sample, 'metainfo', {}) for sample in samples]
        if isinstance(samples, list | tuple)
        else []
    )
    return [
        str(meta.get('img_path', meta.get('sample_idx')))
        for meta in known
        if {'img_path', 'sample_idx'} & set(meta)
    ]


def _details(update: Update, batches: list[Batch]) -> dict:
    """Of one bad update on this rank."""
    losses = [
        name
        for batch in batches
        if batch.finite is not None
        for name, finite in zip(batch.names, batch.finite.tolist(), strict=True)
        if not finite
    ]
    tensors = [
        name
        for name, finite in zip(update.names, update.finite.tolist(), strict=True)
        if not finite
    ]
    return dict(
        losses=list(dict.fromkeys(losses)),
        tensors=tensors,
        files=[f for batch in batches for f in batch.files],
    )


def _line(batches: list[Batch], ranks: list[dict]) -> str:
    """Where a loss is bad, all gradients are by force, on all ranks, and say nothing."""
    guilty = [rank for rank, found in enumerate(ranks) if found['losses']]
    words = []
    for rank in guilty or range(len(ranks)):
        what = (
            f'losses {join_names(ranks[rank]["losses"])}'
            if guilty
            else f'gradients of {join_names(ranks[rank]["tensors"])}'
        )
        words.append(
            f'{f"rank {rank}: " if len(ranks) > 1 else ""}{what}; samples: {join_names(ranks[rank]["files"])}'
        )
    span = f'{batches[0].iteration} … ' if len(batches) > 1 else ''
    return f'iteration {span}{batches[-1].iteration}: {" | ".join(words)}'


def _last_good(runner: Runner) -> str:
    path = find_latest_checkpoint(runner.work_dir)
    return (
        f'the last good checkpoint is {path}'
        if path
        else f'there is no checkpoint in {runner.work_dir} yet'
    )
