"""Commands on a terminal of their own."""

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self


class Terminal:
    """A command of a module on a terminal of its own, killed at the end of its block if need be."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] = MappingProxyType({}),
        *,
        module: str = "worker.cli",
    ) -> None:
        self._terminal, side = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *command],
            stdin=side,
            stdout=side,
            stderr=side,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        os.close(side)
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a character may come in two reads

    def read_until(self, words: str, seconds: float = 20.0) -> str:
        """Read on until these words were shown; returns what was read."""
        shown = ""
        deadline = time.monotonic() + seconds
        while words not in shown:
            assert select.select([self._terminal], [], [], deadline - time.monotonic())[0], f"{words} not in {shown}"
            shown += self._decoder.decode(os.read(self._terminal, 65_536))
        return shown

    def write(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Its exit code."""
        return self._process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)
