"""The checkpoints of a work_dir: which ones exist, and which one to resume from."""

import re
import zipfile
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config

from ..checkpoint.files import read_file
from ..checkpoint.integrity import find_damage, find_newest
from ..utils.arguments import join_names

MID_EPOCH_NAME = 'iter_{}.pth'  # of a checkpoint that is saved inside an epoch
_DEFAULT_NAMES = (MID_EPOCH_NAME, 'epoch_{}.pth')


def list_checkpoints(cfg: Config) -> list[Path]:
    """Return the checkpoints of earlier runs in the folder where a run of this config will save its own, by name."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    work_dir = Path(cfg.work_dir)
    folder = checkpoint_folder(work_dir, hook.get('out_dir'))
    pattern = _name_pattern(work_dir, hook.get('filename_tmpl'))
    return sorted(path for path in folder.glob('*') if re.fullmatch(pattern, path.name))


def find_resume_checkpoint(
    work_dir: Path, folder: Path, template: str | None
) -> tuple[Path | None, list[str]]:
    """Find the newest intact checkpoint in `folder`, else the one that `work_dir/last_checkpoint` names.

    A checkpoint has a name of `template`, a default name of mmengine, or one like the name in `last_checkpoint`, so a run
    with any former template is found. Returns the path (None if there is no checkpoint) and one line for each damaged newer
    one. Raises ValueError if no checkpoint is intact, or if `folder` holds only checkpoints of other names.
    """
    path, damaged = find_newest(folder, _name_pattern(work_dir, template))
    named = _last_checkpoint(work_dir)
    if path is None and not damaged and named and named.is_file():
        problem = find_damage(named)
        if problem is None:
            return named, []
        damaged = [f'{named}: {problem}']
    if path is None and damaged:
        raise ValueError(
            f'--resume: none of the {len(damaged)} checkpoints in {folder} is intact:\n  '
            + '\n  '.join(damaged)
            + '\nPass another one as --resume PATH, or start a new run without --resume in another --work-dir'
        )
    if path is None:
        _check_other_names(folder, template)
    return path, damaged


def checkpoint_folder(work_dir: Path, out_dir: str | None) -> Path:
    """Return the folder in which mmengine's CheckpointHook(out_dir=…) saves."""
    return work_dir if out_dir in (None, str(work_dir)) else Path(out_dir, work_dir.name)


def _check_other_names(folder: Path, template: str | None) -> None:
    others = [path.name for path in sorted(folder.glob('*')) if _is_training_checkpoint(path)]
    if others:
        raise ValueError(
            f'--resume: {folder} holds checkpoints ({join_names(others)}), but none has a name of filename_tmpl={template!r} '
            'or is named by last_checkpoint. Pass the one to continue from as --resume PATH, or start a new run without '
            '--resume'
        )


def _name_pattern(work_dir: Path, template: str | None) -> str:
    examples = [name.format(0) for name in (template, *_DEFAULT_NAMES) if name]
    if named := _last_checkpoint(work_dir):
        examples.append(named.name)
    return '|'.join(re.sub(r'\d+', r'\\d+', re.escape(name)) for name in examples)


def _last_checkpoint(work_dir: Path) -> Path | None:
    """Return the path in mmengine's file `last_checkpoint`; it may name a folder that has been moved since."""
    pointer = work_dir / 'last_checkpoint'
    return Path(pointer.read_text().strip()) if pointer.is_file() else None


def _is_training_checkpoint(path: Path) -> bool:
    """Return whether mmengine saved this file during training: weights alone have no iteration."""
    if path.is_file() and zipfile.is_zipfile(path):
        with suppress(ValueError):  # another kind of zip file
            content = read_file(path)
            return isinstance(content, dict) and 'iter' in (content.get('meta') or {})
    return False
