"""The reader of dlib's network file, against a writer of the same format and against the real file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from edgeage.errors import EdgeageError
from edgeage.train.evaluation import dlib_resnet
from edgeage.train.evaluation.dlib_resnet import BLOCKS, STEM, DlibResNet, load, parse
from edgeage.train.evaluation.judge_files import RECOGNISER


def integer(value: int) -> bytes:
    magnitude = abs(value).to_bytes(max((abs(value).bit_length() + 7) // 8, 1), "little")
    return bytes([len(magnitude) | (0x80 if value < 0 else 0)]) + magnitude


def integers(*values: int) -> bytes:
    return b"".join(map(integer, values))


def number(value: float) -> bytes:
    fraction, exponent = math.frexp(value)
    return integers(int(fraction * 2**24), exponent - 24)


def text(value: str) -> bytes:
    return integer(len(value)) + value.encode()


def tensor(values: np.ndarray) -> bytes:
    return integers(2, values.size, 1, 1, 1) + values.astype("<f4").tobytes()


EMPTY = integers(2, 0, 0, 0, 0)
TAIL = b"110" + EMPTY * 3
FACTORS = number(1.0) * 3 + integers(0, 11)


class Written:
    """A random network of the right form, as a file and as its separate layers."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: list[tuple[np.ndarray, ...]] = []
        body = [*self.convolution(3, STEM, 7, 2, 0, first=True), text("relu_") + TAIL]
        body.append(text("max_pool_2") + integers(3, 3, 2, 2, 0, 0) + TAIL)
        width = STEM
        for outputs, halves in BLOCKS:
            body += [*self.convolution(width, outputs, 3, 2 if halves else 1, 0 if halves else 1)]
            body += [text("relu_") + TAIL, *self.convolution(outputs, outputs, 3, 1, 1)]
            if halves:
                body.append(text("avg_pool_2") + integers(2, 2, 2, 2, 0, 0) + TAIL)
            body += [text("add_prev_") + b"111" + EMPTY * 3, text("relu_") + TAIL]
            width = outputs
        body.append(text("avg_pool_2") + integers(0, 0, 1, 1, 0, 0) + TAIL)
        self.dense = self.rng.normal(0, 0.1, (width, 128)).astype(np.float32)
        aliases = integers(1, width, 128, 1, 1, 1, 0, 0, 0, 0, 1)
        body.append(
            text("fc_2") + integers(128, width) + tensor(self.dense.ravel()) + aliases + FACTORS + TAIL
        )
        header = integer(1) + text("loss_metric_2") + number(0.04) + number(0.6)
        header += integers(*[2, 1] * 60, 3) + text("input_rgb_image_sized")
        header += number(122.5) + number(117.0) + number(104.25) + integers(150, 150)
        self.header, self.body = header, body
        self.data = header + b"".join(body)

    def convolution(
        self, inputs: int, outputs: int, side: int, stride: int, pad: int, *, first: bool = False
    ):
        weight = self.rng.normal(0, (inputs * side * side) ** -0.5, (outputs, inputs, side, side))
        bias, gain, offset = self.rng.normal(0, 0.1, (3, outputs))
        self.layers.append(tuple(a.astype(np.float32) for a in (weight, bias, gain + 1, offset)))
        aliases = integers(1, outputs, inputs, side, side, 1, 1, outputs, 1, 1)
        yield (
            text("con_4")
            + tensor(np.concatenate([weight.ravel(), bias]))
            + integers(outputs, side, side, stride, stride, pad, pad)
            + aliases
            + FACTORS
            + TAIL
            + (integer(1) if first else b"")
        )
        aliases = integers(1, 1, outputs, 1, 1) * 2
        yield text("affine_") + tensor(np.concatenate([gain + 1, offset])) + aliases + integer(0) + TAIL

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """The network layer by layer, nothing folded, additions as dlib writes them."""
        layers = iter(self.layers)

        def convolve(hidden: torch.Tensor, stride: int, pad: int) -> torch.Tensor:
            weight, bias, gain, offset = map(torch.from_numpy, next(layers))
            hidden = F.conv2d(hidden, weight, bias, stride, pad)
            return hidden * gain[:, None, None] + offset[:, None, None]

        hidden = (chips - torch.tensor([122.5, 117.0, 104.25]).view(3, 1, 1)) / 256
        hidden = F.max_pool2d(convolve(hidden, 2, 0).relu(), 3, 2)
        for _, halves in BLOCKS:
            changed = convolve(convolve(hidden, 2 if halves else 1, 0 if halves else 1).relu(), 1, 1)
            kept = F.avg_pool2d(hidden, 2, 2) if halves else hidden
            shape = [max(sizes) for sizes in zip(kept.shape, changed.shape, strict=True)]
            total = torch.zeros(shape)
            for part in (kept, changed):
                total[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
            hidden = total.relu()
        return hidden.mean((2, 3)) @ torch.from_numpy(self.dense)


@pytest.fixture(scope="module")
def written() -> Written:
    return Written()


def test_what_was_written_is_what_computes(written: Written):
    net = parse(written.data)
    chips = torch.rand(2, 3, 150, 150, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        expected = written.forward(chips)
        assert expected.std() > 0.01
        assert torch.allclose(net(chips), expected, atol=1e-4)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_trailing_bytes_and_missing_layers_are_refused(written: Written):
    with pytest.raises(EdgeageError):
        parse(written.data + b"\x01")
    with pytest.raises(EdgeageError, match="its layers are others"):
        parse(written.header + b"".join(written.body[:-1]))
    swapped = [*written.body[:-2], written.body[-1], written.body[-2]]
    with pytest.raises(EdgeageError, match="its layers are others"):
        parse(written.header + b"".join(swapped))


def test_another_stride_is_another_network(written: Written):
    stem = written.body[0].replace(integers(STEM, 7, 7, 2, 2, 0, 0), integers(STEM, 7, 7, 1, 1, 0, 0))
    with pytest.raises(EdgeageError, match=r"a convolution is \(32, 7, 7, 1, 1, 0, 0\)"):
        parse(written.header + stem + b"".join(written.body[1:]))


def test_weights_that_are_not_finite_are_refused(written: Written):
    dense = written.dense.copy()
    dense[3, 4] = np.nan
    at = written.data.index(written.dense.astype("<f4").tobytes())
    with pytest.raises(EdgeageError, match="not finite"):
        parse(written.data[:at] + dense.tobytes() + written.data[at + dense.nbytes :])


def read(data: bytes) -> None:
    """Reading either works or says what is wrong; it never runs away or breaks."""
    try:
        dlib_resnet._read(data)
    except EdgeageError:
        return


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_an_error_in_one_line(written: Written, data: st.DataObject):
    """Bytes flipped or cut anywhere outside of the weights, which are most of the file."""
    start = written.header + written.body[0] + written.body[1] + written.body[2]
    at = data.draw(st.integers(0, len(start) - 1))
    if data.draw(st.booleans()):
        with pytest.raises(EdgeageError):
            parse(start[:at])
    else:
        read(start[:at] + bytes([data.draw(st.integers(0, 255))]) + start[at + 1 :])


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes):
    with pytest.raises(EdgeageError):
        parse(data)
    with pytest.raises(EdgeageError):
        parse(integer(1) + text("loss_metric_2") + data)


def test_huge_announcements_take_no_memory():
    header = integer(1) + text("loss_metric_2") + number(0.1) + number(0.1) + integer(3)
    header += text("input_rgb_image_sized") + number(1.0) * 3 + integers(150, 150) + text("con_4")
    with pytest.raises(EdgeageError, match="more was announced"):
        parse(header + integers(2, 1 << 20, 1 << 20, 1 << 20, 1 << 20))


def test_a_file_that_is_none_names_itself(tmp_path: Path):
    with pytest.raises(EdgeageError, match="cannot read"):
        load(tmp_path / "absent.dat")
    (tmp_path / "other.dat").write_bytes(b"something else")
    with pytest.raises(EdgeageError, match=r"other\.dat is not dlib's face recogniser"):
        load(tmp_path / "other.dat")


def test_the_architecture_has_29_convolutions():
    assert sum(isinstance(module, torch.nn.Conv2d) for module in DlibResNet().modules()) == 29


# compute_face_descriptor of dlib 20.0.1 itself, for the chip below: the first eight of 128 numbers
DLIB = [-0.0264465, 0.1075753, 0.0914299, -0.0203117, -0.103001, -0.0414369, -0.0886099, -0.0114835]


def pattern() -> np.ndarray:
    """uint8 [150, 150, 3]: smooth waves, the same everywhere."""
    y, x = np.mgrid[:150, :150].astype(float)
    waves = [np.sin(x / 17 + y / 31), np.sin(x / 7) * np.cos(y / 23), np.cos((x - y) / 13)]
    return np.rint(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.needs_judges
def test_the_real_file_computes_what_dlib_computes(judges_dir: Path):
    net = load(judges_dir / RECOGNISER.name)
    with torch.no_grad():
        found = net(torch.from_numpy(pattern()).permute(2, 0, 1)[None].float())[0, :8].numpy()
    assert found == pytest.approx(DLIB, abs=2e-6)
