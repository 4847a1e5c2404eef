"""Each name of TensorRT and CUDA that the code uses is in the real bindings (recorded: data/tensorrt_api)."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_cuda import CUDA_VERSIONS, surface
from fake_tensorrt import TENSORRT_VERSIONS

ROOT = Path(__file__).resolve().parents[3]
CODE = ROOT / "runtime" / "engines" / "tensorrt"
MODULES = {"trt": "tensorrt", "cuda": "cuda", "_cuda": "cuda"}
TYPES = {"trt_types": "tensorrt", "cuda_types": "cuda"}


@dataclass
class Uses:
    """Names that a text uses, (kind, "Class.member" or "name") -> place; `tested`: those it asks for."""

    needed: dict[tuple[str, str], str] = field(default_factory=dict)
    tested: dict[tuple[str, str], str] = field(default_factory=dict)


def chain(node: ast.AST) -> list[str]:
    """["self", "_cuda", "cudaFree"] of an attribute chain, [] of anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else []


def annotated(node: ast.AST | None) -> tuple[str, str] | None:
    """(kind, class) of `trt_types.Class`, also within a union or a list."""
    for inner in ast.walk(node) if node is not None else ():
        parts = chain(inner)
        if len(parts) == 2 and parts[0] in TYPES:
            return TYPES[parts[0]], parts[1]
    return None


def uses(text: str, place: str) -> Uses:
    tree, found = ast.parse(text), Uses()
    gives = {
        node.name: annotated(node.returns) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in [tree, *functions]:
        known: dict[str, tuple[str, str]] = {}
        for node in ast.walk(function):
            kind: tuple[str, str] | None = None
            if isinstance(node, ast.arg) and (kind := annotated(node.annotation)):
                known[node.arg] = kind
            elif isinstance(node, ast.AnnAssign) and (kind := annotated(node.annotation)):
                assert isinstance(node.target, ast.Name), f"{place}: annotate a plain name"
                known[node.target.id] = kind
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                called = node.value.func
                kind = gives.get(called.id) if isinstance(called, ast.Name) else None
                if kind and isinstance(node.targets[0], ast.Name):
                    known[node.targets[0].id] = kind
            elif isinstance(node, ast.comprehension):
                of, one = node.iter, node.target
                if isinstance(of, ast.Name) and isinstance(one, ast.Name) and of.id in known:
                    known[one.id] = known[of.id]
        # apart, because a comprehension's element stands before its variable
        for node in ast.walk(function):
            where = f"{place}:{getattr(node, 'lineno', 0)}"
            parts = chain(node)
            if len(parts) == 2 and parts[0] in known and function is not tree:
                kind, name = known[parts[0]]
                found.needed[kind, f"{name}.{parts[1]}"] = where
            for index, part in enumerate(parts[:-1]):
                if part in MODULES:
                    found.needed[MODULES[part], ".".join(parts[index + 1 :])] = where
                    break
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                asked, name = chain(node.args[0]), ast.unparse(node.args[1]).strip("'")
                for index, part in enumerate(asked):
                    if part in MODULES:
                        path = ".".join([*asked[index + 1 :], name])
                        found.tested[MODULES[part], path] = where
            if isinstance(node, ast.ClassDef):
                for base in map(chain, node.bases):
                    if base and base[0] in MODULES:
                        for method in node.body:
                            if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                                name = f"{'.'.join(base[1:])}.{method.name}"
                                found.needed[MODULES[base[0]], name] = where
    return found


def all_uses() -> Uses:
    every = Uses()
    for file in sorted(CODE.glob("*.py")):
        one = uses(file.read_text(encoding="utf-8"), file.name)
        every.needed.update(one.needed)
        every.tested.update(one.tested)
    return every


def has(recorded: dict, name: str) -> bool:
    owner, _, member = name.rpartition(".")
    if member.startswith("__"):  # Python's own, and __version__
        return True
    if not owner:
        return member in recorded["module"]
    if owner not in recorded["classes"]:
        pytest.fail(f"{owner} is not recorded: add it to CLASSES of tests/record_tensorrt_api.py")
    return member in recorded["classes"][owner]


VERSIONS = [("tensorrt", one) for one in TENSORRT_VERSIONS] + [("cuda", one) for one in CUDA_VERSIONS]


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
def test_every_name_is_in_the_bindings(kind: str, version: str) -> None:
    found, recorded = all_uses(), surface(kind, version)
    missing = [
        f"{place}: {name}"
        for (of, name), place in found.needed.items()
        if of == kind and (of, name) not in found.tested and not has(recorded, name)
    ]
    assert missing == []


def test_what_is_asked_for_is_there_in_some_versions_and_not_in_others() -> None:
    """A name that all versions have needs no question, one that none has is spelt wrongly."""
    for (kind, name), place in all_uses().tested.items():
        versions = TENSORRT_VERSIONS if kind == "tensorrt" else CUDA_VERSIONS
        there = [has(surface(kind, version), name) for version in versions]
        assert any(there), f"{place}: {name}"
        assert not all(there), f"{place}: {name}"


def test_the_collector_sees_the_code() -> None:
    """Spot checks, so that an empty collection cannot pass."""
    found = all_uses()
    for name in (
        "Builder.create_network", "IBuilderConfig.can_run_on_DLA", "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_tensor_address", "ICudaEngine.get_tensor_mode", "ILogger.log", "ILayer.name",
        "IProgressMonitor.step_complete", "ITimingCache.serialize", "OnnxParser.parse", "ParserError.desc",
        "EngineInspector.get_engine_information", "Runtime.deserialize_cuda_engine", "DataType.FLOAT",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED", "ILogger.Severity.ERROR",
        "INetworkDefinition.get_layer",
    ):  # fmt: skip
        assert ("tensorrt", name) in found.needed, name
    for name in (
        "cudaMalloc",
        "cudaGraphLaunch",
        "cudaMemcpyKind.cudaMemcpyHostToDevice",
        "cudaDeviceProp.major",
    ):
        assert ("cuda", name) in found.needed, name
    assert set(found.tested) == {("tensorrt", "BuilderFlag.INT8"), ("tensorrt", "BuilderFlag.FP16")}
    assert len(found.needed) > 60


def test_a_new_or_removed_name_fails() -> None:
    text = """
def f(trt, cuda, config: trt_types.IBuilderConfig):
    trt.BuilderFlag.INT8
    config.int8_calibrator = None
    cuda.cudaLaunchRocket()
"""
    found = uses(text, "x.py").needed
    old, new = surface("tensorrt", "10.3.0"), surface("tensorrt", "11.4.0.106")
    assert has(old, "IBuilderConfig.int8_calibrator")
    assert not has(new, "IBuilderConfig.int8_calibrator")
    assert ("tensorrt", "BuilderFlag.INT8") in found
    assert ("tensorrt", "IBuilderConfig.int8_calibrator") in found
    assert ("cuda", "cudaLaunchRocket") in found
    assert not has(surface("cuda", "13.2.0"), "cudaLaunchRocket")


def test_names_of_tensorrt_and_cuda_stay_in_their_folder() -> None:
    """Elsewhere nothing would hold them against the bindings."""
    for floor in ("core", "runtime"):
        for file in (ROOT / floor).rglob("*.py"):
            if file.parent != CODE:
                found = uses(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT)))
                assert not found.needed, found.needed
