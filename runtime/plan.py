"""What is to be done to a photo, checked once for all photos that it is done to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeage.errors import EdgeageError
from edgeage.groups import parse_group
from edgeage.runtime.photo.blend import USUAL_STRENGTHS, check_strength
from edgeage.runtime.refinement import RefinementOptions


@dataclass(frozen=True)
class Plan:
    """Made by `Session.plan`.

    Attributes:
        targets: name -> index of the groups to make.
        source: index of the faces' own group; None: searched for.
        mode, strength: of the blending.
        all_faces: else the largest only.
        refinement: K and how to step.
        warnings: what the user should know, one line each.
    """

    targets: Mapping[str, int]
    source: int | None
    mode: str
    strength: float
    all_faces: bool
    refinement: RefinementOptions
    warnings: tuple[str, ...]


def make_plan(
    names: Sequence[str],
    groups: Sequence[str] | None,
    mode: str,
    source_group: str | None,
    strength: float | None,
    all_faces: bool,
    refinement: RefinementOptions,
    warnings: Sequence[str],
) -> Plan:
    """See `Session.age` for what each means; EdgeageError for what cannot be or would change nothing."""
    if strength is None:
        strength = USUAL_STRENGTHS.get(mode, 1.0)
    check_strength(strength, mode)
    targets = range(len(names)) if groups is None else [parse_group(group, names) for group in groups]
    if not targets:
        raise EdgeageError(f"no age group asked for; the groups are {', '.join(names)}")
    if refinement.deadline_ms is not None and not refinement.steps and not warnings:
        raise EdgeageError("a deadline for the refinement, but no steps to refine; leave one of the two out")
    source = None if source_group is None else parse_group(source_group, names)
    notes = list(warnings)
    if source is not None and mode == "raw" and not refinement.steps:
        notes.append("the given own group changes nothing: mode raw without refinement does not need it")
    return Plan(
        {names[target]: target for target in targets},
        source,
        mode,
        strength,
        all_faces,
        refinement,
        tuple(notes),
    )
