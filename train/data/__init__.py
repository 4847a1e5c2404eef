"""Training faces: a source is listed, decoded once, and packed as `Faces`."""

from __future__ import annotations

from edgeage.train.data.faces import Faces
from edgeage.train.data.sources import open_source

__all__ = ["Faces", "open_source"]
