"""Reading what Linux tells in files: /sys, /proc, /etc; only reading, and every failure with its reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class NotAvailable(Exception):
    """A fact that this machine does not tell; the message says why."""


def told(read: Callable[[], Any]) -> Any:
    """What `read` gives, or {"not available": why}."""
    try:
        return read()
    except NotAvailable as why:
        return {"not available": str(why)}
    except (ValueError, LookupError) as error:  # a file of another form than all kernels known here write
        return {"not available": f"a file holds what nobody expected: {error}"}


class Files:
    """The files of a machine.

    `root`: where its "/" is; a recorded tree in tests.
    """

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        self.root = Path(root)

    def text(self, path: str) -> str:
        """A file's text without white space at its ends; NotAvailable if it cannot be read or is empty."""
        try:
            text = (self.root / path).read_text(encoding="utf-8", errors="replace").strip(" \t\r\n\0")
        except OSError as error:
            # drivers answer a read with any error they like
            raise NotAvailable(f"/{path}: {error.strerror or error}") from None
        if not text:
            raise NotAvailable(f"/{path} is empty")
        return text

    def integer(self, path: str) -> int:
        """A whole number, decimal or 0x...; NotAvailable if there is none."""
        text = self.text(path)
        try:
            return int(text, 0) if text.lower().startswith("0x") else int(text)
        except ValueError:
            raise NotAvailable(f"/{path} holds {text[:40]!r}, no whole number") from None

    def maybe_text(self, path: str) -> str | None:
        """`text`, or None where that is not available."""
        try:
            return self.text(path)
        except NotAvailable:
            return None

    def maybe_integer(self, path: str) -> int | None:
        """`integer`, or None where that is not available."""
        try:
            return self.integer(path)
        except NotAvailable:
            return None

    def find(self, pattern: str) -> list[str]:
        """Paths below the root that match, those that end in a number by that number."""
        try:
            found = [path.relative_to(self.root).as_posix() for path in self.root.glob(pattern)]
        except OSError:  # a folder that may not be listed holds nothing for us
            return []
        return sorted(found, key=_by_number)

    def first(self, *patterns: str) -> str:
        """The first path that one of the patterns matches; NotAvailable if there is none."""
        for pattern in patterns:
            for path in self.find(pattern):
                return path
        raise NotAvailable(f"there is no /{' or /'.join(patterns)}")


def _by_number(path: str) -> list[tuple[int, str]]:
    """Sorts cpu10 behind cpu9."""
    parts, digits = [], ""
    for character in path:
        if character.isdigit():
            digits += character
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, character))
    return [*parts, (int(digits), "")] if digits else parts
