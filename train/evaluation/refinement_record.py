"""What the judge says of each K, put into the bundle that was measured: whoever chooses a K looks there."""

from __future__ import annotations

from typing import Any

from edgeage.errors import EdgeageError
from edgeage.files import write_json
from edgeage.runtime.bundle import Bundle
from edgeage.train.evaluation.forms import DEVICE

JUDGE = "dlib face recogniser"
_FIGURES = {"distance": "judge_distance", "similarity": "judge_similarity", "verified": "same_strict"}


def check_recordable(bundle: Bundle) -> None:
    """EdgeageError for a zip, whose manifest cannot be written; asked before the long work."""
    if not bundle.path.is_dir():
        raise EdgeageError(f"{bundle.path} is a zip; --record writes into the folder NAME.agebundle")


def record(report: dict[str, Any], bundle: Bundle) -> None:
    """Write `by_steps` into the bundle's manifest, as `refinement.quality`, in place of what was there."""
    check_recordable(bundle)
    manifest = bundle.manifest.to_dict()
    manifest["refinement"]["quality"] = by_steps(report)
    write_json(bundle.path / "manifest.json", manifest)


def by_steps(report: dict[str, Any]) -> list[dict[str, Any]]:
    """For each K of the device's form: {"steps", "judge", "faces", "distance", "similarity", "verified"}.

    Means over the report's faces: Euclidean distance and cosine of the judge's embeddings of the refined and
    the real face, and the share of faces that it takes for the same person strictly. [] without that form.
    """
    found = []
    for row in report["rows"]:
        form, _, steps = row["name"].partition(" K=")
        if row["section"] == "reconstruction" and form == DEVICE:
            figures = {name: round(row["figures"][key]["value"], 4) for name, key in _FIGURES.items()}
            found.append({"steps": int(steps), "judge": JUDGE, "faces": row["faces"], **figures})
    return found
