"""The checkpoints of a work_dir: which ones exist, and which one to resume from."""

import re
import zipfile
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.config import Config

from ..checkpoint.folders import read_last_checkpoint
from ..checkpoint.integrity import find_newest
from ..utils.arguments import join_names
from ..utils.config_tree import get

MID_EPOCH_NAME = 'iter_{}.pth'  # of a checkpoint that is saved inside an epoch
_DEFAULT_NAMES = (MID_EPOCH_NAME, 'epoch_{}.pth')


def list_checkpoints(cfg: Config) -> list[Path]:
    """Return the checkpoints of earlier runs in the folder where this config saves, by name.

    If there are none with an expected name, returns the training checkpoints with other names, such
    as best_*.pth.
    """
    hook = get(cfg.get('default_hooks'), 'checkpoint') or {}
    work_dir = Path(cfg.work_dir)
    folder = checkpoint_folder(work_dir, hook.get('out_dir'))
    template = hook.get('filename_tmpl')
    return _with_expected_names(work_dir, folder, template) or _with_other_names(folder)


def find_resume_checkpoint(
    work_dir: Path, folder: Path, template: str | None
) -> tuple[Path | None, list[str]]:
    """Find the newest intact checkpoint in `folder` or where `work_dir/last_checkpoint` points.

    A checkpoint has a name of `template`, a default name of mmengine, or one like the name in
    `last_checkpoint`, so a run with any former template is found. Returns the path (None if there
    is no checkpoint) and one line for each damaged newer one. Raises ValueError if no checkpoint is
    intact, or if `folder` holds only checkpoints of other names.
    """
    path, damaged = find_newest(_with_expected_names(work_dir, folder, template))
    if path is None and damaged:
        raise ValueError(
            f'--resume: none of the {len(damaged)} checkpoints in {folder} is intact:\n  '
            + '\n  '.join(damaged)
            + '\nPass another one as --resume PATH, or start a new run without --resume in another '
            '--work-dir'
        )
    if path is None and (others := _with_other_names(folder)):
        names = join_names([path.name for path in others])
        raise ValueError(
            f'--resume: {folder} holds checkpoints ({names}), but none has a name of '
            f'filename_tmpl={template!r} or is named by last_checkpoint. Pass the one to continue '
            'from as --resume PATH, or start a new run without --resume'
        )
    return path, damaged


def checkpoint_folder(work_dir: Path, out_dir: str | None) -> Path:
    """Return the folder in which mmengine's CheckpointHook(out_dir=…) saves."""
    return work_dir if out_dir in (None, str(work_dir)) else Path(out_dir, work_dir.name)


def _with_expected_names(work_dir: Path, folder: Path, template: str | None) -> list[Path]:
    """Return the files to resume from. A template may contain a folder: 'ckpt/iter_{}.pth'."""
    last = read_last_checkpoint(work_dir)
    names = [template, last and re.sub(r'\d+', '{}', last.name), *_DEFAULT_NAMES]
    examples = [Path(re.sub(r'\{.*?\}', '0', name)).name for name in names if name]
    pattern = '|'.join(re.sub(r'\d+', r'\\d+', re.escape(name)) for name in examples)
    folders = {folder, Path(folder, template or '').parent if template else folder}
    found = {
        path for each in folders for path in each.glob('*') if re.fullmatch(pattern, path.name)
    }
    if last and last.is_file() and last.name not in {path.name for path in found}:
        found.add(last)  # otherwise this folder is a copy of the one that it names
    return sorted(found)


def _with_other_names(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob('[!.]*')) if _is_training_checkpoint(path)]


def _is_training_checkpoint(path: Path) -> bool:
    """Return whether mmengine saved this file during training: weights alone have no iteration."""
    if path.is_file() and zipfile.is_zipfile(path):
        with suppress(Exception):  # another kind of zip file, or a damaged one
            content = torch.load(path, map_location='cpu', mmap=True, weights_only=True)
            return 'iter' in content['meta']
    return False
