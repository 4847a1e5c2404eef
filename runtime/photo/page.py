"""A web page of one file: the photo and an aged form of it under a slider, a button for every age group."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeage.runtime.photo.sheets import ORIGINAL, Box, Mark

_SIDE = 1280  # the longer side of the page's pictures; the PNGs beside it have all pixels

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title, aged</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { margin: 0 auto; padding: 1rem; max-width: 60rem; }
  h1 { font-size: 1.2rem; margin: 0 0 .75rem; overflow-wrap: anywhere; }
  figure { position: relative; margin: 0 auto; width: fit-content; --at: $start%; touch-action: pan-y; }
  figure img { display: block; max-width: 100%; max-height: 70vh; border-radius: .5rem; }
  #aged { position: absolute; inset: 0; width: 100%; height: 100%; clip-path: inset(0 0 0 var(--at)); }
  figure::after { content: ""; position: absolute; inset: 0 auto 0 var(--at); width: 3px; margin-left: -1.5px;
                  background: #fff; box-shadow: 0 0 4px #000; pointer-events: none; }
  figure span { position: absolute; top: .5rem; padding: 0 .5rem; border-radius: .5rem; color: #fff;
                background: #000a; font-size: .9rem; pointer-events: none; }
  #left { left: .5rem; } #right { right: .5rem; }
  #slider { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
            cursor: ew-resize; }
  figure:focus-within { outline: 3px solid #2673d9; outline-offset: 2px; border-radius: .5rem; }
  nav { display: flex; flex-wrap: wrap; gap: .5rem; justify-content: center; margin: 1rem 0; }
  button { font: inherit; min-width: 4.5rem; min-height: 2.75rem; padding: 0 .75rem; border-radius: .5rem;
           border: 1px solid #8888; background: none; color: inherit; cursor: pointer; }
  button[aria-pressed=true] { background: #2673d9; border-color: #2673d9; color: #fff; }
  p { font-size: .85rem; opacity: .75; text-align: center; }
</style>
<h1>$title</h1>
<figure>
  <img id="original" alt="the photo" src="$original">
  <img id="aged" alt="">
  <span id="left">$own</span><span id="right"></span>
  <input id="slider" type="range" min="0" max="100" value="$start"
         aria-label="border between photo and aged photo">
</figure>
<nav aria-label="age group">
$buttons
</nav>
<p>The ages are made by a model (edgeage, $model): they are not photographs. $facts</p>
<script>
  const buttons = [...document.querySelectorAll("button")], aged = document.getElementById("aged");
  function show(button) {
    aged.src = button.dataset.picture;
    aged.alt = "the photo at age " + button.textContent;
    document.getElementById("right").textContent = button.textContent;
    for (const other of buttons) other.setAttribute("aria-pressed", other === button);
  }
  for (const button of buttons) button.addEventListener("click", () => show(button));
  document.getElementById("slider").addEventListener("input", event =>
    event.target.parentElement.style.setProperty("--at", event.target.value + "%"));
  show(buttons[buttons.length - 1]);
</script>
</html>
""")


class Page:
    """A self-contained page: no script or picture is fetched, and its own policy forbids it."""

    name, is_picture = "compare.html", False  # it says in words what its pictures are

    def __init__(self, title: str, model: str, facts: str, boxes: Sequence[Box]) -> None:
        """`facts`: one sentence for the foot of the page, e.g. mode and strength. `boxes`: of the faces."""
        self._title, self._model, self._facts, self._box = title, model, facts, boxes[0]
        self._pictures: dict[str, Image.Image] = {}
        self._start = 50

    def add(self, label: str, pixels: NDArray[np.uint8]) -> None:
        self._start = round(50 * (self._box[0] + self._box[2]) / pixels.shape[1])
        self._pictures[label] = _small(pixels)

    def content(self, mark: Mark) -> bytes:
        buttons = [
            f'  <button type="button" data-picture="{_data(mark(np.asarray(picture)))}">'
            f"{html.escape(label)}</button>"
            for label, picture in self._pictures.items()
            if label != ORIGINAL
        ]
        return _PAGE.substitute(
            title=html.escape(self._title),
            start=min(max(self._start, 0), 100),
            original=_data(np.asarray(self._pictures[ORIGINAL])),
            own=ORIGINAL,
            buttons="\n".join(buttons),
            model=html.escape(self._model),
            facts=html.escape(self._facts),
        ).encode()


def _data(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _small(pixels: NDArray[np.uint8]) -> Image.Image:
    """At most `_SIDE` pixels long."""
    height, width = pixels.shape[:2]
    block = max(height, width) // _SIDE
    if block > 1:  # in bands: no second picture of the photo's size
        rows = 64 * block
        bands = [Image.fromarray(pixels[top : top + rows]).reduce(block) for top in range(0, height, rows)]
        pixels = np.concatenate([np.asarray(band) for band in bands])
    small = Image.fromarray(pixels)
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return small
