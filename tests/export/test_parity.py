"""The parity chain: what a link measures, what closes a gate, and that every form is in it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeage.calibration.observers import session
from edgeage.errors import EdgeageError
from edgeage.export import parity
from edgeage.export.bundle_check import open_forms
from edgeage.export.engines import TRAITS
from edgeage.export.face_parity import make_faces, measure_faces
from edgeage.export.forms import BESIDE, ORDER, bundle_forms
from edgeage.export.parity import STORED, STORED_CODES, Difference
from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.photo.levels import to_networks, to_pixels
from edgeage.train.checkpoint import load_checkpoint

WHOLE = [*(f"{a} -> {b}" for a, b in pairwise(ORDER)), "onnx -> int8"]
HALF = [f"{a} -> {b}" for a, b in BESIDE]
GOOD = Difference(60, 0.01, 0.001, 35.0, 0.999, None, 1.0, 1.0, 0.1)


def fixed(values: np.ndarray):
    return lambda feeds: {"y": values.astype(np.float32)}


def test_links_join_what_is_there():
    assert [f"{a} -> {b}" for a, b in parity.links(ORDER)] == WHOLE
    assert parity.links(["torch", "onnx"]) == [("torch", "onnx")]
    some = parity.links(["int8", "int8 (all.tflite)", STORED_CODES])
    assert some == [("int8", "int8 (all.tflite)"), (STORED_CODES, "int8")]


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1.0), st.integers(1, 4))
def test_a_link_measures_what_numpy_says(seed: int, noise: float, count: int):
    random = np.random.default_rng(seed)
    former = random.uniform(-1, 1, (count, 1, 3, 4, 4)).astype(np.float32)
    later = (former + random.normal(0, noise, former.shape)).astype(np.float32)
    scale = 1 / 64
    feeds = [{"i": np.full((1,), i, np.float32)} for i in range(count)]
    forms = {
        "qdq": lambda feed: {"y": former[int(feed["i"][0])]},
        "int8": lambda feed: {"y": later[int(feed["i"][0])]},
    }
    (found,) = parity.measure(forms, {"y": scale}, feeds)["y"].values()
    error = later.astype(np.float64) - former
    assert found.count == count
    assert found.max_abs == pytest.approx(np.abs(error).max())
    assert found.relative == pytest.approx(np.abs(error).max() / np.abs(former).max())
    signal = float(np.square(former, dtype=np.float64).sum())
    assert found.sqnr_db == pytest.approx(10 * np.log10(signal / np.square(error).sum()))
    assert found.psnr_db == pytest.approx(10 * np.log10(4 / np.square(error).mean()))
    codes = [np.clip(np.rint(v / np.float32(scale)), -128, 127) for v in (former, later)]
    assert found.lsb_max == np.abs(codes[0] - codes[1]).max()
    assert found.lsb_mean == pytest.approx(np.abs(codes[0] - codes[1]).mean())
    assert found.lsb_p999 is None  # too few outputs to have one
    assert Difference.from_dict(found.to_dict()).sqnr_db == pytest.approx(found.sqnr_db, rel=1e-5)


def test_equal_forms_are_equal_and_float_forms_have_no_codes():
    values = np.linspace(-1, 1, 2000)[None]
    forms = {name: fixed(values) for name in ORDER}
    found = parity.measure(forms, {"y": 0.01}, [{"x": np.zeros((1,), np.float32)}])["y"]
    assert list(found) == WHOLE
    assert {one.sqnr_db for one in found.values()} == {200.0}
    assert found["torch -> exported"].lsb_max is None
    assert found["qdq -> int8"].lsb_max == found["qdq -> int8"].lsb_p999 == 0


def test_the_percentile_and_the_largest_difference_are_told_apart():
    values = np.zeros((1, 5000))
    few, many = values.copy(), values.copy()
    few[0, :2], many[0, :50] = 0.07, 0.07
    for changed, usual in ((few, 0), (many, 7)):
        forms = {"qdq": fixed(values), "int8": fixed(changed)}
        (found,) = parity.measure(forms, {"y": 0.01}, [{"x": np.zeros(1, np.float32)}])["y"].values()
        assert (found.lsb_max, found.lsb_p999) == (7, usual)


def test_nothing_and_nan_are_refused():
    forms = {"qdq": fixed(np.zeros(4)), "int8": fixed(np.full(4, np.nan))}
    with pytest.raises(EdgeageError, match="no input"):
        parity.measure(forms, {}, [])
    with pytest.raises(EdgeageError, match="'int8' of a network gives NaN"):
        parity.measure(forms, {}, [{"x": np.zeros(1, np.float32)}])


@pytest.mark.parametrize(
    ("link", "change", "said"),
    [
        ("torch -> exported", {"relative": 2e-4}, "2.0e-04 of the output's range"),
        ("exported -> onnx", {"relative": float("nan")}, "range"),
        (f"{STORED} -> onnx", {"relative": 1.0}, "range"),
        ("onnx -> qdq", {"cosine": 0.5}, "cosine 0.500"),
        ("onnx -> int8", {"cosine": float("nan")}, "cosine nan"),
        ("qdq -> int8", {"lsb_max": 7.0}, "up to 7 output codes, allowed are 2"),
        ("qdq -> int8", {"lsb_p999": 3.0}, "3 output codes at 99.9 %"),
        ("int8 -> int8-float-io", {"lsb_max": 3.0}, "up to 3"),
        (f"{STORED_CODES} -> int8", {"lsb_max": 3.0}, "up to 3"),
    ],
)
def test_each_gate_closes(link: str, change: dict[str, float], said: str):
    fine = replace(GOOD, relative=1e-6)
    assert parity.fault("encoder", link, fine) is None
    assert said in (parity.fault("encoder", link, replace(fine, **change)) or "")


def test_stored_codes_are_exact_where_the_kernels_are_those_of_the_export():
    link = f"{STORED_CODES} -> int8"
    assert parity.fault("encoder", link, GOOD) is None
    assert "up to 1 output codes, allowed are 0" in (parity.fault("encoder", link, GOOD, exact=True) or "")
    assert parity.fault("encoder", "qdq -> int8", GOOD, exact=True) is None


def test_another_figure_than_the_stated_one_is_told():
    whole = "onnx -> int8"
    for change in ({"sqnr_db": 34.9}, {"lsb_max": 2.0}):
        assert parity.contradiction(whole, GOOD, replace(GOOD, **change), same_kernels=True)
        assert parity.contradiction(whole, GOOD, replace(GOOD, **change), same_kernels=False) is None
    worse = replace(GOOD, sqnr_db=30.0)
    assert "30.00 dB" in (parity.contradiction(whole, GOOD, worse, same_kernels=False) or "")
    assert parity.contradiction("qdq -> int8", GOOD, worse, same_kernels=False) is None
    assert parity.contradiction(whole, GOOD, GOOD, same_kernels=True) is None
    exact = replace(GOOD, sqnr_db=130.0)  # float forms: the order of sums is the machine's own
    assert parity.contradiction(whole, exact, replace(exact, sqnr_db=140.0), same_kernels=True) is None


@pytest.mark.parametrize("values", [{}, {"count": 1}, {**GOOD.to_dict(), "beauty": 1.0}])
def test_figures_that_are_not_of_a_link_are_refused(values: dict[str, float]):
    with pytest.raises(EdgeageError, match="the manifest's parity has the figures"):
        parity.from_json({"encoder": {"z": {"onnx -> qdq": values}}})
    with pytest.raises(EdgeageError, match="not one of engines"):
        parity.from_json({"encoder": 3})


def test_every_form_of_every_engine_runs(exported_bundle: Path, tiny_folder: Path):
    bundle = open_bundle(exported_bundle)
    forms = open_forms(bundle, load_checkpoint(tiny_folder))
    assert {name: tuple(found) for name, found in forms.items()} == {
        name: tuple(n for n in (*_before(name), *_files(name), *_derived(name)))
        for name in bundle.manifest.engines
    }
    faces = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    feeds = parity.face_feeds(bundle.manifest.engines, forms, to_networks(faces))
    assert set(feeds) == set(bundle.manifest.engines)
    groups = {tuple(feed["y"].argmax(axis=1)) for feed in feeds["generator"]}
    assert len(groups) == 6  # each age group in turn
    measured = parity.chain(forms, bundle.manifest.engines, feeds)
    for engine, ports in measured.items():
        for found in ports.values():
            if TRAITS[engine].is_gradient:  # torch's own derivatives against the reverse pass
                assert found["torch -> onnx"].cosine > 0.9999
                assert found["onnx -> int8"].cosine > 0.5
                continue
            assert sorted(found) == sorted(WHOLE + HALF)
            assert found["torch -> exported"].relative < 1e-4
            assert found["exported -> onnx"].relative < 1e-4
            assert found["qdq -> int8"].lsb_max <= TRAITS[engine].codes[1]
            assert 10 < found["onnx -> int8"].sqnr_db < 80


def _before(engine: str) -> list[str]:
    return ["torch"] if TRAITS[engine].is_gradient else ["torch", "exported"]


def _files(engine: str) -> list[str]:
    if engine == "refine_batch":
        return ["int8", "int8-float-io"]
    if engine == "refine":  # the gradient of random weights fades below float16
        return ["int8", "int8-float-io", "qdq"]
    own = ["onnx"] if engine in ("encoder", "embedder", "generator") else []
    return ["int8", "int8-float-io", "qdq", *own, "qdq-float16", "float16"]


def _derived(engine: str) -> list[str]:
    """Its float graph is the generator's for another batch, or made of the generator's and the embedder's."""
    return ["onnx"] if engine == "generator_all" or TRAITS[engine].is_gradient else []


