"""Arrays and photos on their way into the page of `edgeage demo` and back."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "docs" / "samples" / "astronaut.jpg"
BUNDLE = ROOT / "models" / "edge64.agebundle"
AXE = ROOT / ".demo-node" / "node_modules" / "axe-core" / "axe.min.js"

_TYPES = {"uint8": "Uint8ClampedArray", "float32": "Float32Array", "float64": "Float64Array"}
PRELUDE = """async (packed) => {
    const unpack = (value) => {
        if (Array.isArray(value)) return value.map(unpack);
        if (!value || value.bytes === undefined) return value;
        const bytes = Uint8Array.from(atob(value.bytes), (letter) => letter.charCodeAt(0));
        return Object.assign(new globalThis[value.type](bytes.buffer), { shape: value.shape });
    };
    const pack = (value) => {
        if (ArrayBuffer.isView(value)) {
            const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
            let text = "";
            for (let i = 0; i < bytes.length; i += 32768) {
                text += String.fromCharCode(...bytes.subarray(i, i + 32768));
            }
            return { bytes: btoa(text), type: value.constructor.name };
        }
        if (Array.isArray(value)) return value.map(pack);
        if (value && typeof value === "object") {
            return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, pack(one)]));
        }
        return value;
    };
    const module = (name) => import(`./${name}.mjs`);
    const { Picture } = await module("picture");
    const picture = (array) => new Picture(array.shape[1], array.shape[0], array.shape[2], array.slice());
    const work = async ({ %s }) => { %s };
    return pack(await work(Object.fromEntries(Object.entries(packed).map(([k, v]) => [k, unpack(v)]))));
}"""


def pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        content = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"bytes": content, "type": _TYPES[str(value.dtype)], "shape": list(value.shape)}
    if isinstance(value, list | tuple):
        return [pack(one) for one in value]
    return value


def unpack(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"bytes", "type"}:
        dtype = next(dtype for dtype, name in _TYPES.items() if name == value["type"])
        return np.frombuffer(base64.b64decode(value["bytes"]), dtype)
    if isinstance(value, dict):
        return {key: unpack(one) for key, one in value.items()}
    if isinstance(value, list):
        return [unpack(one) for one in value]
    return value


def jpeg(pixels: np.ndarray | Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


def upload(page: Any, content: bytes, name: str = "portrait.jpg") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": content})
