"""All places beside the golden codes: who ran, what was found, what was not run and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.conformance.places import Place
from edgeage.runtime.conformance.record import FACE_KEY, Record, record
from edgeage.runtime.conformance.rules import SAME, Kernels, Row, compare, kernels_of
from edgeage.runtime.conformance.vectors import Golden
from edgeage.runtime.engines.packages import problem

HERE = "this machine"


@dataclass(frozen=True)
class Outcome:
    """What became of one place.

    Attributes:
        name: of the place.
        record, kernels, rows: what ran there, what may be asked of it, and every output compared; None, None
            and empty if it was not run or failed.
        not_run, enable: why, and the command that changes it.
        failed: what went wrong while it ran; "" if nothing.
    """

    name: str
    record: Record | None = None
    kernels: Kernels | None = None
    rows: tuple[Row, ...] = ()
    not_run: str = ""
    enable: str = ""
    failed: str = ""

    @property
    def ok(self) -> bool:
        """Nothing that ran went wrong."""
        return not self.failed and all(row.ok for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        if self.record is None or self.kernels is None:
            facts = (
                {"not_run": self.not_run, "enable": self.enable} if self.not_run else {"failed": self.failed}
            )
            return {"name": self.name, **facts}
        return {
            "name": self.name,
            "tool": self.record.tool,
            "machine": self.record.machine,
            "seconds": round(self.record.seconds, 2),
            "kernels": self.kernels.name,
            "reason": self.kernels.reason,
            "ok": self.ok,
            "rows": [asdict(row) for row in self.rows],
        }


def conform(
    bundle: Bundle,
    engines: Sequence[str],
    places: Sequence[Place],
    recorded: dict[str, Record],
    photo: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Compare every place with the golden codes; two other places run at a time.

    Args:
        engines: packages of this process that are run, see `ENGINE_FORMATS`.
        recorded: records made elsewhere, by name.
        photo: aged wherever the whole pipeline is there.
        say: is told each place as it ends.

    Raises EdgeageError if the bundle has no golden vectors.
    """
    expected = Golden(bundle).expected()
    found: dict[str, Record | Outcome] = {}
    for engine in engines:
        name = f"{HERE}, {engine}"
        if trouble := problem(engine):
            reason, _, enable = trouble.rpartition(": ")
            reason = reason.removesuffix("; add it with")
            found[name] = Outcome(name, not_run=reason, enable=enable)
        else:
            found[name] = made = record(bundle, engine, photo)
            say(f"{name}: {made.seconds:.1f} s")
    with ThreadPoolExecutor(max_workers=2) as pool:
        for place, result in zip(
            places, pool.map(lambda one: _visit(one, bundle, photo, say), places), strict=True
        ):
            found[place.name] = result
    found.update(recorded)
    reference = _reference(bundle, found, expected)
    return [
        result if isinstance(result, Outcome) else _outcome(name, result, bundle, expected, reference)
        for name, result in found.items()
    ]


def _visit(place: Place, bundle: Bundle, photo: Path | None, say: Callable[[str], None]) -> Record | Outcome:
    if place.not_run:
        return Outcome(place.name, not_run=place.not_run, enable=place.enable)
    try:
        result = place.run(bundle, photo)
    except EdgeageError as error:
        say(f"{place.name}: failed")
        return Outcome(place.name, failed=str(error))
    say(f"{place.name}: {result.seconds:.1f} s")
    return result


def _outcome(
    name: str, result: Record, bundle: Bundle, expected: dict[str, Any], reference: Record | None
) -> Outcome:
    kernels = kernels_of(result.tool, result.machine, bundle.manifest)
    return Outcome(name, result, kernels, tuple(compare(result, expected, reference, kernels)))


def _reference(bundle: Bundle, found: dict[str, Record | Outcome], expected: dict[str, Any]) -> Record | None:
    """A record of the export's own kernels whose golden codes are all exact; one with photos first."""
    exact = [
        result
        for result in found.values()
        if isinstance(result, Record)
        and kernels_of(result.tool, result.machine, bundle.manifest) is SAME
        and FACE_KEY in result.codes
        and all(row.ok for row in compare(result, expected, None, SAME))
    ]
    return max(exact, key=lambda result: bool(result.photos), default=None)
