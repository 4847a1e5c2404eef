"""Other places than this process: another Python, a processor under qemu, the C sample, a browser.

A places file is JSON, a list of:
    {"name": text, "kind": "edgeage", "command": [...], "engine": "litert"}    edgeage of another Python
    {"name": text, "kind": "c", "command": [...], "tool": "ai-edge-litert 2.3.0"}    docs/samples/c
    {"name": text, "kind": "values", "command": [...]}    anything that writes what `read_record` reads
    {"name": text, "not_run": reason, "enable": command}
with "environment": {name: value}, "machine": text and "quick": true (one file of each engine, see `record`)
where they matter. A command of kind "values" is given the bundle, the golden inputs (`vectors.write_vectors`)
and the file to write.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeage.errors import EdgeageError
from edgeage.files import read_json
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.conformance.record import FACE_KEY, Record, own_group, read_record
from edgeage.runtime.conformance.vectors import Case, Golden, cases, from_stored, write_vectors
from edgeage.runtime.manifest import stored_shape

KINDS = ("edgeage", "c", "values")
TIME_LIMIT = 170.0  # seconds for each command; all of `make conformance` shall take less than three minutes


@dataclass(frozen=True)
class Place:
    """One entry of a places file; `not_run` and `enable` instead of a command say why it is absent."""

    name: str = ""
    kind: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    engine: str = "litert"
    tool: str = ""
    machine: str = ""
    quick: bool = False
    not_run: str = ""
    enable: str = ""

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Place:
        """EdgeageError, naming `where`, for anything but one of the entries above."""
        if not isinstance(value, dict):
            raise EdgeageError(f"{where} is {type(value).__name__}, expected an object")
        if unknown := set(value) - set(cls.__dataclass_fields__):
            raise EdgeageError(f"{where} has unknown fields: {', '.join(sorted(unknown))}")
        texts = {key: text for key, text in value.items() if key not in ("command", "environment", "quick")}
        command, environment = value.get("command", []), value.get("environment", {})
        if not isinstance(command, list) or not isinstance(environment, dict):
            raise EdgeageError(f"{where}: command is a list of texts, environment an object of texts")
        if wrong := [
            one for one in (*texts.values(), *command, *environment.values()) if not isinstance(one, str)
        ]:
            raise EdgeageError(f"{where} holds {wrong[0]!r} where a text is expected")
        quick = value.get("quick", False) is True
        place = cls(command=tuple(command), environment=environment, quick=quick, **texts)
        if not place.name:
            raise EdgeageError(f"{where} has no name")
        if not place.not_run and (place.kind not in KINDS or not command):
            raise EdgeageError(f"{where} needs a command and a kind ({', '.join(KINDS)}), or not_run")
        return place

    def run(self, bundle: Bundle, photo: Path | None = None) -> Record:
        """Have the golden vectors run there; EdgeageError if it fails.

        `photo`: is aged there too, if the place can.
        """
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="edgeage-conformance-") as folder:
            if self.kind == "edgeage":
                found = self._by_edgeage(bundle, Path(folder), photo)
            elif self.kind == "c":
                found = self._by_c(bundle, Path(folder))
            else:
                vectors, out = Path(folder) / "vectors.json", Path(folder) / "values.json"
                write_vectors(bundle, vectors)
                self._call([str(bundle.path), str(vectors), str(out)])
                found = read_record(out, bundle)
        found.machine = self.machine or found.machine
        found.seconds = time.perf_counter() - start
        return found

    def _call(self, arguments: list[str]) -> None:
        command = [*self.command, *arguments]
        try:
            result = subprocess.run(
                command,
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EdgeageError(f"{self.name}: {error}") from None
        if result.returncode:
            said = [line for line in result.stderr.splitlines() if not line.startswith(("INFO", "WARNING"))]
            ending = f": {said[-1]}" if said else ""
            raise EdgeageError(f"{self.name}: {Path(command[0]).name} ended with {result.returncode}{ending}")

    def _by_edgeage(self, bundle: Bundle, folder: Path, photo: Path | None) -> Record:
        out = folder / "record.npz"
        arguments = ["conformance", str(bundle.path), "--engine", self.engine, "--record", str(out)]
        arguments += ["--quick"] if self.quick else []
        self._call(arguments + (["--photo", str(photo)] if photo else []))
        return read_record(out, bundle)

    def _by_c(self, bundle: Bundle, folder: Path) -> Record:
        """Every TFLite file with raw bytes, and the whole way from the golden face to its ages."""
        if not bundle.path.is_dir():
            raise EdgeageError(f"{self.name}: the C sample reads a bundle folder, {bundle.path} is a zip")
        golden, found = Golden(bundle), Record(self.tool)
        for case in cases(bundle, "tflite", quick=self.quick):
            for port, codes in self._case_by_c(bundle, golden, case, folder).items():
                found.codes[f"{case.variant}/{case.engine}/{port}"] = codes
        found.codes[FACE_KEY] = self._face_by_c(bundle, golden, folder)
        return found

    def _case_by_c(self, bundle: Bundle, golden: Golden, case: Case, folder: Path) -> dict[str, Any]:
        arguments = ["run", str(bundle.path / case.file.file), str(case.file.signature)]
        for name, values in golden.stored_inputs(case).items():
            values.tofile(folder / f"{name}.in")
            arguments.append(f"{name}={folder / name}.in")
        arguments += [f"{port.name}=:{folder / port.name}.out" for port in case.file.outputs]
        self._call(arguments)
        raw = {port.name: np.fromfile(folder / f"{port.name}.out", port.dtype) for port in case.file.outputs}
        return from_stored(case, raw)

    def _face_by_c(self, bundle: Bundle, golden: Golden, folder: Path) -> Any:
        face, groups = golden.face(), bundle.manifest.profile.groups
        size = len(face)
        (folder / "face.ppm").write_bytes(b"P6\n%d %d\n255\n" % (size, size) + face.tobytes())
        strip, out = str(folder / "strip.ppm"), folder / "faces.bin"
        arguments = ["age", str(bundle.path), str(folder / "face.ppm"), "--group", own_group(groups)]
        self._call([*arguments, "--out", strip, "--codes", str(out)])
        codes = np.fromfile(out, np.int8)
        return codes.reshape(stored_shape((len(groups), 3, size, size), "NHWC")).transpose(0, 3, 1, 2)


# What can be compared beside this machine's engines; `make conformance` sets them up.
ELSEWHERE = (
    "C sample, x86-64",
    "arm64 (qemu): Python and C",
    "Python 3.10, 3.12, 3.13",
    "browser (LiteRT.js)",
)


def read_places(path: Path | None) -> list[Place]:
    """The places of a file; without one, what there could be, as places that were not run."""
    if path is None:
        reason = "no --places file names it"
        return [Place(name, not_run=reason, enable="make conformance") for name in ELSEWHERE]
    document = read_json(path, "places file")
    if not isinstance(document, list):
        raise EdgeageError(f"{path} is no places file: it holds no list")
    return [Place.from_dict(value, f"{path}: place {number}") for number, value in enumerate(document, 1)]
