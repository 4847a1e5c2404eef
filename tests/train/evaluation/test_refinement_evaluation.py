"""The report on refinement, on drawn faces, tiny nets and a judge that is a test double."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
import torch
from click.testing import CliRunner
from tests_support import edgeage

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.runtime.bundle import Bundle, open_bundle
from edgeage.runtime.engines import Engine, Feeds
from edgeage.runtime.refinement import RefinementOptions
from edgeage.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeage.train.data import Faces
from edgeage.train.device_tuning import tune_on_device
from edgeage.train.evaluation import aging, metrics, refinement_report
from edgeage.train.evaluation.forms import INT8, Form, float_form, refined
from edgeage.train.evaluation.outputs import Model
from edgeage.train.evaluation.recogniser import engine_beside_teacher
from edgeage.train.evaluation.refinement import STEPS, Settings, evaluate_refinement
from edgeage.train.evaluation.refinement_record import check_recordable, record
from edgeage.train.evaluation.refinement_report import curves, headlines, markdown, write_report
from edgeage.train.evaluation.subject import choose_faces, examine, thin
from edgeage.train.latent_optimization import RefinementSettings

pytestmark = pytest.mark.usefixtures("one_thread")
SOURCE = "procedural:120"
QUICK = Settings(faces=14, references=3)
FORMS = ["float", *INT8]


class Coarse:
    """Another engine whose outputs have 8 bits: what quantisation does to it, roughly."""

    def __init__(self, engine: Engine) -> None:
        self.inputs, self.outputs, self._engine = engine.inputs, engine.outputs, engine
        self.description = f"coarse {engine.description}"

    def run(self, feeds: Feeds) -> Feeds:
        found = self._engine.run(feeds)
        steps = {name: np.abs(values).max() / 127 for name, values in found.items()}
        return {name: np.round(values / steps[name]) * steps[name] for name, values in found.items()}


def coarse_forms(checkpoint: Checkpoint) -> list[Form]:
    """TEST DOUBLES of the INT8 forms."""
    form = float_form(Model(checkpoint), checkpoint.profile, RefinementSettings("euclidean", 4.0))
    return [Form(name, {key: Coarse(engine) for key, engine in form.engines.items()}) for name in INT8]


def bundle_of(checkpoint: str, folder: Path) -> Path:
    """A bundle whose manifest says that it was exported from this checkpoint."""
    made = tiny_bundle.make(folder, refining=True)
    manifest = replace(
        made,
        refinement={**made.refinement, "step": 0.2, "pixel_weight": 4.0},
        lineage={**made.lineage, "checkpoint": checkpoint},
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.to_dict()))
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(bundle_of(checkpoint.sha256, tmp_path_factory.mktemp("bundle") / "tiny.agebundle"))


@pytest.fixture(scope="module")
def outcome(
    lively: Checkpoint, one_thread: None, bundle: Bundle, faces: Faces, fake_judges: Any
) -> tuple[dict[str, Any], Any]:
    return evaluate_refinement(lively, bundle, faces, fake_judges, coarse_forms(lively), QUICK)


def row(report: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in report["rows"] if (one["section"], one["name"]) == (section, name)]
    return found


def test_every_form_and_k_stands_beside_the_trivial_rows(outcome):
    names: dict[str, list[str]] = {}
    for one in outcome[0]["rows"]:
        names.setdefault(one["section"], []).append(one["name"])
    every = [f"{form} K={k}" for form in FORMS for k in (0, 1, 3, 5, 8)]
    assert names["reconstruction"] == ["return the input", "mean face of the group", *every]
    assert names["aged, random target"][:2] == ["return the input", "mean face of the target"]
    assert names["aged, random target"][3:] == every
    assert names["references"] == ["L-BFGS pixelwise", "L-BFGS identity", "L-BFGS combined"]
    assert list(outcome[0]["derived"]["forms"]) == FORMS


def test_the_report_is_strict_json_and_says_what_it_is(outcome, checkpoint: Checkpoint):
    again = json.loads(json.dumps(outcome[0], allow_nan=False))
    assert again["schema"] == 1
    assert again["checkpoint"]["sha256"] == checkpoint.sha256
    assert again["bundle"]["refinement"]["pixel_weight"] == 4
    assert again["settings"]["loss"] == {
        "identity": "euclidean",
        "pixel_weight": 4.0,
        "step": 0.2,
        "decay": 0.85,
    }
    assert again["data"]["split"].startswith("test part")
    assert again["forms"]["INT8 TFLite"]["refine"].startswith("coarse refine: float32, torch")


def test_the_figures_are_those_of_the_pictures(outcome, lively: Checkpoint, faces: Faces, fake_judges: Any):
    chosen = thin(choose_faces(faces, lively).faces, QUICK.faces, None, 0)
    model = Model(lively)
    form = float_form(model, lively.profile, RefinementSettings())
    made = form.generate(form.encode(chosen.images), chosen.groups)
    told = row(outcome[0], "reconstruction", "float K=0")["figures"]
    seen, real = (fake_judges.embeddings(images, "") for images in (made, chosen.images))
    assert told["judge_distance"]["value"] == pytest.approx(metrics.distances(seen, real).mean())
    cosine = (seen * real).sum(1) / np.linalg.norm(seen, axis=1) / np.linalg.norm(real, axis=1)
    assert told["judge_similarity"]["value"] == pytest.approx(cosine.mean())
    assert told["psnr_db"]["value"] == pytest.approx(metrics.psnr(made, chosen.images).mean())
    agreement = torch.nn.functional.cosine_similarity(model.embed(made), model.embed(chosen.images), dim=1)
    assert told["recogniser_cosine"]["value"] == pytest.approx(float(agreement.mean()), abs=1e-5)


def test_the_same_seed_gives_the_same_figures(
    outcome, lively: Checkpoint, bundle: Bundle, faces: Faces, fake_judges: Any
):
    again, _ = evaluate_refinement(lively, bundle, faces, fake_judges, coarse_forms(lively), QUICK)
    for one, other in zip(outcome[0]["rows"], again["rows"], strict=True):
        for name in set(one["figures"]) - {"milliseconds"}:
            assert one["figures"][name] == other["figures"][name], (one["name"], name)


def test_more_steps_please_the_recogniser_and_cost_evaluations(outcome):
    for form in FORMS:
        told = [row(outcome[0], "reconstruction", f"{form} K={k}")["figures"] for k in STEPS]
        assert [figures["evaluations"]["value"] for figures in told] == list(STEPS)
        assert told[-1]["recogniser_cosine"]["value"] > told[0]["recogniser_cosine"]["value"]
        assert told[0]["milliseconds"]["value"] == 0
        assert told[-1]["milliseconds"]["value"] > told[1]["milliseconds"]["value"] > 0
    ended = row(outcome[0], "reconstruction", "float K=8")["facts"]["ended"]
    assert sum(ended.values()) == QUICK.faces


def test_int8_begins_and_ends_with_its_own_networks(outcome):
    """The coarse encoder and generator give other pictures than the float ones already at K = 0."""
    for section in ("reconstruction", "aged, random target"):
        exact, coarse = (
            row(outcome[0], section, f"{form} K=0")["figures"]["judge_distance"]["value"]
            for form in ("float", "INT8 TFLite")
        )
        assert exact != coarse
        assert exact == pytest.approx(coarse, abs=0.1)


def test_aged_faces_are_those_of_the_refined_latents(
    outcome, lively: Checkpoint, faces: Faces, fake_judges: Any
):
    chosen = thin(choose_faces(faces, lively).faces, QUICK.faces, None, 0)
    form = float_form(Model(lively), lively.profile, RefinementSettings("euclidean", 4.0))
    targets = aging.random_targets(chosen.groups, 0)
    way = refined(form, chosen.images, chosen.groups, (3,), RefinementOptions(step=0.2))[3]
    made = form.generate(way.latents, targets)
    told = row(outcome[0], "aged, random target", "float K=3")["figures"]
    seen, real = (fake_judges.embeddings(images, "") for images in (made, chosen.images))
    assert told["judge_distance"]["value"] == pytest.approx(metrics.distances(seen, real).mean())
    off = np.abs(metrics.judged_groups(fake_judges.ages(made, "")) - targets)
    assert told["within_one"]["value"] == pytest.approx((off <= 1).mean())


def test_references_are_on_few_faces_and_timed(outcome):
    for mode in ("pixelwise", "identity", "combined"):
        one = row(outcome[0], "references", f"L-BFGS {mode}")
        assert one["faces"] == QUICK.references
        assert one["figures"]["milliseconds"]["value"] > 0
        assert one["figures"]["evaluations"]["value"] > 5
        told = outcome[0]["derived"]["references"][f"L-BFGS {mode}"]
        assert told["judge_distance"] == pytest.approx(one["figures"]["judge_distance"]["value"])
    pixelwise, identity = (
        row(outcome[0], "references", f"L-BFGS {mode}")["figures"] for mode in ("pixelwise", "identity")
    )
    assert pixelwise["psnr_db"]["value"] > identity["psnr_db"]["value"]
    assert identity["recogniser_cosine"]["value"] > pixelwise["recogniser_cosine"]["value"]


def test_the_text_holds_every_row_in_whole_tables(outcome):
    text = markdown(outcome[0])
    for one in outcome[0]["rows"]:
        assert f"| {one['name']} |" in text
    columns = None
    for line in text.splitlines():
        columns = (columns or line.count("|")) if line.startswith("|") else None
        assert columns in (None, line.count("|")), line
    for heading in ("# Refinement", "## Reconstruction", "## References", "## Beside the references"):
        assert heading in text
    assert "## Not run" not in text
    lines = headlines(outcome[0])
    assert any(line.startswith("INT8 TFLite: K=3 is nearer than K=0 on ") for line in lines)
    assert any(line.startswith("similarity, INT8 TFLite - INT8 ONNX: K=0 ") for line in lines)


def test_the_sheet_has_a_column_for_input_steps_and_reference(outcome):
    assert outcome[1].size == (64 + 96 * 5, 16 + 96 * QUICK.references)
    assert outcome[0]["pictured"] == "INT8 TFLite"


def test_curves_show_every_form_and_every_level(outcome):
    pytest.importorskip("matplotlib", reason="the curves need matplotlib")
    derived = json.loads(json.dumps(outcome[0]["derived"]))
    # two levels below all others and close together: matplotlib's own limits leave the lower at the edge
    derived["references"]["L-BFGS identity"]["judge_distance"] = 0.02
    derived["references"]["L-BFGS combined"]["judge_distance"] = 0.01
    by_steps, by_time = curves(derived).axes
    for axes, abscissa in ((by_steps, "K"), (by_time, "milliseconds")):
        lines = {line.get_label().split(",")[0]: line for line in axes.get_lines()}
        assert list(lines) == [*FORMS, *derived["references"]]
        low, high = axes.get_ylim()
        for name, line in lines.items():
            assert all(0.04 < (y - low) / (high - low) < 0.96 for y in line.get_ydata()), name
        told = derived["forms"]["INT8 ONNX"]
        expected = STEPS if abscissa == "K" else [one["milliseconds"] for one in told.values()]
        assert list(lines["INT8 ONNX"].get_xdata()) == list(expected)
        assert list(lines["INT8 ONNX"].get_ydata()) == [one["judge_distance"] for one in told.values()]


def test_a_report_is_a_folder_that_is_not_overwritten(outcome, tmp_path: Path):
    pytest.importorskip("matplotlib", reason="the curves need matplotlib")
    report, sheet = outcome
    out = tmp_path / "refinement"
    write_report(report, sheet, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "REFINEMENT.md",
        "refinement-curves.png",
        "refinement-faces.png",
        "refinement.json",
    ]
    with pytest.raises(EdgeageError, match="exists already"):
        write_report(report, sheet, out)
    write_report({**report, "tag": "second"}, sheet, out, force=True)
    assert json.loads((out / "refinement.json").read_text())["tag"] == "second"
    assert "- second" in (out / "REFINEMENT.md").read_text()


def test_without_matplotlib_the_curves_are_not_run(outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    report = {**outcome[0], "not_run": []}
    monkeypatch.setattr(refinement_report, "find_spec", lambda name: None)
    write_report(report, outcome[1], tmp_path / "refinement")
    assert not (tmp_path / "refinement" / "refinement-curves.png").exists()
    assert "pip install matplotlib" in (tmp_path / "refinement" / "REFINEMENT.md").read_text()
    assert headlines(report)[-1].startswith("not run: refinement-curves.png")


@pytest.fixture
def saved(lively: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run" / "checkpoint", lively.networks, {}, lively.meta)
    return tmp_path / "run"


@pytest.fixture
def command(
    saved: Path, tmp_path: Path, lively: Checkpoint, fake_judges: Any, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Arguments of a run that works, with doubles for the judges and the INT8 engines."""
    monkeypatch.setattr(
        "edgeage.train.evaluation.judges.PublishedJudges", lambda *args, **kwargs: fake_judges
    )
    monkeypatch.setattr(
        "edgeage.train.evaluation.forms.int8_forms",
        lambda bundle, threads: (coarse_forms(lively), ["a form: no files"]),
    )
    made = bundle_of(load_checkpoint(saved).sha256, tmp_path / "tiny.agebundle")
    few = ["--part", "all", "--faces", "12", "--paper-faces", "2"]
    return ["evaluate", str(saved), "--data", SOURCE, "--refinement", "--bundle", str(made), *few]


