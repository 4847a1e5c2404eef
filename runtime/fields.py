"""Readers of single JSON fields: the value with its type, or an EdgeageError that names the field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

from edgeage.errors import EdgeageError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_Read = TypeVar("_Read")


class FieldError(EdgeageError):
    """A field that does not hold what it should; told as one of a manifest unless a reader tells it anew."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"not a valid bundle manifest: {where} {problem}; export the bundle again")
        self.finding = f"{where} {problem}"


def invalid(where: str, problem: str) -> FieldError:
    return FieldError(where, problem)


def read_fields(value: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    """The JSON object `value`, which must hold exactly the fields `names`."""
    if not isinstance(value, dict):
        raise invalid(where, f"is {type(value).__name__}, expected an object")
    if missing := [name for name in names if name not in value]:
        raise invalid(where, f"lacks {', '.join(missing)}")
    if unknown := [str(name) for name in value if name not in names]:
        raise invalid(where, f"has unknown fields {', '.join(unknown)}")
    return value


def read_text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(where, f"is {value!r}, expected a non-empty text")
    return value


def read_choice(value: Any, choices: tuple[str, ...], where: str) -> str:
    if value not in choices:
        raise invalid(where, f"is {value!r}, expected one of {', '.join(choices)}")
    return str(value)


def read_number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(where, f"is {value!r}, expected a finite number")
    return float(value)


def read_integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(where, f"is {value!r}, expected a whole number")
    return value


def read_digest(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise invalid(where, f"is {value!r}, expected a sha256 in hexadecimal")
    return value


def read_mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise invalid(where, f"is {type(value).__name__}, expected an object")
    return dict(value)


def read_list(value: Any, read: Callable[[Any, str], _Read], where: str) -> tuple[_Read, ...]:
    if not isinstance(value, list | tuple):
        raise invalid(where, f"is {type(value).__name__}, expected a list")
    return tuple(read(item, f"{where}[{index}]") for index, item in enumerate(value))


def read_shape(value: Any, where: str) -> tuple[int, ...]:
    shape = read_list(value, read_integer, where)
    if not shape or min(shape) < 1:
        raise invalid(where, f"is {list(shape)}, expected positive sizes")
    return shape


def read_point(value: Any, where: str) -> tuple[float, float]:
    point = read_list(value, read_number, where)
    if len(point) != 2:
        raise invalid(where, f"has {len(point)} coordinates, expected x and y")
    return point[0], point[1]


def safe_path(path: Any, where: str = "a file name") -> str:
    """`path` if it is a relative POSIX path that stays inside the bundle, else EdgeageError."""
    text = read_text(path, where)
    parts = PurePosixPath(text).parts
    bad = "\\" in text or ":" in text or "\0" in text or text != "/".join(parts)
    if bad or text.startswith("/") or ".." in parts or text == ".":
        raise invalid(where, f"{text!r} does not stay inside the bundle")
    return text
