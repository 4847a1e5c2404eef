"""The fewest layers to leave in float32 so that a network meets a quality target."""

from __future__ import annotations

from collections.abc import Sequence

from edgeage.calibration.choose import Calibrated, Writer, output_sqnr
from edgeage.calibration.graph import GraphView
from edgeage.calibration.observers import Feeds, session
from edgeage.calibration.sensitivity import Layer, layers
from edgeage.errors import EdgeageError


def plan_floats(
    calibrated: Calibrated, feeds: Sequence[Feeds], write: Writer, target_db: float | None, network: str
) -> frozenset[str]:
    """Outputs of the nodes to leave in float32; none if INT8 alone meets `target_db` (output SQNR).

    Greedy: the layer whose release gains most joins the plan until the target is met; then layers that
    turn out to be needless go back to INT8. Greedy is not proof of the least number, but no layer of the
    plan can be dropped alone.

    Raises EdgeageError if the network misses the target even in float32 (its inputs and outputs stay INT8).
    """
    if target_db is None:
        return frozenset()
    running = session(calibrated.graph)
    wanted = [running.run(None, dict(feed))[0] for feed in feeds]

    def score(plan: Sequence[Layer]) -> float:
        floats = {name for layer in plan for name in layer.outputs}
        return output_sqnr(write(calibrated.decide(floats)), feeds, wanted)

    plan: list[Layer] = []
    rest = layers(GraphView(calibrated.graph))
    best = score(rest)
    if best < target_db:
        raise EdgeageError(
            f"the {network} cannot reach {target_db:g} dB: with every layer in float32 it has {best:.1f} dB, "
            "for its inputs and outputs are INT8; ask for less"
        )
    reached = score(plan)
    while reached < target_db:
        scores = [score([*plan, layer]) for layer in rest]
        reached = max(scores)
        plan.append(rest.pop(scores.index(reached)))
    for layer in list(plan):
        without = [other for other in plan if other is not layer]
        if score(without) >= target_db:
            plan = without
    return frozenset(name for layer in plan for name in layer.outputs)
