"""The C sample under AddressSanitizer: what it computes, what it refuses, and manifests that are broken."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeage.runtime.bundle import open_bundle
from edgeage.runtime.conformance.record import whole_face
from edgeage.runtime.conformance.vectors import Golden
from edgeage.runtime.session import load

REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models/edge64.agebundle"
GROUP = "40-49"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    litert = importlib.util.find_spec("ai_edge_litert")
    if platform.system() != "Linux" or not shutil.which("cc") or litert is None or litert.origin is None:
        pytest.skip("SKIPPED, the C sample needs Linux, a C compiler and ai-edge-litert")
    folder = tmp_path_factory.mktemp("c")
    # the library alone: LiteRT would load the accelerators beside it, and they leak
    shutil.copy(Path(litert.origin).parent / "libLiteRt.so", folder)
    source = REPOSITORY / "docs/samples/c"
    subprocess.run(
        ["make", "-s", "-C", source, f"LITERT={folder}", f"BUILD={folder}", "SANITIZE=1"],
        check=True,
        capture_output=True,
    )
    return folder / "edgeage-c"


def call(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Fails the test if a sanitizer speaks; leaks are among what it tells."""
    result = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        env={"LD_LIBRARY_PATH": str(program.parent), "ASAN_OPTIONS": "exitcode=99", "PATH": "/usr/bin:/bin"},
    )
    assert result.returncode in (0, 1, 2), result.stderr[-2000:]
    assert "Sanitizer" not in result.stderr
    assert "runtime error" not in result.stderr
    return result


@pytest.fixture(scope="session")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("face") / "face.ppm"
    path.write_bytes(b"P6\n64 64\n255\n" + Golden(open_bundle(MODEL)).face().tobytes())
    return path


@pytest.mark.parametrize("options", [[], ["--packed", "--threads", "4"], ["--float-io"]])
def test_it_ages_a_face_as_the_python_runtime_does(
    program: Path, face: Path, tmp_path: Path, options: list[str]
) -> None:
    strip, out = tmp_path / "strip.ppm", tmp_path / "faces.bin"
    result = call(program, "age", MODEL, face, "--group", GROUP, "--out", strip, "--codes", out, *options)
    assert result.returncode == 0, result.stderr
    assert "refined: step" in result.stdout
    stored = np.fromfile(out, np.float32 if "--float-io" in options else np.int8)
    codes = np.rint(stored * 128).astype(int) if "--float-io" in options else stored.astype(int)
    wanted = whole_face(load(MODEL), Golden(open_bundle(MODEL)).face())
    assert np.array_equal(codes.reshape(6, 64, 64, 3).transpose(0, 3, 1, 2), wanted)
    head, _, rest = strip.read_bytes().partition(b"255\n")
    assert head == b"P6\n448 64\n"
    pixels = np.frombuffer(rest, np.uint8).reshape(64, 448, 3)
    assert pixels[:, :64].tobytes() == face.read_bytes()[-64 * 64 * 3 :]
    shown = np.rint(np.clip((wanted[5].transpose(1, 2, 0) / 128 + 1) * 127.5, 0, 255))
    assert np.abs(pixels[:, 384:].astype(int) - shown).max() <= 1  # the very half may go either way


