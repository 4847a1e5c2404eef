"""Golden vectors, records, rules and places of `edgeage conformance`, on the shipped bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.conformance import places as places_module
from edgeage.runtime.conformance.places import Place, read_places
from edgeage.runtime.conformance.record import FACE_KEY, THREADS, Record, read_record, record
from edgeage.runtime.conformance.report import conform
from edgeage.runtime.conformance.rules import (
    ONNXRUNTIME,
    OTHER_LITERT,
    OTHER_PROCESSOR,
    REFERENCE,
    SAME,
    compare,
    kernels_of,
)
from edgeage.runtime.conformance.vectors import PACKED, Golden, cases, write_vectors
from edgeage.runtime.engines.litert import open_interpreter

MODEL = Path(__file__).parents[2] / "models/edge64.agebundle"
# Values of a float-io file, made by another program than the suite: the vectors in, what LiteRT gives out.
BY_VALUES = """
import json, sys, numpy as np
from ai_edge_litert.interpreter import Interpreter
bundle, vectors, out = sys.argv[1:]
values = {}
for engine, case in json.load(open(vectors)).items():
    run = Interpreter(f"{bundle}/{case['file']}", num_threads=1).get_signature_runner(case["signature"])
    shapes = {name: tensor["shape"] for name, tensor in run.get_input_details().items()}
    feeds = {name: np.float32(numbers).reshape(shapes[name]) for name, numbers in case["inputs"].items()}
    values[engine] = {name: array.ravel().tolist() for name, array in run(**feeds).items()}
