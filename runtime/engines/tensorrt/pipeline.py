"""One face, whole, on the device: encode, refine, generate, with images that stay there.

The host sees 100 numbers of z and of its gradient a step, and the embedding; the photo's face goes up once,
the six generated ones come down once. What the pixel guard of the refinement looks at comes down too.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeage.groups import one_hot
from edgeage.runtime.bundle import Bundle
from edgeage.runtime.engines import Feeds
from edgeage.runtime.engines.ports import check_feeds
from edgeage.runtime.engines.tensorrt.lane import Lane, open_stream
from edgeage.runtime.engines.tensorrt.memory import Buffer
from edgeage.runtime.engines.tensorrt.prepare import Workshop
from edgeage.runtime.manifest import Port
from edgeage.runtime.refinement import Refined, RefinementOptions, refine, unrefined

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class AgedOnDevice:
    """images: float32 [groups, 3, S, S] in [-1, 1]; refined: how the latent was found."""

    images: Floats
    refined: Refined


class DevicePipeline:
    """A bundle's plans with shared buffers on one stream; for one thread. Frees all on `close`."""

    def __init__(self, bundle: Bundle, precision: str = "int8", workshop: Workshop | None = None) -> None:
        self.bundle, self._precision = bundle, precision
        self._workshop = workshop or Workshop()
        self._cuda = self._workshop.libraries.cuda
        with ExitStack() as stack:
            self._stream = open_stream(self._cuda, stack)
            self._allocate(stack)
            self._bind(stack)
            self.close = stack.pop_all().close

    def age(self, image: Floats, group: int, options: RefinementOptions | None = None) -> AgedOnDevice:
        """The face [1, 3, S, S] in [-1, 1], whose own group is `group`, at every group.

        `options`: the manifest's unless given. Raises EdgeageError for a wrong image.
        """
        manifest = self.bundle.manifest
        options = options or RefinementOptions.from_manifest(manifest.refinement)
        check_feeds({"image": image}, (Port("image", self.image.shape),))
        count = len(manifest.profile.groups)
        self.image.upload(image, self._stream)
        self.y.upload(one_hot([group], count), self._stream)
        self._encode.launch()
        self.z.download(self._stream)
        self._aim.launch()
        self.target.download(self._stream)
        self._encode.synchronise()
        refined = self._refine(image, options)
        self.all_z.upload(np.repeat(refined.z, count, axis=0), self._stream)
        self.all_y.upload(one_hot(range(count), count), self._stream)
        self._generate.launch()
        self.images.download(self._stream)
        self._generate.synchronise()
        return AgedOnDevice(self.images.host.copy(), refined)

    def _refine(self, image: Floats, options: RefinementOptions) -> Refined:
        z = self.z.host.copy()
        if not options.steps:
            return unrefined(z)
        given = z, self.y.host, self.target.host, image
        return refine(_Steps(self), *given, options, check=self)

    def step(self, z: Floats) -> Feeds:
        """One run of the refine engine on the face that is there."""
        self.z.upload(z, self._stream)
        self._step.launch()
        for buffer in (self.gradient, self.embedding):
            buffer.download(self._stream)
        self._step.synchronise()
        return {"gradient": self.gradient.host.copy(), "embedding": self.embedding.host.copy()}

    def generate(self, z: Floats, y: Floats) -> Floats:
        """G(z, y) of the face that is there; the image stays on the device too."""
        self.z.upload(z, self._stream)
        self._make.launch()
        self.made.download(self._stream)
        self._make.synchronise()
        made: Floats = self.made.host.copy()
        return made

    def embed(self, images: Floats) -> Floats:
        """The embedding of what `generate` made last, from the device's own copy."""
        self._look.launch()
        self.made_embedding.download(self._stream)
        self._look.synchronise()
        embedding: Floats = self.made_embedding.host.copy()
        return embedding

    def _allocate(self, stack: ExitStack) -> None:
        engines = self.bundle.manifest.engines
        inputs = {port.name: port.shape for port in engines["refine"].inputs}
        many = {port.name: port.shape for port in engines["generator_all"].inputs}

        def buffer(shape: tuple[int, ...]) -> Buffer:
            return Buffer(self._cuda, shape, stack)

        self.image, self.made = buffer(inputs["image"]), buffer(inputs["image"])
        self.z, self.gradient, self.y = buffer(inputs["z"]), buffer(inputs["z"]), buffer(inputs["y"])
        self.target, self.embedding = buffer(inputs["target"]), buffer(inputs["target"])
        self.made_embedding = buffer(inputs["target"])
        self.all_z, self.all_y = buffer(many["z"]), buffer(many["y"])
        self.images = buffer(engines["generator_all"].outputs[0].shape)

    def _bind(self, stack: ExitStack) -> None:
        """One lane for each way a plan is used."""
        prepared = {
            name: self._workshop.prepare(self.bundle, name, self._precision)
            for name in ("encoder", "embedder", "generator", "generator_all", "refine")
        }

        def lane(name: str, **buffers: Buffer) -> Lane:
            return Lane(self._workshop.libraries, prepared[name], buffers, self._stream, stack)

        face = {"z": self.z, "y": self.y}
        self._encode = lane("encoder", image=self.image, z=self.z)
        self._aim = lane("embedder", image=self.image, embedding=self.target)
        self._step = lane(
            "refine",
            **face,
            target=self.target,
            image=self.image,
            gradient=self.gradient,
            embedding=self.embedding,
        )
        self._make = lane("generator", **face, image=self.made)
        self._look = lane("embedder", image=self.made, embedding=self.made_embedding)
        self._generate = lane("generator_all", z=self.all_z, y=self.all_y, image=self.images)


class _Steps:
    """The refine engine for the host's loop: of its inputs only z goes to the device, the rest is there."""

    def __init__(self, pipeline: DevicePipeline) -> None:
        entry = pipeline.bundle.manifest.engines["refine"]
        self.inputs, self.outputs, self.description = entry.inputs, entry.outputs, "refine on the device"
        self._pipeline = pipeline

    def run(self, feeds: Feeds) -> Feeds:
        return self._pipeline.step(feeds["z"])
