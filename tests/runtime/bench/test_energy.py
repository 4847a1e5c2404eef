"""Energy from recorded sensors: their figures, their order, and what happens when one vanishes."""

from __future__ import annotations

import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_machines import LAPTOP, ORIN_NANO, PHONE, lay_out

from edgeage.runtime.bench.energy import Meter, per_run
from edgeage.runtime.bench.sensors import Rapl, Tegrastats, choose_rails, find_sensor, parse_tegrastats
from edgeage.runtime.bench.sysfs import Files, NotAvailable

# Lines that real boards printed, as published in bug reports and by monitoring agents.
XAVIER = (
    "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU [2%@1190,0%@1190,0%@1190,0%@1190,off,off,"
    "off,off] EMC_FREQ 0%@665 GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C "
    "Tdiode@40C PMIC@100C AUX@36C CPU@37.5C thermal@36.9C Tboard@37C GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 "
    "VDDRQ 621/621 SYS5V 1482/1482"
)
XAVIER_NX = (
    "RAM 4412/7772MB (lfb 237x4MB) SWAP 139/3886MB (cached 2MB) CPU [9%@1190,6%@1190,6%@1190,5%@1190,4%@1190,"
    "8%@1267] EMC_FREQ 10%@1600 GR3D_FREQ 62%@306 APE 150 MTS fg 0% bg 0% AO@41.5C GPU@43C "
    "PMIC@100C AUX@41.5C CPU@43.5C thermal@42.55C VDD_IN 4067/4067 VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353"
)
ORIN = (
    "03-17-2024 18:54:10 RAM 10239/62841MB (lfb 442x4MB) SWAP 1/31421MB (cached 0MB) CPU [0%@1728,0%@1728,"
    "0%@1728,0%@1728,0%@1420,0%@1420,0%@1420,0%@1420,off,off,off,off] GR3D_FREQ 0% cpu@37.5C tboard@27C "
    "soc2@34.562C tdiode@27.5C soc0@34.531C tj@37.5C soc1@33.656C VDD_GPU_SOC 1592mW/1592mW "
    "VDD_CPU_CV -398mW/-398mW VIN_SYS_5V0 2624mW/2624mW VDDQ_VDD2_1V8AO 403mW/403mW"
)
ORIN_NANO_LINE = (
    "06-18-2025 11:25:24 RAM 3452/7620MB (lfb 25x4MB) SWAP 1518/16384MB (cached 174MB) CPU [1%@1420,2%@1420,"
    "0%@1420,2%@1420,2%@729,1%@729] GR3D_FREQ 0% cpu@50.031C soc2@49.031C soc0@50C gpu@49.031C cv0@-256C "
    "tj@50.25C soc1@50.25C VDD_IN 4824mW/4824mW VDD_CPU_GPU_CV 518mW/518mW VDD_SOC 1475mW/1475mW"
)


@pytest.mark.parametrize(
    ("line", "rails", "watts", "zones", "cores"),
    [
        (XAVIER, {"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"}, 3.346, {"CPU": 37.5, "PMIC": 100.0}, 4),
        (XAVIER_NX, {"VDD_IN"}, 4.067, {"thermal": 42.55}, 6),
        (ORIN, {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}, 3.818, {"cpu": 37.5}, 8),
        (ORIN_NANO_LINE, {"VDD_IN"}, 4.824, {"tj": 50.25}, 6),
    ],
)
def test_lines_of_tegrastats(
    line: str, rails: set[str], watts: float, zones: dict[str, float], cores: int
) -> None:
    found = parse_tegrastats(line)
    chosen = choose_rails(found.rails)
    assert set(chosen) == rails
    assert sum(chosen.values()) == pytest.approx(watts)
    assert zones.items() <= found.temperatures.items()
    assert "cv0" not in found.temperatures
    assert len(found.cores) == cores
    assert not {"RAM", "SWAP"} & set(found.rails)


@given(st.text())
def test_any_text_is_a_line(text: str) -> None:
    parse_tegrastats(text)


def test_the_board_comes_before_the_processor_and_the_battery(tmp_path: Path) -> None:
    everything = ORIN_NANO | {path: text for path, text in LAPTOP.items() if "rapl" in path}
    sensor = find_sensor(lay_out(tmp_path / "a", everything), tools=False)
    assert sensor.name == "INA3221, rails VDD_IN"
    assert sensor.read() == pytest.approx(4.984)
    sensor = find_sensor(lay_out(tmp_path / "b", LAPTOP), tools=False)
    assert sensor.name == "RAPL, package-0"  # neither core, a part of it, nor psys, which holds it
    phone = find_sensor(lay_out(tmp_path / "c", PHONE), tools=False)
    assert phone.name.startswith("battery")
    assert phone.read() == pytest.approx(2.0)


def test_a_machine_without_sensors_says_what_was_looked_for(tmp_path: Path) -> None:
    lay_out(tmp_path, {path: text for path, text in LAPTOP.items() if "BAT0" in path})
    with pytest.raises(NotAvailable, match=r"Ina3221: .*Rapl: .*Battery: the battery is charging"):
        find_sensor(tmp_path, tools=False)


