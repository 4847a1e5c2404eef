"""Fixtures that tests of several packages share."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one package go to one worker (--dist loadgroup): what they share is made once."""
    for item in items:
        package = item.path.relative_to(_REPOSITORY / "tests").parts[0]
        item.add_marker(pytest.mark.xdist_group(package))


@pytest.fixture(scope="session")
def faces_tar() -> Path:
    """The development faces (a UTKFace .tar); the test is skipped, and says why, where they are absent.

    EDGEAGE_FACES names the file or the folder that holds utkface128.tar; without it `../shared/data`
    beside the repository is tried. A name that leads nowhere is an error, not a skip.
    """
    told = os.environ.get("EDGEAGE_FACES")
    place = Path(told) if told else _REPOSITORY.parent / "shared" / "data"
    file = place / "utkface128.tar" if place.is_dir() else place
    if file.is_file():
        return file
    if told:
        pytest.fail(f"EDGEAGE_FACES={told}, but there is no file {file}")
    pytest.skip(f"SKIPPED FOR LACK OF FACES: no {file}; set EDGEAGE_FACES to the UTKFace .tar")


@pytest.fixture(scope="session")
def teacher_file() -> Path:
    """The published teacher (README, "Train"), named by EDGEAGE_TEACHER; without it the test is skipped."""
    told = os.environ.get("EDGEAGE_TEACHER")
    if told is None:
        pytest.skip("SKIPPED FOR LACK OF THE TEACHER: set EDGEAGE_TEACHER to MobileFaceNet.tflite")
    if not Path(told).is_file():
        pytest.fail(f"EDGEAGE_TEACHER={told}, but there is no such file")
    return Path(told)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What did not run for want of data or devices is written out even in quiet runs."""
    reasons = Counter(
        text[text.index("SKIPPED") :]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and "SKIPPED" in (text := report.longrepr[2])
    )
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} test(s) did NOT run: {reason}", yellow=True)
