"""What a run keeps of the machine, the energy and the memory, and what that does to its verdict."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from recorded_machines import ORIN_NANO, lay_out

from edgeage.runtime.bench import observe
from edgeage.runtime.bench.load import Plan
from edgeage.runtime.bench.results import Run, Subject, read_results, write_results
from edgeage.runtime.bench.run import run_bench
from edgeage.runtime.bench.sensors import Sensor, find_sensor
from edgeage.runtime.bench.subjects import Prepared
from edgeage.runtime.bench.sysfs import NotAvailable
from edgeage.runtime.bench.watch import Watch
from edgeage.runtime.bundle import open_bundle

SHIPPED = Path(__file__).parents[3] / "models" / "edge64.agebundle"
PLAN = Plan(percentile=50.0, runs=150, max_seconds=3.0)


def spinning() -> Prepared:
    def work() -> None:
        until = time.perf_counter_ns() + 1_000_000
        while time.perf_counter_ns() < until:
            pass

    return Prepared(Subject("spin", "litert", "int8", 1), work, None, False, spinning)


def no_sensor(root: str = "/", **_: object) -> Sensor:
    raise NotAvailable("no sensor here")


def run_of(*subjects: Prepared, interleave: bool = False) -> Run:
    return run_bench(open_bundle(SHIPPED), subjects, PLAN, interleave=interleave)


def test_a_run_keeps_the_machine_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "find_sensor", no_sensor)
    run = run_of(spinning())
    assert set(run.environment) == {"before", "during", "after"}
    (watched,) = run.environment["during"].values()
    assert watched["cost"] < 0.05  # of a core, in a run of some 50 ms with two readings
    (result,) = run.results
    assert result.energy == {"not available": "no sensor here"}
    assert result.memory is not None
    assert result.memory["peak_rss_mb"] > 10
    write_results(tmp_path / "r.json", run)
    assert read_results(tmp_path / "r.json").environment == run.environment


def test_throttling_on_the_way_is_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay_out(tmp_path, ORIN_NANO)
    monkeypatch.setattr(observe, "find_sensor", no_sensor)
    monkeypatch.setattr(observe, "Watch", lambda: Watch(1.0, root))
    subject, event = spinning(), {"sys/class/hwmon/hwmon3/oc1_event_cnt": "1"}

    def stalls_the_board() -> None:
        subject.work()
        lay_out(root, event)

    (result,) = run_of(Prepared(subject.subject, stalls_the_board, None, False, spinning)).results
    assert "under-voltage: 1 events" in result.verdict.reasons
    assert result.verdict.word in ("THROTTLED", "TOO SHORT")  # a busy machine may not let it settle


def test_a_sensor_gives_energy_to_one_subject_but_not_to_two_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = lay_out(tmp_path, ORIN_NANO)
    sensor = find_sensor(root, tools=False)
    sensor.interval = 0.002
    monkeypatch.setattr(observe, "find_sensor", lambda: sensor)
    monkeypatch.setattr(observe, "IDLE_SECONDS", 0.1)
    current = root / "sys/class/hwmon/hwmon1/curr1_input"
    count = 0
    plain = sensor.read

    def read() -> float:  # a board that draws more while it is read the more often
        nonlocal count
        count += 1
        current.write_text(f"{1000 + count}")
        return plain()

    monkeypatch.setattr(sensor, "read", read)
    (alone,) = run_of(spinning()).results
    assert alone.energy is not None
    assert alone.energy["sensor"] == "INA3221, rails VDD_IN"
    assert "not available" not in alone.energy, alone.energy
    assert alone.energy["millijoules"] > 0
    assert alone.energy["low"] <= alone.energy["millijoules"] <= alone.energy["high"]
    both = run_of(spinning(), spinning(), interleave=True).results
    assert all("took turns" in (result.energy or {})["not available"] for result in both)
