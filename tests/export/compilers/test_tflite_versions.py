"""tflite-runtime 2.14 reads every operator version that the writer emits.

It cannot be installed beside the exporter (NumPy 1, Python 3.11 at most); `make tflite-runtime` runs the
shipped files in it. This table holds what it accepts for operators that no shipped file has.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgeage.export.tflite.kernels import VERSIONS

# The newest version of each operator for which tflite-runtime 2.14.0 allocates a file; measured by raising
# the version in a file until it answers "Didn't find op for builtin opcode ... version".
NEWEST = {
    "ADD": 5,
    "AVERAGE_POOL_2D": 3,
    "CONCATENATION": 4,
    "CONV_2D": 7,
    "DEPTHWISE_CONV_2D": 7,
    "DEQUANTIZE": 5,
    "FULLY_CONNECTED": 10,
    "LEAKY_RELU": 2,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MUL": 7,
    "PAD": 4,
    "QUANTIZE": 3,
    "RELU6": 3,
    "RESHAPE": 1,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "SPLIT": 4,
    "SUB": 5,
    "TANH": 3,
}
NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
ENGINES = Path(__file__).parents[3] / "models/edge64.agebundle/engines"


def test_the_writer_emits_no_newer_version() -> None:
    newer = {NAMES[code]: version for code, version in VERSIONS.items() if version > NEWEST[NAMES[code]]}
    assert newer == {}


@pytest.mark.parametrize("file", sorted(ENGINES.glob("*.tflite")), ids=lambda file: file.name)
def test_no_shipped_file_has_a_newer_version(file: Path) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file.read_bytes(), 0))
    found = {NAMES[entry.builtinCode]: entry.version for entry in model.operatorCodes}
    assert len(found) >= 4
    assert {name: version for name, version in found.items() if version > NEWEST[name]} == {}


def test_the_table_is_of_this_writer() -> None:
    assert set(NEWEST) == {NAMES[code] for code in VERSIONS}
