"""A recogniser whose PReLUs become ReLUs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeage.train.networks.mobilefacenet import Slopes
from edgeage.train.stages.recogniser import fade


def test_slopes_go_to_zero_in_a_straight_line() -> None:
    slopes = [Slopes(3), Slopes(2)]
    seen = []
    for step in range(6):
        fade(slopes, step, 4.0)
        seen.append(float(slopes[0].weight[0].detach()))
    np.testing.assert_allclose(seen, [0.1875, 0.125, 0.0625, 0, 0, 0], atol=1e-7)
    assert not slopes[1].weight.any()


@pytest.mark.parametrize("steps", [2.5, 0.5])
def test_a_share_that_is_no_whole_step_ends_at_zero_too(steps: float) -> None:
    slopes = [Slopes(4)]
    for step in range(3):
        fade(slopes, step, steps)
    assert torch.equal(slopes[0].weight.detach(), torch.zeros(4))
