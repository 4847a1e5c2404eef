"""What is built, with which flags, and what is refused; against fakes that have the real names only."""

from __future__ import annotations

import dataclasses

import pytest
from fake_tensorrt import TENSORRT_VERSIONS, World

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import Candidate, candidates
from edgeage.runtime.engines.tensorrt.build import build_plan
from edgeage.runtime.engines.tensorrt.recipe import BuildOptions, Recipe, choose_recipe, trtexec_line
from edgeage.runtime.manifest import EngineFile

OLD, NEW = "10.3.0", "11.4.0.106"


def files(shipped: Bundle, *precisions: str) -> list[EngineFile]:
    """ONNX files of the encoder as bundles with these precisions have them."""
    made = next(file for file in shipped.manifest.engines["encoder"].files if file.format == "onnx")
    return [
        dataclasses.replace(made, file=f"encoder.{precision}.onnx", precision=precision)
        for precision in precisions
    ]


def recipe(
    world: World, shipped: Bundle, precision: str, have: list[str], options: BuildOptions | None = None
) -> Recipe:
    entry = dataclasses.replace(shipped.manifest.engines["encoder"], files=files(shipped, *have))
    found = candidates(entry, "tensorrt", precision)
    return choose_recipe(world.trt, "encoder", found, options or BuildOptions())


ALL = ["float32", "int8", "float16", "int8-float16"]


@pytest.mark.parametrize(
    ("version", "precision", "have", "source", "typed", "flags"),
    [
        (OLD, "int8", ALL, "int8-float16", True, ()),
        (NEW, "int8", ALL, "int8-float16", True, ()),
        (OLD, "int8", ["float32", "int8"], "int8", False, ("INT8", "FP16")),
        (NEW, "int8", ["float32", "int8"], "int8", True, ()),
        (OLD, "float16", ALL, "float16", True, ()),
        (OLD, "float16", ["float32", "int8"], "float32", False, ("FP16",)),
        (OLD, "float32", ALL, "float32", False, ()),
        (NEW, "float32", ALL, "float32", True, ()),
    ],
)
def test_typed_files_are_built_as_written_and_flags_used_where_they_exist(
    shipped: Bundle,
    version: str,
    precision: str,
    have: list[str],
    source: str,
    typed: bool,
    flags: tuple[str, ...],
) -> None:
    made = recipe(World(version), shipped, precision, have)
    assert (made.precision, made.source, made.strongly_typed, made.flags) == (precision, source, typed, flags)


def test_float16_without_a_typed_file_or_a_flag_is_refused(shipped: Bundle) -> None:
    with pytest.raises(EdgeageError, match=r"no flag for float16.*export it again"):
        recipe(World(NEW), shipped, "float16", ["float32", "int8"])


def test_a_bundle_without_a_file_is_refused(shipped: Bundle) -> None:
    with pytest.raises(EdgeageError, match="no ONNX file for the encoder"):
        choose_recipe(World().trt, "encoder", [], BuildOptions())


@pytest.mark.parametrize(
    ("options", "said"),
    [({"level": 6}, "0..5"), ({"level": -1}, "0..5"), ({"workspace_mb": 0}, "holds nothing")],
)
def test_options_that_do_not_exist(options: dict, said: str) -> None:
    with pytest.raises(EdgeageError, match=said):
        BuildOptions(**options)


def build(world: World, made: Recipe, **given: object) -> object:
    return build_plan(world.trt, ONNX, made, **given)  # type: ignore[arg-type]


ONNX = b"some onnx"


@pytest.mark.parametrize("version", TENSORRT_VERSIONS)
def test_the_builder_is_told_what_the_recipe_says(version: str) -> None:
    world = World(version)
    made = Recipe("encoder", "int8", "int8-float16", True, (), BuildOptions(level=5, workspace_mb=256))
    built = build(world, made)
    (config,) = world.configs
    typed = world.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert world.network_flags == [1 << int(typed)]
    assert config.builder_optimization_level == 5
    assert config.profiling_verbosity.name == "DETAILED"
    assert config._pools == {"WORKSPACE": 256 << 20}
    assert config._flags == set()
    assert built.plan.endswith(ONNX)
    assert built.warnings == ("a warning",)


