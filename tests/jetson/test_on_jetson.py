"""What only a device can show. Skipped, loudly, where there is none; docs/jetson.md lists each.

python -m pytest tests/jetson
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines.tensorrt.cache import PlanCache
from edgeage.runtime.engines.tensorrt.choose import choose_precision, open_tensorrt
from edgeage.runtime.engines.tensorrt.coverage import plan_coverage
from edgeage.runtime.engines.tensorrt.device import l4t_release, read_device
from edgeage.runtime.engines.tensorrt.libraries import load_libraries
from edgeage.runtime.engines.tensorrt.pipeline import DevicePipeline
from edgeage.runtime.engines.tensorrt.prepare import Workshop
from edgeage.runtime.engines.tensorrt.recipe import BuildOptions
from edgeage.runtime.on_device.golden import check_golden, golden_feeds, read_golden
from edgeage.runtime.on_device.power import Rails
from edgeage.runtime.session import load

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "edge64.agebundle"
SAMPLE = ROOT / "docs" / "samples" / "astronaut.jpg"

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def device() -> None:
    try:
        read_device(load_libraries())
    except EdgeageError as error:
        pytest.skip(f"SKIPPED FOR LACK OF A DEVICE: {str(error).partition(';')[0]}")


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(MODEL)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workshop]:
    """One cache for all tests here: each plan is built once."""
    folder = tmp_path_factory.mktemp("tensorrt") / "plans"
    return lambda: Workshop(PlanCache(folder))


ENGINES = ("encoder", "embedder", "generator", "generator_all", "refine")


@pytest.mark.parametrize("name", ENGINES)
def test_int8_meets_the_golden_vectors(shipped: Bundle, workshop: Callable[[], Workshop], name: str) -> None:
    engine = open_tensorrt(shipped, name, "int8", workshop=workshop())
    checks = check_golden(shipped, name, engine, "int8", read_golden(shipped))
    assert all(check.ok for check in checks), checks
    assert "CUDA graph" in engine.description


@pytest.mark.parametrize("name", ["encoder", "embedder", "generator"])
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_float_plans_meet_the_golden_vectors(
    shipped: Bundle, workshop: Callable[[], Workshop], name: str, precision: str
) -> None:
    engine = open_tensorrt(shipped, name, precision, workshop=workshop())
    checks = check_golden(shipped, name, engine, precision, read_golden(shipped))
    assert all(check.ok for check in checks), checks


@pytest.mark.parametrize("name", ENGINES)
def test_most_matrix_layers_are_int8(shipped: Bundle, workshop: Callable[[], Workshop], name: str) -> None:
    shop = workshop()
    found = plan_coverage(shop.libraries.trt, shop.prepare(shipped, name, "int8"))
    assert found.matrix_layers, found
    assert found.share is not None
    assert found.share > 0.9, found.not_int8


def test_an_int8_plan_is_at_most_three_tenths_of_float32(
    shipped: Bundle, workshop: Callable[[], Workshop]
) -> None:
    sizes = {
        precision: workshop().prepare(shipped, "generator", precision).sidecar["bytes"]
        for precision in ("int8", "float32")
    }
    assert sizes["int8"] <= 0.3 * sizes["float32"], sizes


def test_a_plan_is_reused_and_a_garbage_one_refused_by_tensorrt_itself(
    shipped: Bundle, workshop: Callable[[], Workshop]
) -> None:
    made = workshop().prepare(shipped, "encoder", "int8")
    assert workshop().prepare(shipped, "encoder", "int8").reused
    workshop().cache.store(made.identity, b"garbage" * 100, {"file": "x"})
    again = workshop().prepare(shipped, "encoder", "int8")
    assert again.reason.startswith("TensorRT refused the kept plan")


def test_auto_chooses_by_measuring(shipped: Bundle, workshop: Callable[[], Workshop]) -> None:
    choice = choose_precision(workshop(), shipped, "encoder")
    assert choice.precision in ("int8", "float16")
    assert {"latency", "golden", "passes"} <= set(choice.rivals["int8"])


def test_the_pipeline_is_the_engines_one_by_one(shipped: Bundle, workshop: Callable[[], Workshop]) -> None:
    face = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    session = load(shipped, engine="tensorrt")
    refined = session.refine(session.encode(face), [2], face[None])
    pipeline = DevicePipeline(shipped, "int8", workshop())
    made = pipeline.age(face[None].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1, 2)
    pipeline.close()
    # plans of two builds may hold other kernels, and a mask that flips turns the gradient
    cosine = (made.refined.z * refined.z).sum() / np.sqrt((made.refined.z**2).sum() * (refined.z**2).sum())
    assert cosine > 0.98


def test_tensors_of_torch_are_read_where_they_are(shipped: Bundle, workshop: Callable[[], Workshop]) -> None:
    torch = pytest.importorskip("torch", reason="SKIPPED FOR LACK OF torch with CUDA")
    if not torch.cuda.is_available():
        pytest.skip("SKIPPED FOR LACK OF torch with CUDA")
    engine = open_tensorrt(shipped, "encoder", "int8", workshop=workshop())
    feeds = golden_feeds("encoder", shipped.manifest.engines["encoder"], read_golden(shipped))
    made = engine.run_on_device({"image": torch.from_numpy(feeds["image"]).cuda()})["z"]
    z = torch.as_tensor(made, device="cuda").cpu().numpy()
    np.testing.assert_array_equal(z, engine.run(feeds)["z"])


def test_a_photo_is_aged() -> None:
    made = load(MODEL, engine="tensorrt").age(SAMPLE, source_group="30-39")
    assert np.abs(made.aged["60+"].astype(int) - made.photo).max() > 20


def test_the_report_of_this_device(tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = CliRunner().invoke(cli, ["verify-on-device", str(MODEL), "--out", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads((out / "verify-on-device.json").read_text())
    assert document["whole_face"]["percentiles"]["p50"]["value"] > 0


@pytest.mark.jetson
def test_the_jetson_says_what_it_is() -> None:
    if not l4t_release():
        pytest.skip("SKIPPED FOR LACK OF A JETSON: no /etc/nv_tegra_release")
    assert l4t_release().startswith("R")
    assert Rails(), "no INA3221 under /sys/class/hwmon"


@pytest.mark.jetson
def test_the_dla_takes_a_network_or_says_why_not(shipped: Bundle, workshop: Callable[[], Workshop]) -> None:
    if not l4t_release():
        pytest.skip("SKIPPED FOR LACK OF A JETSON: no /etc/nv_tegra_release")
    told = ""
    try:
        told = str(workshop().prepare(shipped, "encoder", "int8", BuildOptions(dla=0)).recipe.options)
    except EdgeageError as error:
        told = str(error)
    assert "dla=0" in told or "DLA" in told
