"""The watermark's payload and its code: 32 bits and a CRC as six biorthogonal symbols, decoded softly.

A symbol of 8 bits is one of 128 Walsh-Hadamard words or its negative: the maximum-likelihood decoder is one
matrix product (J. Proakis, Digital Communications, "biorthogonal signals").
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SYMBOLS, CHIPS = 6, 128
MAX_GROUPS = 15  # 4 bits, one value of which is "several"
_FORMAT = 1  # of 3 bits


@dataclass(frozen=True)
class Payload:
    """What a watermark carries.

    Attributes:
        group: place of the age group among the bundle's, from 0; None for a picture of several.
        raw: the generated face was pasted (mode "raw"), not only the difference added.
        bundle: the first six hexadecimal digits of the bundle's SHA-256.
    """

    group: int | None
    raw: bool
    bundle: str

    def to_bytes(self) -> bytes:
        """Six bytes: 3 bits of format, 1 of mode, 4 of group, 24 of the bundle's hash, 16 of CRC."""
        group = 0 if self.group is None else self.group + 1
        if not 0 <= group <= MAX_GROUPS:
            raise ValueError(f"group {self.group} does not fit into 4 bits")
        data = bytes([_FORMAT << 5 | self.raw << 4 | group]) + bytes.fromhex(self.bundle)
        return data + binascii.crc_hqx(data, 0xFFFF).to_bytes(2, "big")

    @classmethod
    def from_bytes(cls, coded: bytes) -> Payload | None:
        """The payload, None if the CRC or the format is not right."""
        data, crc = coded[:4], int.from_bytes(coded[4:], "big")
        if binascii.crc_hqx(data, 0xFFFF) != crc or data[0] >> 5 != _FORMAT:
            return None
        group = data[0] & 15
        return cls(group - 1 if group else None, bool(data[0] >> 4 & 1), data[1:].hex())


def _hadamard(size: int) -> NDArray[np.float32]:
    """Sylvester's matrix of +-1, [size, size]."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


_WORDS = _hadamard(CHIPS)


def to_chips(coded: bytes) -> NDArray[np.float32]:
    """+-1, [SYMBOLS, CHIPS], of six bytes."""
    symbols = np.frombuffer(coded, np.uint8)
    signs = np.where(symbols < CHIPS, np.float32(1), np.float32(-1))
    return np.asarray(_WORDS[symbols % CHIPS] * signs[:, None])


def from_chips(chips: NDArray[np.float32]) -> bytes:
    """The six bytes nearest to soft chips [SYMBOLS, CHIPS]."""
    likeness = chips @ _WORDS
    best = np.abs(likeness).argmax(axis=1)
    negative = likeness[np.arange(SYMBOLS), best] < 0
    return bytes((best + CHIPS * negative).astype(np.uint8))