def test_loose_types_and_float32_set_and_clear_flags() -> None:
    world = World()
    build(world, Recipe("encoder", "int8", "int8", False, ("INT8", "FP16"), BuildOptions()))
    build(world, Recipe("encoder", "float32", "float32", False, (), BuildOptions()))
    int8, float32 = world.configs
    assert world.network_flags == [0, 0]
    assert int8._flags == {"INT8", "FP16"}
    assert float32._cleared == {"TF32"}


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("start", "does not start on this device: CUDA initialization failure"),
        ("parse", r"does not read the int8 ONNX of the encoder: Unsupported operator \(node 7\)"),
        ("build", "could not build the encoder: no implementation for node conv"),
    ],
)
def test_tensorrts_words_reach_the_user_in_one_line(refused: str, said: str) -> None:
    world = World()
    world.refuse.add(refused)
    with pytest.raises(EdgeageError, match=said) as caught:
        build(world, Recipe("encoder", "int8", "int8", True, (), BuildOptions()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kept"), [(b"known", b"known+"), (b"other device", b"+"), (b"damaged", b"+"), (b"", b"+")]
)
def test_a_timing_cache_is_used_if_it_is_of_here(given: bytes, kept: bytes) -> None:
    made = Recipe("encoder", "int8", "int8", True, (), BuildOptions())
    assert build_plan(World().trt, ONNX, made, given).timing_cache == kept


def test_progress_is_that_of_the_outer_phase_and_can_stop_the_build() -> None:
    made = Recipe("encoder", "int8", "int8", True, (), BuildOptions())
    seen: list[tuple[str, int, int]] = []
    build(World(), made, progress=lambda *step: seen.append(step))
    assert seen == [("Building", 1, 3), ("Building", 2, 3), ("Building", 3, 3)]

    def interrupt(phase: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(World(), made, progress=interrupt)


@pytest.mark.parametrize(
    ("cores", "core", "cannot", "said"),
    [
        (0, 0, set(), "has no DLA"),
        (2, 2, set(), r"DLA core 2 does not exist; this device has 0..1"),
        (2, 0, {"tanh"}, r"cannot run 1 of 2 layers \(tanh"),
    ],
)
def test_a_dla_that_cannot_hold_is_refused_with_the_reason(
    cores: int, core: int, cannot: set[str], said: str
) -> None:
    world = World()
    world.cores, world.cannot_dla = cores, cannot
    with pytest.raises(EdgeageError, match=said):
        build(world, Recipe("encoder", "int8", "int8", False, ("INT8", "FP16"), BuildOptions(dla=core)))
    assert not world.builds


def test_a_dla_that_holds_is_built_for_and_float32_never(shipped: Bundle) -> None:
    world = World()
    world.cores = 2
    build(world, Recipe("encoder", "int8", "int8", False, ("INT8", "FP16"), BuildOptions(dla=1)))
    (config,) = world.configs
    assert (config.default_device_type.name, config.DLA_core) == ("DLA", 1)
    with pytest.raises(EdgeageError, match="int8 and float16 only"):
        recipe(world, shipped, "float32", ALL, BuildOptions(dla=0))


def test_the_trtexec_line_is_of_the_version_that_is_here(shipped: Bundle) -> None:
    options = BuildOptions(level=4, workspace_mb=64)
    old = recipe(World(OLD), shipped, "int8", ["int8"], options)
    line = trtexec_line(World(OLD).trt, old, "encoder.qdq.onnx")
    assert line == (
        "trtexec --onnx=encoder.qdq.onnx --saveEngine=encoder.int8.plan --int8 --fp16 "
        "--builderOptimizationLevel=4 --memPoolSize=workspace:64 --profilingVerbosity=detailed "
        "--skipInference"
    )
    typed = recipe(World(OLD), shipped, "int8", ALL, options)
    assert "--stronglyTyped" in trtexec_line(World(OLD).trt, typed, "x.onnx")
    for precision in ("int8", "float16", "float32"):
        new = trtexec_line(World(NEW).trt, recipe(World(NEW), shipped, precision, ALL), "x.onnx")
        # TensorRT 11 has none of these words
        assert not {"--int8", "--fp16", "--stronglyTyped"} & set(new.split())
        assert ("--noTF32" in new) == (precision == "float32")


def test_candidates_of_auto_are_int8_before_float16(shipped: Bundle) -> None:
    entry = dataclasses.replace(shipped.manifest.engines["encoder"], files=files(shipped, *ALL))
    found: list[Candidate] = candidates(entry, "tensorrt", "auto")
    assert [(one.precision, one.file.precision) for one in found] == [
        ("int8", "int8-float16"), ("int8", "int8"), ("float16", "float16"), ("float16", "float32")
    ]  # fmt: skip
