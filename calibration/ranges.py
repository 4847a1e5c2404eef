"""The range table: {tensor: (min, max)} of one network, made once and read by every INT8 writer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeage import files
from edgeage.errors import EdgeageError

SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RangeTable:
    """Ranges of one network.

    Attributes:
        network: hex SHA-256 of the float ONNX file whose tensors these are.
        calibration: fingerprint of the calibration samples (hex SHA-256).
        count: number of calibration images.
        ranges: (min, max) by tensor name, graph inputs and outputs included, both finite.
    """

    network: str
    calibration: str
    count: int
    ranges: dict[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for what in ("network", "calibration"):
            value = getattr(self, what)
            if not isinstance(value, str) or not _SHA256.fullmatch(value):
                raise EdgeageError(f"range table: {what} is {value!r}, expected a sha256; export again")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise EdgeageError(f"range table: count is {self.count!r}, expected at least 1; export again")
        if not self.ranges:
            raise EdgeageError("range table: no ranges in it; export again")
        for tensor, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise EdgeageError(f"range table: tensor {tensor} has range {low}..{high}; export again")

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "calibration": self.calibration,
            "count": self.count,
            "ranges": {tensor: list(ends) for tensor, ends in self.ranges.items()},
        }

    @classmethod
    def from_dict(cls, value: Any) -> RangeTable:
        """Raises EdgeageError if `value` is not what `to_dict` gives."""
        try:
            ranges = {str(k): (float(low), float(high)) for k, (low, high) in value["ranges"].items()}
            return cls(value["network"], value["calibration"], value["count"], ranges)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise EdgeageError(f"not a range table ({error!r}); export again") from None


def write_tables(path: Path, tables: Mapping[str, RangeTable]) -> None:
    """Write the tables of all networks as one JSON file."""
    files.write_json(path, {"schema": SCHEMA, "tables": {name: t.to_dict() for name, t in tables.items()}})


def read_tables(path: Path) -> dict[str, RangeTable]:
    """Read what `write_tables` wrote; EdgeageError if it is absent, broken or of another schema."""
    value = files.read_json(path, "range table")
    if not isinstance(value, dict) or not isinstance(value.get("tables"), dict):
        raise EdgeageError(f"{path} is not a range table; export again")
    schema = value.get("schema")
    if schema != SCHEMA:
        raise EdgeageError(f"{path} has schema {schema!r}, this version reads {SCHEMA}; export again")
    return {name: RangeTable.from_dict(table) for name, table in value["tables"].items()}
