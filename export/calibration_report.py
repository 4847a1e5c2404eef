"""The calibration as a folder: report.html (one file, pictures inside), report.json, ranges.json."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edgeage import __version__
from edgeage.calibration.choose import STABLE, Calibrated
from edgeage.calibration.observers import Feeds, session
from edgeage.calibration.quantization import decide
from edgeage.calibration.ranges import write_tables
from edgeage.calibration.sensitivity import LayerReport, Outputs, as_dict, report
from edgeage.export.calibrated import Calibration
from edgeage.export.progress import Steps
from edgeage.export.qdq import to_qdq
from edgeage.files import new_folder, write_bytes, write_json
from edgeage.groups import one_hot

SENSITIVITY_FACES = 16
_PICTURED = 6  # faces in the picture
_HISTOGRAMS = 6  # tensors of a network that are drawn: those with the least SQNR
_MAGNIFIED = 8  # of the error map

Floats = NDArray[np.float32]


def sensitivity(calibration: Calibration, steps: Steps) -> dict[str, list[LayerReport]]:
    """Every layer of every network: its own error, and what it does to the final image and its embedding."""
    rows = {}
    for network, calibrated in calibration.networks.items():
        feeds = [calibration.selection[network][i] for i in range(_few(calibration, network))]
        effect = _effect(calibration, network, feeds)
        rows[network] = report(
            calibrated,
            feeds,
            to_qdq,
            effect,
            track=lambda items, network=network: steps.track(items, len(items), f"sensitivity {network}"),
        )
    return rows


def write_report(
    folder: Path,
    calibration: Calibration,
    rows: Mapping[str, list[LayerReport]],
    title: str,
    *,
    force: bool,
) -> None:
    """Write the folder under a temporary name and rename it."""
    networks = {
        name: {
            **calibrated.summary(),
            "fingerprint": calibration.tables[name].calibration,
            "float_layers": calibration.tables[name].floats,
            "layers": [as_dict(row) for row in rows[name]],
            "clipped": {tensor: chosen.clipped for tensor, chosen in calibrated.tensors.items()},
        }
        for name, calibrated in calibration.networks.items()
    }
    pictures = {
        "faces": _faces(calibration),
        **{f"{name} stability": _stability(calibration, name) for name in networks},
        **{f"{name} calibrators": _trials(calibration, name) for name in networks},
        **{f"{name} sensitivity": _sensitivity(rows[name]) for name in networks},
        **{f"{name} histograms": _histograms(calibration, name, rows[name]) for name in networks},
    }
    environment = Environment(
        undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("edgeage.export").joinpath("calibration_report.html.jinja").read_text("utf-8")
    page = environment.from_string(template).render(
        title=title,
        version=__version__,
        networks=networks,
        tables=calibration.tables,
        stable=STABLE,
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
    )
    with new_folder(folder, replace=force) as target:
        write_bytes(target / "report.html", page.encode())
        write_json(target / "report.json", networks)
        write_tables(target / "ranges.json", calibration.tables)
        for name, data in pictures.items():
            write_bytes(target / f"{name.replace(' ', '-')}.png", data)


def _few(calibration: Calibration, network: str) -> int:
    return min(SENSITIVITY_FACES, len(calibration.selection[network]))


def _effect(
    calibration: Calibration, network: str, feeds: list[Feeds]
) -> Callable[[Outputs, Outputs], dict[str, float]]:
    """PSNR of the final image and cosine of its embedding, through the float networks."""
    generator, embedder = session(calibration.graphs["generator"]), session(calibration.graphs["embedder"])
    groups = calibration.specs["generator"].inputs[1].shape[1]

    def image(output: Floats, index: int) -> Floats:
        if network == "generator":
            return output
        made: Floats = generator.run(None, {"z": output, "y": one_hot([index % groups], groups)})[0]
        return made

    def effect(outputs: Outputs, wanted: Outputs) -> dict[str, float]:
        if network == "embedder":
            return {"embedding_cosine": _cosine(np.concatenate(outputs), np.concatenate(wanted))}
        pairs = [(image(a, i), image(b, i)) for i, (a, b) in enumerate(zip(outputs, wanted, strict=True))]
        error = float(np.mean([np.square(a - b).mean() for a, b in pairs]))
        embeddings = [[embedder.run(None, {"image": one})[0] for one in pair] for pair in pairs]
        return {
            "image_psnr_db": float(10 * np.log10(4 / max(error, 1e-12))),
            "embedding_cosine": _cosine(*(np.concatenate(side) for side in zip(*embeddings, strict=True))),
        }

    return effect


def _cosine(a: Floats, b: Floats) -> float:
    """Mean cosine of the rows."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.mean((a * b).sum(axis=1) / np.maximum(norms, 1e-12)))