def test_the_manifest_states_the_chain_that_was_measured(exported_bundle: Path):
    stated = open_bundle(exported_bundle).manifest.parity
    golden = parity.from_json(stated["golden"])
    assert set(golden) == set(TRAITS)
    for engine, ports in golden.items():
        for found in ports.values():
            if not TRAITS[engine].is_gradient:
                assert sorted(found) == sorted(
                    [*WHOLE, *HALF, f"{STORED} -> onnx", f"{STORED_CODES} -> int8"]
                )
            assert found[f"{STORED_CODES} -> int8"].lsb_max == 0
    assert set(stated["faces"]["links"]) == {*WHOLE, *HALF}


def test_judges_at_the_export_stand_in_the_manifest(exported_bundle: Path, other_bundle: Path):
    unjudged, judged = (
        open_bundle(path).manifest.parity["faces"] for path in (exported_bundle, other_bundle)
    )
    assert "cosine_drop" not in unjudged["links"]["onnx -> int8"]
    assert judged["count"] == 12
    assert 0 < judged["links"]["onnx -> int8"]["age_shift_abs"] < 5
    assert judged["baseline"]["onnx -> int8"]["cosine"] == 1


def test_a_file_with_other_ports_than_the_manifest_says_is_refused(exported_bundle: Path):
    bundle = open_bundle(exported_bundle)
    entry = {"encoder": bundle.manifest.engines["encoder"]}
    for wrong, said in ((b"no model", "not an ONNX file"), (_poem(), "has the ports")):

        def read(path: str, wrong: bytes = wrong) -> bytes:
            return wrong if path.endswith("qdq.onnx") else bundle.read(path)

        with pytest.raises(EdgeageError, match=said):
            bundle_forms(entry, {}, read)