json.dump({"tool": "LiteRT.js 2.5.3", "values": values}, open(out, "w"))
"""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(MODEL)


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> dict[str, np.ndarray]:
    return Golden(bundle).expected()


@pytest.fixture(scope="module")
def here(bundle: Bundle) -> Record:
    return record(bundle, "litert")


def test_every_file_every_signature_and_more_threads_give_the_golden_codes(
    bundle: Bundle, here: Record, expected: dict[str, np.ndarray]
) -> None:
    rows = compare(here, expected, None, SAME)
    assert all(row.identical for row in rows)
    seen = {(row.variant, row.engine) for row in rows}
    engines = set(bundle.manifest.engines)
    own = engines - {"refine_batch"}  # is in the packed files alone
    for variant, held in (
        ("int8", own),
        (f"int8, {THREADS} threads", own),
        ("float-io", own),
        ("packed int8", engines),
        ("packed float-io", engines),
    ):
        assert {engine for one, engine in seen if one == variant} == held


def test_the_packed_files_hold_the_manifests_signatures(bundle: Bundle) -> None:
    for io, path in PACKED.items():
        interpreter = open_interpreter("litert", bundle.read(path), 1, path)
        signatures = {case.file.signature for case in cases(bundle, "tflite") if case.file.io == io}
        assert set(interpreter.get_signature_list()) == signatures


def test_a_quick_record_takes_one_file_of_each_engine(bundle: Bundle) -> None:
    chosen = {case.engine: case.variant for case in cases(bundle, "tflite", quick=True)}
    assert set(chosen) == set(bundle.manifest.engines)
    assert chosen.pop("refine_batch") == "packed int8"
    assert set(chosen.values()) == {"int8"}


def test_what_may_be_asked_of_a_tool(bundle: Bundle) -> None:
    manifest = bundle.manifest
    made_on = manifest.parity["kernels"]
    assert kernels_of("ai-edge-litert 2.3.0", made_on, manifest) is SAME
    assert kernels_of("LiteRT.js 2.5.3", "", manifest) is SAME
    other = "aarch64 asimd" if made_on.startswith("x86_64") else "x86_64 avx2"
    assert kernels_of("ai-edge-litert 2.3.0", other, manifest) is OTHER_PROCESSOR
    assert kernels_of("ai-edge-litert 2.4.0", made_on, manifest) is OTHER_LITERT
    assert kernels_of("LiteRT.js 9", "", manifest) is OTHER_LITERT
    assert kernels_of("tflite-runtime 2.14.0", made_on, manifest) is REFERENCE
    assert kernels_of("onnxruntime 1.32.0", made_on, manifest) is ONNXRUNTIME


def test_one_code_is_a_fault_for_equal_kernels_and_none_for_others(
    here: Record, expected: dict[str, np.ndarray]
) -> None:
    codes = here.codes["int8/encoder/z"].copy()
    codes[0, 3] += 1 if codes[0, 3] < 100 else -1
    changed = Record(here.tool, codes={"int8/encoder/z": codes})
    (row,) = compare(changed, expected, None, SAME)
    assert (row.differing, row.largest, row.ok) == (1, 1, False)
    (row,) = compare(changed, expected, None, OTHER_LITERT)
    assert row.ok
    far = Record(
        here.tool, codes={"int8/encoder/z": np.clip(codes.astype(int) + 9, -128, 127).astype(np.int8)}
    )
    (row,) = compare(far, expected, None, REFERENCE)
    assert not row.ok


def test_gradients_of_other_kernels_are_held_by_their_direction(
    here: Record, expected: dict[str, np.ndarray]
) -> None:
    gradient = here.codes["packed int8/refine_batch/gradient"].copy()
    gradient[:, 0] ^= 3
    (row,) = compare(
        Record("", codes={"packed int8/refine_batch/gradient": gradient}), expected, None, REFERENCE
    )
    assert row.ok
    assert row.cosine is not None
    assert 0.9 < row.cosine < 1
    gradient[2] = -gradient[2]  # one face of the batch
    (row,) = compare(
        Record("", codes={"packed int8/refine_batch/gradient": gradient}), expected, None, REFERENCE
    )
    assert not row.ok


def test_whole_faces_and_photos_are_compared_with_an_exact_record(
    here: Record, expected: dict[str, np.ndarray]
) -> None:
    photo = np.full((4, 5, 3), 100, np.uint8)
    reference = replace(here, photos={"60+": photo})
    twin = Record(here.tool, here.machine, {FACE_KEY: here.codes[FACE_KEY] ^ 1}, {"60+": photo + 1})
    rows = compare(twin, expected, reference, SAME)
    assert [(row.variant, row.ok) for row in rows] == [("whole face", False), ("photo", False)]
    other = replace(twin, machine="aarch64 asimd", photos={"60+": photo + np.uint8(1)})
    assert [row.ok for row in compare(other, expected, reference, SAME)] == [False, False]  # mean 1 level
    one = photo.copy()
    one[0, 0, 0] += 5
    rows = compare(replace(other, photos={"60+": one}), expected, reference, SAME)
    assert [row.ok for row in rows] == [False, True]
    rows = compare(replace(other, photos={"60+": one[:3]}), expected, reference, SAME)
    assert [row.ok for row in rows] == [False, False]


def test_a_record_survives_its_file(bundle: Bundle, here: Record, tmp_path: Path) -> None:
    kept = replace(here, photos={"60+": np.ones((4, 5, 3), np.uint8)})
    kept.save(tmp_path / "record.npz")
    found = read_record(tmp_path / "record.npz", bundle)
    assert (found.tool, found.machine, found.seconds) == (here.tool, here.machine, here.seconds)
    assert list(found.codes) == list(here.codes)
    assert all(np.array_equal(found.codes[key], here.codes[key]) for key in here.codes)
    assert np.array_equal(found.photos["60+"], kept.photos["60+"])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "no record"),
        ({"about": np.array("{}")}, "no record"),
        (
            {"about": np.array('{"tool": "x", "machine": "", "seconds": 1}'), "a/b/c": np.zeros(3)},
            "not of this",
        ),
    ],
)
def test_broken_records_are_refused(
    bundle: Bundle, tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "record.npz", **arrays)
    with pytest.raises(EdgeageError, match=said):
        read_record(tmp_path / "record.npz", bundle)
    (tmp_path / "record.npz").write_bytes(b"no zip")
    with pytest.raises(EdgeageError, match="no record"):
        read_record(tmp_path / "record.npz", bundle)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "is no record"),
        ({"tool": "x", "values": {"encoder": {"z": ["a"]}}}, "is no record"),
        ({"tool": "x", "values": {"painter": {"z": [1.0]}}}, "no float-io file for 'painter'"),
        ({"tool": "x", "values": {"encoder": {"z": [1.0]}}}, "encoder gave 1 values for z, expected 100"),
        ({"tool": "x", "values": {"encoder": {}}}, "encoder gave no values for z"),
    ],
)
def test_broken_values_are_refused(bundle: Bundle, tmp_path: Path, document: object, said: str) -> None:
    (tmp_path / "values.json").write_text(json.dumps(document))
    with pytest.raises(EdgeageError, match=said):
        read_record(tmp_path / "values.json", bundle)


def test_another_programs_values_are_the_golden_codes(bundle: Bundle, tmp_path: Path) -> None:
    """The way a browser or an app takes: JSON in, float32 out, in the files' own order."""
    (tmp_path / "app.py").write_text(BY_VALUES)
    place = Place("app", "values", (sys.executable, str(tmp_path / "app.py")))
    (outcome,) = conform(bundle, [], [place], {})
    assert outcome.ok, outcome
    assert outcome.kernels is SAME
    assert {row.engine for row in outcome.rows} == set(bundle.manifest.engines)
    assert all(row.identical for row in outcome.rows)


def test_vectors_name_file_signature_and_every_port(bundle: Bundle, tmp_path: Path) -> None:
    write_vectors(bundle, tmp_path / "vectors.json")
    document = json.loads((tmp_path / "vectors.json").read_text())
    refine = document["refine"]
    assert refine["file"] == "engines/refine.int8-float-io.tflite"
    assert refine["signature"] == "refine"
    assert {name: len(numbers) for name, numbers in refine["inputs"].items()} == {
        "z": 100, "y": 6, "target": 128, "image": 64 * 64 * 3
    }  # fmt: skip
    assert refine["outputs"] == ["gradient", "embedding"]


