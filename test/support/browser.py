# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A real headless Chromium, driven over its debugging pipe: no driver, no websocket, no package."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
WAIT_S = 60


def chromium() -> str:
    """Path of the browser; skips the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f'needs a browser: none of {", ".join(NAMES)} is installed')
    return found


class Browser:
    """One page in a browser of its own. `events`: everything that the browser reported."""

    def __init__(self, profile: Path) -> None:
        binary = chromium()
        # Chromium reads commands from descriptor 3 and answers on 4.
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()

        def place() -> None:
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        # High numbers, so that placing one does not overwrite the other.
        theirs_in, theirs_out = (_high(number) for number in (theirs_in, theirs_out))
        self._process = subprocess.Popen(
            [
                binary, '--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run',
                '--disable-background-networking', '--disable-dev-shm-usage',
                '--hide-scrollbars', '--window-size=1280,900',
                f'--user-data-dir={profile}', '--remote-debugging-pipe', 'about:blank',
            ],
            preexec_fn=place, pass_fds=(3, 4, theirs_in, theirs_out),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._buffer = b''
        self._number = 0
        self._session: str | None = None
        self.events: list[dict] = []
        targets = self.call('Target.getTargets')['targetInfos']
        page = next(target for target in targets if target['type'] == 'page')
        attached = self.call('Target.attachToTarget', targetId=page['targetId'], flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            self.call(f'{domain}.enable')

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.call('Browser.close')
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: object) -> dict:
        """Send a command of the Chrome DevTools Protocol and wait for its result."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': parameters}
        if self._session is not None:
            message['sessionId'] = self._session
        os.write(self._out, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == self._number:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']
            self.events.append(answer)

    def open(self, path: Path, dark: bool = False) -> None:
        """Load a file and wait until it is there."""
        scheme = [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]
        self.call('Emulation.setEmulatedMedia', features=scheme)
        self.call('Page.navigate', url=path.resolve().as_uri())
        self.wait_for('document.readyState === "complete" && location.protocol === "file:"')

    def run(self, expression: str) -> object:
        """Value of a JavaScript expression in the page."""
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(f'{expression}: {result["exceptionDetails"]}')
        return result['result'].get('value')

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.run(expression):
            assert time.monotonic() < deadline, f'never became true: {expression}'
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key, as from a keyboard."""
        codes = {'ArrowLeft': 37, 'ArrowUp': 38, 'ArrowRight': 39, 'ArrowDown': 40, 'Escape': 27}
        for kind in ('keyDown', 'keyUp'):
            self.call(
                'Input.dispatchKeyEvent', type=kind, key=key, code=key,
                windowsVirtualKeyCode=codes.get(key, 0),
            )  # fmt: skip

    def click(self, selector: str) -> None:
        """The mouse, in the middle of the first element that the selector finds."""
        self.run(
            f'document.querySelector({json.dumps(selector)}).scrollIntoView({{block: "center"}})'
        )
        box = self.run(
            f'(r => [r.x + r.width / 2, r.y + r.height / 2])'
            f'(document.querySelector({json.dumps(selector)}).getBoundingClientRect())'
        )
        for kind in ('mousePressed', 'mouseReleased'):
            self.call(
                'Input.dispatchMouseEvent', type=kind, x=box[0], y=box[1], button='left',
                clickCount=1,
            )  # fmt: skip

    def complaints(self) -> list[str]:
        """Errors and warnings that the page caused so far."""
        self.run('1')
        found = []
        for event in self.events:
            parameters = event.get('params', {})
            if event.get('method') == 'Runtime.exceptionThrown':
                found.append(str(parameters['exceptionDetails']))
            elif event.get('method') == 'Log.entryAdded':
                found.append(str(parameters['entry'].get('text')))
            elif event.get('method') == 'Runtime.consoleAPICalled':
                found.append(str(parameters.get('args')))
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for, but for data in the page itself."""
        urls = [
            event['params']['request']['url']
            for event in self.events
            if event.get('method') == 'Network.requestWillBeSent'
        ]
        return [url for url in urls if not url.startswith('data:')]

    def _receive(self) -> dict:
        while b'\0' not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], WAIT_S)
            piece = os.read(self._in, 1 << 20) if ready else b''
            if not piece:
                raise RuntimeError('the browser said nothing more')
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b'\0')
        return json.loads(message)


def _high(number: int) -> int:
    import fcntl

    moved = fcntl.fcntl(number, fcntl.F_DUPFD, 20)
    os.close(number)
    return moved
