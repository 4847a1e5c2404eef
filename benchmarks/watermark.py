"""What the watermark survives, what it costs the picture, and how often unmarked photos read as marked.

    python benchmarks/watermark.py --photos lfw_folds12.tar --count 100 --unmarked 400
    python benchmarks/watermark.py --photos lfw_folds12.tar --peer ENVIRONMENT/bin/python

The sample photo is always among the pictures. `--peer` names an interpreter with blind-watermark (see
peers/blind_watermark.txt). It cannot find an unknown scale or place: resized pictures are given back to it at
their true size, and crops at their true place on a grey canvas.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from edgeage.runtime.provenance import watermark
from edgeage.runtime.provenance.watermark_code import Payload

HERE = Path(__file__).parent
SAMPLE = HERE.parent / "docs" / "samples" / "astronaut.jpg"
PAYLOAD = Payload(5, False, "c80df2")
BITS = np.unpackbits(np.frombuffer(PAYLOAD.to_bytes(), np.uint8))

Box = tuple[int, int, int, int]


def saved(image: Image.Image, kind: str, **options: object) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Image.open(stream).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    size = round(image.width * factor), round(image.height * factor)
    return image.resize(size, Image.Resampling.LANCZOS)


def crop_box(image: Image.Image, keep: float, seed: int) -> Box:
    random = np.random.default_rng(seed)
    width, height = round(image.width * keep), round(image.height * keep)
    left, top = random.integers(image.width - width + 1), random.integers(image.height - height + 1)
    return int(left), int(top), int(left) + width, int(top) + height


# What is done to a marked picture: side of a random crop, factor of the size, what it is saved as.
ATTACKS: dict[str, tuple[float, float, Callable[[Image.Image], Image.Image]]] = {
    "nothing": (1, 1, lambda image: image),
    "JPEG 90": (1, 1, lambda image: saved(image, "JPEG", quality=90)),
    "JPEG 75": (1, 1, lambda image: saved(image, "JPEG", quality=75)),
    "JPEG 50": (1, 1, lambda image: saved(image, "JPEG", quality=50)),
    "WebP 75": (1, 1, lambda image: saved(image, "WEBP", quality=75)),
    "GIF, 256 colours": (1, 1, lambda image: saved(image, "GIF")),
    "half size": (1, 0.5, lambda image: image),
    "half size, JPEG 75": (1, 0.5, lambda image: saved(image, "JPEG", quality=75)),
    "crop to 80 % of the side": (0.8, 1, lambda image: image),
    "crop to 60 %": (0.6, 1, lambda image: image),
    "crop to 50 %": (0.5, 1, lambda image: image),
    "crop to 80 %, size x 0.7, JPEG 75": (0.8, 0.7, lambda image: saved(image, "JPEG", quality=75)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="a folder or .tar of pictures")
    parser.add_argument("--count", type=int, default=100, help="pictures to mark")
    parser.add_argument("--unmarked", type=int, default=0, help="pictures to look for false alarms in")
    parser.add_argument("--peer", type=Path, help="interpreter with blind-watermark")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    for name, pictures in sources(options.photos, options.count):
        print(f"\n{name}: {len(pictures)} pictures, bit accuracy % (share with the whole payload right %)")
        rows = {"edgeage": own(pictures)}
        if options.peer:
            rows["blind-watermark"] = peer(pictures, options.peer)
        show(rows)
        if options.json:
            options.json.with_name(f"{options.json.stem}-{name.split()[0]}.json").write_text(json.dumps(rows))
    if options.unmarked and options.photos:
        false_alarms(list(photos(options.photos, options.unmarked)))


def sources(place: Path | None, count: int) -> Iterator[tuple[str, list[Image.Image]]]:
    yield "sample photo", [Image.open(SAMPLE).convert("RGB")]
    if place:
        yield place.name, list(photos(place, count))


def photos(place: Path, count: int) -> Iterator[Image.Image]:
    """Evenly spread over a folder or a .tar."""
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
        for file in files[:: max(len(files) // count, 1)][:count]:
            yield Image.open(file).convert("RGB")
        return
    with tarfile.open(place) as archive:
        members = [one for one in archive.getmembers() if one.name.lower().endswith((".jpg", ".png"))]
        for member in members[:: max(len(members) // count, 1)][:count]:
            stream = archive.extractfile(member)
            assert stream is not None  # a file
            yield Image.open(io.BytesIO(stream.read())).convert("RGB")


def attacked(image: Image.Image, attack: str, seed: int) -> Image.Image:
    keep, factor, save = ATTACKS[attack]
    if keep < 1:
        image = image.crop(crop_box(image, keep, seed))
    return save(scaled(image, factor) if factor != 1 else image)


def own(pictures: list[Image.Image]) -> dict[str, object]:
    start = time.perf_counter()
    marked = [Image.fromarray(watermark.embed(np.asarray(picture), PAYLOAD)) for picture in pictures]
    embed_ms = (time.perf_counter() - start) * 1e3 / len(pictures)
    accuracy: dict[str, tuple[float, float]] = {}
    for attack in ATTACKS:
        bits, whole = [], []
        for seed, picture in enumerate(marked):
            pixels = np.asarray(attacked(picture, attack, seed))
            found = watermark.detect(pixels)
            whole.append(found is not None and found.payload == PAYLOAD)
            # where nothing is found: the guess at the true scale, as a decoder without a threshold would give
            coded = found.payload.to_bytes() if found else watermark.read(pixels, ATTACKS[attack][0]).coded
            bits.append(np.mean(np.unpackbits(np.frombuffer(coded, np.uint8)) == BITS))
        accuracy[attack] = float(np.mean(bits)), float(np.mean(whole))
    return {"psnr": psnr(pictures, marked), "embed ms": embed_ms, "accuracy": accuracy}


def peer(pictures: list[Image.Image], python: Path) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "bits.json").write_text(json.dumps(BITS.tolist()))

        def run(verb: str, images: list[Image.Image]) -> dict:
            for index, image in enumerate(images):
                image.save(work / f"{index:05}.png", compress_level=1)
            command = [python.absolute(), HERE / "peers" / "with_blind_watermark.py", verb, work]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return json.loads((work / "read.json").read_text())

        embed_ms = run("embed", pictures)["milliseconds"]
        marked = [Image.open(work / f"{index:05}.png").convert("RGB") for index in range(len(pictures))]
        accuracy: dict[str, tuple[float, float]] = {}
        for attack, (keep, factor, _) in ATTACKS.items():
            images = []
            for seed, picture in enumerate(marked):
                image = attacked(picture, attack, seed)
                if factor != 1 or keep < 1:  # told size and place
                    canvas = Image.new("RGB", picture.size, "grey")
                    box = crop_box(picture, keep, seed)
                    canvas.paste(
                        image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS), box
                    )
                    image = canvas
                images.append(image)
            read = run("extract", images)["bits"].values()
            right = [np.mean(np.array(bits) == BITS) if isinstance(bits, list) else 0.5 for bits in read]
            accuracy[attack] = float(np.mean(right)), float(np.mean(np.array(right) == 1))
        return {"psnr": psnr(pictures, marked), "embed ms": embed_ms, "accuracy": accuracy}


def psnr(before: list[Image.Image], after: list[Image.Image]) -> tuple[float, float]:
    """Median and least, dB."""
    values = []
    for one, other in zip(before, after, strict=True):
        change = np.asarray(one).astype(float) - np.asarray(other)
        values.append(10 * np.log10(255**2 / np.square(change).mean()))
    return float(np.median(values)), float(np.min(values))


def show(rows: dict[str, dict]) -> None:
    for name, row in rows.items():
        median, least = row["psnr"]
        print(
            f"  {name}: PSNR median {median:.1f} dB, least {least:.1f} dB; {row['embed ms']:.0f} ms to embed"
        )
    print("  " + "attack".ljust(36) + "".join(name.rjust(20) for name in rows))
    for attack in ATTACKS:
        cells = (
            f"{bits:.1%} ({whole:.0%})" for bits, whole in (row["accuracy"][attack] for row in rows.values())
        )
        print("  " + attack.ljust(36) + "".join(cell.rjust(20) for cell in cells))


def false_alarms(pictures: list[Image.Image]) -> None:
    """Scores of unmarked pictures, and the bound on false alarms that follows from them."""
    whole, search, alarms, start = [], [], 0, time.perf_counter()
    for picture in pictures:
        pixels = np.asarray(picture)
        readings = {kept: watermark.readings(pixels, kept) for kept in (1.0, *watermark.scales())}
        whole.append(max(reading.score for reading, _, _ in readings.pop(1.0)))
        search.append(max(reading.score for found in readings.values() for reading, _, _ in found))
        alarms += watermark.detect(pixels) is not None
    reach = np.mean(np.array(whole) >= watermark.THRESHOLD)
    reach_search = np.mean(np.array(search) >= watermark.SEARCH_THRESHOLD)
    bound = (2 * reach + watermark.CANDIDATES * reach_search) / 2**19
    print(f"\nunmarked: {len(pictures)} pictures, {alarms} read as marked")
    print(f"  reach the pilot's threshold: {reach:.1%} whole, {reach_search:.1%} in a search")
    print(f"  highest scores: {max(whole):.2f} whole, {max(search):.2f} in a search")
    print(f"  false alarms by CRC and format: at most {bound:.1e} a picture")
    print(f"  {(time.perf_counter() - start) / len(pictures):.2f} s a picture for both ways")


if __name__ == "__main__":
    main()