def test_a_place_that_fails_is_told_and_others_still_run(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places_module, "TIME_LIMIT", 2.0)
    failing = [
        Place("ends", "values", (sys.executable, "-c", "import sys; sys.exit('no such engine')")),
        Place("is absent", "values", ("/no/such/program",)),
        Place("hangs", "values", (sys.executable, "-c", "import time; time.sleep(20)")),
        Place("writes nothing", "values", ("true",)),
        Place("away", not_run="no phone", enable="buy one"),
    ]
    outcomes = {outcome.name: outcome for outcome in conform(bundle, ["litert"], failing, {})}
    assert outcomes["this machine, litert"].ok
    assert "no such engine" in outcomes["ends"].failed
    assert "No such file" in outcomes["is absent"].failed
    assert "timed out" in outcomes["hangs"].failed
    assert "no record" in outcomes["writes nothing"].failed
    assert [outcome.ok for outcome in outcomes.values()] == [True, False, False, False, False, True]
    assert outcomes["away"].to_dict() == {"name": "away", "not_run": "no phone", "enable": "buy one"}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "has no name"),
        ([], "expected an object"),
        ({"name": "x"}, "needs a command and a kind"),
        ({"name": "x", "kind": "phone", "command": ["a"]}, "needs a command and a kind"),
        ({"name": "x", "kind": "c", "command": "a"}, "command is a list"),
        ({"name": "x", "kind": "c", "command": ["a", 1]}, "holds 1 where"),
        ({"name": "x", "kind": "c", "command": ["a"], "cpu": "b"}, "unknown fields: cpu"),
    ],
)
def test_places_files_are_checked(tmp_path: Path, value: object, said: str) -> None:
    (tmp_path / "places.json").write_text(json.dumps([value]))
    with pytest.raises(EdgeageError, match=said):
        read_places(tmp_path / "places.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
FIELDS = ("name", "kind", "command", "environment", "tool", "quick", "not_run")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON)
def test_no_places_entry_breaks_the_reader(value: object) -> None:
    try:
        place = Place.from_dict(value, "a place")
    except EdgeageError:
        return
    assert place.not_run or (place.command and place.kind in places_module.KINDS)


def run_command(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["conformance", *map(str, arguments)])
    if isinstance(result.exception, EdgeageError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def test_the_command_compares_and_lists_what_was_not_run(tmp_path: Path) -> None:
    out = tmp_path / "conformance.json"
    code, text = run_command(MODEL, "--engine", "litert", "--json", "--out", out)
    assert code == 0
    document = json.loads(text)
    assert json.loads(out.read_text()) == document
    litert, *others = document["places"]
    assert litert["ok"] is True
    assert litert["tool"].startswith("ai-edge-litert")
    assert all(row["rule"] == "identical" and row["differing"] == 0 for row in litert["rows"])
    assert all(place["enable"] == "make conformance" and place["not_run"] for place in others)
    code, text = run_command(MODEL, "--engine", "litert", "--quiet")
    assert code == 0
    assert "41" not in text  # without a photo there are fewer
    assert "not run  browser (LiteRT.js): no --places file names it; enable it: make conformance" in text


def test_a_devices_record_is_compared_anywhere(bundle: Bundle, here: Record, tmp_path: Path) -> None:
    path = tmp_path / "pi5.npz"
    assert run_command(MODEL, "--record", path)[0] == 0
    code, text = run_command(MODEL, "--engine", "litert", "--recorded", f"Pi 5={path}")
    assert code == 0
    assert "Pi 5" in text
    codes = {key: value ^ 1 if "encoder" in key else value for key, value in here.codes.items()}
    replace(here, codes=codes).save(path)
    code, text = run_command(MODEL, "--engine", "litert", "--recorded", f"Pi 5={path}")
    assert code == 1
    assert "MISSED  Pi 5: int8 encoder.z: largest 1, mean 1.000; asked identical" in text


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("{}")
    for arguments, said in (
        (["--out", there], "exists already"),
        (["--record", there], "exists already"),
        (["--record", tmp_path / "a.npz", "--engine", "litert", "--engine", "onnxruntime"], "one --engine"),
        (["--recorded", "pi5.npz"], "takes NAME=FILE"),
        (["--quick"], "goes with --record"),
        (["--places", there], "holds no list"),
        (["--places", tmp_path / "none.json"], "no places file at"),
    ):
        code, text = run_command(MODEL, *arguments)
        assert code == 2
        assert said in text


def test_a_bundle_without_golden_vectors_is_refused(built_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(built_bundle)
    if "golden.npz" in bundle.manifest.files:
        pytest.skip("SKIPPED, the tiny bundle has golden vectors")
    with pytest.raises(EdgeageError, match=r"no golden\.npz"):
        Golden(bundle)
