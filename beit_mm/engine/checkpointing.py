"""Save, resume and remove checkpoints: a run that dies at any moment keeps what it saved."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..checkpoint.integrity import add_save_time
from ..registry import HOOKS
from ..utils.installation import command
from .atomic_file import remove_file, remove_partial_files, write_file
from .find_checkpoint import MID_EPOCH_NAME, checkpoint_folder, find_resume_checkpoint


class _StagingBackend(LocalBackend):
    """File backend of mmengine's `save_checkpoint` that keeps serialized files in memory."""

    staged: ClassVar[list[tuple[Path, list]]] = []  # mmengine creates and caches the backend

    def put(self, obj: bytes, filepath: str) -> None:
        self.staged.append((Path(filepath), add_save_time(obj)))


class _DeferredRemoval(LocalBackend):
    """File backend that only notes a removal: CheckpointHook removes its best file too early."""

    def __init__(self, superseded: list[str]):
        self.superseded = superseded

    def remove(self, filepath: str) -> None:
        self.superseded.append(Path(filepath).name)


register_backend('beit_mm', _StagingBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook with files that are always complete, written in the background.

    - Training waits only until the checkpoint is serialized. A thread writes a temporary file,
      flushes it to disk and renames it, then does the same with `last_checkpoint`, then removes the
      files that `max_keep_ckpts` and `save_best` no longer keep. The next save, the end of a
      validation, the end of training and a signal wait for this thread and raise its OSError.
    - A checkpoint lists the files that are still to be removed. A resumed run removes them.
    - Resuming takes the newest intact file (`find_resume_checkpoint`) and repeats a validation that
      was interrupted.

    `tools/train.py` replaces the stock hook by this one. The arguments are CheckpointHook's without
    `backend_args` and `file_client_args` (ValueError): checkpoints go to mounted folders only.
    """

    def __init__(self, *args, **settings):
        for name in ('file_client_args', 'backend_args'):
            if settings.get(name):
                raise ValueError(
                    f'{name}={settings[name]}: AtomicCheckpointHook writes to mounted folders. '
                    f"Remove {name}, or use type='mmengine.CheckpointHook', which can lose "
                    'checkpoints when a run is killed'
                )
        super().__init__(*args, **settings)
        self.backend_args = dict(backend='beit_mm')
        self.thread = ThreadPoolExecutor(1, 'checkpoint')
        self.write: Future | None = None  # in flight
        self.kept: list[str] = []  # file names, oldest first
        self.superseded: list[str] = []  # file names, to be removed

    # -- resume

    def before_run(self, runner: Runner) -> None:
        if not runner._resume or runner._load_from is not None:
            return
        folder = checkpoint_folder(Path(runner.work_dir), self.out_dir)
        path, damaged = self._find_on_main_process(runner, folder)
        for line in damaged:
            runner.logger.warning(f'skipped: {line}')
        runner._load_from = path and str(path)
        runner._resume = path is not None
        words = f'{folder} has no checkpoint to resume from: this is a new run'
        runner.logger.info(f'resuming from {path}' if path else words)

    def _find_on_main_process(self, runner: Runner, folder: Path) -> tuple[Path | None, list[str]]:
        found = [None]
        if is_main_process():
            try:
                found = [find_resume_checkpoint(Path(runner.work_dir), folder, self.filename_tmpl)]
            except ValueError as error:
                found = [error]
        broadcast_object_list(found)
        if isinstance(found[0], ValueError):
            raise found[0]
        return found[0]

    def before_train(self, runner: Runner) -> None:
        hub = runner.message_hub
        super().before_train(runner)
        _StagingBackend.staged.clear()
        self.superseded = list(hub.get_info('superseded_checkpoints', []))
        self.file_backend = _DeferredRemoval(self.superseded)
        stock = [self.filename_tmpl.format(step) for step in getattr(self, 'keep_ckpt_ids', [])]
        self.kept = list(hub.get_info('kept_checkpoints', stock))
        self._move_paths_to_this_folder(hub.get_info('last_ckpt'))
        if is_main_process():
            for folder in {Path(self.out_dir), Path(runner.work_dir)}:
                for path in remove_partial_files(folder):
                    runner.logger.info(f'removed {path}, the partial file of a killed run')
            self._remove_superseded(runner)
        if runner.iter:
            self._finish_interrupted_iteration(runner)

    def _move_paths_to_this_folder(self, last: str | None) -> None:
        """Replace the folder in the paths of a resumed run: it may have been moved or copied."""

        def move(path: str | None) -> str | None:
            return path and str(Path(self.out_dir, Path(path).name))

        self.last_ckpt = move(last)
        if getattr(self, 'best_ckpt_path', None):
            self.best_ckpt_path = move(self.best_ckpt_path)
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = move(path)

    def _finish_interrupted_iteration(self, runner: Runner) -> None:
        """Repeat the validation that the run died in; warn if there is nothing left to train."""
        loop = runner.train_loop
        unit = 'epoch' if isinstance(loop, EpochBasedTrainLoop) else 'iter'
        done, end = getattr(loop, unit), getattr(loop, f'max_{unit}s')
        if done >= end:
            runner.logger.warning(
                f'{runner._load_from} is from the end of its run ({unit} {done} of {end}): nothing '
                f'is left to train. To train longer raise train_cfg.max_{unit}s, to measure it run '
                f'`{command("test")}`'
            )
        if runner.val_loop is None or runner.message_hub.get_info('iter_validated') == runner.iter:
            return
        loop._decide_current_val_interval()
        if done >= loop.val_begin and (done % loop.val_interval == 0 or done == end):
            runner.logger.info('validating first: the checkpoint was saved before its validation')
            runner.val_loop.run()

    # -- save

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        self.join()
        runner.message_hub.update_info('iter_validated', runner.iter)
        super().after_val_epoch(runner, metrics)
        if self.write is None:  # nothing was saved, or a first best checkpoint
            self._start_write(runner)

    def after_train(self, runner: Runner) -> None:
        self.join()
        super().after_train(runner)

    def save_now(self, runner: Runner, epoch: int, iteration: int, epoch_ended: bool) -> None:
        """Save a checkpoint after that many epochs and iterations, and wait until it is on disk."""
        if self.by_epoch and epoch_ended:
            name = self.filename_tmpl.format(epoch)
        else:
            name = (MID_EPOCH_NAME if self.by_epoch else self.filename_tmpl).format(iteration)
        self._save(runner, name, dict(epoch=epoch, iter=iteration))
        self.join()

    def join(self) -> None:
        """Wait until the last checkpoint is on disk; raise the OSError of its thread."""
        write, self.write = self.write, None
        if write:
            write.result()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save(self, runner: Runner, name: str, meta: dict) -> None:
        self.join()
        self._keep(name)
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
            pointer = Path(runner.work_dir, 'last_checkpoint'), [self.last_ckpt.encode()]
            _StagingBackend.staged.append(pointer)
        self._start_write(runner)

    def _start_write(self, runner: Runner) -> None:
        files = _StagingBackend.staged[:]
        _StagingBackend.staged.clear()
        self.write = self.thread.submit(self._write, files, runner)

    def _write(self, files: list[tuple[Path, list]], runner: Runner) -> None:
        try:
            for path, parts in files:
                write_file(path, parts)
        except OSError as error:  # `join` may come much later, or never if training fails
            runner.logger.error(str(error))
            raise
        self._remove_superseded(runner)

    def _keep(self, name: str) -> None:
        if self.max_keep_ckpts <= 0:
            return
        self.kept = [other for other in self.kept if other != name] + [name]
        self.superseded += self.kept[: -self.max_keep_ckpts]
        self.kept = self.kept[-self.max_keep_ckpts :]

    def _remove_superseded(self, runner: Runner) -> None:
        best = [getattr(self, 'best_ckpt_path', None)]
        best += getattr(self, 'best_ckpt_path_dict', {}).values()
        in_use = {*self.kept, *(Path(path).name for path in (*best, self.last_ckpt) if path)}
        failed = []
        for name in self.superseded:
            if name in in_use:
                continue
            try:
                if is_main_process():
                    remove_file(Path(self.out_dir, name))
            except OSError as error:
                runner.logger.warning(f'{name} could not be removed, trying again later: {error}')
                failed.append(name)
        self.superseded[:] = failed
