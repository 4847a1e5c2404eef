"""A batch engine made from a batch-1 engine, one run per row."""

from __future__ import annotations

import numpy as np

from edgeage.runtime.engines import Engine, Feeds
from edgeage.runtime.engines.ports import check_feeds
from edgeage.runtime.manifest import Port


class RepeatedEngine:
    """Runs `single` once per row of the batch; slower than a batch file, same numbers."""

    def __init__(self, single: Engine, count: int) -> None:
        self._single, self._count = single, count
        self.inputs = tuple(Port(port.name, (count, *port.shape[1:])) for port in single.inputs)
        self.outputs = tuple(Port(port.name, (count, *port.shape[1:])) for port in single.outputs)
        self.description = f"{single.description}, run {count} times"

    def run(self, feeds: Feeds) -> Feeds:
        check_feeds(feeds, self.inputs)
        rows = [
            self._single.run({name: values[row : row + 1] for name, values in feeds.items()})
            for row in range(self._count)
        ]
        return {port.name: np.concatenate([row[port.name] for row in rows]) for port in self.outputs}
