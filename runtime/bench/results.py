"""The file of results: one run of the bench as frozen dataclasses and JSON, with all raw samples.

Nothing is summed up that cannot be computed again: percentiles and verdicts stand beside the samples that
they come from. Times are whole nanoseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError
from edgeage.files import read_json, write_bytes
from edgeage.runtime.bench.statistics import Percentile
from edgeage.runtime.fields import (
    FieldError,
    invalid,
    read_choice,
    read_digest,
    read_fields,
    read_integer,
    read_list,
    read_mapping,
    read_number,
    read_text,
)

FORMAT = "edgeage-bench"
SCHEMA = 1
SHAPES = ("closed", "rate", "sustain")
VALID = "VALID"
# From the one that says most about all others to the one that says least.
VERDICTS = ("FELL BACK", "THROTTLED", "DRIFTING", "TOO SHORT", "NOISY", VALID)


@dataclass(frozen=True)
class Subject:
    """What was measured. Two results of equal subjects may be compared as the same thing.

    Attributes:
        name: an engine ("encoder"), a stage ("pipeline.detect"), the whole ("pipeline") or a part of the cold
            start ("cold.import").
        engine: "litert", "tflite-runtime", "onnxruntime", "tensorrt".
        precision: "int8" or "float32".
        threads: of the engine.
        steps: K of latent refinement, None where it plays no part.
        description: file, engine version, precision, threads; one line.
        notes: what a reader must know of this subject, one line each.
    """

    name: str
    engine: str
    precision: str
    threads: int
    steps: int | None = None
    description: str = ""
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        steps = "" if self.steps is None else f" K={self.steps}"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.name}{steps} {self.engine} {self.precision} {threads}"

    def part(self, name: str) -> Subject:
        """A stage of this subject."""
        return replace(self, name=f"{self.name}.{name}", description="", notes=())

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Subject:
        names = ("name", "engine", "precision", "threads", "steps", "description", "notes")
        fields = read_fields(value, names, where)
        if not isinstance(fields["description"], str):
            raise invalid(f"{where}.description", "is no text")
        steps = fields["steps"]
        return cls(
            name=read_text(fields["name"], f"{where}.name"),
            engine=read_text(fields["engine"], f"{where}.engine"),
            precision=read_text(fields["precision"], f"{where}.precision"),
            threads=_count(fields["threads"], f"{where}.threads"),
            steps=None if steps is None else _count(steps, f"{where}.steps"),
            description=fields["description"],
            notes=read_list(fields["notes"], read_text, f"{where}.notes"),
        )


@dataclass(frozen=True)
class Load:
    """How runs were started.

    Attributes:
        shape: "closed": each as soon as the one before has ended; "rate": on a fixed schedule; "sustain":
            closed, for a given time.
        rate_hz: runs a second of "rate", else None. Its samples count from the intended start.
        seconds: asked for with "sustain", else None.
        concurrency: workers, each with a subject of its own, that run at the same time.
        missed: runs of "rate" that ended after the next one should have started; None elsewhere.
    """

    shape: str = "closed"
    rate_hz: float | None = None
    seconds: float | None = None
    concurrency: int = 1
    missed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Load:
        fields = read_fields(value, ("shape", "rate_hz", "seconds", "concurrency", "missed"), where)
        rate, seconds, missed = fields["rate_hz"], fields["seconds"], fields["missed"]
        return cls(
            read_choice(fields["shape"], SHAPES, f"{where}.shape"),
            None if rate is None else read_number(rate, f"{where}.rate_hz"),
            None if seconds is None else read_number(seconds, f"{where}.seconds"),
            _count(fields["concurrency"], f"{where}.concurrency"),
            None if missed is None else _count(missed, f"{where}.missed"),
        )


@dataclass(frozen=True)
class Verdict:
    """Whether a result can be relied on.

    Attributes:
        word: the first of VERDICTS that applies.
        reasons: one line each, of all that apply; empty for VALID.
    """

    word: str
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"word": self.word, "reasons": list(self.reasons)}

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Verdict:
        fields = read_fields(value, ("word", "reasons"), where)
        word = read_choice(fields["word"], VERDICTS, f"{where}.word")
        return cls(word, read_list(fields["reasons"], read_text, f"{where}.reasons"))


@dataclass(frozen=True)
class Result:
    """One subject under one load.

    Attributes:
        subject, load: see there.
        samples_ns: every run, warm-up included, in the order of their starts. Nothing is left out.
        starts_ns: when each began (of "rate": should have begun), from the start of the whole bench.
        warmup: how many leading samples are warm-up; percentiles are of the others.
        percentiles: in nanoseconds, see `statistics.Percentile`.
        verdict: see there.
        group: results that share it were measured in turn: sample i of each belongs to round i.
        part_of: name of the subject that this is a stage of ("pipeline" of "pipeline.detect"), else None.
        minutes_ns: medians of each minute since the first start, of "sustain"; else empty.
        placement: where the engine's nodes run, see `placement`; None for what is no single engine.
        energy, memory: as `energy` and `memory` give them; None if not measured.
    """

    subject: Subject
    load: Load
    samples_ns: tuple[int, ...]
    starts_ns: tuple[int, ...]
    warmup: int
    percentiles: tuple[Percentile, ...]
    verdict: Verdict
    group: str | None = None
    part_of: str | None = None
    minutes_ns: tuple[int, ...] = ()
    placement: dict[str, Any] | None = None
    energy: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if len(self.samples_ns) != len(self.starts_ns):
            problem = f"has {len(self.samples_ns)} samples and {len(self.starts_ns)} starts"
            raise invalid(f"the result of {self.subject.label}", problem)
        if not 0 <= self.warmup <= len(self.samples_ns):
            raise invalid(f"the result of {self.subject.label}", f"has a warm-up of {self.warmup} samples")

    @property
    def steady_ns(self) -> NDArray[np.int64]:
        """The samples after the warm-up."""
        return np.asarray(self.samples_ns[self.warmup :], np.int64)

    @property
    def median_ns(self) -> float | None:
        """Of the steady samples; None if there are none."""
        steady = self.steady_ns
        return float(np.median(steady)) if steady.size else None

    def percentile(self, q: float) -> Percentile | None:
        return next((one for one in self.percentiles if one.q == q), None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "subject": self.subject.to_dict(),
            "load": self.load.to_dict(),
            "group": self.group,
            "part_of": self.part_of,
            "warmup": self.warmup,
            "percentiles_ns": [one.to_dict() for one in self.percentiles],
            "minutes_ns": list(self.minutes_ns),
            "verdict": self.verdict.to_dict(),
            "placement": self.placement,
            "energy": self.energy,
            "memory": self.memory,
            "samples_ns": list(self.samples_ns),
            "starts_ns": list(self.starts_ns),
        }

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Result:
        parts = ("placement", "energy", "memory")
        plain = ("subject", "load", "group", "part_of", "warmup", "percentiles_ns", "minutes_ns", "verdict")
        fields = read_fields(value, (*plain, *parts, "samples_ns", "starts_ns"), where)
        group, part_of = fields["group"], fields["part_of"]
        return cls(
            subject=Subject.from_dict(fields["subject"], f"{where}.subject"),
            load=Load.from_dict(fields["load"], f"{where}.load"),
            samples_ns=read_list(fields["samples_ns"], _count, f"{where}.samples_ns"),
            starts_ns=read_list(fields["starts_ns"], _count, f"{where}.starts_ns"),
            warmup=_count(fields["warmup"], f"{where}.warmup"),
            percentiles=read_list(fields["percentiles_ns"], _percentile, f"{where}.percentiles_ns"),
            verdict=Verdict.from_dict(fields["verdict"], f"{where}.verdict"),
            group=None if group is None else read_text(group, f"{where}.group"),
            part_of=None if part_of is None else read_text(part_of, f"{where}.part_of"),
            minutes_ns=read_list(fields["minutes_ns"], _count, f"{where}.minutes_ns"),
            **{
                part: None if fields[part] is None else read_mapping(fields[part], f"{where}.{part}")
                for part in parts
            },
        )


@dataclass(frozen=True)
class Run:
    """One run of the bench: what the file of results holds.

    Attributes:
        bundle: name of the model.
        bundle_sha256: of its manifest.json, which holds the hashes of all other files.
        edgeage_version: that measured.
        started: UTC, ISO 8601.
        complete: False if it was interrupted: the results hold what there was until then.
        results: see there.
        environment: {"before": {...}, "during": {...}, "after": {...}}, see `environment`.
        not_run: {subject's label: why}.
        refinement: the bundle's settings, with the judge's scores per K where the manifest has them.
        schema: version of this format.
    """

    bundle: str
    bundle_sha256: str
    edgeage_version: str
    started: str
    complete: bool
    results: tuple[Result, ...]
    environment: dict[str, Any] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    refinement: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "schema": self.schema,
            "edgeage_version": self.edgeage_version,
            "started": self.started,
            "complete": self.complete,
            "bundle": {"name": self.bundle, "sha256": self.bundle_sha256},
            "environment": self.environment,
            "not_run": self.not_run,
            "refinement": self.refinement,
            "results": [one.to_dict() for one in self.results],
        }

    @classmethod
    def from_dict(cls, value: Any) -> Run:
        """Read a run; EdgeageError if it is foreign, of another schema, incomplete or contradicts itself."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise EdgeageError("this is no file of results of edgeage bench")
        if value.get("schema") != SCHEMA:
            found = value.get("schema")
            raise EdgeageError(f"results of schema {found!r}, this edgeage reads {SCHEMA}; measure again")
        told = ("format", "schema", "edgeage_version", "started", "complete", "bundle")
        fields = read_fields(value, (*told, "environment", "not_run", "refinement", "results"), "the file")
        bundle = read_fields(fields["bundle"], ("name", "sha256"), "bundle")
        if not isinstance(fields["complete"], bool):
            raise invalid("complete", f"is {fields['complete']!r}, expected true or false")
        return cls(
            bundle=read_text(bundle["name"], "bundle.name"),
            bundle_sha256=read_digest(bundle["sha256"], "bundle.sha256"),
            edgeage_version=read_text(fields["edgeage_version"], "edgeage_version"),
            started=read_text(fields["started"], "started"),
            complete=fields["complete"],
            results=read_list(fields["results"], Result.from_dict, "results"),
            environment=read_mapping(fields["environment"], "environment"),
            not_run={
                key: read_text(why, f"not_run[{key!r}]")
                for key, why in read_mapping(fields["not_run"], "not_run").items()
            },
            refinement=read_mapping(fields["refinement"], "refinement"),
        )


def write_results(path: Path, run: Run) -> None:
    """Write a file of results, atomically, over one that is there."""
    write_bytes(path, (json.dumps(run.to_dict()) + "\n").encode())  # indented, each sample would take a line


def read_results(path: Path) -> Run:
    """Read a file of results; EdgeageError if it is none, or of another schema, or does not hold together."""
    value = read_json(path, "file of results")
    try:
        return Run.from_dict(value)
    except FieldError as error:
        raise EdgeageError(f"{path} is no valid file of results: {error.finding}; measure again") from None
    except EdgeageError as error:
        raise EdgeageError(f"{path}: {error}") from None


def _count(value: Any, where: str) -> int:
    if read_integer(value, where) < 0:
        raise invalid(where, f"is {value}, expected 0 or more")
    return int(value)


def _percentile(value: Any, where: str) -> Percentile:
    fields = read_fields(value, ("q", "value", "low", "high", "samples", "independent", "needed"), where)
    value, low, high = (
        None if fields[key] is None else read_number(fields[key], f"{where}.{key}")
        for key in ("value", "low", "high")
    )
    counts = (_count(fields[key], f"{where}.{key}") for key in ("samples", "independent", "needed"))
    return Percentile(read_number(fields["q"], f"{where}.q"), value, low, high, *counts)