@pytest.mark.parametrize(("method", "momentum"), [("normalised", 0.6), ("sign", 0.0)])
def test_other_ways_to_step_are_the_runtimes_as_well(
    program: Path, face: Path, tmp_path: Path, method: str, momentum: float
) -> None:
    bundle, out = tmp_path / "other.agebundle", tmp_path / "faces.bin"
    shutil.copytree(MODEL, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["refinement"].update(method=method, momentum=momentum, steps=5, decay=0.8)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    call(program, "age", bundle, face, "--group", GROUP, "--out", tmp_path / "strip.ppm", "--codes", out)
    wanted = whole_face(load(bundle), Golden(open_bundle(bundle)).face())
    assert np.array_equal(np.fromfile(out, np.int8).reshape(6, 64, 64, 3).transpose(0, 3, 1, 2), wanted)
    assert not np.array_equal(wanted, whole_face(load(MODEL), Golden(open_bundle(MODEL)).face()))


def test_no_steps_give_the_encoders_latent(program: Path, face: Path, tmp_path: Path) -> None:
    z = tmp_path / "z.bin"
    arguments = ["--group", GROUP, "--out", tmp_path / "strip.ppm", "--z", z, "--steps", "0"]
    assert call(program, "age", MODEL, face, *arguments).returncode == 0
    wanted = load(MODEL).encode(Golden(open_bundle(MODEL)).face())
    assert np.array_equal(np.fromfile(z, np.float32), wanted[0])


def test_what_it_refuses_it_names_in_one_line(program: Path, face: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.ppm"
    small.write_bytes(b"P6\n32 32\n255\n" + bytes(32 * 32 * 3))
    cut = tmp_path / "cut.ppm"
    cut.write_bytes(face.read_bytes()[:5000])
    broken = tmp_path / "broken.agebundle"
    shutil.copytree(MODEL, broken)
    (broken / "engines/encoder.int8.tflite").write_bytes(b"TFL3" + bytes(100))
    out = tmp_path / "strip.ppm"
    for bundle, image, group, status, said in (
        (tmp_path / "none.agebundle", face, GROUP, 1, "no bundle there"),
        (MODEL, tmp_path / "none.ppm", GROUP, 1, "cannot open"),
        (MODEL, small, GROUP, 1, "not a binary PPM (P6) of 64 x 64"),
        (MODEL, cut, GROUP, 1, "not a binary PPM"),
        (MODEL, face, "70+", 1, "the groups are 0-18 19-29"),
        (broken, face, GROUP, 1, "encoder.int8.tflite is not there or not a TFLite file"),
    ):
        result = call(program, "age", bundle, image, "--group", group, "--out", out)
        assert result.returncode == status
        assert said in result.stderr
        assert not out.exists()
    assert call(program, "age", MODEL, face).returncode == 2
    assert call(program, "age", MODEL, face, "--group", GROUP, "--out", out, "--threads", "0").returncode == 2
    assert (
        "cannot write"
        in call(program, "age", MODEL, face, "--group", GROUP, "--out", tmp_path / "no" / "strip.ppm").stderr
    )


def test_run_checks_names_and_sizes(program: Path, tmp_path: Path) -> None:
    model = MODEL / "engines/encoder.int8.tflite"
    short = tmp_path / "short.bin"
    short.write_bytes(bytes(10))
    for arguments, said in (
        (["embed", f"image={short}"], 'no signature "embed"'),
        (["encode", f"picture={short}"], 'no port "picture"'),
        (["encode", f"image={short}"], "does not have 12288 bytes"),
    ):
        result = call(program, "run", model, *arguments)
        assert result.returncode == 1
        assert said in result.stderr


MANIFEST = json.loads((MODEL / "manifest.json").read_text())
# Without engines: every run ends with a message before LiteRT starts
SHORT = json.dumps({"schema": 1, **{key: MANIFEST[key] for key in ("refinement", "profile")}, "engines": {}})


@given(
    st.one_of(
        st.integers(0, len(SHORT)).map(lambda size: SHORT[:size].encode()),
        st.tuples(st.integers(0, len(SHORT) - 1), st.binary(min_size=1, max_size=4)).map(
            lambda edit: SHORT[: edit[0]].encode() + edit[1] + SHORT[edit[0] + 1 :].encode()
        ),
        st.recursive(
            st.none() | st.text() | st.floats(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
        ).map(lambda value: json.dumps({"schema": 1, "refinement": value, "profile": value}).encode()),
        st.just(b'{"schema": 1, "refinement": ' + b"[" * 5000),
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broken_manifests_are_refused(program: Path, face: Path, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    result = call(program, "age", tmp_path, face, "--group", GROUP, "--out", tmp_path / "strip.ppm")
    assert result.returncode == 1
    assert result.stderr.strip()
