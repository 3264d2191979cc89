"""A headless browser, driven over its debugging pipe; pytest skips where none is installed."""

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

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'microsoft-edge')
TIMEOUT_SECONDS = 300  # without an answer
KEY_CODES = dict(Tab=9, ArrowLeft=37, ArrowUp=38, ArrowRight=39, ArrowDown=40)


class Browser:
    """One page; commands are those of the Chrome DevTools Protocol."""

    def __init__(self, read: int, write: int):
        self._read, self._write, self._count, self._buffer = read, write, 0, b''
        self._session = None
        self.events: list[dict] = []  # messages that are no answers
        target = self.command('Target.createTarget', url='about:blank')['targetId']
        attached = self.command('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Network'):
            self.command(f'{domain}.enable')

    def command(self, method: str, **params) -> dict:
        self._count += 1
        message = dict(id=self._count, method=method, params=params)
        if self._session:
            message['sessionId'] = self._session
        os.write(self._write, json.dumps(message).encode() + b'\0')
        while (answer := self._receive()).get('id') != self._count:
            self.events.append(answer)
        assert 'error' not in answer, f'{method}: {answer["error"]}'
        return answer['result']

    def _receive(self) -> dict:
        while b'\0' not in self._buffer:
            ready = select.select([self._read], [], [], TIMEOUT_SECONDS)[0]
            received = os.read(self._read, 1 << 20) if ready else b''
            if not received:
                raise BrokenPipeError('the browser has exited or does not answer')
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)

    def value(self, expression: str):
        """Evaluate JavaScript and return its value, that of a promise when it is resolved."""
        options = dict(returnByValue=True, awaitPromise=True)
        answer = self.command('Runtime.evaluate', expression=expression, **options)
        assert 'exceptionDetails' not in answer, answer['exceptionDetails']
        return answer['result'].get('value')

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        check = f'const check = () => ({condition}) ? done(true) : setTimeout(check, 20); check();'
        self.value(f'new Promise(done => {{ {check} }})')

    def open(self, path: Path, width: int, height: int, ready: str) -> None:
        """Open a file in a window of that size, and wait until the expression `ready` is true."""
        size = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.command('Emulation.setDeviceMetricsOverride', **size)
        self.command('Page.navigate', url=path.resolve().as_uri())
        self.wait(ready)

    def click(self, x: float, y: float) -> None:
        for kind in ('mousePressed', 'mouseReleased'):
            event = dict(type=kind, x=x, y=y, button='left', clickCount=1)
            self.command('Input.dispatchMouseEvent', **event)

    def key(self, key: str) -> None:
        for kind in ('keyDown', 'keyUp'):
            event = dict(type=kind, key=key, code=key, windowsVirtualKeyCode=KEY_CODES[key])
            self.command('Input.dispatchKeyEvent', **event)

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = self.command('Page.captureScreenshot', format='png', captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture['data']))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program:
        pytest.skip(f'no browser is installed: none of {", ".join(NAMES)}')
    (commands, our_output), (our_input, answers) = os.pipe(), os.pipe()
    # Copies have other numbers than 3 and 4, which the browser expects and the pipes may have.
    copies = [os.dup(end) for end in (commands, answers)]

    def connect() -> None:
        os.dup2(copies[0], 3)
        os.dup2(copies[1], 4)

    command = [program, '--headless', '--remote-debugging-pipe', f'--user-data-dir={profile}']
    command += ['--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--no-first-run']
    process = subprocess.Popen(
        command, pass_fds=(3, 4), preexec_fn=connect, stderr=subprocess.DEVNULL
    )
    for end in (commands, answers, *copies):
        os.close(end)
    try:
        try:
            page = Browser(our_input, our_output)
        except BrokenPipeError:
            pytest.skip(f'{program} is installed and does not start')
        yield page
    finally:
        process.kill()
        process.wait()
        os.close(our_input)
        os.close(our_output)
