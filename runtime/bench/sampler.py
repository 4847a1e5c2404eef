"""Something that is read again and again, by a thread of its own, while a block runs."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

_Self = TypeVar("_Self", bound="Sampler")


class Sampler(ABC):
    """Reads once before the block, every `period` seconds during it, and once after.

    Attributes:
        period: seconds; a reading may change it.
    """

    def __init__(self, name: str, period: float) -> None:
        self.period = period
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self: _Self) -> _Self:
        self.begin()
        self.read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.read()
        self.end()

    @abstractmethod
    def begin(self) -> None:
        """What comes before the first reading."""

    @abstractmethod
    def read(self) -> None:
        """Take and keep one reading."""

    @abstractmethod
    def end(self) -> None:
        """What comes after the last one."""

    def _run(self) -> None:
        while not self._stop.wait(self.period):
            self.read()
