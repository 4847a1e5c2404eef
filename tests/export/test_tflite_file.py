"""A TFLite file as a whole: several signatures in one, and the card that travels with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeage.calibration.quantization import Quantization, decide
from edgeage.calibration.ranges import read_tables
from edgeage.export.tflite.lowering import pack, read_metadata, to_tflite
from edgeage.export.verify import TfliteFile

BUNDLE = Path(__file__).parents[2] / "models/edge64.agebundle"
ENGINES = {"encoder": "encode", "generator": "generate"}


@pytest.fixture(scope="module")
def decisions() -> dict[str, Quantization]:
    tables = read_tables(BUNDLE / "ranges.json")
    return {
        engine: decide(
            onnx.load(BUNDLE / f"engines/{engine}.onnx"),
            tables[engine].ranges,
            corrections=tables[engine].corrections,
        )
        for engine in ENGINES
    }


def codes(decided: Quantization, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {name: decided.view.shapes[name] for name in decided.view.inputs}
    return {name: random.integers(-128, 128, shape).astype(np.int8) for name, shape in shapes.items()}


def test_each_signature_of_a_packed_file_gives_what_its_own_file_gives(
    decisions: dict[str, Quantization],
) -> None:
    listed = [(decisions[engine], signature) for engine, signature in ENGINES.items()]
    packed = pack(listed, "int8")
    for engine, signature in ENGINES.items():
        own = TfliteFile(to_tflite(decisions[engine], signature, "int8"), signature)
        together = TfliteFile(packed, signature)
        for seed in range(3):
            given = codes(decisions[engine], seed)
            for name, value in own.run(given).items():
                assert np.array_equal(together.run(given)[name], value)


def test_graphs_that_share_their_constants_share_their_bytes(decisions: dict[str, Quantization]) -> None:
    decided = decisions["generator"]
    alone = to_tflite(decided, "generate", "int8")
    twice = pack([(decided, "generate"), (decided, "again")], "int8")
    assert len(twice) < 1.1 * len(alone)
    assert pack([(decided, "generate"), (decided, "again")], "int8") == twice


def test_metadata_travel_with_the_file_and_change_no_result(decisions: dict[str, Quantization]) -> None:
    decided = decisions["encoder"]
    card = {"model": "edge64", "groups": ["0-18", "60+"], "licence": {"code": "Apache-2.0"}}
    plain, carded = (to_tflite(decided, "encode", "int8", metadata) for metadata in (None, card))
    assert read_metadata(plain) == {}
    assert read_metadata(carded) == card
    given = codes(decided, 0)
    assert np.array_equal(
        TfliteFile(plain, "encode").run(given)["z"], TfliteFile(carded, "encode").run(given)["z"]
    )


@pytest.mark.parametrize("flavour", ["int8", "int8-float-io"])
def test_the_shipped_packed_file_holds_every_signature(flavour: str) -> None:
    data = (BUNDLE / f"engines/packed.{flavour}.tflite").read_bytes()
    golden = np.load(BUNDLE / "golden.npz", allow_pickle=False)
    for engine, signature in {**ENGINES, "embedder": "embed", "generator_all": "generate_all"}.items():
        alone = TfliteFile((BUNDLE / f"engines/{engine}.{flavour}.tflite").read_bytes(), signature)
        prefix = f"{engine}.int8/in/" if flavour == "int8" else f"{engine}/in/"
        given = {key.removeprefix(prefix): golden[key] for key in golden.files if key.startswith(prefix)}
        for name, value in alone.run(given).items():
            assert np.array_equal(TfliteFile(data, signature).run(given)[name], value)
    card = read_metadata(data)
    assert card["groups"][0] == "0-18"
    assert "non-commercial" in card["licence"]["model"]
