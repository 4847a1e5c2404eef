"""The gates: operators that must not be there, ports, and numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeage.errors import EdgeageError
from edgeage.export import verify
from edgeage.export.engines import TRAITS, engine_specs
from edgeage.export.tflite import kernels
from edgeage.export.tflite.writer import Writer
from edgeage.export.verify import Quality
from edgeage.profile import Profile
from edgeage.runtime.manifest import ENGINES, Port

GOOD = Quality(60, 1, 1, 0.1, 0, 35.0, 33.0, 0.999, 0.99, 0.9999, None)


def _file(*, inner_quantize: bool = False) -> bytes:
    """x -> relu -> y in int8; with a needless requantisation in the middle if asked for."""
    writer = Writer()
    scale = np.float32(0.1)
    x, y = (writer.activation(name, (1, 4), np.int8, scale) for name in "xy")
    middle = x
    if inner_quantize:
        middle = writer.activation("middle", (1, 4), np.int8, np.float32(0.2))
        kernels.quantize(writer, x, middle)
    kernels.emit(writer, kernels.schema.BuiltinOperator.RELU6, [middle], [y])
    writer.finish("main", {"x": x}, {"y": y})
    return writer.file.pack()


def test_quantize_inside_is_refused() -> None:
    assert verify.check_operators(_file(), "int8", 1, 1, "the file") == {"RELU6": 1}
    with pytest.raises(EdgeageError, match="the file has 1 QUANTIZE"):
        verify.check_operators(_file(inner_quantize=True), "int8", 1, 1, "the file")


def test_float_io_needs_its_boundary() -> None:
    with pytest.raises(EdgeageError, match="0 QUANTIZE, 0 DEQUANTIZE"):
        verify.check_operators(_file(), "float32", 1, 1, "the file")


def test_ports_other_than_the_contract_are_refused() -> None:
    x, y = Port("x", (1, 4)), Port("y", (1, 4))
    verify.check_ports(_file(), "main", [x], [y], "the file")
    with pytest.raises(EdgeageError, match="the file has ports"):
        verify.check_ports(_file(), "main", [Port("x", (1, 5))], [y], "the file")
    with pytest.raises(EdgeageError, match="does not load in LiteRT"):
        verify.check_ports(_file(), "other", [x], [y], "the file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lsb_max": 3}, "up to 3 output codes"),
        ({"float_io_lsb_max": 3}, "up to 3 output codes"),
        ({"cosine": 0.5}, "cosine 0.500"),
        ({"cosine": float("nan")}, "cosine nan"),
    ],
)
def test_each_gate_closes(change: dict[str, float], message: str) -> None:
    verify.gate("encoder", GOOD)
    with pytest.raises(EdgeageError, match=message):
        verify.gate("encoder", replace(GOOD, **change))


def test_specs_follow_the_profile() -> None:
    profile = Profile("next", image_size=128, latent_size=200, embedding_size=64, groups=("young", "old"))
    specs = engine_specs(profile)
    assert specs["encoder"].inputs == (Port("image", (1, 3, 128, 128)),)
    assert specs["embedder"].outputs == (Port("embedding", (1, 64)),)
    assert specs["generator_all"].inputs == (Port("z", (2, 200)), Port("y", (2, 2)))
    assert specs["refine"].inputs[2:] == (Port("target", (1, 64)), Port("image", (1, 3, 128, 128)))
    assert specs["refine_batch"].outputs == (Port("gradient", (4, 200)), Port("embedding", (4, 64)))
    assert set(TRAITS) == set(specs) == set(ENGINES)
