"""The document of `verify_on_device` as one HTML file that needs nothing else: tables, curves, faces."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeage.runtime.photo.levels import to_pixels

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; width: 100% }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.ok { color: #16703c } .bad { color: #b3261e; font-weight: 600 } .dim { color: #777 }
code { font-size: 12px; word-break: break-all } svg { display: block } img { image-rendering: pixelated }
"""
_ERROR_GAIN = 8


def report_html(document: dict[str, Any], pictures: dict[str, NDArray[np.float32]]) -> str:
    """One page; all texts of the document are escaped."""
    faults = document["faults"]
    verdict = (
        '<p class="ok">Everything holds.</p>'
        if not faults
        else f'<ul class="bad">{"".join(f"<li>{_text(fault)}</li>" for fault in faults)}</ul>'
    )
    parts = [
        f"<h1>{_text(document['bundle'])} on {_text(_device(document))}</h1>",
        f"<p>edgeage {_text(document['edgeage'])}, {_text(document['engine'])}, "
        f"{_text(document['precision'])}</p>",
        verdict,
        "<h2>Golden vectors</h2>",
        _golden(document["engines"]),
        "<h2>Latency</h2><p>One run, inputs and outputs on the host; all engines in turn, warm-up apart. "
        "In brackets the 95 % interval; &ldquo;not estimable&rdquo;: too few runs to bound it.</p>",
        _latency(document),
        _faces(pictures),
        _plans(document["engines"]),
        "<h2>Plan cache</h2>",
        _cache(document["cache"]),
        "<h2>Power</h2>",
        _power(document["power"]),
        "<h2>Machine</h2>",
        _table(("", ""), ([_text(key), _text(value)] for key, value in document["machine"].items())),
    ]
    title = f"edgeage on {_device(document)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _device(document: dict[str, Any]) -> str:
    machine = document["machine"]
    return str(machine.get("model") or machine.get("name") or machine["cpu"])


def _golden(engines: dict[str, Any]) -> str:
    rows = [
        [
            _text(f"{name}.{one['port']}"),
            _text(one["measure"]),
            _number(one["value"]),
            f"{'at most' if one['at_most'] else 'at least'} {one['limit']:g}",
            _mark(one["ok"]),
        ]
        for name, facts in engines.items()
        for one in facts["golden"]
    ]
    return _table(("output", "measure", "found", "allowed", ""), rows)


def _latency(document: dict[str, Any]) -> str:
    rows = []
    subjects = {name: facts["latency"] for name, facts in document["engines"].items()}
    if "percentiles" in document["whole_face"]:
        subjects["whole face"] = document["whole_face"]
    for name, figures in subjects.items():
        cells = [_percentile(one) for one in figures["percentiles"].values()]
        rows.append([_text(name), *cells, str(figures["runs"]), _histogram(figures.get("histogram"))])
    return _table(("engine", "p50, ms", "p90, ms", "p99, ms", "runs", "least to largest"), rows)


def _percentile(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return f'<span class="dim">not estimable ({one["independent"]} of {one["needed"]})</span>'
    return f"{one['value']:.3f} <span class=dim>({one['low']:.3f}..{one['high']:.3f})</span>"


def _histogram(histogram: dict[str, Any] | None) -> str:
    if histogram is None:
        return ""
    counts = histogram["counts"]
    most = max(counts)
    bars = "".join(
        f'<rect x="{4 * index}" y="{30 - 30 * count / most:.1f}" width="3" height="{30 * count / most:.1f}"/>'
        for index, count in enumerate(counts)
    )
    label = f"{histogram['from']:.3f} to {histogram['to']:.3f} ms"
    width = 4 * len(counts)
    return (
        f'<svg width="{width}" height="30" role="img" aria-label="{label}" fill="#3367a8">'
        f"<title>{label}</title>{bars}</svg><span class=dim>{label}</span>"
    )


def _faces(pictures: dict[str, NDArray[np.float32]]) -> str:
    if not pictures:
        return ""
    golden, here = pictures["golden"], pictures["here"]
    error = np.abs(here - golden) * _ERROR_GAIN - 1
    rows = {"float network": golden, "here": here, f"difference x{_ERROR_GAIN}": error}
    made = [[_text(name), f'<img alt="{_text(name)}" src="{_png(images)}">'] for name, images in rows.items()]
    return "<h2>The golden face at every age</h2>" + _table(("", ""), made)


def _png(images: NDArray[np.float32]) -> str:
    file = io.BytesIO()
    picture = Image.fromarray(np.concatenate(list(to_pixels(images)), axis=1))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _plans(engines: dict[str, Any]) -> str:
    rows = []
    for name, facts in engines.items():
        if "plan" not in facts:
            continue
        plan, coverage = facts["plan"], facts["coverage"]
        int8 = (
            f'<span class="dim">{_text(coverage["not run"])}</span>'
            if "not run" in coverage
            else f"{coverage['int8_matrix_layers']} of {coverage['matrix_layers']} convolutions and dense "
            f"layers, {coverage['layers']} layers in all"
        )
        seconds = f"built in {plan['seconds']:.1f} s"
        origin = f"from the cache ({seconds})" if plan["reused"] else f"{seconds}: {plan['reason']}"
        chosen = f"<br>auto: {_text(facts['auto']['reason'])}" if "auto" in facts else ""
        rows.append(
            [
                _text(name),
                f"{_text(plan['recipe'])}, {plan['bytes'] / 1e6:.1f} MB, {_text(origin)}{chosen}"
                f"<br><code>{_text(plan['trtexec'])}</code>",
                int8,
            ]
        )
    return "<h2>Plans</h2>" + _table(("engine", "plan", "INT8"), rows) if rows else ""


def _cache(cache: dict[str, Any]) -> str:
    if "not run" in cache:
        return f'<p class="dim">not run: {_text(cache["not run"])}</p>'
    rows = ([_text(what), _mark(one["ok"]), _text(one["found"])] for what, one in cache.items())
    return _table(("case", "", "found"), rows)


def _power(power: dict[str, Any]) -> str:
    if "not run" in power:
        return f'<p class="dim">not run: {_text(power["not run"])}</p>'
    rows = [
        [_text(rail), _number(power["idle"].get(rail, {}).get("mean_w")), _number(load["mean_w"]),
         _number(load["max_w"]), str(load["samples"])]
        for rail, load in power["load"].items()
    ]  # fmt: skip
    return _table(("rail", "idle, W", "load, mean W", "load, most W", "samples"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _mark(ok: bool) -> str:
    return '<span class="ok">ok</span>' if ok else '<span class="bad">FAILED</span>'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return html.escape(str(value))
