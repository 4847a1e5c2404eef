"""edgeage doctor: what this machine can do, and the command that adds what is missing."""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import Any

import click

from edgeage.machine import cpu_name, int8_instructions


@click.command(
    epilog="""\b
Examples:
  edgeage doctor
  edgeage doctor --json"""
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def command(as_json: bool) -> None:
    """Say what this machine can do, and the command that adds what is missing."""
    report = examine()
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    _show(report)


def examine() -> dict[str, Any]:
    """Facts about this machine as JSON values; imports engines to see whether they really start."""
    from edgeage import __version__
    from edgeage.runtime.engines.packages import PACKAGES, installed_version

    tools = ("torch", "onnx", "onnxscript", "onnxsim", "safetensors", "msgspec", "scipy", "jinja2")
    return {
        "edgeage": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": {"system": platform.platform(), "machine": platform.machine()},
        "cpu": {"name": cpu_name(), "cores": os.cpu_count(), "int8": int8_instructions()},
        "numpy": installed_version("numpy"),
        "pillow": installed_version("Pillow"),
        "engines": {name: _engine(name) for name in PACKAGES} | {"tensorrt": _tensorrt()},
        "workstation": _workstation({name: installed_version(name) for name in tools}),
        "bundle": _bundle(),
    }


def _engine(name: str) -> dict[str, Any]:
    """Whether an engine is there and runs its smallest job: face detection on a grey picture."""
    import numpy as np

    from edgeage.errors import EdgeageError
    from edgeage.runtime.engines.packages import PACKAGES, installed_version, problem
    from edgeage.runtime.photo.detect import Detector

    version = installed_version(PACKAGES[name][0])
    trouble = problem(name)
    if trouble is None:
        try:
            if name == "onnxruntime":
                from edgeage.runtime.engines.onnxruntime import self_test

                self_test()
            Detector(name).find(np.full((128, 128, 3), 127, np.uint8))
        except (EdgeageError, ImportError, OSError) as error:
            trouble = f"{name} does not start: {(str(error).splitlines() or ['no reason given'])[0]}"
    facts: dict[str, Any] = {"version": version, "works": trouble is None}
    if trouble:
        return {**facts, "problem": trouble}
    return {**facts, "backend": _backend(name)}


def _backend(name: str) -> str:
    """What runs the numbers, as far as the packages tell."""
    if name == "litert":
        return "XNNPACK, float and int8, applied by default; NPU delegates only on a device"
    if name == "tflite-runtime":
        return "XNNPACK for float only: int8 runs slower than float here; litert is recommended"
    import importlib

    providers = importlib.import_module("onnxruntime").get_available_providers()
    return f"CPUExecutionProvider is used; available: {', '.join(providers)}"


def _tensorrt() -> dict[str, Any]:
    """Whether TensorRT, cuda-python and a device are there; builds nothing."""
    from edgeage.errors import EdgeageError
    from edgeage.runtime.engines.tensorrt.device import read_device
    from edgeage.runtime.engines.tensorrt.libraries import load_libraries

    try:
        device = read_device(load_libraries())
    except EdgeageError as error:
        return {"version": None, "works": False, "problem": str(error)}
    jetson = f", {device.l4t}" if device.l4t else ""
    backend = f"{device.name} ({device.compute_capability}), CUDA {device.cuda_driver}{jetson}"
    return {"version": device.tensorrt, "works": True, "backend": backend}


def _workstation(versions: dict[str, str | None]) -> dict[str, Any]:
    """What training and export need beside the runtime."""
    missing = [name for name, version in versions.items() if version is None]
    facts: dict[str, Any] = {"packages": versions, "works": not missing}
    if missing:
        facts["problem"] = (
            f'for train and export {", ".join(missing)} missing: pip install "edgeage[train,export]"'
        )
    return facts


def _bundle() -> dict[str, Any]:
    from edgeage.errors import EdgeageError
    from edgeage.runtime.bundle import open_bundle

    try:
        bundle = open_bundle()
        bundle.verify()
    except EdgeageError as error:
        return {"path": None, "works": False, "problem": str(error)}
    return {"path": str(bundle.path), "name": bundle.manifest.name, "works": True}


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("part", "state", "facts")
    cpu = report["cpu"]
    table.add_row("edgeage", "", report["edgeage"])
    table.add_row("python", "", f"{report['python']['version']} {report['python']['executable']}")
    table.add_row("platform", "", f"{report['platform']['system']} {report['platform']['machine']}")
    table.add_row(
        "cpu", "", f"{cpu['name']}, {cpu['cores']} cores, int8: {' '.join(cpu['int8']) or 'not known'}"
    )
    table.add_row("numpy, Pillow", "", f"{report['numpy']}, {report['pillow']}")
    parts = {f"engine {name}": facts for name, facts in report["engines"].items()}
    parts |= {"train and export": report["workstation"], "default bundle": report["bundle"]}
    for part, facts in parts.items():
        said = [facts.get(key) for key in ("version", "backend", "path")]
        state = "[green]ok[/]" if facts["works"] else "[yellow]missing[/]"
        table.add_row(part, state, Text("; ".join(str(value) for value in said if value)))
    Console().print(table)
    # Outside of the table, whose lines are cut to the terminal's width: commands are there to be copied.
    for part, facts in parts.items():
        if "problem" in facts:
            click.echo(f"{part}: {facts['problem']}")
