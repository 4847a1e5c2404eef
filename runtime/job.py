"""One photo, aged and written with all that is asked for: what `edgeage age` does to each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeage import __version__
from edgeage.runtime.aged import AgedPhoto
from edgeage.runtime.photo.morph import Morph, check_kind
from edgeage.runtime.photo.page import Page
from edgeage.runtime.photo.sheets import STRIP, Sheet
from edgeage.runtime.photo.write import check_output, photo_name, write_photos
from edgeage.runtime.plan import Plan
from edgeage.runtime.provenance.marking import Marking, Provenance
from edgeage.runtime.session import Session


@dataclass(frozen=True)
class Done:
    """An aged photo and its files, the strip last."""

    result: AgedPhoto
    files: list[Path]
    write_ms: float
    provenance: Provenance | None

    def facts(self) -> dict[str, Any]:
        """Everything but the pixels and marks, as JSON values."""
        summary = self.result.summary()
        summary["timings_ms"]["write"] = round(self.write_ms, 3)
        return {**summary, "files": [str(path) for path in self.files]}


class Job:
    """What is done to each photo."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        engine: tuple[str, str],
        morph: str | None,
        page: bool,
        marking: Marking | None,
    ) -> None:
        """`engine`: its name and precision. `morph`: "gif", "webp" or None. EdgeageError for another one."""
        self._session, self._plan, self._engine, self._marking = session, plan, engine, marking
        self._morph, self._page = check_kind(morph) if morph else None, page

    def age(self, photo: Path, folder: Path, *, force: bool = False) -> Done:
        """Age a photo and write its pictures into `folder`. EdgeageError as `Session.age`, `write_photos`."""
        bundle, result = self._session.bundle, self._session.run(photo, self._plan)
        start, blended = time.perf_counter(), result.timings["blend"]
        boxes = [face.box for face in result.faces]
        sheets: list[Sheet] = []
        if self._morph:
            sheets.append(Morph(self._morph, boxes))
        if self._page:
            facts = f"Mode {result.mode}, strength {result.strength:g}, own group {result.source_group}."
            sheets.append(Page(photo.name, bundle.manifest.name, facts, boxes))
        provenance = None
        if self._marking:
            provenance = Provenance.of(bundle, result, self._marking, photo.read_bytes())
        files = write_photos(
            folder, result.photo, result.aged, boxes, provenance=provenance, sheets=sheets, force=force
        )
        # photos are blended while they are written
        spent = (time.perf_counter() - start) * 1e3 - (result.timings["blend"] - blended)
        return Done(result, files, spent, provenance)

    def check_output(self, folder: Path, *, force: bool = False) -> None:
        """OutputError if the pictures of a photo cannot be written to `folder`."""
        sheets = [f"morph.{self._morph}"] * bool(self._morph) + [Page.name] * self._page
        check_output(folder, [*map(photo_name, self._plan.targets), *sheets, STRIP], force=force)

    def settings(self) -> dict[str, Any]:
        """All that the pictures depend on, as JSON values."""
        plan, bundle = self._plan, self._session.bundle
        return {
            "edgeage": __version__,
            "bundle": {"name": bundle.manifest.name, "sha256": bundle.sha256},
            "engine": list(self._engine),
            "groups": list(plan.targets),
            "from": plan.source,
            "mode": plan.mode,
            "strength": plan.strength,
            "all_faces": plan.all_faces,
            "steps": plan.refinement.steps,
            "deadline_ms": plan.refinement.deadline_ms,
            "morph": self._morph,
            "html": self._page,
            "marks": self._marking.describe() if self._marking else None,
        }

    def bundle_facts(self) -> dict[str, str]:
        bundle = self._session.bundle
        return {"path": str(bundle.path), "name": bundle.manifest.name}
