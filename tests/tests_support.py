"""What several test modules need."""

from __future__ import annotations

import subprocess
import sys


def edgeage(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a user does."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-m", "edgeage", *arguments], capture_output=True, text=True, **options
    )
