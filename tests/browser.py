"""A real browser without a window, driven over its debugging pipe; pytest skips where none is installed."""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = (
    'chromium',
    'chromium-browser',
    'google-chrome',
    'google-chrome-stable',
    'chrome',
    'microsoft-edge',
)

PATIENCE = 300  # seconds without a word, after which it is taken for dead


class Gone(Exception):
    """The browser has ended, or does not answer."""


class Browser:
    """One page. Commands are those of the Chrome DevTools Protocol."""

    def __init__(self, read: int, write: int):
        self._read, self._write, self._count, self._rest = read, write, 0, b''
        target = self.command('Target.createTarget', url='about:blank')['targetId']
        self._session = self.command('Target.attachToTarget', targetId=target, flatten=True)[
            'sessionId'
        ]
        self.heard: list[dict] = []  # what the page said by itself
        for domain in ('Page', 'Runtime', 'Network'):
            self.command(f'{domain}.enable')

    _session = None

    def command(self, method: str, **params) -> dict:
        self._count += 1
        message = dict(id=self._count, method=method, params=params)
        if self._session:
            message['sessionId'] = self._session
        try:
            os.write(self._write, json.dumps(message).encode() + b'\0')
        except BrokenPipeError:
            raise Gone from None
        while True:
            answer = self._next()
            if answer.get('id') == self._count:
                assert 'error' not in answer, f'{method}: {answer["error"]}'
                return answer['result']
            if 'method' in answer and self._session:
                self.heard.append(answer)

    def _next(self) -> dict:
        while b'\0' not in self._rest:
            answered = select.select([self._read], [], [], PATIENCE)[0]
            more = os.read(self._read, 1 << 20) if answered else b''
            if not more:
                raise Gone
            self._rest += more
        message, _, self._rest = self._rest.partition(b'\0')
        return json.loads(message)

    def value(self, expression: str):
        """What JavaScript makes of an expression; a promise is waited for."""
        answer = self.command(
            'Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True
        )
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def open(self, path: Path, width: int, height: int, ready: str) -> None:
        """Show a file in a window of that size, and wait until the expression `ready` is true."""
        self.command(
            'Emulation.setDeviceMetricsOverride',
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.command('Page.navigate', url=path.resolve().as_uri())
        waiting = f'new Promise(done => {{ const look = () => ({ready}) ? done(true) : setTimeout(look, 20); look(); }})'
        self.value(waiting)

    def click(self, x: float, y: float) -> None:
        for kind in ('mousePressed', 'mouseReleased'):
            self.command(
                'Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1
            )

    def key(self, key: str) -> None:
        codes = dict(Tab=9, ArrowLeft=37, ArrowUp=38, ArrowRight=39, ArrowDown=40)
        for kind in ('keyDown', 'keyUp'):
            self.command(
                'Input.dispatchKeyEvent',
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
            )

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = self.command('Page.captureScreenshot', format='png', captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture['data']))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        pytest.skip(f'no browser is installed: none of {", ".join(NAMES)}')
    (commands, ours_out), (ours_in, answers) = os.pipe(), os.pipe()
    spare = [
        os.dup(end) for end in (commands, answers)
    ]  # neither 3 nor 4, which the pipes have taken if they were free

    def hand_over() -> None:
        for end, number in zip(
            spare, (3, 4), strict=True
        ):  # where it reads commands, and where it answers
            os.dup2(end, number)

    command = [program, '--headless', '--remote-debugging-pipe', f'--user-data-dir={profile}']
    command += ['--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--no-first-run']
    process = subprocess.Popen(
        command, pass_fds=(3, 4), preexec_fn=hand_over, stderr=subprocess.DEVNULL
    )
    for end in (commands, answers, *spare):
        os.close(end)
    try:
        try:
            page = Browser(ours_in, ours_out)
        except Gone:
            pytest.skip(f'{program} is installed and does not start')
        yield page
    finally:
        process.kill()
        process.wait()
        os.close(ours_in), os.close(ours_out)
