"""What machines tell of themselves, from their recorded files."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_machines import LAPTOP, OLD_CONTAINER, ORIN_NANO, PHONE, PI_5, lay_out

from edgeage.runtime.bench.environment import snapshot
from edgeage.runtime.bench.memory import PeakMemory, memory
from edgeage.runtime.bench.watch import Watch


def test_a_jetson_tells_its_power_mode_without_its_tools(tmp_path: Path) -> None:
    found = snapshot(lay_out(tmp_path, ORIN_NANO))
    assert found["device"].startswith("NVIDIA Jetson Orin Nano")
    jetson = found["jetson"]
    assert jetson["nvpmodel"] == "2 (MAXN_SUPER)"
    assert jetson["release"].startswith("# R36")
    assert jetson["jetson_clocks"] == "off"
    assert jetson["clocks"] == {"cpu policy0": [729.6, 1728.0], "gpu 17000000.gpu": [306.0, 1020.0]}
    assert found["governor"] == {"policy0": "schedutil"}
    assert found["clocks_mhz"] == {"cpu0": 729.6, "cpu1": 1728.0}
    assert found["clock limits"]["policy0"]["hardware_max"] == 1728.0
    assert found["temperatures_c"] == {"cpu-thermal": 63.625}  # the zone that is off is left out
    assert found["throttling"]["counters"] == {"under-voltage": 0, "instantaneous over-current": 2}


def test_jetson_clocks_is_seen_by_what_it_does(tmp_path: Path) -> None:
    held = {
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "1728000",
        "sys/class/devfreq/17000000.gpu/min_freq": "1020000000",
    }
    assert snapshot(lay_out(tmp_path / "on", ORIN_NANO | held))["jetson"]["jetson_clocks"] == "on"
    held.popitem()
    assert snapshot(lay_out(tmp_path / "part", ORIN_NANO | held))["jetson"]["jetson_clocks"] == "in part"


def test_a_raspberry_pi_tells_its_throttling_without_vcgencmd(tmp_path: Path) -> None:
    found = snapshot(lay_out(tmp_path, PI_5))
    assert found["throttling"]["now"] == ["soft temperature limit (firmware)"]
    since = {what for what, flag in found["throttling"]["counters"].items() if flag}
    assert since == {"soft temperature limit since the start"}
    assert found["jetson"] == {"not available": "this is no Jetson"}


def test_a_laptop_with_limits(tmp_path: Path) -> None:
    found = snapshot(lay_out(tmp_path, LAPTOP))
    assert found["throttling"]["counters"] == {
        "thermal throttling of a core": 7,
        "thermal throttling of a package": 9,
    }
    assert found["boost"] == "on"
    assert found["temperatures_c"] == {"coretemp Package id 0": 71.0}
    assert found["clocks_mhz"] == {"cpu0": 2400.5}
    assert found["power supply"] == {"AC": "Mains, online", "BAT0": "Battery, Charging"}
    container = found["container"]
    assert container == {
        "cgroup": 2,
        "cpus": 1.5,  # the group above limits this one
        "memory_mb": 512,
        "cores": "0-3",
        "throttled": 7,
        "inside": None,
        "virtual machine": True,
    }


def test_an_old_container_whose_group_is_mounted_as_the_root(tmp_path: Path) -> None:
    container = snapshot(lay_out(tmp_path, OLD_CONTAINER))["container"]
    assert container["cgroup"] == 1
    assert container["cpus"] == 0.5
    assert container["memory_mb"] is None
    assert container["cores"] == "0-1"
    assert container["throttled"] == 1
    assert container["inside"] == "docker"


def test_a_phone_that_cools_its_cpu(tmp_path: Path) -> None:
    found = snapshot(lay_out(tmp_path, PHONE))
    assert found["throttling"]["now"] == ["cooling by thermal-cpufreq-0, state 2"]


def test_what_is_not_there_has_a_reason(tmp_path: Path) -> None:
    found = snapshot(tmp_path)
    for part in ("device", "governor", "clocks_mhz", "temperatures_c", "throttling", "load", "power supply"):
        assert found[part]["not available"], part
    json.dumps(found)


ALL = sorted({path for machine in (ORIN_NANO, PI_5, LAPTOP, PHONE, OLD_CONTAINER) for path in machine})


@given(damage=st.dictionaries(st.sampled_from(ALL), st.binary(max_size=40), min_size=1, max_size=12))
def test_no_content_raises(tmp_path_factory: pytest.TempPathFactory, damage: dict[str, bytes]) -> None:
    root = lay_out(tmp_path_factory.mktemp("machine"), ORIN_NANO | LAPTOP)
    for path, content in damage.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    json.dumps(snapshot(root))
    with Watch(60, root) as watch:
        pass
    json.dumps(watch.summary())
    json.dumps(memory(root))


def test_this_machine_is_told() -> None:
    found = snapshot()
    assert found["cpu"]["cores"] >= 1
    assert found["affinity"]
    json.dumps(found)


def test_a_watch_sees_clocks_heat_throttling_and_other_work(tmp_path: Path) -> None:
    root = lay_out(tmp_path, ORIN_NANO | {"proc/stat": "cpu  100 0 100 9999 0 0 0 7 0 0\n"})
    with Watch(0.02, root) as watch:
        time.sleep(0.1)
        changes = {
            "sys/class/thermal/thermal_zone0/temp": "90500",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000",
            "sys/class/hwmon/hwmon3/oc3_event_cnt": "5",
            "proc/stat": "cpu  300 0 100 9999 0 0 0 7 0 0\n",
        }
        lay_out(root, changes)
        time.sleep(0.1)
    found = watch.summary()
    assert found["temperature_c"]["lowest"] == 63.625
    assert found["temperature_c"]["highest"] == 90.5
    assert found["clocks_mhz"]["lowest"] < found["clocks_mhz"]["highest"]
    assert watch.throttled() == ["instantaneous over-current: 3 events"]
    assert found["background_cores"] > 1  # two CPU seconds in some tenths
    assert found["steal_cores"] == 0
    assert len(found["series"]["seconds"]) == found["readings"] >= 4
    json.dumps(found)


def test_a_watch_keeps_few_readings_of_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeage.runtime.bench.watch._MOST", 8)
    with Watch(0.001, lay_out(tmp_path, PI_5)) as watch:
        time.sleep(0.3)
    found = watch.summary()
    assert found["readings"] <= 10
    assert found["period_s"] > 0.001
    assert found["series"]["seconds"] == sorted(found["series"]["seconds"])
    assert found["series"]["seconds"][-1] == pytest.approx(found["seconds"], abs=0.001)


def status(peak: int, rss: int) -> str:
    return f"VmHWM:\t{peak} kB\nVmRSS:\t{rss} kB\nRssAnon:\t{rss - 24} kB\nRssFile:\t20 kB\nRssShmem:\t4 kB\n"


def test_memory_is_split(tmp_path: Path) -> None:
    lay_out(tmp_path, {"proc/self/status": status(3000, 2000), "proc/self/smaps_rollup": "Pss:   1500 kB\n"})
    found = memory(tmp_path)
    assert found["peak_rss_mb"] == pytest.approx(3.07, abs=0.01)
    assert found["anonymous"] + found["file"] + found["shared"] == pytest.approx(found["rss_mb"], abs=0.02)
    assert found["pss_mb"] == pytest.approx(1.54, abs=0.01)


def test_a_peak_that_cannot_be_reset_says_so(tmp_path: Path) -> None:
    lay_out(tmp_path, {"proc/self/status": status(3000, 2000)})
    (tmp_path / "proc/self/clear_refs").mkdir()  # cannot be written
    with PeakMemory(tmp_path) as peak:
        pass
    found = peak.summary()
    assert "cannot be reset" in found["since"]
    assert "grown_mb" not in found


GROWING = """
import json
from edgeage.runtime.bench.memory import PeakMemory

def grown(megabytes):
    with PeakMemory() as peak:
        held = bytearray(megabytes * 1_000_000)
        del held
    return peak.summary()

print(json.dumps([grown(120), grown(10)]))
"""


def test_a_peak_is_of_its_block_alone() -> None:
    """In a fresh process: here, what earlier tests leave behind may be given back while the block runs."""
    done = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, check=True)
    first, second = json.loads(done.stdout)
    if "cannot be reset" in first["since"]:
        pytest.skip(f"SKIPPED: {first['since']}")
    assert first["grown_mb"] > 100
    assert second["grown_mb"] < 60
