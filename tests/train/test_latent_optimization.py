"""Latent optimisation on nets so small that the right answer is known or can be differenced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeage.errors import EdgeageError
from edgeage.train.latent_optimization import MODES, Face, RefinementSettings, losses, optimise, refine

LATENT, GROUPS, SIDE = 5, 6, 8


class TinyGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(LATENT + GROUPS, 3 * SIDE * SIDE)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        flat = torch.tanh(self.dense(torch.cat([latent, condition], 1)))
        return flat.reshape(-1, 3, SIDE, SIDE)


class TinyEmbedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3 * SIDE * SIDE, 4)

    def forward(self, image: Tensor) -> Tensor:
        return torch.sin(self.dense(image.flatten(1)))


@pytest.fixture
def nets() -> tuple[TinyGenerator, TinyEmbedder]:
    torch.manual_seed(0)
    return TinyGenerator().double().eval(), TinyEmbedder().double().eval()


@pytest.fixture
def face(nets: tuple[TinyGenerator, TinyEmbedder]) -> Face:
    generator, embedder = nets
    conditions = torch.eye(GROUPS, dtype=torch.float64)[[0, 3, 5]]
    with torch.no_grad():
        images = generator(torch.randn(3, LATENT, dtype=torch.float64), conditions)
    return Face.of(images, conditions, embedder)


@pytest.mark.parametrize("identity", ["cosine", "euclidean"])
@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_that_of_finite_differences(nets, face: Face, mode, identity):
    generator, embedder = nets
    settings = RefinementSettings(identity=identity, pixel_weight=3.0)
    z = torch.randn(3, LATENT, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses(generator, embedder, z, face, settings, mode)[0].sum(), z)
    step = 1e-6
    with torch.no_grad():
        for column in range(LATENT):
            moved = torch.zeros(LATENT, dtype=torch.float64)
            moved[column] = step
            above, below = (
                losses(generator, embedder, z + sign * moved, face, settings, mode)[0] for sign in (1, -1)
            )
            assert torch.allclose((above - below) / (2 * step), gradient[:, column], atol=1e-7, rtol=1e-5)


def test_combined_is_identity_plus_weighted_pixels(nets, face: Face):
    settings = RefinementSettings(pixel_weight=7.0)
    z = torch.randn(3, LATENT, dtype=torch.float64)
    pixel, identity, both = (losses(*nets, z, face, settings, mode)[0] for mode in MODES)
    assert torch.allclose(both, identity + 7.0 * pixel)


def test_one_step_is_the_formula(nets, face: Face):
    """z1 = z0 - step * sign(g), kept only where the cosine rose."""
    settings = RefinementSettings(step=0.05, decay=0.5)
    z = torch.randn(3, LATENT, dtype=torch.float64, requires_grad=True)
    loss, before = losses(*nets, z, face, settings)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    moved = z.detach() - 0.05 * gradient.sign()
    after = losses(*nets, moved, face, settings)[1]
    expected = torch.where((after > before)[:, None], moved, z.detach())
    assert torch.equal(refine(*nets, z, face, [1], settings)[1], expected)
    # and the second goes half as far, from where the first led, better or not
    again = moved.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(*nets, again, face, settings)[0].sum(), again)
    candidates = [z.detach(), moved, moved - 0.025 * gradient.sign()]
    cosines = torch.stack([losses(*nets, one, face, settings)[1] for one in candidates])
    best = torch.stack(candidates)[cosines.argmax(0), torch.arange(3)]
    assert torch.allclose(refine(*nets, z, face, [2], settings)[2], best, atol=1e-12)


def test_the_best_is_kept_even_if_steps_overshoot(nets, face: Face):
    wild = RefinementSettings(step=5.0, decay=1.0)
    z = torch.randn(3, LATENT, dtype=torch.float64)
    found = refine(*nets, z, face, range(7), wild)
    cosines = torch.stack([losses(*nets, found[k], face, wild)[1] for k in range(7)])
    assert torch.equal(found[0], z)
    assert (cosines.diff(dim=0) >= 0).all()


def test_refinement_brings_the_face_nearer(nets, face: Face):
    settings = RefinementSettings(pixel_weight=1.0)
    z = torch.randn(3, LATENT, dtype=torch.float64)
    found = refine(*nets, z, face, [0, 8], settings)
    loss = [losses(*nets, found[k], face, settings)[0] for k in (0, 8)]
    assert (loss[1] < 0.7 * loss[0]).all()


def test_a_batch_is_what_its_faces_are_alone(nets, face: Face):
    z = torch.randn(3, LATENT, dtype=torch.float64)
    together = refine(*nets, z, face, [4])[4]
    bfgs = optimise(*nets, z, face, "combined", iterations=5)
    for row in range(3):
        alone = Face(face.images[row, None], face.conditions[row, None], face.target[row, None])
        assert torch.allclose(refine(*nets, z[row, None], alone, [4])[4], together[row, None])
        assert torch.allclose(
            optimise(*nets, z[row, None], alone, "combined", iterations=5), bfgs[row, None], atol=1e-9
        )


@pytest.mark.parametrize("mode", MODES)
def test_lbfgs_finds_what_it_is_asked_for(nets, face: Face, mode):
    settings = RefinementSettings()
    z = torch.randn(3, LATENT, dtype=torch.float64)
    start = losses(*nets, z, face, settings, mode)[0]
    end = losses(*nets, optimise(*nets, z, face, mode, settings, iterations=60), face, settings, mode)[0]
    assert (end <= start).all()
    assert end.mean() < 0.1 * start.mean()


def test_lbfgs_ends_on_the_best_it_has_seen(nets, face: Face):
    """Its line search passes worse points, but does not stay on one."""
    generator, embedder = nets
    seen: list[Tensor] = []

    def watched(latent: Tensor, condition: Tensor) -> Tensor:
        seen.append(latent.detach().clone())
        return generator(latent, condition)

    alone = Face(face.images[:1], face.conditions[:1], face.target[:1])
    settings = RefinementSettings()
    for seed in range(6):
        seen.clear()
        torch.manual_seed(seed)
        z = 3 * torch.randn(1, LATENT, dtype=torch.float64)
        found = optimise(watched, embedder, z, alone, "identity", iterations=1)
        with torch.no_grad():
            told, *passed = (
                float(losses(generator, embedder, one, alone, settings, "identity")[0])
                for one in (found, *seen)
            )
        assert told == min(passed)
        assert told < max(passed)


def test_no_gradient_stays_on_the_nets_or_the_latent(nets, face: Face):
    generator, embedder = nets
    z = torch.randn(3, LATENT, dtype=torch.float64)
    found = refine(generator, embedder, z, face, [2])[2]
    optimise(generator, embedder, z, face, "identity", iterations=2)
    assert not found.requires_grad
    assert z.grad is None
    assert all(parameter.grad is None for net in nets for parameter in net.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": 0.0},
        {"step": float("nan")},
        {"step": float("inf")},
        {"decay": 0.0},
        {"decay": 1.1},
        {"pixel_weight": -1.0},
        {"pixel_weight": float("nan")},
        {"identity": "angle"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]):
    with pytest.raises(EdgeageError):
        RefinementSettings(**wrong)  # type: ignore[arg-type]


def test_what_cannot_be_asked_is_refused(nets, face: Face):
    z = torch.zeros(3, LATENT, dtype=torch.float64)
    with pytest.raises(EdgeageError, match="0 or more"):
        refine(*nets, z, face, [-1])
    with pytest.raises(EdgeageError, match="unknown mode 'pixels'"):
        optimise(*nets, z, face, "pixels")  # type: ignore[arg-type]
