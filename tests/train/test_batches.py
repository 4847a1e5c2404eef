"""Drawing and varying: labels stay with their images, groups are balanced, seeds decide everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeage.train.batches import Sampler, degrade, gaussian_blur, rng_for, to_images, vary, vary_geometry


def make_sampler() -> Sampler:
    """Faces whose every label can be read off their pixels; group 5 is rare, group 2 absent."""
    groups = np.array([0] * 50 + [1] * 30 + [3] * 10 + [4] * 9 + [5], dtype=np.int64)
    images = np.zeros((100, 8, 8, 3), np.uint8)
    images[:, :, :, 0] = np.arange(100)[:, None, None]
    teacher = np.arange(100, dtype=np.float32)[:, None]
    return Sampler(images, groups, teacher, np.arange(100, dtype=np.int64), 6, torch.device("cpu"))


def test_labels_stay_with_their_images():
    sampler = make_sampler()
    batch = sampler.draw(64, 0.5, np.random.default_rng(0))
    numbers = ((batch.images[:, 0, 0, 0] + 1) * 127.5).round().long()
    assert torch.equal(batch.identities, numbers)
    assert torch.equal(batch.teacher[:, 0].long(), numbers)
    assert torch.equal(batch.groups, sampler.groups[numbers])
    assert torch.equal(batch.conditions.argmax(1), batch.groups)


def test_the_balanced_share_is_even_over_the_groups_that_exist():
    batch = make_sampler().draw(3000, 1.0, np.random.default_rng(0))
    counts = torch.bincount(batch.groups, minlength=6)
    assert counts[2] == 0
    assert (counts[[0, 1, 3, 4, 5]] > 500).all()
    natural = make_sampler().draw(3000, 0.0, np.random.default_rng(0))
    assert torch.bincount(natural.groups)[0] > 1300


def test_a_step_draws_the_same_whenever_it_is_run():
    sampler = make_sampler()
    first = sampler.draw(16, 0.5, rng_for(1, 2, 3))
    noise = torch.randn(4)
    again = sampler.draw(16, 0.5, rng_for(1, 2, 3))
    assert torch.equal(first.images, again.images)
    assert torch.equal(noise, torch.randn(4))
    assert not torch.equal(first.images, sampler.draw(16, 0.5, rng_for(1, 2, 4)).images)


def test_to_images_is_u8_over_127_5_minus_1():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert to_images(pixels).ravel().tolist() == pytest.approx([-1, -0.6, 1])


def test_variation_of_nothing_changes_nothing():
    images = torch.rand(3, 3, 16, 16)
    assert torch.allclose(vary_geometry(images, 0.0, 0.0, mirror=False), images, atol=1e-6)


def test_varying_keeps_shape_and_differs_per_image():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16).expand(4, -1, -1, -1)
    varied = vary(image)
    assert varied.shape == image.shape
    assert not torch.allclose(varied[0], varied[1])


def test_blur_keeps_a_flat_image_and_its_mean():
    flat = torch.full((1, 3, 12, 12), 0.3)
    assert torch.allclose(gaussian_blur(flat, 1.5), flat, atol=1e-6)


def test_degrading_leaves_its_input_alone():
    images = torch.rand(8, 3, 64, 64)
    before = images.clone()
    changed = degrade(images, np.random.default_rng(0))
    assert torch.equal(images, before)
    assert (changed != images).flatten(1).any(1).sum() == 6  # three quarters of the batch
