"""mmengine's CheckpointHook on `checkpoint/store.py`: nothing is lost when a run dies at any moment, and `resume` finds it."""

import re
import zipfile
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..checkpoint import store
from ..checkpoint.files import read_file
from ..registry import HOOKS
from ..utils.arguments import join_names

_MID_EPOCH = 'iter_{}.pth'  # what is saved between epochs' ends, whatever the hook's own names
_STOCK = (_MID_EPOCH, 'epoch_{}.pth')


def earlier_checkpoints(cfg: Config) -> list[Path]:
    """Return the checkpoints that earlier runs left where a run of this config will save its own, sorted by name."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    work_dir = Path(cfg.work_dir)
    folder = _folder(work_dir, hook.get('out_dir'))
    names = _names(work_dir, hook.get('filename_tmpl'))
    return sorted(path for path in folder.glob('*') if re.fullmatch(names, path.name))


def newest_checkpoint(
    work_dir: Path, folder: Path, template: str | None
) -> tuple[Path | None, list[str]]:
    """Return the last written of the intact checkpoints to resume from, and one line for each newer one that is damaged.

    Searches `folder` for names of `template`, of mmengine, and like the name in `last_checkpoint`, so for any template; then
    the path in `last_checkpoint`.

    Raises ValueError if none is intact, or if the folder holds training checkpoints of other names only.
    """
    path, damaged = store.newest(folder, _names(work_dir, template))
    named = _last_checkpoint(work_dir)
    if not path and not damaged and named and named.is_file():
        words = store.unreadable(named)
        path, damaged = (None, [f'{named}: {words}']) if words else (named, [])
    if damaged and not path:
        raise ValueError(
            f'--resume: none of the {len(damaged)} checkpoints in {folder} is readable:\n  '
            + '\n  '.join(damaged)
            + '\n'
            'Pass another one as --resume PATH, or start a new run without --resume in another --work-dir'
        )
    if not path and (
        others := [file.name for file in sorted(folder.glob('*')) if _was_trained(file)]
    ):
        raise ValueError(
            f'--resume: {folder} holds checkpoints ({join_names(others)}), but none has a name of filename_tmpl={template!r} or is '
            'named by last_checkpoint. Pass the one to continue from as --resume PATH, or start a new run without --resume'
        )
    return path, damaged


def _names(work_dir: Path, template: str | None) -> str:
    """Return a pattern for the file names of checkpoints, whatever template they were written with."""
    examples = [name.format(0) for name in (template, *_STOCK) if name]
    if named := _last_checkpoint(work_dir):
        examples.append(named.name)
    return '|'.join(re.sub(r'\d+', r'\\d+', re.escape(name)) for name in examples)


def _last_checkpoint(work_dir: Path) -> Path | None:
    """Return the path in mmengine's file `last_checkpoint`, which may be that of a folder since moved."""
    pointer = work_dir / 'last_checkpoint'
    return Path(pointer.read_text().strip()) if pointer.is_file() else None


def _was_trained(path: Path) -> bool:
    """Return whether a file is a checkpoint that a run of mmengine saved, and not mere weights."""
    if path.is_file() and zipfile.is_zipfile(path):
        with suppress(ValueError):  # some other archive
            found = read_file(path)
            return isinstance(found, dict) and 'iter' in (found.get('meta') or {})
    return False


def _folder(work_dir: Path, out_dir: str | None) -> Path:
    return work_dir if out_dir in (None, str(work_dir)) else Path(out_dir, work_dir.name)


class _Store(LocalBackend):
    """How mmengine's save_checkpoint writes the bytes of a checkpoint: sealed, whole or not at all."""

    def put(self, obj: bytes, filepath: str) -> None:
        store.write(Path(filepath), store.seal(obj))


register_backend('beit_mm', _Store, force=True)


