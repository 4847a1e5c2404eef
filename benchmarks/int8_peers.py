"""Quality and latency of edgeage's INT8 TFLite files against other tools', on the same trained networks.

    python benchmarks/int8_peers.py setup
    python benchmarks/int8_peers.py prepare BUNDLE CHECKPOINT --calibration SOURCE
    python benchmarks/int8_peers.py convert
    python benchmarks/int8_peers.py compare

Each tool works in an environment of its own; all files are measured here, in one process, in one runtime.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeage.errors import EdgeageError

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).parent
BASELINE = "edgeage.int8"
NETS = ("encoder", "embedder", "generator")
PRIOR_EVERY = 4  # as `edgeage export` has it: one generator input in so many is drawn from N(0, I)

# script, arguments behind the network's folder, environment (its requirements: peers/ENVIRONMENT.txt), Python
PEERS: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "litert-torch": ("with_litert_torch.py", (), "litert_torch", "3.11"),
    "ai-edge-quantizer": ("with_ai_edge_quantizer.py", (), "ai_edge_quantizer", "3.11"),
    "onnx2tf": ("with_onnx2tf.py", ("flatbuffer_direct",), "onnx2tf", "3.12"),
    "onnx2tf-tf": ("with_onnx2tf.py", ("tf_converter",), "onnx2tf", "3.12"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def command(function: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(function.__name__, help=text, description=text)
        made.set_defaults(run=function)
        made.add_argument("--work", type=Path, default=HERE / ".peers", help="folder to work in")
        return made

    made = command(setup, "Make the tools' environments.")
    made.add_argument("--python", action="append", default=[], metavar="VERSION=PATH", help="an interpreter")
    made = command(prepare, "Write the float networks, the calibration inputs and the held-out inputs.")
    made.add_argument("bundle", type=Path)
    made.add_argument("checkpoint", type=Path, help="that the bundle was made of")
    made.add_argument("--calibration", required=True, metavar="SOURCE", help="that the bundle was made with")
    made = command(convert, "Let each tool make its files.")
    made.add_argument("--peer", action="append", choices=list(PEERS), help="only this one")
    made = command(compare, "Measure all files in one run; print a table, write results.json and a picture.")
    made.add_argument(
        "--rounds", type=int, default=100, help="of each of the 21 times that all files are loaded"
    )
    made.add_argument("--calls", type=int, default=1, help="of a file in a row before the next one's turn")
    made.add_argument("--picture", type=Path)
    options = vars(parser.parse_args())
    try:
        options.pop("run")(**options)
    except EdgeageError as error:
        sys.exit(f"error: {error}")


def setup(work: Path, python: list[str]) -> None:
    interpreters = dict(pair.split("=", 1) for pair in python)
    for name, version in sorted({(environment, version) for *_, environment, version in PEERS.values()}):
        folder, requirements = work / "environments" / name, HERE / "peers" / f"{name}.txt"
        interpreter = interpreters.get(version) or shutil.which(f"python{version}")
        if interpreter is None:
            print(f"{name}: not made: no python{version} found; give one with --python {version}=PATH")
            continue
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        install: list[str | Path] = [folder / "bin" / "pip", "install", "-q", "--no-deps", "-r", requirements]
        outcome = subprocess.run(install).returncode
        print(f"{name}: {'ready' if outcome == 0 else f'not made: pip ended with {outcome}'}")


def prepare(work: Path, bundle: Path, checkpoint: Path, calibration: str) -> None:
    """Calibrate every tool with the images that the bundle was calibrated with."""
    import torch

    from edgeage.calibration import samples
    from edgeage.calibration.observers import session
    from edgeage.export.calibrated import CHECK, SELECTION, latent_feeds, network_images
    from edgeage.export.engines import engine_specs
    from edgeage.export.onnx_graph import export_onnx
    from edgeage.runtime.bundle import open_bundle
    from edgeage.train.calibration_faces import calibration_faces
    from edgeage.train.checkpoint import load_checkpoint

    opened, trained = open_bundle(bundle), load_checkpoint(checkpoint)
    lineage = opened.manifest.lineage
    if lineage["checkpoint"] != trained.sha256:
        raise EdgeageError(f"{bundle} was made of another checkpoint than {checkpoint}")
    specs = {name: spec for name, spec in engine_specs(trained.profile).items() if name in NETS}
    faces = calibration_faces(trained, calibration, progress=True)
    count, networks = lineage["calibration"]["count"], lineage["calibration"].get("networks", {})
    chosen = samples.pick(
        faces.groups,
        count=count,
        validation=SELECTION if faces.held_out else SELECTION + CHECK,
        data_fingerprint=faces.fingerprint,
        names=trained.profile.groups,
    )
    pixels = faces.images[chosen.calibration]
    pixels = pixels[samples.interleaved(faces.groups[chosen.calibration])]
    recorded = lineage["calibration"]["fingerprint"]
    same = recorded in (samples.content_fingerprint(pixels), chosen.fingerprint)
    if faces.held_out:
        rows = samples.balanced(faces.held_out[1], CHECK)
        unseen = faces.held_out[0][rows]
    else:
        unseen = faces.images[chosen.validation]
    images, unseen_images = network_images(pixels), network_images(unseen)

    graphs = {
        name: export_onnx(
            trained.networks[name], {port.name: port.shape for port in spec.inputs}, spec.outputs[0].name
        )
        for name, spec in specs.items()
    }
    encode, prior = session(graphs["encoder"]), np.random.default_rng(0)
    latents, unseen_latents = (
        np.concatenate([encode.run(None, {"image": image[None]})[0] for image in batch])
        for batch in (images, unseen_images)
    )
    drawn = prior.standard_normal(latents[::PRIOR_EVERY].shape).astype(np.float32)
    mixed = np.insert(latents, np.arange(0, len(latents), PRIOR_EVERY), drawn, axis=0)
    groups = len(trained.profile.groups)

    def generator(latents: NDArray[np.float32], conditions: NDArray[np.int64]) -> dict[str, Any]:
        feeds = latent_feeds(latents, conditions, groups)
        return {key: np.concatenate([feed[key] for feed in feeds]) for key in ("z", "y")}

    inputs = {
        "encoder": ({"image": images}, {"image": unseen_images}),
        "embedder": ({"image": images}, {"image": unseen_images}),
        "generator": (
            generator(mixed, prior.integers(groups, size=len(mixed))),
            generator(unseen_latents, np.arange(len(unseen_latents)) % groups),
        ),
    }
    for name, spec in specs.items():
        folder = work / name
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.iterdir():
            stale.unlink()
        (folder / "net.onnx").write_bytes(graphs[name].SerializeToString())
        example = tuple(torch.zeros(port.shape) for port in spec.inputs)
        torch.export.save(
            torch.export.export(_with_gains(trained.networks[name]), example), folder / "net.pt2"
        )
        given, held_out = inputs[name]
        taken = networks.get(name, {}).get("samples", count)
        if name == "generator":
            taken = min(taken * (PRIOR_EVERY + 1) // PRIOR_EVERY, len(given["z"])) if not networks else taken
        np.savez(folder / "calibration.npz", **{key: values[:taken] for key, values in given.items()})
        running = session(graphs[name])
        expected = [
            running.run(None, {key: values[i : i + 1] for key, values in held_out.items()})[0]
            for i in range(len(unseen))
        ]
        np.savez(folder / "held-out.npz", **held_out, expected=np.concatenate(expected))
        for file in opened.manifest.engines[name].files:
            if file.format == "tflite":
                label = "edgeage" if file.io == "int8" else "edgeage-float-io"
                shutil.copyfile(bundle / file.file, folder / f"{label}.int8.tflite")
        print(f"{name}: {taken} inputs to calibrate with, {len(unseen)} held out")
    facts = {
        "bundle": opened.manifest.name,
        "checkpoint": trained.sha256,
        "edgeage": lineage,
        "source": calibration.partition(":")[0],
        "calibration images are the bundle's": same,
        "held out from training": faces.held_out is not None,
    }
    (work / "facts.json").write_text(json.dumps(facts, indent=2))
    print(f"calibration images are the bundle's own: {'yes' if same else 'no, as many of the same source'}")


def _with_gains(network: torch.nn.Module) -> torch.nn.Module:
    """The same function, its batch norms with gains of 1: torchao fails on those that have none."""
    import torch

    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d) and not module.affine:
            module.weight = torch.nn.Parameter(torch.ones(module.num_features))
            module.bias = torch.nn.Parameter(torch.zeros(module.num_features))
    return network.eval().requires_grad_(False)


def convert(work: Path, peer: list[str] | None) -> None:
    for label in peer or PEERS:
        script, arguments, environment, _ = PEERS[label]
        interpreter = work / "environments" / environment / "bin" / "python"
        for net in NETS:
            note = work / net / f"{label}.json"
            for stale in work.glob(f"{net}/{label}.*"):
                stale.unlink()
            if not interpreter.exists():
                outcome: dict[str, Any] = {"not run": "its environment was not made; see setup"}
            else:
                outcome = _convert(interpreter, script, work / net / f"{label}.log", arguments)
            note.write_text(json.dumps(outcome, indent=2))
            print(f"{label:18} {net:10} {outcome.get('not run', 'made')}, {outcome.get('seconds', 0):.0f} s")


def _convert(interpreter: Path, script: str, log: Path, arguments: tuple[str, ...]) -> dict[str, Any]:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with log.open("w") as output:
        code = subprocess.run(
            [interpreter.absolute(), HERE.absolute() / "peers" / script, log.parent.absolute(), *arguments],
            stdout=output,
            stderr=output,
            env=os.environ | quiet,
        ).returncode
    outcome: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    if code:
        lines = log.read_text().strip().splitlines() or [f"exit code {code}"]
        # tools wrap their errors; the first one is the cause
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        outcome["not run"] = (errors or lines[-1:])[0][:250]
    return outcome


def compare(work: Path, rounds: int, calls: int, picture: Path | None) -> None:
    from tflite_figures import figures

    networks: dict[str, Any] = {}
    for net in NETS:
        made = sorted(path.name.removesuffix(".tflite") for path in (work / net).glob("*.tflite"))
        labels = sorted(made, key=lambda label: (label != BASELINE, not label.startswith("edgeage"), label))
        failed = {
            note.stem: outcome["not run"]
            for note in sorted((work / net).glob("*.json"))
            if "not run" in (outcome := json.loads(note.read_text()))
        }
        networks[net] = {"files": figures(work / net, labels, rounds, calls), "not run": failed}
        _print(net, networks[net])
    facts = json.loads((work / "facts.json").read_text())
    report = {"machine": _machine(), "facts": facts, "networks": networks}
    (work / "results.json").write_text(json.dumps(report, indent=2))
    draw(networks, picture or work / "int8-peers.png")


def _print(net: str, found: dict[str, Any]) -> None:
    print(f"\n{net:28} {'SNR, dB':>8} {'cosine':>8} {'ms':>7} {'x edgeage':>9} {'95 %':>13} {'kB':>6}  I/O")
    for label, entry in found["files"].items():
        facts, near, times = entry["facts"], entry["quality"], entry["latency"]
        low, high = times["ratio_95"]
        rest = [f"{'/'.join(facts['inputs'])} -> {facts['output']}", f"{facts['partitions']} partitions"]
        rest += [f"{facts['transposes']} TRANSPOSE"] * bool(facts["transposes"])
        rest += [f"{sum(facts['not int8'].values())} not int8"] * (not label.endswith("float32"))
        rest += [f"outside XNNPACK: {facts['outside XNNPACK']}"] * bool(facts["outside XNNPACK"])
        print(
            f"{label:28} {near.get('psnr_db', near['sqnr_db']):8.2f} {near['cosine']:8.5f} "
            f"{times['median_ms']:7.3f} {times['ratio']:9.3f} {f'{low:.3f}-{high:.3f}':>13} "
            f"{facts['bytes'] / 1e3:6.0f}  {', '.join(rest)}"
        )
    for label, reason in found["not run"].items():
        print(f"{label:28} not run: {reason}")


def draw(networks: dict[str, Any], path: Path) -> None:
    """Bars of quality (above) and latency (below) for the INT8 files of each network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(networks), figsize=(4.2 * len(networks), 6), layout="constrained")
    for column, (net, found) in enumerate(networks.items()):
        files = {label: entry for label, entry in found["files"].items() if label.endswith(".int8")}
        names = [label.removesuffix(".int8") for label in files]
        colours = ["#d95f02" if name.startswith("edgeage") else "#7570b3" for name in names]
        near = [entry["quality"].get("psnr_db", entry["quality"]["sqnr_db"]) for entry in files.values()]
        times = [entry["latency"]["median_ms"] for entry in files.values()]
        kind = "PSNR" if "psnr_db" in next(iter(files.values()))["quality"] else "SQNR"
        for row, (values, text) in enumerate(((near, f"{kind} to float32, dB"), (times, "ms, one thread"))):
            bars = axes[row, column].barh(names, values, color=colours)
            axes[row, column].bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
            axes[row, column].invert_yaxis()
            axes[row, column].margins(x=0.18)
            axes[row, column].set_title(f"{net}: {text}", fontsize=10)
            axes[row, column].spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _machine() -> dict[str, Any]:
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    versions = {name: importlib.metadata.version(name) for name in ("ai-edge-litert", "onnxruntime", "numpy")}
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    } | versions


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
