"""The evaluation from a checkpoint to its report, on drawn faces, judged by a test double."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests_support import edgeage

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.train.checkpoint import Checkpoint
from edgeage.train.data import Faces, open_source
from edgeage.train.evaluation import aging, metrics
from edgeage.train.evaluation import evaluate as evaluation
from edgeage.train.evaluation.evaluate import Settings, evaluate, write_report
from edgeage.train.evaluation.outputs import Model, add_difference, pixels, tensors
from edgeage.train.evaluation.recogniser import gradient_agreement
from edgeage.train.evaluation.report import headlines, markdown
from edgeage.train.evaluation.rows import Row, summarise
from edgeage.train.evaluation.subject import choose_faces, examine, spaced, thin
from edgeage.train.evaluation.synthetic import synthetic_ages

SOURCE = "procedural:120"
QUICK = Settings(synthetic=48, paper_faces=2)


@pytest.fixture(scope="module")
def outcome(checkpoint: Checkpoint, faces: Faces, fake_judges: Any) -> tuple[dict[str, Any], Any]:
    return evaluate(checkpoint, faces, fake_judges, QUICK)


def row(report: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in report["rows"] if (one["section"], one["name"]) == (section, name)]
    return found


def test_every_section_has_its_rows_and_baselines(outcome):
    report, _ = outcome
    names: dict[str, list[str]] = {}
    for one in report["rows"]:
        names.setdefault(one["section"], []).append(one["name"])
    baselines = ["return the input", "mean face of the group"]
    assert names["reconstruction"] == [*baselines, "K=0", "K=3", "K=8"]
    assert names["aged, random target"][:2] == ["return the input", "mean face of the target"]
    assert names["aged, random target"][3:] == ["raw K=0", "raw K=3", "raw K=8", "delta x1 K=0"]
    assert names["all ages"][2:] == [names["aged, random target"][2], "raw K=0", "raw K=8", "delta x1 K=0"]
    assert names["paper's table"] == ["initial", "pixelwise", "identity", "combined"]
    assert names["controls"] == ["mirrored", "blur sigma 1", "blur sigma 2"]
    assert names["synthetic faces"] == ["real faces", "prior N(0, I)", "fitted normal", "encoded"]


def test_the_report_is_strict_json_and_says_what_it_is(outcome, checkpoint: Checkpoint, faces: Faces):
    report, _ = outcome
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["checkpoint"]["sha256"] == checkpoint.sha256
    assert again["data"]["fingerprint"] == faces.fingerprint
    assert again["data"]["split"].startswith("test part")
    assert again["settings"]["refinement"]["step"] == 0.2
    assert any("--lfw" in text for text in again["not_run"])
    assert any("--teacher" in text for text in again["not_run"])


def test_returning_the_input_is_perfect_identity_and_no_age(outcome):
    report, _ = outcome
    same = row(report, "reconstruction", "return the input")["figures"]
    assert same["judge_distance"]["value"] == 0
    assert same["psnr_db"]["value"] is None  # infinite
    assert same["ssim"]["value"] == pytest.approx(1)
    assert same["kernel_distance"]["value"] == pytest.approx(0)
    assert same["sharpness"]["value"] == 1
    ages = row(report, "all ages", "return the input")["figures"]
    assert ages["age_range"]["value"] == 0
    assert ages["pooled_spearman"]["value"] == 0
    assert ages["same_strict_to_60+"]["value"] == 1


def test_figures_stand_in_their_intervals_and_means_of_labels_are_the_whole(outcome):
    report, _ = outcome
    for one in report["rows"]:
        for name, figure in one["figures"].items():
            if figure["low"] is not None and name != "age_range_sd":
                slack = 0.1 * max(abs(figure["value"]), 0.2)  # of pooled figures the bootstrap is biased
                assert figure["low"] - slack <= figure["value"] <= figure["high"] + slack, (one["name"], name)
    shares = row(report, "aged, random target", "raw K=0")
    for label in ("age group", "target group", "group distance"):
        parts = shares["by"][label].values()
        assert sum(part["faces"] for part in parts) == shares["faces"]
        whole = sum(part["faces"] * part["judge_distance"] for part in parts) / shares["faces"]
        assert whole == pytest.approx(shares["figures"]["judge_distance"]["value"])


def test_the_text_holds_every_row_and_the_picture_every_column(outcome):
    report, picture = outcome
    text = markdown(report)
    for one in report["rows"]:
        assert f"| {one['name']} |" in text
    for heading in ("# Evaluation", "## Reconstruction", "## All ages", "## By label", "## Not run"):
        assert heading in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| raw K=8 |")}
    assert min(widths) > 5
    assert any("delta x1" in line for line in headlines(report))
    assert picture.width == 64 + 96 * (1 + 3 + 6 + 6)


def test_tables_are_whole(outcome):
    """Every line of a Markdown table has as many cells as its head."""
    columns = None
    for line in markdown(outcome[0]).splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        columns = columns or line.count("|")
        assert line.count("|") == columns, line


def test_gender_and_race_labels_are_told_apart(checkpoint: Checkpoint, faces: Faces, fake_judges: Any):
    count = len(faces)
    labelled = replace(faces, genders=np.arange(count) % 3 - 1, races=np.full(count, 2))
    report, _ = evaluate(checkpoint, labelled, fake_judges, replace(QUICK, synthetic=0, paper_faces=0))
    by = row(report, "reconstruction", "K=0")["by"]
    assert set(by["gender"]) == {"male", "female"}  # and those of unknown gender in neither
    assert list(by["race label"]) == ["Asian"]
    assert sum(part["faces"] for part in by["gender"].values()) < report["data"]["faces"]
    assert by["race label"]["Asian"]["faces"] == report["data"]["faces"]
    assert "Asian" in markdown(report)


def test_the_same_seed_gives_the_same_figures(
    checkpoint: Checkpoint, faces: Faces, fake_judges: Any, outcome
):
    again, _ = evaluate(checkpoint, faces, fake_judges, QUICK)
    assert again["rows"] == outcome[0]["rows"]


def test_parts_are_those_of_the_training(checkpoint: Checkpoint, faces: Faces):
    test, validation = (choose_faces(faces, checkpoint, part) for part in ("test", "validation"))
    assert test.training is not None
    parts = [set(one.ids) for one in (test.faces, validation.faces, test.training)]
    assert sum(map(len, parts)) == len(faces)
    assert not parts[0] & parts[1]
    assert "SEEN IN TRAINING" in choose_faces(faces, checkpoint, "all").split
    with pytest.raises(EdgeageError, match="unknown part 'train'"):
        choose_faces(faces, checkpoint, "train")


def test_a_run_that_knew_no_test_part_says_so(checkpoint: Checkpoint, faces: Faces):
    strangers = replace(faces, identities=None)  # split one by one, not by person
    recipe = {key: value for key, value in checkpoint.meta["recipe"].items() if key != "test"}
    data = {"fingerprint": strangers.fingerprint}
    old = replace(checkpoint, meta={**checkpoint.meta, "recipe": recipe, "data": data})
    assert "WAS SEEN IN TRAINING" in choose_faces(strangers, old, "validation").split
    assert "SEEN" not in choose_faces(strangers, old, "test").split


def test_other_data_are_used_whole_and_that_is_said(checkpoint: Checkpoint, fake_judges: Any):
    other = open_source("procedural:30:5", 32)
    report, _ = evaluate(checkpoint, other, fake_judges, replace(QUICK, paper_faces=0))
    assert report["data"]["faces"] == 30
    assert "not the data of the training" in report["data"]["split"]
    assert report["data"]["means_from"] == "the evaluated faces themselves"
    assert any("fitted normal" in text for text in report["not_run"])


def test_fewer_faces(faces: Faces):
    few = thin(faces, 40, None, seed=0)
    assert len(few) == 40
    assert few.ids == sorted(few.ids, key=faces.ids.index)
    assert thin(faces, 40, None, seed=0).ids == few.ids
    assert thin(faces, 40, None, seed=1).ids != few.ids
    even = thin(faces, None, 3, seed=0)
    assert set(even.group_counts().values()) == {3}
    with pytest.raises(EdgeageError, match="--per-group 1000"):
        thin(faces, None, 1000, seed=0)
    with pytest.raises(EdgeageError, match="5 faces are too few"):
        thin(faces, 5, None, seed=0)


def test_a_few_are_taken_from_all_over():
    assert spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert spaced(3, 10).tolist() == [0, 1, 2]


def test_random_targets_are_never_the_own_group():
    groups = np.arange(6000) % 6
    targets = aging.random_targets(groups, 3)
    assert (targets != groups).all()
    counts = np.bincount(6 * groups + targets, minlength=36).reshape(6, 6)
    assert counts[~np.eye(6, dtype=bool)].min() > 150  # each of the five others about 200 times


def test_the_difference_cancels_at_the_own_group(checkpoint: Checkpoint, faces: Faces):
    model = Model(checkpoint)
    latent = model.encode(faces.images)
    same = model.generate(latent, faces.groups)
    assert (add_difference(faces.images, same, same, 1.7) == faces.images).all()
    other = model.generate(latent, (faces.groups + 1) % 6)
    once, twice = (add_difference(faces.images, other, same, s).astype(int) for s in (1.0, 2.0))
    free = (np.abs(twice - 127) < 120) & (np.abs(once - 127) < 120)
    assert np.abs((twice - faces.images) - 2 * (once - faces.images))[free].max() <= 2


def test_eight_bits_and_back():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert (pixels(tensors(every)) == every).all()
    beyond = torch.tensor([-2.0, 3.0]).reshape(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert pixels(beyond).ravel().tolist() == [0, 0, 0, 255, 255, 255]


def test_the_no_model_row_is_what_it_says(checkpoint: Checkpoint, faces: Faces, fake_judges: Any):
    subject = examine(faces, None, fake_judges)
    ways = aging.agers(subject, Model(checkpoint), {0: torch.zeros(len(faces), 12)}, 1.0)
    no_model = next(way for name, way in ways.items() if name.startswith("no model"))
    targets = (subject.groups + 2) % 6
    means = [faces.images[faces.groups == group].mean(0) for group in range(6)]
    change = np.stack([means[t] - means[g] for t, g in zip(targets, subject.groups, strict=True)])
    expected = (faces.images + change).clip(0, 255)
    assert np.abs(no_model(targets) - expected).max() <= 1.5


def test_the_mean_face_is_that_of_the_own_group(outcome, checkpoint: Checkpoint, faces: Faces):
    test, training = choose_faces(faces, checkpoint).faces, choose_faces(faces, checkpoint).training
    assert training is not None
    means = np.stack([training.images[training.groups == group].mean(0) for group in range(6)])
    expected = metrics.psnr(np.rint(means).astype(np.uint8)[test.groups], test.images).mean()
    told = row(outcome[0], "reconstruction", "mean face of the group")["figures"]["psnr_db"]["value"]
    assert told == pytest.approx(expected)


def test_ages_are_read_at_their_groups(faces: Faces, fake_judges: Any):
    """A way to age that only brightens, which is what the test double takes for age."""
    subject = examine(faces, None, fake_judges)

    def brighten(targets: np.ndarray) -> np.ndarray:
        return np.broadcast_to((50 * targets)[:, None, None, None], faces.images.shape).astype(np.uint8)

    (told,) = (summarise(one, {}) for one in aging.all_ages(subject, {"brighten": brighten}, fake_judges))
    assert told["figures"]["age_range"]["value"] == pytest.approx(250 / 255 * 80)
    assert told["figures"]["age_range_sd"]["value"] == pytest.approx(0)
    assert told["figures"]["monotonicity"]["value"] == 1
    assert told["figures"]["pooled_spearman"]["value"] == pytest.approx(1)
    assert told["facts"]["judged_age_at"]["60+"] == pytest.approx(250 / 255 * 80)
    white = np.full(faces.images.shape, 250, np.uint8)
    distance = metrics.distances(fake_judges.embeddings(white, ""), subject.embeddings)
    assert told["figures"]["judge_distance_to_60+"]["value"] == pytest.approx(distance.mean())
    assert told["figures"]["same_lax_to_60+"]["value"] == (distance < 0.6).mean()


def test_accuracy_does_not_depend_on_the_mix_of_ages(checkpoint: Checkpoint, faces: Faces, fake_judges: Any):
    lopsided = faces.select(np.flatnonzero((faces.groups > 1) | (np.arange(len(faces)) < 12)))
    assert len(set(lopsided.group_counts().values())) > 1
    subject = examine(lopsided, None, fake_judges)
    real, prior, _ = synthetic_ages(subject, Model(checkpoint), None, 18, 0, fake_judges)
    right = metrics.judged_groups(subject.judged_ages) == subject.groups
    error = np.abs(subject.judged_ages - subject.mean_ages[subject.groups])
    each = [(right[subject.groups == g].mean(), error[subject.groups == g].mean()) for g in range(6)]
    everyone = np.arange(len(subject))
    told = [real.pooled[name](everyone) for name in ("exact_group", "absolute_error")]
    assert told == pytest.approx(np.mean(each, axis=0))
    assert told[1] != pytest.approx(error.mean())
    gap = told[0] - prior.pooled["exact_group"](np.arange(18))
    assert prior.facts["points_below_real"] == pytest.approx(100 * gap)


def test_rows_count_shares_and_means_by_label():
    one = Row(
        "s",
        "n",
        {"yes": np.array([True, False, True, True]), "mean": np.array([1.0, 2.0, 3.0, np.inf])},
        {"most": lambda chosen: float(chosen.max())},
        {"kind": np.array(["a", "a", "b", ""])},
    )
    told = summarise(one, {})
    assert told["figures"]["yes"]["value"] == 0.75
    assert told["figures"]["mean"] == {"value": None, "low": None, "high": None}
    assert told["by"]["kind"]["a"] == {"faces": 2, "yes": 0.5, "mean": 1.5, "most": 1.0}
    assert told["by"]["kind"]["b"] == {"faces": 1, "yes": 1.0, "mean": 3.0, "most": 2.0}


def test_gradients_agree_with_themselves_and_not_with_another_net(checkpoint: Checkpoint, faces: Faces):
    model = Model(checkpoint)
    few = faces.images[:8]
    z, y = model.encode(few), model.condition(faces.groups[:8])
    same = gradient_agreement(model.generator, model.embedder, model.embedder, z, y, tensors(few))
    assert same == pytest.approx(np.ones(8), abs=1e-5)
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 16))
    mixed = gradient_agreement(model.generator, model.embedder, other, z, y, tensors(few))
    assert mixed.abs().mean() < 0.7


@pytest.mark.parametrize("strength", [0.0, -1.0, 9.0, float("nan")])
def test_a_strength_out_of_range_is_refused(
    checkpoint: Checkpoint, faces: Faces, fake_judges: Any, strength: float
):
    with pytest.raises(EdgeageError, match="strength"):
        evaluate(checkpoint, faces, fake_judges, replace(QUICK, strength=strength))


def test_faces_of_another_size_are_refused(checkpoint: Checkpoint, fake_judges: Any):
    with pytest.raises(EdgeageError, match="faces of 16 px for a model of 32 px"):
        evaluate(checkpoint, open_source("procedural:20", 16), fake_judges, QUICK)


def test_a_report_appears_whole_or_not_at_all(outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report, picture = outcome
    out = tmp_path / "evaluation"

    def interrupted(report: dict[str, Any]) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "markdown", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_report(report, picture, out)
    assert list(tmp_path.iterdir()) == []
    write_report(report, picture, out)
    assert sorted(path.name for path in out.iterdir()) == ["EVALUATION.md", "evaluation.json", "faces.png"]
    with pytest.raises(EdgeageError, match="exists already"):
        write_report(report, picture, out)
    write_report({**report, "tag": "second"}, picture, out, force=True)
    assert json.loads((out / "evaluation.json").read_text())["tag"] == "second"


def test_the_command(saved: Path, fake_judges: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "edgeage.train.evaluation.judges.PublishedJudges", lambda *args, **kwargs: fake_judges
    )
    arguments = ["evaluate", str(saved), "--data", SOURCE, "--part", "validation", "--synthetic", "12"]
    result = CliRunner().invoke(cli, [*arguments, "--tag", "first look", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "raw K=8" in result.output
    report = json.loads((saved / "evaluation" / "evaluation.json").read_text())
    assert report["tag"] == "first look"
    assert "validation" in report["data"]["split"]
    again = CliRunner().invoke(cli, arguments)
    assert isinstance(again.exception, EdgeageError)
    told = CliRunner().invoke(cli, [*arguments, "--json", "--out", str(saved / "other")])
    assert json.loads(told.stdout)["data"]["faces"] == report["data"]["faces"]


def test_a_missing_judge_is_one_line_with_the_command_that_fetches_it(saved: Path, tmp_path: Path):
    result = edgeage(
        "evaluate", str(saved), "--data", SOURCE, "--judges", str(tmp_path / "none"), cwd=tmp_path
    )
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"fetch it with: edgeage eval-setup --into {tmp_path / 'none'}" in result.stderr
    assert not (saved / "evaluation").exists()


def test_the_first_thing_checked_is_that_the_report_can_be_written(saved: Path):
    (saved / "evaluation").mkdir()
    result = edgeage("evaluate", str(saved), "--data", SOURCE)
    assert result.returncode == 2
    assert "exists already" in result.stderr
