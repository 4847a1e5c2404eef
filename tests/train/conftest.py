"""A profile and a recipe so small that all stages run in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PROFILE: dict[str, Any] = {
    "name": "tiny",
    "image_size": 32,
    "latent_size": 12,
    "embedding_size": 16,
    "encoder": {"channels": [8, 12, 16], "kernel": 4, "normalised_latent": True},
    "generator": {
        "dense": [],
        "stem_channels": 16,
        "stem_size": 4,
        "channels": [12, 8],
        "kernel": 3,
        "film": True,
        "output": "subpixel",
    },
    "discriminator": {"channels": [8, 12, 16], "kernel": 4, "condition": "projection"},
    "recogniser": {"kind": "mobile", "channels": [8, 12, 16]},
}

STAGES: list[dict[str, Any]] = [
    {"stage": "recogniser", "target": "identities", "steps": 6, "batch": 8, "learning_rate": 2e-3},
    {"stage": "cgan", "steps": 6, "batch": 8, "learning_rate": 2e-4, "r1_gamma": 1.0, "ema": 0.9},
    {"stage": "encoder", "steps": 6, "batch": 8, "learning_rate": 1e-3, "real_weight": 1.0},
    {"stage": "identity", "steps": 6, "batch": 8, "learning_rate": 5e-4},
]


@pytest.fixture(scope="session")
def tiny_fields() -> dict[str, Any]:
    """The tiny profile as its file has it, for fixtures that live longer than a test."""
    return PROFILE


@pytest.fixture
def tiny_profile(tmp_path: Path) -> str:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(PROFILE), encoding="utf-8")
    return str(path)


@pytest.fixture
def tiny_recipe(tmp_path: Path, tiny_profile: str) -> str:
    path = tmp_path / "tiny-recipe.json"
    recipe = {"name": "tiny", "profile": tiny_profile, "validation": 0.2, "test": 0.2, "stages": STAGES}
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return str(path)
