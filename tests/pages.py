"""Run the code blocks and commands of the documentation in this process, with short runs."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from beit_mm.engine import launch

ROOT = Path(__file__).parents[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', text, re.S)


def file_of(block: str) -> str | None:
    """Return the file name in the first line of a block, if it has one."""
    found = re.match(r'# (\w+/\w+\.py)\n', block)
    return found and found[1]


class ShortRuns:
    """Runners get their config from `change` and write the checkpoint name of a full run.

    `last` are the stems of the checkpoints of short runs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, change: Callable, last: tuple[str, ...]):
        self.monkeypatch, self.last = monkeypatch, last
        self.full_names: dict[Path, str] = {}  # by work_dir
        build_runner = launch.build_runner

        def build_short_runner(cfg: Config, **options):
            loop = cfg.train_cfg
            name = f'epoch_{loop.max_epochs}' if 'max_epochs' in loop else f'iter_{loop.max_iters}'
            runner = build_runner(change(cfg), **options)
            self.full_names[Path(cfg.work_dir)] = name
            return runner

        monkeypatch.setattr(launch, 'build_runner', build_short_runner)

    def call(self, command: str) -> None:
        """Run `python tools/….py …`."""
        python, script, *arguments = shlex.split(command, comments=True)
        assert python == 'python'
        self.monkeypatch.setattr(sys, 'argv', [script, *arguments])
        assert not runpy.run_path(str(ROOT / script))['main']()
        for folder, name in self.full_names.items():
            written = [path for path in folder.glob('*_*.pth') if path.stem in self.last]
            assert len(written) == 1 or (folder / f'{name}.pth').exists()
            for path in written:
                path.rename(folder / f'{name}.pth')
                (folder / 'last_checkpoint').write_text(str(folder / f'{name}.pth'))

    def logs(self) -> dict[str, str]:
        return {
            folder.name: ''.join(path.read_text() for path in folder.rglob('*.log'))
            for folder in self.full_names
        }
