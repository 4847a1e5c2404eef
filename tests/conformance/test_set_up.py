"""What `make conformance` pins, and how it tells what is not here."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def set_up() -> ModuleType:
    spec = importlib.util.spec_from_file_location("set_up", HERE / "set_up.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions(text: str) -> dict[str, str]:
    """Pins that hold for Python 3.11."""
    lines = [line for line in text.splitlines() if 'python_version < "3.11"' not in line]
    return dict(match.groups() for line in lines if (match := re.match(r"([\w-]+)==([\w.]+)", line)))


def test_arm64_packages_are_those_of_the_constraints_and_carry_hashes() -> None:
    text = (HERE / "requirements-arm64.txt").read_text()
    pinned, constraints = versions(text), versions((ROOT / "constraints.txt").read_text())
    assert pinned.keys() >= {"numpy", "pillow", "click", "rich", "ai-edge-litert"}
    assert {name: constraints.get(name) for name in pinned} == pinned
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) == len(pinned)


def test_the_c_sample_and_arm64_take_the_same_library() -> None:
    script = (ROOT / "docs/samples/c/fetch_litert.sh").read_text()
    arm64 = (HERE / "requirements-arm64.txt").read_text()
    version = versions(arm64)["ai-edge-litert"]
    assert f"ai-edge-litert=={version} " in script
    assert re.search(rf"ai-edge-litert=={version} --hash=sha256:([0-9a-f]+)", arm64).group(1) in script
    assert f'LITERT_ABI "{version}"' in (ROOT / "docs/samples/c/litert_c.h").read_text()


def test_what_is_not_here_names_the_command(set_up: ModuleType, tmp_path: Path) -> None:
    for step in (
        lambda: set_up.find_python("3.99"),
        lambda: set_up.need("no-such-program", "its-package"),
        lambda: set_up.browser(""),
        lambda: set_up.tflite_runtime(str(tmp_path / "python")),
        lambda: set_up.call("false"),
    ):
        with pytest.raises(set_up.NotHere) as absent:
            step()
        assert absent.value.reason
        assert absent.value.enable
    (place,) = set_up.timed("browser", lambda: set_up.browser(""))
    assert place["name"] == "browser"
    assert place["not_run"]


def test_the_fake_processors_are_what_qemu_is_told(set_up: ModuleType) -> None:
    """Wrong features are an illegal instruction, or silently wrong codes."""
    for processor, part, has_dot in (("cortex-a53", "0xd03", False), ("cortex-a76", "0xd0b", True)):
        assert processor in set_up.PROCESSORS
        text = (HERE / f"cpuinfo.{processor}").read_text()
        assert part in text
        assert ("asimddp" in text) is has_dot
