"""A polite end: SIGTERM or Ctrl-C lets the step finish and its checkpoint be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rsaseg.errors import RsasegError


class StoppedError(RsasegError):
    """A signal ended the training; its exit code is the shell's for that signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """Whether a signal has asked to stop: its number, or 0."""

    number = 0


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Take note of SIGTERM and SIGINT instead of dying of them.

    The second one acts as usual. Outside the main thread signals are left alone.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _: FrameType | None) -> None:
        request.number = number
        signal.signal(number, before[signal.Signals(number)])

    for number in numbers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in numbers:
            signal.signal(number, before[number])
    if request.number:  # came too late for anyone to see it
        signal.raise_signal(request.number)
