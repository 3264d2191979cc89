"""mmengine's CheckpointHook on `checkpoint/store.py`: nothing is lost when a run dies at any moment, and `resume` finds it."""

import re
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..checkpoint import store
from ..registry import HOOKS

_MID_EPOCH = 'iter_{}.pth'  # what is saved between epochs' ends, whatever the hook's own names


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
    """CheckpointHook whose files are whole, checked, and there; tools/train.py puts it in the place of the stock one.

    A checkpoint is written beside its place, flushed, read back, and renamed; then `last_checkpoint` likewise; only then are
    those removed that `max_keep_ckpts` and `save_best` give up, which the new one lists, so that a resumed run goes on
    removing. `resume` takes the newest file that is whole, whatever `last_checkpoint` says, and repeats the validation that
    a run died in. The arguments are CheckpointHook's, without `backend_args` and `file_client_args` (ValueError): the
    folder is a mounted one.

    Raises ValueError on resume when there are checkpoints and none is readable, OSError when one cannot be written.
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

    # -- going on

    def before_run(self, runner: Runner) -> None:
        if not runner._resume or runner._load_from is not None:
            return
        names = '|'.join(re.escape(name).replace(r'\{\}', r'\d+') for name in (self.filename_tmpl, _MID_EPOCH))
        folder = self._folder(runner)
        found = [store.newest(folder, names) if is_main_process() else None]
        broadcast_object_list(found)
        path, passed = found[0]
        for line in passed:
            runner.logger.warning(f'passed over: {line}')
        if passed and not path:
            raise ValueError(
                f'none of the {len(passed)} checkpoints in {folder} is readable:\n  ' + '\n  '.join(passed) + '\n'
                'Name another with --resume PATH, or begin again without --resume'
            )
        runner._load_from, runner._resume = path and str(path), path is not None
        runner.logger.info(f'going on from {path}' if path else f'{folder} has no checkpoint to go on from: a new run')

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        hub, folder = runner.message_hub, Path(self.out_dir)
        stock = [self.filename_tmpl.format(step) for step in getattr(self, 'keep_ckpt_ids', [])]
        self.kept = list(hub.get_info('kept_checkpoints', stock))
        self.superseded = list(hub.get_info('superseded_checkpoints', []))
        self.file_backend = _Later(self.superseded)
        if last := hub.get_info('last_ckpt'):
            self.last_ckpt = str(folder / Path(last).name)  # which a better validation writes anew
        if getattr(self, 'best_ckpt_path', None):  # where it was before the folder was moved, or another run's
            self.best_ckpt_path = str(folder / Path(self.best_ckpt_path).name)
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = path and str(folder / Path(path).name)
        if is_main_process():
            for left in {path for place in {folder, Path(runner.work_dir)} for path in store.sweep(place)}:
                runner.logger.info(f'removed {left}, which a killed run left half written')
            self._remove_superseded(runner)
        loop, validation = runner.train_loop, runner.val_loop
        if validation is None or not runner.iter or hub.get_info('iter_validated') == runner.iter:
            return
        loop._decide_current_val_interval()
        done, end = (
            (loop.epoch, loop.max_epochs) if isinstance(loop, EpochBasedTrainLoop) else (loop.iter, loop.max_iters)
        )
        if done >= loop.val_begin and (done % loop.val_interval == 0 or done == end):
            runner.logger.info('validating first, since the checkpoint is from before its validation')
            validation.run()

    def _folder(self, runner: Runner) -> Path:
        work_dir = Path(runner.work_dir)
        return work_dir if self.out_dir in (None, runner.work_dir) else Path(self.out_dir, work_dir.name)

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
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        in_use = {*self.kept, *(Path(path).name for path in (*best, self.last_ckpt) if path)}
        left = []
        for name in filter(lambda name: name not in in_use, self.superseded):
            try:
                if is_main_process():
                    store.remove(Path(self.out_dir, name))
            except OSError as error:
                runner.logger.warning(f'{name} is no longer needed and could not be removed, next time again: {error}')
                left.append(name)
        self.superseded[:] = left