def _poem() -> bytes:
    """A valid ONNX file that is no encoder."""
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 2)) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    session(model)
    return model.SerializeToString()


class Readers:
    """Judges that read a number off the picture: who = its red level, age = its green level."""

    def __init__(self) -> None:
        self.seen = 0

    def embeddings(self, images: np.ndarray, what: str) -> np.ndarray:
        self.seen += len(images)
        angle = images[:, 0, 0, 0] / np.float32(100)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def ages(self, images: np.ndarray, what: str) -> np.ndarray:
        return images[:, 0, 0, 1].astype(np.float64)


def _plain(red: int, green: int) -> np.ndarray:
    return np.tile(np.array([red, green, 0], np.uint8), (2, 2, 1))


def test_judges_figures_are_of_the_later_form_against_the_former():
    faces = np.stack([_plain(0, 30), _plain(0, 40)])
    former = np.stack([[_plain(0, 20), _plain(0, 60)]] * 2)
    later = np.stack([[_plain(50, 22), _plain(0, 61)], [_plain(50, 24), _plain(0, 61)]])
    judges = Readers()
    made = {"onnx": former, "int8": later, "int8-float-io": later.copy()}
    found = measure_faces(made, faces, ("young", "old"), judges)
    assert judges.seen == 7  # each different picture once
    link = found["links"]["onnx -> int8"]
    assert link["groups"]["young"]["cosine_drop"] == pytest.approx(1 - np.cos(0.5))
    assert link["groups"]["old"]["cosine_drop"] == pytest.approx(0)
    assert link["groups"]["young"]["age_shift"] == pytest.approx(3)
    assert link["age_shift"] == pytest.approx((2 + 1 + 4 + 1) / 4)
    assert link["age_shift_error"] == pytest.approx(0.5)
    assert found["links"]["int8 -> int8-float-io"]["psnr_db"] == 200
    baseline = found["baseline"]["onnx -> int8"]  # the input returned: likeness for free, no age
    assert baseline["cosine"] == 1
    assert baseline["groups"]["old"]["age_shift"] == pytest.approx((30 + 40) / 2 - 60)
    assert found["other_person"] == pytest.approx(1)
    assert "cosine" not in measure_faces(made, faces, ("young", "old"), None)["links"]["onnx -> int8"]
    alone = measure_faces({k: v[:1] for k, v in made.items()}, faces[:1], ("young", "old"), judges)
    assert "age_shift_error" not in alone["links"]["onnx -> int8"]


