"""The watermark: read back after what platforms do to pictures, never seen where there is none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgeage.errors import EdgeageError
from edgeage.runtime.provenance.watermark import detect, embed, read
from edgeage.runtime.provenance.watermark_code import CHIPS, SYMBOLS, Payload, from_chips, to_chips

PAYLOAD = Payload(5, False, "c80df2")
SIZES = {"photo": (480, 640), "small": (250, 250), "portrait": (900, 600), "strip": (330, 1500)}


@pytest.fixture(scope="module", params=SIZES)
def marked(request: pytest.FixtureRequest, scene) -> Image.Image:
    return Image.fromarray(embed(scene(7, SIZES[request.param]), PAYLOAD))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


ATTACKS = {
    "none": lambda image: image,
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 75": lambda image: jpeg(image, 75),
    "JPEG 50": lambda image: jpeg(image, 50),
    "half size": lambda image: scaled(image, 0.5),
    "double size": lambda image: scaled(image, 2),
    "odd size": lambda image: scaled(image, 0.737),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brighter": lambda image: Image.eval(image, lambda value: min(255, round(value * 1.15 + 8))),
    "grey": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_survives_what_keeps_the_frame(marked: Image.Image, attack: str) -> None:
    found = detect(np.asarray(ATTACKS[attack](marked).convert("RGB")), search=False)
    assert found is not None
    assert found.payload == PAYLOAD
    assert (found.kept, found.mirrored) == (1.0, attack == "mirrored")


@pytest.mark.parametrize(("keep", "resize", "quality"), [(0.8, 1, 90), (0.6, 1, 90), (0.75, 0.8, 75)])
def test_survives_a_crop_of_unknown_place_and_scale(scene, keep: float, resize: float, quality: int) -> None:
    whole = Image.fromarray(embed(scene(3, (480, 640)), PAYLOAD))
    width, height = round(640 * keep), round(480 * keep)
    left, top = 640 - width - 13, 29
    crop = scaled(whole.crop((left, top, left + width, top + height)), resize)
    found = detect(np.asarray(jpeg(crop, quality)))
    assert found is not None
    assert found.payload == PAYLOAD
    assert found.kept == pytest.approx(keep, rel=0.01)


def test_a_crop_of_the_sample_photo(portrait: np.ndarray) -> None:
    whole = embed(portrait, PAYLOAD)
    found = detect(np.ascontiguousarray(whole[40:400, 90:450]))
    assert found is not None
    assert found.payload == PAYLOAD


def test_the_change_is_small_and_even_in_colour(scene) -> None:
    picture = scene(11, (480, 640))
    change = embed(picture, PAYLOAD).astype(int) - picture
    psnr = 10 * np.log10(255**2 / np.square(change).mean())
    assert 39.8 < psnr < 45  # 43 to 40, but for rounding and for what is clipped at black and white
    assert np.abs(change).max() < 20
    assert abs(change.mean()) < 0.1


def test_unmarked_pictures_read_as_unmarked(scene, portrait: np.ndarray) -> None:
    pictures = [scene(seed, (240, 320)) for seed in range(4)] + [portrait]
    pictures += [np.full((200, 300, 3), value, np.uint8) for value in (0, 128, 255)]
    checks = np.indices((256, 256)).sum(axis=0) // 8 % 2 * 255  # regular as the tiles are
    pictures.append(np.repeat(checks[..., None], 3, axis=2).astype(np.uint8))
    assert [detect(picture) for picture in pictures] == [None] * len(pictures)


def test_no_false_alarm_at_any_score() -> None:
    """CRC and format let 2^-19 of guesses pass, so none of 3000."""
    random = np.random.default_rng(1)
    guesses = [from_chips(random.standard_normal((SYMBOLS, CHIPS)).astype(np.float32)) for _ in range(3000)]
    assert not any(Payload.from_bytes(guess) for guess in guesses)
    assert len(set(guesses)) == len(guesses)


def test_the_best_guess_is_there_even_without_a_mark(portrait: np.ndarray) -> None:
    reading = read(portrait)
    assert len(reading.coded) == SYMBOLS
    assert reading.score < 5.5


@pytest.mark.parametrize(("size", "value"), [((127, 400), 128), ((300, 300), 0), ((300, 300), 255)])
def test_pictures_without_room_are_refused(size: tuple[int, int], value: int) -> None:
    blank = np.full((*size, 3), value, np.uint8)
    if size[0] < 128:
        with pytest.raises(EdgeageError, match="at least 128 pixels"):
            embed(blank, PAYLOAD)
    else:  # half of the pattern is clipped; what is left is enough
        found = detect(embed(blank, PAYLOAD), search=False)
        assert found is not None
        assert found.payload == PAYLOAD


def test_tiny_pictures_are_looked_at() -> None:
    assert detect(np.zeros((1, 1, 3), np.uint8)) is None
    assert detect(np.zeros((40, 700, 3), np.uint8), search=False) is None


payloads = st.builds(
    Payload,
    st.none() | st.integers(0, 14),
    st.booleans(),
    st.binary(min_size=3, max_size=3).map(bytes.hex),
)


@given(payloads)
def test_payload_round_trip(payload: Payload) -> None:
    coded = payload.to_bytes()
    assert Payload.from_bytes(coded) == payload
    assert from_chips(to_chips(coded)) == coded


@given(payloads, st.integers(0, 47))
def test_one_wrong_bit_is_noticed(payload: Payload, bit: int) -> None:
    coded = bytearray(payload.to_bytes())
    coded[bit // 8] ^= 1 << bit % 8
    assert Payload.from_bytes(bytes(coded)) is None


@given(payloads, st.integers(0, 2**32 - 1))
def test_the_code_corrects_a_quarter_of_wrong_chips_of_each_symbol(payload: Payload, seed: int) -> None:
    """Words differ in 64 of 128 chips, so 31 wrong ones never lead to another word."""
    random = np.random.default_rng(seed)
    chips = to_chips(payload.to_bytes())
    for row in chips:
        row[random.permutation(CHIPS)[:31]] *= -1
    assert from_chips(chips) == payload.to_bytes()


def test_a_group_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Payload(15, False, "000000").to_bytes()
