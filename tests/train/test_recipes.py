"""Recipes and profiles are data: the shipped ones are valid, and mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeage.errors import EdgeageError
from edgeage.train.data import open_source
from edgeage.train.profiles.schema import load_profile, shipped
from edgeage.train.recipes.schema import load_recipe


@pytest.mark.parametrize("name", shipped("recipes"))
def test_shipped_recipes_are_valid_and_name_a_shipped_profile(name: str):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_profile(recipe.profile).name == recipe.profile


@pytest.mark.parametrize("name", shipped("profiles"))
def test_shipped_profiles_are_valid(name: str):
    assert load_profile(name).name == name


def test_paper_runs_the_articles_three_stages_in_order():
    stages = [stage.__struct_config__.tag for stage in load_recipe("paper").stages]
    assert stages[-3:] == ["cgan", "encoder", "identity"]


def test_unknown_names_are_told_with_what_there_is():
    with pytest.raises(
        EdgeageError, match="shipped are edge, encoder, paper, recogniser, recogniser-relu, smoke"
    ):
        load_recipe("edg")
    with pytest.raises(EdgeageError, match="shipped are edge, paper"):
        load_profile("phone")
    with pytest.raises(EdgeageError, match="cannot read the recipe"):
        load_recipe("nowhere/none.json")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stagse": []}, "stagse"),
        ({"stages": []}, "no stages"),
        ({"stages": [{"stage": "cgan", "steps": 0, "batch": 8, "learning_rate": 1e-3}]}, "steps"),
        ({"stages": [{"stage": "cgan", "steps": 5, "batch": 8, "learning_rat": 1e-3}]}, "learning_rat"),
        ({"stages": [{"stage": "gan", "steps": 5, "batch": 8, "learning_rate": 1e-3}]}, "gan"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, change: dict[str, object], told: str):
    good = {
        "name": "x",
        "profile": "edge",
        "stages": [{"stage": "cgan", "steps": 5, "batch": 8, "learning_rate": 1e-3}],
    }
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**good, **change}), encoding="utf-8")
    with pytest.raises(EdgeageError, match=told):
        load_recipe(str(path))


def test_a_profile_whose_sizes_do_not_meet_is_refused(tmp_path: Path):
    from importlib import resources

    shape = json.loads(resources.files("edgeage.train.profiles").joinpath("edge.json").read_text())
    shape["generator"]["stem_size"] = 5
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(shape), encoding="utf-8")
    with pytest.raises(EdgeageError, match="doubled 4 times"):
        load_profile(str(path))


def test_the_smoke_recipe_splits_the_drawn_faces_of_its_own_example():
    """`edgeage train --recipe smoke --data procedural:256` stands in the help and in the README's spirit."""
    parts = load_recipe("smoke").split(open_source("procedural:256", image_size=16))
    assert min(len(part) for part in parts) >= 8
