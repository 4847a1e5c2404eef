"""What native libraries write to stderr behind Python's back."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def without_native_info() -> Iterator[None]:
    """Leave out the lines "INFO: ..." that the block's native code writes; everything else still appears.

    LiteRT announces its delegate there and has no switch for it; an error would then not be one line.
    The lines appear when the block ends. For command lines only: the whole process is affected, so one
    thread at a time is in such a block.
    """
    with _ONE_AT_A_TIME:
        yield from _held_back()


def _held_back() -> Iterator[None]:
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held:
                if not line.startswith(b"INFO:"):
                    os.write(2, line)
