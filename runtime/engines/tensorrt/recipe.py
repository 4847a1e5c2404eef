"""What is to be built: which file, how the network is typed, which flags; and the same for trtexec.

TensorRT 10 builds a network with loose types (builder flags allow INT8 and FP16) or a strongly typed one
(as the ONNX file says); TensorRT 11 only the latter and has no such flags. So the typed files of a bundle
("int8-float16", "float16") serve both, and the others need flags that may be absent. Whether they are there
is asked of the module, never of its version.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.runtime.engines import Candidate

LEVELS = range(6)  # of the builder's optimisation
USUAL_LEVEL = 3  # TensorRT's own default
_MIB = 1 << 20
_TYPED = ("int8-float16", "float16")


@dataclass(frozen=True)
class BuildOptions:
    """How hard to build; EdgeageError for values that TensorRT does not have.

    Attributes:
        level: builder optimisation level 0..5; higher builds longer and may run faster.
        workspace_mb: most memory of a layer's scratch space in MiB; None is TensorRT's own (all there is).
        dla: core of the deep learning accelerator to build for instead of the GPU, None for the GPU.
    """

    level: int = USUAL_LEVEL
    workspace_mb: int | None = None
    dla: int | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise EdgeageError(
                f"optimisation level {self.level} does not exist; give {LEVELS[0]}..{LEVELS[-1]}"
            )
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise EdgeageError(f"a workspace of {self.workspace_mb} MiB holds nothing; give 1 or more")

    @property
    def workspace(self) -> int | None:
        """In bytes."""
        return None if self.workspace_mb is None else self.workspace_mb * _MIB

    def to_dict(self) -> dict[str, int | None]:
        return asdict(self)


@dataclass(frozen=True)
class Recipe:
    """One network as it is built.

    Attributes:
        engine: name in the bundle ("encoder", ...), or of another network.
        precision: that was asked for: "int8", "float16" or "float32".
        source: precision of the ONNX file that it is built from.
        strongly_typed: types are the file's; else `flags` allow lower ones.
        flags: names of `BuilderFlag`.
        options: see `BuildOptions`.
    """

    engine: str
    precision: str
    source: str
    strongly_typed: bool
    flags: tuple[str, ...]
    options: BuildOptions

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "flags": list(self.flags)}

    def __str__(self) -> str:
        typing = "strongly typed" if self.strongly_typed else " ".join(["loosely typed", *self.flags])
        return f"{self.source} ONNX, {typing}"


def choose_recipe(trt: Any, engine: str, candidates: list[Candidate], options: BuildOptions) -> Recipe:
    """The first of the candidates that this TensorRT can build; EdgeageError, with reasons, if none is."""
    if not candidates:
        raise EdgeageError(f"the bundle has no ONNX file for the {engine}; export it again")
    reasons = []
    for candidate in candidates:
        recipe = _recipe(trt, engine, candidate.precision, candidate.file.precision, options)
        if isinstance(recipe, Recipe):
            return recipe
        reasons.append(recipe)
    raise EdgeageError(f"TensorRT {trt.__version__} cannot build the {engine}: {'; '.join(reasons)}")


def _recipe(trt: Any, engine: str, precision: str, source: str, options: BuildOptions) -> Recipe | str:
    """The recipe for one file, or why there is none."""
    typed = Recipe(engine, precision, source, True, (), options)
    if options.dla is not None and precision == "float32":
        return "the DLA computes int8 and float16 only; choose --precision int8 or float16"
    if source in _TYPED:
        return typed
    allows = hasattr(trt.BuilderFlag, "INT8") and hasattr(trt.BuilderFlag, "FP16")
    loose = replace(typed, strongly_typed=False)
    if source == "int8":  # Q/DQ with float32 between: built as written where there are no flags
        return replace(loose, flags=("INT8", "FP16")) if allows else typed
    if precision == "float32":
        return typed if not allows else loose
    if allows:
        return replace(loose, flags=("FP16",))
    return "it has no flag for float16, and the bundle no typed float16 file: export it again"


def trtexec_line(trt: Any, recipe: Recipe, onnx_name: str) -> str:
    """The trtexec command that builds the same.

    It builds only (--skipInference): what trtexec measures by default differs between TensorRT 10 and 11
    (CUDA graph, transfers), so a latency of it says nothing without its flags.
    """
    options = recipe.options
    words = ["trtexec", f"--onnx={onnx_name}", f"--saveEngine={recipe.engine}.{recipe.precision}.plan"]
    if not recipe.strongly_typed:
        words += [f"--{flag.lower()}" for flag in recipe.flags]
    elif hasattr(trt.BuilderFlag, "INT8"):  # without these flags all networks are strongly typed
        words.append("--stronglyTyped")
    if recipe.precision == "float32":
        words.append("--noTF32")
    words.append(f"--builderOptimizationLevel={options.level}")
    if options.workspace_mb is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_mb}")
    if options.dla is not None:
        words.append(f"--useDLACore={options.dla}")
    return shlex.join([*words, "--profilingVerbosity=detailed", "--skipInference"])
