"""The age in a UTKFace file name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeage.train.data.utkface import age_in_name


@pytest.mark.parametrize(
    ("name", "age"),
    [
        ("26_1_0_20170116192021430.jpg.chip.jpg", 26),
        ("0_0_4_20161219201617470.jpg", 0),
        ("116_1_2_20170112220255503.jpg.chip.jpg", 116),
        # quirks of the release: a blank before the dot, no race field
        ("24_0_1_20170116220224657 .jpg.chip.jpg", 24),
        ("39_1_20170116174525125.jpg.chip.jpg", 39),
        # the age or the gender may be missing here
        ("1_0_20170116174525125.jpg", None),
        ("39_20170116174525125.jpg", None),
        ("_1_0_20170116192021430.jpg", None),
        ("121_1_0_20170116192021430.jpg", None),
        ("26_2_0_20170116192021430.jpg", None),
        ("26_1_5_20170116192021430.jpg", None),
        ("-26_1_0_20170116192021430.jpg", None),
        ("26.5_1_0_20170116192021430.jpg", None),
        ("２６_1_0_20170116192021430.jpg", None),
        ("x26_1_0_20170116192021430.jpg", None),
        ("", None),
    ],
)
def test_known_names(name: str, age: int | None):
    assert age_in_name(name) == age


@given(
    st.integers(0, 120),
    st.integers(0, 1),
    st.integers(0, 4),
    st.integers(10**16, 10**17 - 1),
    st.sampled_from([".jpg", ".jpg.chip.jpg", ".png"]),
)
def test_every_well_formed_name_gives_its_age(age, gender, race, moment, suffix):
    assert age_in_name(f"{age}_{gender}_{race}_{moment}{suffix}") == age


@given(st.text(max_size=40))
def test_any_text_is_an_age_in_range_or_none(text: str):
    age = age_in_name(text)
    assert age is None or 0 <= age <= 120