def test_the_command(saved: Path, command: list[str]):
    result = CliRunner().invoke(cli, [*command, "--quiet", "--tag", "look"])
    assert result.exit_code == 0, result.output
    assert "INT8 TFLite K=8" in result.output
    assert f"everything else is in {saved / 'refinement' / 'REFINEMENT.md'}" in result.output
    report = json.loads((saved / "refinement" / "refinement.json").read_text())
    assert (report["tag"], report["data"]["faces"], report["derived"]["faces"]) == ("look", 12, 2)
    assert report["not_run"] == ["a form: no files"]
    assert not (saved / "evaluation").exists()
    again = CliRunner().invoke(cli, command)
    assert isinstance(again.exception, EdgeageError)
    assert "exists already" in str(again.exception)
    told = CliRunner().invoke(cli, [*command, "--json", "--force"])
    assert json.loads(told.stdout)["derived"]["best_reference"].startswith("L-BFGS")


def test_a_bundle_of_another_run_is_one_line(saved: Path, tmp_path: Path):
    made = bundle_of("b" * 64, tmp_path / "other.agebundle")
    result = edgeage(
        "evaluate", str(saved), "--data", SOURCE, "--refinement", "--bundle", str(made), cwd=tmp_path
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "other.agebundle was exported from checkpoint bbbbbbbbbbbb" in line
    assert not (saved / "refinement").exists()


@pytest.mark.parametrize(
    ("switches", "complaint"),
    [
        (["--refinement"], "needs --bundle"),
        (["--recogniser"], "needs --teacher"),
        (["--bundle", "x.agebundle"], "--bundle is for --refinement and --recogniser"),
        (["--refinement", "--recogniser", "--bundle", "x", "--teacher", "y"], "one at a time"),
        (["--refinement", "--bundle", "x", "--teacher", "y"], "--teacher is no part of --refinement"),
        (["--refinement", "--bundle", "x", "--paper-table"], "--paper-table and --lfw are no part"),
        (["--recogniser", "--teacher", "x", "--lfw", "y.tar"], "--paper-table and --lfw are no part"),
    ],
)
def test_switches_that_do_not_fit(saved: Path, switches: list[str], complaint: str):
    result = CliRunner().invoke(cli, ["evaluate", str(saved), "--data", SOURCE, *switches])
    assert isinstance(result.exception, EdgeageError)
    assert complaint in str(result.exception)


class FakeTeacher(torch.nn.Module):
    """A TEST DOUBLE: a recogniser that is another one than the checkpoint's."""

    def __init__(self, embedder: torch.nn.Module) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(self.embedder(images.flip(3)), dim=1)

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> np.ndarray:
        return self(images).numpy()


class Backwards:
    """Another engine, with its outputs turned round."""

    def __init__(self, engine: Engine) -> None:
        self.inputs, self.outputs, self._engine = engine.inputs, engine.outputs, engine
        self.description = "backwards"

    def run(self, feeds: Feeds) -> Feeds:
        return {name: -values for name, values in self._engine.run(feeds).items()}


def test_the_engines_gradient_beside_the_teachers(lively: Checkpoint, faces: Faces, fake_judges: Any):
    subject = examine(faces, None, fake_judges)
    model, loss = Model(lively), RefinementSettings("euclidean", 4.0)
    form = float_form(model, lively.profile, loss)
    z = model.encode(subject.images)
    same = engine_beside_teacher(subject, model, z, model.embedder, form, loss)
    assert same["faces"] == 60
    agreements = ("engine_to_teacher", "float_to_teacher", "engine_to_float")
    assert [same[name] for name in agreements] == pytest.approx([1, 1, 1], abs=1e-4)
    turned = Form("x", {**form.engines, "refine": Backwards(form.engines["refine"])})
    found = engine_beside_teacher(subject, model, z, FakeTeacher(model.embedder), turned, loss)
    assert found["engine_to_float"] == pytest.approx(-1, abs=1e-4)
    assert found["engine_to_teacher"] == pytest.approx(-found["float_to_teacher"], abs=1e-4)
    assert found["float_to_teacher"] < 0.99  # it is another recogniser


def test_the_recogniser_alone(
    saved: Path, command: list[str], lively: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    teacher = FakeTeacher(lively.networks["embedder"])
    monkeypatch.setattr("edgeage.train.teacher.Teacher", lambda path, threads: teacher)
    monkeypatch.setattr("edgeage.train.evaluation.forms.int8_form", lambda *args: coarse_forms(lively)[1])
    arguments = ["evaluate", str(saved), "--data", SOURCE, "--recogniser", "--teacher", "x.tflite"]
    result = CliRunner().invoke(cli, [*arguments, "--quiet"])
    assert result.exit_code == 0, result.output
    assert "recogniser: gradient cosine: " in result.output
    assert "recogniser: judge distance: recogniser K=0" in result.output
    assert "refine engine" not in result.output
    with_bundle = [*arguments, "--bundle", str(tmp_path / "tiny.agebundle")]
    result = CliRunner().invoke(cli, [*with_bundle, "--json"])
    told = json.loads(result.stdout)["recogniser"]
    assert told["refine_engine"]["form"] == "INT8 TFLite"
    assert 0.8 < told["refine_engine"]["engine_to_float"] < 0.99999
    assert not (saved / "evaluation").exists()


def test_the_judges_figures_are_kept_in_the_bundle(outcome, checkpoint: Checkpoint, tmp_path: Path):
    opened = open_bundle(bundle_of(checkpoint.sha256, tmp_path / "tiny.agebundle"))
    record(outcome[0], opened)
    again = open_bundle(opened.path)
    told = again.manifest.refinement.pop("quality")
    assert again.manifest.refinement == opened.manifest.refinement
    assert [one["steps"] for one in told] == [0, 1, 3, 5, 8]
    figures = row(outcome[0], "reconstruction", f"{FORMS[-1]} K=3")["figures"]
    assert told[2]["similarity"] == pytest.approx(figures["judge_similarity"]["value"], abs=1e-4)
    assert told[2]["verified"] == pytest.approx(figures["same_strict"]["value"], abs=1e-4)


def test_nothing_is_recorded_into_a_zip(bundle: Bundle, tmp_path: Path):
    packed = shutil.make_archive(str(tmp_path / "tiny.agebundle"), "zip", bundle.path)
    with pytest.raises(EdgeageError, match=r"is a zip; --record writes into the folder"):
        check_recordable(open_bundle(packed))


def test_steps_are_searched_on_the_devices_engines(lively: Checkpoint, bundle: Bundle, faces: Faces):
    class Second:
        """A second net that looks at the pixels of a coarser image."""

        def embed(self, images: torch.Tensor) -> np.ndarray:
            return torch.nn.functional.avg_pool2d(images, 8).flatten(1).numpy()

    form, second = coarse_forms(lively)[-1], Second()
    images, groups = np.asarray(faces.images[:12]), faces.groups[:12]

    def search(trials: int) -> dict[str, Any]:
        return tune_on_device(form, bundle, second, images, groups, 2, trials, 5)  # type: ignore[arg-type]

    found = search(5)
    told = bundle.manifest.refinement
    assert found == search(5)
    assert [found["trials"][0][name] for name in ("step", "decay")] == [told["step"], told["decay"]]
    assert found["rows"]["chosen"]["score"] == max(trial["score"] for trial in found["trials"])
    assert found["settings"]["pixel_weight"] == told["pixel_weight"]
    assert found["settings"]["steps"] == 2
    with pytest.raises(EdgeageError, match="at least one step and one trial"):
        search(0)
