"""Recorded machines: what their files hold, laid out below a folder."""

from __future__ import annotations

from pathlib import Path

_CPU = "sys/devices/system/cpu"

ORIN_NANO = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, EABI: aarch64\n# KERNEL_VARIANT: oot",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nvpmodel.conf": "# < POWER_MODEL ID=2 NAME=OLD >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    f"{_CPU}/cpu0/cpufreq/scaling_cur_freq": "729600\n",
    f"{_CPU}/cpu1/cpufreq/scaling_cur_freq": "1728000\n",
    f"{_CPU}/cpufreq/policy0/scaling_governor": "schedutil\n",
    f"{_CPU}/cpufreq/policy0/cpuinfo_min_freq": "115200\n",
    f"{_CPU}/cpufreq/policy0/cpuinfo_max_freq": "1728000\n",
    f"{_CPU}/cpufreq/policy0/scaling_min_freq": "729600\n",
    f"{_CPU}/cpufreq/policy0/scaling_max_freq": "1728000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    "sys/class/devfreq/15340000.vic/min_freq": "115200000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "63625\n",
    "sys/class/thermal/thermal_zone2/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "4984\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1000\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in2_input": "4984\n",
    "sys/class/hwmon/hwmon1/curr2_input": "112\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "2\n",
}

PI_5 = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "80008\n",
    f"{_CPU}/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "84200\n",
}

LAPTOP = {
    "sys/class/dmi/id/product_name": "20XW\n",
    f"{_CPU}/intel_pstate/no_turbo": "0\n",
    f"{_CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
    f"{_CPU}/cpu1/thermal_throttle/core_throttle_count": "4\n",
    f"{_CPU}/cpu0/thermal_throttle/package_throttle_count": "9\n",
    f"{_CPU}/cpu1/thermal_throttle/package_throttle_count": "9\n",
    "sys/class/hwmon/hwmon5/name": "coretemp\n",
    "sys/class/hwmon/hwmon5/temp1_label": "Package id 0\n",
    "sys/class/hwmon/hwmon5/temp1_input": "71000\n",
    "sys/class/thermal/cooling_device0/type": "Processor\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "1000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "900000\n",
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:1/name": "psys\n",
    "sys/class/powercap/intel-rapl:1/energy_uj": "5000000\n",
    "sys/class/powercap/intel-rapl:1/max_energy_range_uj": "262143328850\n",
    "sys/class/power_supply/AC/type": "Mains\n",
    "sys/class/power_supply/AC/online": "1\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Charging\n",
    "sys/class/power_supply/BAT0/power_now": "12000000\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory cpuset\n",
    "proc/self/cgroup": "0::/user.slice/bench\n",
    "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/user.slice/bench/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/bench/memory.max": "536870912\n",
    "sys/fs/cgroup/user.slice/bench/cpuset.cpus.effective": "0-3\n",
    "sys/fs/cgroup/user.slice/bench/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 7\n",
    "proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2400.5\nflags\t\t: fpu hypervisor avx2\n",
}

PHONE = {  # Android: the gauge gives the current a sign
    "sys/class/power_supply/battery/type": "Battery\n",
    "sys/class/power_supply/battery/status": "Discharging\n",
    "sys/class/power_supply/battery/current_now": "-500000\n",
    "sys/class/power_supply/battery/voltage_now": "4000000\n",
    "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device1/type": "gpu\n",
    "sys/class/thermal/cooling_device1/cur_state": "3\n",
}

OLD_CONTAINER = {
    "proc/self/cgroup": "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n2:cpuset:/docker/ab\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_periods 1\nnr_throttled 1\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/cpuset/cpuset.cpus": "0-1\n",
    ".dockerenv": "",
}


def lay_out(root: Path, machine: dict[str, str]) -> Path:
    for path, text in machine.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root
