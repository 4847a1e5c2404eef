"""The one error that is meant for users."""

from __future__ import annotations


class EdgeageError(Exception):
    """Bad input or a missing part, told to the user in one line.

    The message says what is wrong, what was found, and what to do next. The command line prints it
    without a traceback and exits with code 2; the Python API lets it through.
    """

    exit_code = 2


class OutputError(EdgeageError):
    """Nothing can be written where it was asked for: the other photos of a batch would fare no better."""
