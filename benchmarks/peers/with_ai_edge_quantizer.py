"""ai-edge-quantizer: a float32 TFLite file (litert-torch's) -> INT8 by its recipe static_wi8_ai8.

Runs in an environment of its own (ai_edge_quantizer.txt), after litert-torch:
python with_ai_edge_quantizer.py NET
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe


def main(folder: Path) -> None:
    given = folder / "litert-torch.float32.tflite"
    if not given.is_file():
        sys.exit(f"{given.name} is missing: this tool starts from the file that litert-torch makes")
    with np.load(folder / "calibration.npz") as arrays:
        feeds = [arrays[name] for name in arrays.files]
    ((signature, ports),) = Interpreter(str(given)).get_signature_list().items()
    named = dict(zip(ports["inputs"], feeds, strict=True))  # litert-torch keeps the order of arguments
    data = [
        {name: _nhwc(feed[index : index + 1]) for name, feed in named.items()}
        for index in range(len(feeds[0]))
    ]
    tool = quantizer.Quantizer(str(given), recipe.static_wi8_ai8())
    found = tool.calibrate({signature: data}, num_threads=1)
    tool.quantize(found).export_model(str(folder / "ai-edge-quantizer.int8.tflite"), overwrite=True)


def _nhwc(feed: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(feed.transpose(0, 2, 3, 1)) if feed.ndim == 4 else feed


if __name__ == "__main__":
    main(Path(sys.argv[1]))