def test_whole_faces_are_encoder_then_generator_at_every_group():
    def encoder(feeds):
        return {"z": feeds["image"].mean(axis=(2, 3))}

    def generator(feeds):
        made = feeds["z"][:, :, None, None] + feeds["y"].argmax(axis=1)[:, None, None, None] / 2
        return {"image": np.broadcast_to(made, (*made.shape[:2], 4, 4)).astype(np.float32)}

    faces = np.full((3, 4, 4, 3), 127, np.uint8)
    forms = {"encoder": {"onnx": encoder, "qdq": encoder}, "generator_all": {"onnx": generator}}
    made = make_faces(forms, faces, 3)
    assert set(made) == {"onnx"}
    assert made["onnx"].shape == (3, 3, 4, 4, 3)
    assert made["onnx"][0, :, 0, 0, 0].tolist() == [127, 191, 254]


@given(st.integers(0, 255))
def test_pixels_come_back(level: int):
    pixels = np.full((1, 2, 2, 3), level, np.uint8)
    assert np.array_equal(to_pixels(to_networks(pixels)), pixels)


def test_float_gradients_are_held_by_their_direction():
    """Two right float forms may take different sides of a ReLU whose input is 0 to within rounding."""
    flipped = replace(GOOD, relative=3e-3, cosine=0.99999)
    assert parity.fault("refine", "torch -> onnx", flipped) is None
    assert "differs by 3.0e-03" in str(parity.fault("encoder", "torch -> onnx", flipped))
    wrong = replace(flipped, cosine=0.99)
    assert parity.fault("refine", "torch -> onnx", wrong) == "has cosine 0.99000, at least 0.999 is needed"
