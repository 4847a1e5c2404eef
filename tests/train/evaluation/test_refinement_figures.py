"""Derived figures of refinement, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgeage.train.evaluation.refinement_figures import Judged, derive, improved, share_of_gain

FEW = np.array([0, 2])


def judged(distance: list[float], similarity: list[float] | None = None, ms: float = 1.0) -> Judged:
    exact = np.array(distance)
    similar = 1 - exact if similarity is None else np.array(similarity)
    return Judged(exact, similar, np.full(len(exact), ms))


@pytest.fixture
def forms() -> dict[str, dict[int, Judged]]:
    return {
        "float": {0: judged([0.8, 9, 0.6]), 3: judged([0.6, 9, 0.6], [0.9, 0.8, 0.7], ms=50)},
        "INT8 ONNX": {0: judged([0.9, 9, 0.7]), 3: judged([0.5, 8, 0.7], [0.9, 0.8, 0.6], ms=20)},
        "INT8 TFLite": {0: judged([0.8, 9, 0.6]), 3: judged([0.7, 9.5, 0.5], [0.8, 0.8, 0.6], ms=10)},
    }


@pytest.fixture
def references() -> dict[str, Judged]:
    return {
        "L-BFGS pixelwise": judged([0.8, 0.7], ms=300),
        "L-BFGS identity": judged([0.3, 0.3], ms=400),
        "L-BFGS combined": judged([0.4, 0.4], ms=500),
    }


def test_gain_is_counted_from_the_float_start_to_the_nearest_reference(forms, references):
    found = derive(forms, FEW, references)
    assert found["best_reference"] == "L-BFGS identity"
    # of faces 0 and 2: from 0.7 to 0.3, so 0.1 is a quarter
    shares = {
        form: {k: one["share_of_gain"]["value"] for k, one in by.items()}
        for form, by in found["forms"].items()
    }
    assert shares["float"] == pytest.approx({"K=0": 0.0, "K=3": 0.25})
    assert shares["INT8 ONNX"] == pytest.approx({"K=0": -0.25, "K=3": 0.25})
    assert shares["INT8 TFLite"] == pytest.approx({"K=0": 0.0, "K=3": 0.25})
    told = found["forms"]["INT8 TFLite"]["K=3"]
    assert (told["judge_distance"], told["milliseconds"]) == pytest.approx((0.6, 10))
    assert found["references"]["L-BFGS combined"]["judge_distance"] == pytest.approx(0.4)
    assert found["faces"] == 2


def test_speed_is_that_of_three_steps_against_the_combined_reference(forms, references):
    found = derive(forms, FEW, references)["times_faster_than_combined"]
    assert found == pytest.approx({"float": 10, "INT8 ONNX": 25, "INT8 TFLite": 50})


def test_the_device_is_compared_with_both_others_face_by_face(forms, references):
    found = derive(forms, FEW, references)["similarity_difference"]
    assert list(found) == ["INT8 TFLite - float", "INT8 TFLite - INT8 ONNX"]
    figure = found["INT8 TFLite - float"]["K=3"]
    assert figure["value"] == pytest.approx(-0.2 / 3)
    assert figure["low"] == pytest.approx(-0.1)
    assert figure["high"] == pytest.approx(0)
    assert found["INT8 TFLite - INT8 ONNX"]["K=3"]["value"] == pytest.approx(-0.1 / 3)


def test_without_the_device_nothing_is_compared(forms, references):
    del forms["INT8 TFLite"]
    found = derive(forms, FEW, references)
    assert found["similarity_difference"] == {}
    assert list(found["times_faster_than_combined"]) == ["float", "INT8 ONNX"]


def test_faces_that_stay_are_neither_improved_nor_worse():
    found = improved(judged([0.5, 0.5, 0.5, 0.5]), judged([0.4, 0.5, 0.6, 0.3]))
    assert found["faces"] == 4
    assert found["improved"]["value"] == 0.5
    assert found["worse"]["value"] == 0.25
    assert found["worse"]["low"] < 0.25 < found["worse"]["high"]


def test_no_share_where_the_reference_gains_nothing():
    start = np.array([0.5, 0.5])
    nothing = {"value": None, "low": None, "high": None}
    assert share_of_gain(start, start - 0.1, start) == nothing
    assert share_of_gain(start, start - 0.1, start + 0.1) == nothing
    # one of the faces alone gains nothing: there is a share, but no interval for it
    assert share_of_gain(start, start - 0.1, np.array([0.1, 0.5])) == {
        "value": pytest.approx(0.5),
        "low": None,
        "high": None,
    }


def test_the_interval_holds_the_share():
    rng = np.random.default_rng(0)
    start = rng.normal(0.6, 0.05, 60)
    found = share_of_gain(start, start - rng.normal(0.1, 0.02, 60), start - 0.2)
    assert found["value"] == pytest.approx(0.5, abs=0.05)
    assert found["value"] - 0.1 < found["low"] < found["value"] < found["high"] < found["value"] + 0.1
