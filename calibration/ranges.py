"""The range table of one network, made once: the one source of scales for every INT8 writer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from edgeage import files
from edgeage.errors import EdgeageError

SCHEMA = 2
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorRange:
    """Range of one tensor.

    Attributes:
        low, high: finite; values beyond are clipped.
        chosen_by: name of the calibrator, see `edgeage.calibration.calibrators`.
        clipped: share of the calibration values beyond the range, 0..1.
    """

    low: float
    high: float
    chosen_by: str = "minmax"
    clipped: float = 0.0

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high


@dataclass(frozen=True)
class RangeTable:
    """Ranges of one network, and what else the writers need to make the same engine from its float graph.

    Attributes:
        network: hex SHA-256 of the float ONNX file whose tensors these are.
        calibration: fingerprint of the calibration samples (hex SHA-256).
        count: number of calibration images.
        tensors: range by tensor name, graph inputs and outputs included.
        corrections: added to the biases, by output of the weighted node (see `bias_correction`).
        floats: outputs of the nodes that stay in float32 (a mixed plan; usually none).
    """

    network: str
    calibration: str
    count: int
    tensors: dict[str, TensorRange]
    corrections: dict[str, list[float]] = field(default_factory=dict)
    floats: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for what in ("network", "calibration"):
            value = getattr(self, what)
            if not isinstance(value, str) or not _SHA256.fullmatch(value):
                raise EdgeageError(f"range table: {what} is {value!r}, expected a sha256; export again")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise EdgeageError(f"range table: count is {self.count!r}, expected at least 1; export again")
        if not self.tensors:
            raise EdgeageError("range table: no ranges in it; export again")
        for name, tensor in self.tensors.items():
            low, high = tensor.ends
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise EdgeageError(f"range table: tensor {name} has range {low}..{high}; export again")
            if not 0 <= tensor.clipped <= 1:
                raise EdgeageError(f"range table: tensor {name} clips {tensor.clipped}; export again")
        for name, values in self.corrections.items():
            if not all(math.isfinite(value) for value in values):
                raise EdgeageError(f"range table: the correction of {name} is not finite; export again")

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """(min, max) by tensor name."""
        return {name: tensor.ends for name, tensor in self.tensors.items()}

    def require(self, network: str, what: str) -> None:
        """EdgeageError unless the table belongs to the float network with this hash."""
        if self.network != network:
            raise EdgeageError(
                f"the range table is of another network ({self.network[:12]}...) than {what} "
                f"({network[:12]}...); calibrate this one"
            )

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "calibration": self.calibration,
            "count": self.count,
            "tensors": {name: list(astuple(tensor)) for name, tensor in self.tensors.items()},
            "corrections": self.corrections,
            "floats": self.floats,
        }

    @classmethod
    def from_dict(cls, value: Any) -> RangeTable:
        """Raises EdgeageError if `value` is not what `to_dict` gives."""
        try:
            tensors = {
                str(name): TensorRange(float(low), float(high), str(by), float(clipped))
                for name, (low, high, by, clipped) in value["tensors"].items()
            }
            corrections = {str(k): [float(v) for v in vs] for k, vs in value["corrections"].items()}
            floats = [str(name) for name in value["floats"]]
            return cls(value["network"], value["calibration"], value["count"], tensors, corrections, floats)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise EdgeageError(f"not a range table ({error!r}); export again") from None


def write_tables(path: Path, tables: Mapping[str, RangeTable]) -> None:
    """Write the tables of all networks as one JSON file."""
    value = {"schema": SCHEMA, "tables": {name: table.to_dict() for name, table in tables.items()}}
    # a line for each tensor, to be read and compared by people too
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), json.dumps(value, indent=1))
    files.write_bytes(path, text.encode() + b"\n")


def read_tables(path: Path) -> dict[str, RangeTable]:
    """Read what `write_tables` wrote; EdgeageError if it is absent, broken or of another schema."""
    value = files.read_json(path, "range table")
    if not isinstance(value, dict) or not isinstance(value.get("tables"), dict):
        raise EdgeageError(f"{path} is not a range table; export again")
    schema = value.get("schema")
    if schema != SCHEMA:
        raise EdgeageError(f"{path} has schema {schema!r}, this version reads {SCHEMA}; export again")
    return {name: RangeTable.from_dict(table) for name, table in value["tables"].items()}
