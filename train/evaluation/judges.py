"""The two judges behind one face: 8-bit pictures in, embeddings and ages out. Training never sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from edgeage.errors import EdgeageError
from edgeage.train.data.listing import Pixels
from edgeage.train.evaluation import dlib_resnet
from edgeage.train.evaluation.chips import Chipper
from edgeage.train.evaluation.judge_files import AGE, RECOGNISER, judges_folder, require

# Two faces nearer than this are one person. LAX is dlib's own advice, and wrong for about 2 of 100 pairs of
# random persons of UTKFace in this framing. STRICT is wrong for 1 of 1000: the quantile of the distances
# between unseen UTKFace faces, measured once. It stays fixed so that figures of different splits compare;
# the report puts the threshold of its own faces beside it.
LAX, STRICT = 0.6, 0.421
FIXED_THRESHOLDS = {"lax": LAX, "strict": STRICT}

_BATCH = 32
_AGE_MEAN = np.array([122.782, 117.001, 104.298], np.float32)
# age-v1 tells 81 classes apart: the first year of life (0.25 on average), then years 1 to 80
_CLASS_AGES = np.array([0.25, *range(1, 81)])


class Judges(Protocol):
    """Who judges. `embeddings`: Euclidean distance tells persons apart; `ages`: apparent age in years."""

    def embeddings(self, images: Pixels, what: str) -> NDArray[np.float32]:
        """uint8 [n, S, S, 3] -> [n, d]; `what` names the work on the progress bar."""
        ...

    def ages(self, images: Pixels, what: str) -> NDArray[np.float64]:
        """uint8 [n, S, S, 3] -> [n]."""
        ...

    def describe(self) -> dict[str, str]:
        """Name -> SHA-256 of what judges."""
        ...


class PublishedJudges:
    """dlib's face recogniser and age-v1, on images in `frame`.

    Raises EdgeageError for another frame, a missing or altered file (with the command that fetches it), or
    a missing onnxruntime.
    """

    def __init__(
        self, folder: Path | None = None, frame: str = "utkface", threads: int = 1, *, progress: bool = False
    ) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise EdgeageError(
                'the age judge needs onnxruntime; install it with: pip install "edgeage[eval]"'
            ) from None
        home = judges_folder(folder)
        recogniser, age = (require(file, home) for file in (RECOGNISER, AGE))
        self._face_chips = Chipper(frame, dlib_resnet.CHIP, 0.25)
        self._age_chips = Chipper(frame, 64, 0.2)
        self._recogniser = dlib_resnet.load(recogniser).to(memory_format=torch.channels_last)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._age = onnxruntime.InferenceSession(str(age), options, providers=["CPUExecutionProvider"])
        self._progress = progress

    def embeddings(self, images: Pixels, what: str) -> NDArray[np.float32]:
        def judge(part: Tensor) -> NDArray[np.float32]:
            chips = self._face_chips.cut(part).contiguous(memory_format=torch.channels_last)
            return self._recogniser(chips).numpy()

        return self._batches(images, judge, f"who: {what}").reshape(len(images), dlib_resnet.EMBEDDING_SIZE)

    def ages(self, images: Pixels, what: str) -> NDArray[np.float64]:
        def judge(part: Tensor) -> NDArray[np.float64]:
            chips = (self._age_chips.cut(part).numpy() - _AGE_MEAN[:, None, None]) / 256
            (shares,) = self._age.run(None, {"images": chips})
            return shares @ _CLASS_AGES

        return self._batches(images, judge, f"age: {what}").reshape(len(images)).astype(np.float64)

    def describe(self) -> dict[str, str]:
        return {file.name: file.sha256 for file in (RECOGNISER, AGE)}

    @torch.inference_mode()
    def _batches(
        self, images: Pixels, judge: Callable[[Tensor], NDArray[np.floating]], what: str
    ) -> NDArray[np.floating]:
        if not len(images):
            return np.empty(0, np.float32)
        parts = []
        with tqdm(total=len(images), desc=what, unit="img", leave=False, disable=not self._progress) as bar:
            for start in range(0, len(images), _BATCH):
                part = torch.from_numpy(np.ascontiguousarray(images[start : start + _BATCH]))
                parts.append(judge(part.permute(0, 3, 1, 2).float()))
                bar.update(len(part))
        return np.concatenate(parts)