def test_a_counter_that_begins_again_is_not_negative_energy(tmp_path: Path) -> None:
    most = 262_143_328_850
    counter = "sys/class/powercap/intel-rapl:0/energy_uj"
    sensor = Rapl(Files(lay_out(tmp_path, LAPTOP | {counter: str(most - 1_000_000)})))
    before = sensor.read()
    lay_out(tmp_path, {counter: "2000000"})
    assert sensor.read() - before == pytest.approx(3.0)


class Noisy:
    """A sensor of given mean power with noise that lasts; joules counted if `counts`."""

    name, interval = "a drawn sensor", 0.001

    def __init__(
        self, watts: float, counts: bool, seed: int, clock: list[float], vanish: float = 1e9
    ) -> None:
        self.watts, self.counts, self.clock, self.vanish = watts, counts, clock, vanish
        self.rng, self.noise, self.joules = np.random.default_rng(seed), 0.0, 0.0

    def read(self) -> float:
        if self.clock[0] > self.vanish:
            raise NotAvailable("/sys/class/hwmon/hwmon1/curr1_input: No such device")
        self.noise = 0.7 * self.noise + float(self.rng.normal(0, 0.1))
        self.joules += 0.1 * (self.watts + self.noise)
        return self.joules if self.counts else self.watts + self.noise

    def close(self) -> None:
        pass


def metered(
    watts: float, seconds: float, *, counts: bool = False, seed: int = 0, vanish: float = 1e9
) -> Meter:
    """A meter over simulated time, a reading each tenth of a second."""
    now = [0.0]
    meter = Meter(Noisy(watts, counts, seed, now, vanish), clock=lambda: now[0])
    meter.begin()
    for _ in range(int(seconds * 10)):
        meter.read()
        now[0] += 0.1
    meter.seconds = now[0]
    return meter


@pytest.mark.parametrize("counts", [False, True])
def test_energy_above_idle_has_an_interval_that_covers(counts: bool) -> None:
    hits = 0
    for seed in range(60):
        loaded = metered(6.0, 60, counts=counts, seed=seed)
        found = per_run(loaded, metered(4.0, 60, counts=counts, seed=1000 + seed), 1000)
        assert found["millijoules"] == pytest.approx(120, rel=0.1)  # 2 W for 60 ms
        hits += found["low"] <= 120 <= found["high"]
    assert hits >= 50  # nominally 57; blocks of short series cover a little less
    assert found["sensor"] == "a drawn sensor"
    assert found["rate_hz"] == pytest.approx(10, rel=0.05)
    assert found["gross_millijoules"] > found["millijoules"]


def test_a_sensor_that_vanishes_is_told_with_what_was_seen() -> None:
    found = per_run(metered(6.0, 20, vanish=5.0), metered(4.0, 10), 1000)
    assert "millijoules" not in found
    assert "vanished 5." in found["not available"]
    assert "No such device" in found["not available"]
    assert found["until_then_w"] == pytest.approx(6.0, abs=0.3)


def test_a_sensor_that_hardly_changes_tells_nothing() -> None:
    found = per_run(metered(6.0, 0.5), metered(4.0, 10), 10)
    assert "measure longer" in found["not available"]


def test_a_meter_reads_files_while_its_block_runs(tmp_path: Path) -> None:
    """The real thread and clock, on an INA3221 whose current somebody changes."""
    root = lay_out(tmp_path, ORIN_NANO)
    sensor = find_sensor(root, tools=False)
    sensor.interval = 0.002
    done = threading.Event()

    def draw() -> None:
        k = 0
        while not done.wait(0.004):
            k += 1
            temporary = root / "next"
            temporary.write_text(f"{1000 + k % 3}\n")
            temporary.replace(root / "sys/class/hwmon/hwmon1/curr1_input")

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        with Meter(sensor) as loaded:
            time.sleep(0.3)
        with Meter(sensor) as gone:
            time.sleep(0.05)
            done.set()
            thread.join()
            (root / "sys/class/hwmon/hwmon1/in1_input").unlink()
            time.sleep(0.05)
    finally:
        done.set()
        thread.join()
    assert loaded.lost is None
    assert loaded.mean_watts() == pytest.approx(4.99, abs=0.02)
    assert gone.trouble("running") is not None
    assert "in1_input" in str(gone.trouble("running"))


def test_tegrastats_is_started_read_and_ended(tmp_path: Path) -> None:
    tool = tmp_path / "tegrastats"
    tool.write_text(f"#!/bin/sh\nwhile :; do echo '{ORIN}'; sleep 0.05; done\n")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    sensor = Tegrastats(Files(tmp_path), str(tool))
    assert sensor.name == "tegrastats, rails VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    assert sensor.read() == pytest.approx(3.818)
    sensor.close()
    with pytest.raises(NotAvailable, match="ended"):
        sensor.read()
