"""Who may import whom (ARCHITECTURE.md), and what importing the runtime costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("core", "runtime", "demo", "calibration", "train", "export")
ENGINES = {"ai_edge_litert", "tflite_runtime", "onnxruntime", "tensorrt", "cuda"}
SIGNING = {"c2pa", "cryptography"}


@dataclass(frozen=True)
class Import:
    """One imported module and where; `lazy` if it stands in a function or is only for type checkers."""

    place: str
    module: str
    lazy: bool

    @property
    def floor(self) -> str | None:
        """The floor of edgeage that is imported, None for other packages."""
        parts = self.module.split(".")
        if parts[0] != "edgeage":
            return None
        return parts[1] if len(parts) > 1 and parts[1] in FLOORS else "core"

    @property
    def package(self) -> str:
        return self.module.split(".")[0]


def imports_of(text: str, place: str, package: str) -> list[Import]:
    """All imports in a module's text; `package` resolves relative ones."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        for child in ast.iter_child_nodes(node):
            inner = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for statement in child.body:
                    visit(ast.Module([statement], []), True)
                continue
            where = f"{place}:{getattr(child, 'lineno', 0)}"
            if isinstance(child, ast.Import):
                found.extend(Import(where, alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, base] if base else above)
                # `from edgeage import runtime` imports the module edgeage.runtime
                found.extend(Import(where, f"{base}.{alias.name}", lazy) for alias in child.names)
            visit(child, inner)

    visit(ast.parse(text), False)
    return found


def imports_on(floor: str) -> list[Import]:
    found = []
    for file in sorted((ROOT / floor).rglob("*.py")):
        folders = file.parent.relative_to(ROOT).parts
        package = ".".join(("edgeage", *(folders[1:] if floor == "core" else folders)))
        found += imports_of(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT)), package)
    assert found
    return found


def names(imports: list[Import]) -> list[str]:
    return [f"{one.place} imports {one.module}" for one in imports]


def is_foreign(one: Import, *allowed: str) -> bool:
    """Neither of this project nor of the standard library nor allowed."""
    return one.floor is None and one.package not in {*sys.stdlib_module_names, "__future__", *allowed}


def test_core_stands_at_the_bottom():
    imports = imports_on("core")
    assert names([one for one in imports if not one.lazy and one.floor not in (None, "core")]) == []
    assert names([one for one in imports if not one.lazy and is_foreign(one, "numpy", "click", "rich")]) == []


def test_the_runtime_needs_numpy_and_pillow_and_an_engine_when_asked():
    imports = imports_on("runtime")
    assert names([one for one in imports if one.floor not in (None, "core", "runtime")]) == []
    assert names([one for one in imports if not one.lazy and is_foreign(one, "numpy", "PIL")]) == []
    # jinja2 makes the bench's page, where it is asked for
    allowed = ("numpy", "PIL", "jinja2", *ENGINES, *SIGNING)
    assert names([one for one in imports if is_foreign(one, *allowed)]) == []


def test_the_demo_stands_on_core_and_runtime_and_needs_no_package():
    imports = imports_on("demo")
    assert names([one for one in imports if one.floor not in (None, "core", "runtime", "demo")]) == []
    assert names([one for one in imports if is_foreign(one, *(["playwright"] if one.lazy else []))]) == []


def test_calibration_stands_on_core_and_runtime():
    imports = imports_on("calibration")
    assert names([one for one in imports if one.floor not in (None, "core", "runtime", "calibration")]) == []
    assert names([one for one in imports if one.package in ("torch", "tensorflow")]) == []


def test_train_stands_on_core_and_runtime():
    imports = imports_on("train")
    assert names([one for one in imports if one.floor not in (None, "core", "runtime", "train")]) == []


def test_export_takes_networks_and_checkpoint_of_train_only():
    imports = imports_on("export")
    allowed = ("edgeage.train.networks", "edgeage.train.checkpoint")
    astray = [one for one in imports if one.floor == "train" and not one.module.startswith(allowed)]
    assert names(astray) == []


@pytest.mark.parametrize("floor", FLOORS)
def test_nothing_is_ever_unpickled(floor: str):
    for one in imports_on(floor):
        assert one.package not in ("pickle", "dill", "joblib", "marshal", "shelve"), names([one])
    for file in (ROOT / floor).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = ast.unparse(node)
                assert not call.startswith(("torch.load(", "pickle.load")), f"{file}: {call}"
                assert "allow_pickle=True" not in call, f"{file}: {call}"


def test_the_checker_sees_what_it_should():
    text = """
import torch.nn
from edgeage import runtime
from .. import errors
from ..runtime.photo import read
if TYPE_CHECKING:
    import onnx
def later():
    from edgeage.train.data import faces
"""
    seen = [
        (one.module, one.floor, one.lazy)
        for one in imports_of(text, "core/commands/x.py", "edgeage.commands")
    ]
    assert seen == [
        ("torch.nn", None, False),
        ("edgeage.runtime", "runtime", False),
        ("edgeage.errors", "core", False),
        ("edgeage.runtime.photo.read", "runtime", False),
        ("onnx", None, True),
        ("edgeage.train.data.faces", "train", True),
    ]


HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "scipy",
    "tensorflow",
    "tensorboard",
    "ai_edge_litert",
    "msgspec",
    "c2pa",
}


def loaded_after(code: str) -> set[str]:
    """Top-level packages in memory after a piece of code in a fresh interpreter."""
    script = f"import sys\n{code}\nprint('\\n'.join(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd="/", capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_importing_the_runtime_is_light():
    modules = loaded_after("import edgeage.runtime.session")
    assert {name.split(".")[0] for name in modules} & HEAVY == set()
    strangers = {"edgeage.train", "edgeage.export", "edgeage.calibration"}
    assert not {name for name in modules if any(name.startswith(stranger) for stranger in strangers)}


def test_help_is_light():
    """--help of the group and of every verb starts at once: no engine, no torch."""
    code = """
from click.testing import CliRunner
from edgeage.cli import VERBS, cli
for arguments in [[], *[[verb] for verb in VERBS]]:
    result = CliRunner().invoke(cli, [*arguments, "--help"])
    assert result.exit_code == 0, result.output
"""
    assert {name.split(".")[0] for name in loaded_after(code)} & HEAVY == set()


def test_importing_changes_nothing_global():
    code = """
import logging, random, warnings, os
import click, numpy, rich.console, PIL.Image  # what they do is theirs
before = (logging.getLogger().handlers[:], random.getstate(), warnings.filters[:], dict(os.environ))
import edgeage.cli, edgeage.runtime.session
assert before == (logging.getLogger().handlers[:], random.getstate(), warnings.filters[:], dict(os.environ))
"""
    loaded_after(code)