class _Later(LocalBackend):
    """How CheckpointHook removes its previous best before the next one is written: later."""

    def __init__(self, superseded: list[str]):
        self.superseded = superseded

    def remove(self, filepath: str) -> None:
        self.superseded.append(Path(filepath).name)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """CheckpointHook whose files are always intact and checked; tools/train.py replaces the stock hook by it.

    Saving writes a temporary file, flushes it, reads it back and renames it; then `last_checkpoint` is written in the same
    way; only then are the files removed that `max_keep_ckpts` and `save_best` give up. The new checkpoint lists them, so a
    resumed run continues to remove them. Resuming takes the newest intact file (`newest_checkpoint`) and repeats the
    validation that a run died in. The arguments are CheckpointHook's, without `backend_args` and `file_client_args`
    (ValueError): the folder is a mounted one.

    Raises what `newest_checkpoint` raises on resume, OSError when a checkpoint cannot be written.
    """

    def __init__(self, *args, **settings):
        for name in ('file_client_args', 'backend_args'):
            if settings.get(name):
                raise ValueError(
                    f'AtomicCheckpointHook writes to mounted folders only, {name}={settings[name]} was given: leave it out, '
                    "or take type='mmengine.CheckpointHook', which can lose checkpoints when a run is killed"
                )
        super().__init__(*args, **settings)
        self.backend_args = dict(backend='beit_mm')
        self.kept: list[str] = []  # file names, oldest first
        self.superseded: list[str] = []  # to be removed

    # -- resuming

    def before_run(self, runner: Runner) -> None:
        if not runner._resume or runner._load_from is not None:
            return
        work_dir, found = Path(runner.work_dir), [None]
        folder = _folder(work_dir, self.out_dir)
        if is_main_process():
            try:
                found = [newest_checkpoint(work_dir, folder, self.filename_tmpl)]
            except ValueError as error:
                found = [error]
        broadcast_object_list(found)
        if isinstance(found[0], ValueError):
            raise found[0]
        path, damaged = found[0]
        for line in damaged:
            runner.logger.warning(f'skipped: {line}')
        runner._load_from, runner._resume = path and str(path), path is not None
        runner.logger.info(
            f'resuming from {path}'
            if path
            else f'{folder} has no checkpoint to resume from: a new run'
        )

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        hub, folder = runner.message_hub, Path(self.out_dir)
        stock = [self.filename_tmpl.format(step) for step in getattr(self, 'keep_ckpt_ids', [])]
        self.kept = list(hub.get_info('kept_checkpoints', stock))
        self.superseded = list(hub.get_info('superseded_checkpoints', []))
        self.file_backend = _Later(self.superseded)
        if last := hub.get_info('last_ckpt'):
            self.last_ckpt = str(folder / Path(last).name)  # which a better validation writes anew
        if getattr(
            self, 'best_ckpt_path', None
        ):  # where it was before the folder was moved, or another run's
            self.best_ckpt_path = str(folder / Path(self.best_ckpt_path).name)
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = path and str(folder / Path(path).name)
        if is_main_process():
            for left in {
                path for place in {folder, Path(runner.work_dir)} for path in store.sweep(place)
            }:
                runner.logger.info(f'removed {left}, which a killed run left half written')
            self._remove_superseded(runner)
        if not runner.iter:
            return
        loop = runner.train_loop
        unit = 'epoch' if isinstance(loop, EpochBasedTrainLoop) else 'iter'
        done, end = getattr(loop, unit), getattr(loop, f'max_{unit}s')
        if done >= end:
            runner.logger.warning(
                f'{runner._load_from or "the checkpoint"} is from the end of its run ({unit} {done} of {end}): nothing is left to '
                f'train. To train longer raise train_cfg.max_{unit}s, to measure it run tools/test.py'
            )
        if runner.val_loop is None or hub.get_info('iter_validated') == runner.iter:
            return
        loop._decide_current_val_interval()
        if done >= loop.val_begin and (done % loop.val_interval == 0 or done == end):
            runner.logger.info(
                'validating first, since the checkpoint is from before its validation'
            )
            runner.val_loop.run()

    # -- saving

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        runner.message_hub.update_info('iter_validated', runner.iter)
        super().after_val_epoch(runner, metrics)
        self._remove_superseded(runner)

    def save_now(self, runner: Runner, epoch: int, iteration: int, epoch_ended: bool) -> None:
        """Save out of turn, with that many epochs and iterations behind it."""
        if self.by_epoch and epoch_ended:
            name = self.filename_tmpl.format(epoch)
        else:
            name = (_MID_EPOCH if self.by_epoch else self.filename_tmpl).format(iteration)
        self._save(runner, name, dict(epoch=epoch, iter=iteration))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save(self, runner: Runner, name: str, meta: dict) -> None:
        if self.max_keep_ckpts > 0:
            self.kept = [other for other in self.kept if other != name] + [name]
            self.superseded += self.kept[: -self.max_keep_ckpts]
            del self.kept[: -self.max_keep_ckpts]
        self.last_ckpt = str(Path(self.out_dir, name))
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.message_hub.update_info('kept_checkpoints', list(self.kept))
        runner.message_hub.update_info('superseded_checkpoints', list(self.superseded))
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            store.write(Path(runner.work_dir, 'last_checkpoint'), [self.last_ckpt.encode()])
        self._remove_superseded(runner)

    def _remove_superseded(self, runner: Runner) -> None:
        best = [
            getattr(self, 'best_ckpt_path', None),
            *getattr(self, 'best_ckpt_path_dict', {}).values(),
        ]
        in_use = {*self.kept, *(Path(path).name for path in (*best, self.last_ckpt) if path)}
        left = []
        for name in filter(lambda name: name not in in_use, self.superseded):
            try:
                if is_main_process():
                    store.remove(Path(self.out_dir, name))
            except OSError as error:
                runner.logger.warning(
                    f'{name} is no longer needed and could not be removed, next time again: {error}'
                )
                left.append(name)
        self.superseded[:] = left
