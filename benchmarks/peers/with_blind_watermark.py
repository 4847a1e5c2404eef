"""blind-watermark: 48 bits into pictures, and the best guess of them out again.

Runs in an environment of its own (blind_watermark.txt; install it with --no-deps: it asks for opencv-python):
python with_blind_watermark.py embed|extract FOLDER

`embed` marks each FOLDER/*.png with the bits of FOLDER/bits.json in place; `extract` writes FOLDER/read.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from blind_watermark import WaterMark


def main(verb: str, folder: Path) -> None:
    bits = json.loads((folder / "bits.json").read_text())
    read = {}
    start = time.perf_counter()
    files = sorted(folder.glob("*.png"))
    for file in files:
        mark = WaterMark(password_img=1, password_wm=1)
        if verb == "embed":
            mark.read_img(str(file))
            mark.read_wm([bool(bit) for bit in bits], mode="bit")
            marked = mark.embed()
            cv2.imwrite(str(file), np.clip(np.rint(marked), 0, 255).astype(np.uint8))
        else:
            try:
                found = mark.extract(str(file), wm_shape=len(bits), mode="bit")
                read[file.stem] = [int(value > 0.5) for value in found]
            except (AssertionError, IndexError, ValueError) as error:  # a picture too small for the bits
                read[file.stem] = str(error)
    milliseconds = (time.perf_counter() - start) * 1e3 / len(files)
    (folder / "read.json").write_text(json.dumps({"milliseconds": milliseconds, "bits": read}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
