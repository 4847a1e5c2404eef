"""Linux: peak resident memory of aging one photo to six PNGs, a strip, a morph and a page, in a process of
its own.

The photo is the sample, enlarged to the asked size and grained (so that its PNGs are as large as a camera's).
The baseline is the same process on the sample as it is: what Python, the packages and the engines take.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

GOAL_MIB = 300
SAMPLE = Path(__file__).parents[1] / "docs" / "samples" / "astronaut.jpg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="models/edge64.agebundle")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[12.0])
    parser.add_argument("--all-sheets", action="store_true", help="with the morph and the page")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=Path, nargs=2, metavar=("PHOTO", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(age(options.bundle, *options.child, options.all_sheets))
        return
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        photos = {"baseline": SAMPLE}
        for size in options.megapixels:
            photos[f"{size:g} megapixels"] = enlarged(size, Path(folder) / f"{size:g}.jpg")
        for label, photo in photos.items():
            command = [sys.executable, __file__, "--bundle", options.bundle, "--child", photo]
            command += [Path(folder) / f"out-{photo.stem}", *["--all-sheets"] * options.all_sheets]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
            report[label] = round(float(done.stdout), 1)
    if options.json:
        print(json.dumps({"peak_mib": report, "goal_mib": GOAL_MIB}))
        return
    for label, peak in report.items():
        print(f"{label:16} peak {peak:6.1f} MiB" + (f" (goal {GOAL_MIB})" if label != "baseline" else ""))


def enlarged(megapixels: float, path: Path) -> Path:
    """The sample's middle as a 4:3 photo, its face a quarter of the photo's width."""
    width, height = round((megapixels * 4e6 / 3) ** 0.5), round((megapixels * 3e6 / 4) ** 0.5)
    with Image.open(SAMPLE) as sample:
        photo = (
            sample.convert("RGB").crop((56, 0, 456, 300)).resize((width, height), Image.Resampling.BICUBIC)
        )
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 1))
    grained = np.clip(np.asarray(photo) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(grained).save(path, quality=92)
    return path


def age(bundle: str, photo: Path, out: Path, all_sheets: bool) -> float:
    """Peak RSS in MiB of this process."""
    from edgeage.runtime.job import Job
    from edgeage.runtime.provenance.marking import Marking
    from edgeage.runtime.session import load

    session = load(bundle)
    plan = session.plan(source_group="30-39")
    morph = "webp" if all_sheets else None
    Job(session, plan, ("litert", "int8"), morph, all_sheets, Marking()).age(photo, out)
    # not getrusage: its peak starts with that of the process which started this one
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


if __name__ == "__main__":
    main()