def _faces(calibration: Calibration) -> bytes:
    """Input, float reconstruction, INT8 reconstruction and their difference, for a few unseen faces."""
    images, groups = calibration.check
    count = calibration.specs["generator"].inputs[1].shape[1]
    order = np.linspace(0, len(images) - 1, min(_PICTURED, len(images))).astype(int)
    rows: list[list[Floats]] = []
    chains = []
    for quantised in (False, True):
        chain = {}
        for network in ("encoder", "generator"):
            table = calibration.tables[network]
            decided = decide(
                calibration.graphs[network], table.ranges, corrections=table.corrections, floats=table.floats
            )
            chain[network] = session(to_qdq(decided) if quantised else calibration.graphs[network])
        chains.append(chain)
    for index in order:
        face = images[index][None]
        made = [face]
        for chain in chains:
            z = chain["encoder"].run(None, {"image": face})[0]
            y = one_hot([int(groups[index])], count)
            made.append(chain["generator"].run(None, {"z": z, "y": y})[0])
        rows.append([*made, np.clip((made[2] - made[1]) * _MAGNIFIED, -1, 1)])
    figure = Figure(figsize=(8, 2 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 4, squeeze=False)
    for row, faces in zip(grid, rows, strict=True):
        for axes, face in zip(row, faces, strict=True):
            axes.imshow(np.clip((face[0].transpose(1, 2, 0) + 1) / 2, 0, 1))
            axes.set_axis_off()
    for axes, caption in zip(grid[0], ("input", "float", "INT8", f"error x{_MAGNIFIED}"), strict=True):
        axes.set_title(caption)
    return _png(figure)


def _stability(calibration: Calibration, network: str) -> bytes:
    curve = calibration.networks[network].curve
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for key in ("mean", "worst"):
        axes.plot([rung.samples for rung in curve], [getattr(rung, key) for rung in curve], "o-", label=key)
    axes.axhline(STABLE, color="grey", linestyle="--", label="mean that counts as stable")
    axes.set(xlabel="samples", ylabel="difference of two halves", yscale="log", title=network)
    axes.legend()
    return _png(figure)


def _trials(calibration: Calibration, network: str) -> bytes:
    trials = calibration.networks[network].trials
    chosen = calibration.networks[network].chosen
    names = [
        trial.calibrator + ", equalised" * trial.equalised + ", corrected" * trial.corrected
        for trial in trials
    ]
    figure = Figure(figsize=(7, 0.28 * len(trials) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh(names, [t.sqnr_db for t in trials], color=["C1" if t is chosen else "C0" for t in trials])
    axes.set(xlabel="output SQNR, dB (selection images)", title=network)
    axes.invert_yaxis()
    return _png(figure)


def _sensitivity(rows: list[LayerReport]) -> bytes:
    figure = Figure(figsize=(7, 0.28 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh([f"{row.layer.name} ({row.layer.operator})" for row in rows], [row.alone_db for row in rows])
    axes.set(xlabel="output SQNR with this layer alone in INT8, dB (lower hurts more)")
    axes.invert_yaxis()
    return _png(figure)


def _histograms(calibration: Calibration, network: str, rows: list[LayerReport]) -> bytes:
    """Distributions of the tensors with the least SQNR, with the range that was chosen."""
    calibrated = calibration.networks[network]
    worst = sorted((row for row in rows if np.isfinite(row.sqnr_db)), key=lambda row: row.sqnr_db)
    names = [row.layer.outputs[-1] for row in worst[:_HISTOGRAMS]]
    figure = Figure(figsize=(9, 2.2 * -(-len(names) // 3)), layout="constrained")
    for axes, name in zip(figure.subplots(-(-len(names) // 3), 3, squeeze=False).flat, names, strict=False):
        seen, chosen = calibrated.histograms[name], calibrated.tensors[name]
        bins = np.flatnonzero(seen.counts)
        centres = np.minimum(seen.edges[bins], seen.reach)
        axes.hist(centres, bins=80, weights=seen.counts[bins], log=True)
        axes.axvline(max(map(abs, chosen.ends)), color="C1")
        axes.set_title(f"{name}\n{chosen.chosen_by}, clips {chosen.clipped:.2%}", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("|x|; the line is the end of the range", fontsize=8)
    return _png(figure)


def _score(found: Calibrated, calibrator: str) -> str:
    """Of the plain trial with that calibrator."""
    plain = (t.sqnr_db for t in found.trials if t.calibrator == calibrator and not t.equalised)
    return next((f"{score:.1f}" for score in plain), "-")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def summary_rows(calibration: Calibration) -> list[dict[str, Any]]:
    """One row a network for the terminal."""
    return [
        {
            "network": name,
            "dB": f"{found.chosen.sqnr_db:.1f}",
            "min-max": _score(found, "minmax"),
            "images": str(found.samples),
            "halves": f"{found.curve[-1].mean:.1%}",
            "clipped": f"{max(tensor.clipped for tensor in found.tensors.values()):.2%}",
            "float": str(len(calibration.tables[name].floats)),
            "calibrator": ", ".join(
                [found.chosen.calibrator]
                + ["equalised"] * found.chosen.equalised
                + ["biases corrected"] * found.chosen.corrected
            ),
        }
        for name, found in calibration.networks.items()
    ]
