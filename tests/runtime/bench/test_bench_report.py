"""Many devices in one table, and a page that holds all it needs."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from edgeage.cli import cli
from edgeage.errors import EdgeageError
from edgeage.runtime.bench import plots
from edgeage.runtime.bench.report import page, read_folder, rows
from edgeage.runtime.bench.results import Load, Result, Run, Subject, Verdict, write_results
from edgeage.runtime.bench.statistics import percentiles

STALL_MS = 977.0


def result(name: str, steps: int | None = None, *, milliseconds: float = 2.0) -> Result:
    times = np.random.default_rng(0).lognormal(np.log(milliseconds), 0.05, 500)
    times[333] = STALL_MS
    samples = (times * 1e6).astype(int)
    return Result(
        Subject(name, "litert", "int8", 1, steps, "a <b>file</b>", ("a note",)),
        Load("sustain", seconds=200.0),
        tuple(samples.tolist()),
        tuple((np.arange(500) * 400_000_000).tolist()),
        20,
        percentiles(samples[20:]),
        Verdict("NOISY", ("p99 is far away",)),
        minutes_ns=(2_000_000, 0, 2_100_000),
        placement={"summary": "XNNPACK runs 9 of 9 nodes", "notes": []},
        energy={"not available": "no sensor"},
        memory={"peak_rss_mb": 81.0, "rss_mb": 80.0, "anonymous": 60.0, "file": 20.0, "shared": 0.0},
    )


def a_run(device: str) -> Run:
    watched = {
        "clocks_mhz": {"lowest": 1000.0, "median": 1200.0, "highest": 1500.0},
        "temperature_c": {"not available": "no sensor"},
        "background_cores": 0.2,
        "throttled": [],
        "series": {"seconds": [0.0, 1.0, 2.0], "mhz": [1500.0, 1200.0, 1000.0], "celsius": [None] * 3},
    }
    roof = {
        "machines": [
            {
                "threads": 1,
                "peak_gmacs": {"int8": 500.0, "float32": 130.0},
                "bandwidth_gbs": [[131072, 130.0], [134217728, 30.0]],
                "method": "measured",
            }
        ],
        "engines": [
            {
                "subject": "encoder litert int8 1 thread",
                "threads": 1,
                "precision": "int8",
                "macs": 27_000_000,
                "weight_bytes": 1_100_000,
                "activation_bytes": 260_000,
                "intensity": 19.8,
                "gmacs": 13.5,
                "median_ms": 2.0,
                "bound_ms": 0.06,
                "distance": 33.3,
                "memory_bound": 0.07,
            }
        ],
    }
    stepping = [result("refinement", k, milliseconds=3.0 + 2 * k) for k in (1, 3, 5)]
    quality = [{"steps": k, "similarity": 0.8 + 0.01 * k, "verified": 0.5, "judge": "J"} for k in (1, 3, 5)]
    before = {
        "device": device,
        "cpu": {"name": "A76"},
        "governor": {"policy0": "schedutil"},
        "load": [0.1, 0.2],
    }
    return Run(
        "edge64",
        "0" * 64,
        "0.1.0",
        "2026-01-01T00:00:00Z",
        True,
        (result("encoder"), *stepping, replace(result("encoder"), part_of="pipeline")),
        environment={
            "before": before,
            "during": {"encoder": watched},
            "after": before | {"load": [0.9, 0.3]},
            "roofline": roof,
        },
        not_run={"encoder tensorrt": "not <installed>"},
        refinement={"steps": 3, "quality": quality},
    )


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    folder = tmp_path / "devices"
    for name in ("board", "phone"):
        write_results(folder / name / "result.json", a_run(f"The {name}"))
    (folder / "notes.json").write_text("{}")
    return folder


def test_a_folder_of_devices_is_one_table(devices: Path) -> None:
    runs, left_out = read_folder(devices)
    table = rows(runs)
    assert {row["device"] for row in table} == {"The board, A76", "The phone, A76"}
    assert len(table) == 8  # stages of a pipeline have no row of their own
    assert table[0]["p50"] == pytest.approx(2.0, rel=0.02)
    assert table[0]["max"] == pytest.approx(STALL_MS)
    assert table[0]["energy"] is None
    assert list(left_out) == ["notes.json"]
    assert "no file of results" in left_out["notes.json"]


def test_the_command_writes_what_is_asked_and_replaces_nothing(devices: Path, tmp_path: Path) -> None:
    html, table = tmp_path / "page.html", tmp_path / "table.csv"
    arguments = ["bench", "report", str(devices), "--html", str(html), "--csv", str(table)]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.exception
    assert "The phone" in shown.output
    assert "the largest K that fits 33 ms: " in shown.output
    assert "likeness 0.830, same person 50.0% (J)" in shown.output
    assert "left out: notes.json" in shown.output
    with table.open() as stream:
        assert len(list(csv.DictReader(stream))) == 8
    again = CliRunner().invoke(cli, arguments)
    assert "exists already" in str(again.exception)
    printed = CliRunner().invoke(cli, ["bench", "report", str(devices), "--json"])
    assert len(json.loads(printed.output)["rows"]) == 8


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_place_without_results_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "x.json").write_text(content)
    with pytest.raises(EdgeageError, match="no file of results in"):
        read_folder(tmp_path)
    with pytest.raises(EdgeageError, match="no folder"):
        read_folder(tmp_path / "absent")


def test_the_page_needs_no_network_and_says_all(devices: Path) -> None:
    runs, left_out = read_folder(devices)
    text = page(runs, left_out)
    assert not re.search(r"""(src|href)\s*=|https?://|@import|url\(""", text)
    for told in (
        *("NOISY", "p99 is far away", "XNNPACK runs 9 of 9 nodes", "a note", "not recorded"[:3], "Judge: J"),
        *("The largest K that fits 33 ms", "33.3×", "schedutil", "after: 0.9, 0.3", "notes.json"),
    ):
        assert told in text, told
    assert "a &lt;b&gt;file" in text  # what files hold is escaped
    assert "not &lt;installed&gt;" in text


def test_the_page_is_well_formed(devices: Path) -> None:
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "path", "rect", "circle"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("path", "rect", "circle"):
                assert open_tags.pop() == tag, self.getpos()

    Checker().feed(page(*read_folder(devices)))
    assert open_tags == []


def test_every_plot_is_xml_with_finite_places() -> None:
    one = result("encoder")
    run = a_run("x")
    roof = run.environment["roofline"]
    for plot in (
        plots.distribution(one),
        plots.tail(one),
        plots.over_time(one),
        plots.minutes(one),
        plots.roof(roof),
    ):
        ElementTree.fromstring(plot)
        assert "nan" not in plot
        assert "inf" not in plot


def test_the_slowest_run_is_on_every_plot_of_it() -> None:
    """Nothing is clipped: with and without the stall the pictures differ."""
    one = result("encoder")
    calm = replace(one, samples_ns=tuple(min(sample, 3_000_000) for sample in one.samples_ns))
    for plot in (plots.distribution, plots.tail, plots.over_time):
        assert "1000" not in plot(calm)
        assert plot(one) != plot(calm)
    ticks = re.findall(r'class="tick"[^>]*>([\d.k]+)<', plots.tail(one))
    assert {"100", "300"} & set(ticks)


def test_without_jinja2_the_page_says_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EdgeageError, match=r"edgeage\[bench\]"):
        page({"a": a_run("x")}, {})
