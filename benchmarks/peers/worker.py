"""One subject in a process of its own, so that it may live in an environment of its own.

    python worker.py tflite FILE | onnx FILE | torch CHECKPOINT NETWORK | torch.compile CHECKPOINT NETWORK |
                     refine BUNDLE STEPS | lbfgs CHECKPOINT BUNDLE

Says "ready" when it is loaded and has run once; then, for each line that it reads, runs once and says how
many nanoseconds that took. It ends with its input. One thread.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy and torch are imported

import numpy as np  # noqa: E402

Run = Callable[[], object]


def tflite(path: str) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for port in interpreter.get_input_details():
        values = rng.uniform(-1, 1, port["shape"]).astype(np.float32)
        if port["dtype"] != np.float32:
            scale, zero = port["quantization"]
            limits = np.iinfo(port["dtype"])
            values = np.clip(np.rint(values / np.float32(scale)) + zero, limits.min, limits.max)
        interpreter.set_tensor(port["index"], values.astype(port["dtype"]))
    return interpreter.invoke


def onnx(path: str) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {port.name: rng.uniform(-1, 1, port.shape).astype(np.float32) for port in session.get_inputs()}
    return lambda: session.run(None, feeds)


def torch(checkpoint: str, network: str, *, compiled: bool = False) -> Run:
    import torch

    from edgeage.runtime.manifest import engine_ports
    from edgeage.train.checkpoint import load_checkpoint

    torch.set_num_threads(1)
    loaded = load_checkpoint(checkpoint)
    inputs, _ = engine_ports(loaded.profile)[network]
    torch.manual_seed(0)
    feeds = [torch.rand(port.shape) * 2 - 1 for port in inputs]
    model = loaded.networks[network].eval().requires_grad_(False)
    if compiled:
        from torch._inductor import config

        config.freezing = True  # weights as constants, packed once: its setting for inference
        model = torch.compile(model)

    def run() -> object:
        with torch.inference_mode():
            return model(*feeds)

    return run


def refine(bundle: str, steps: str) -> Run:
    from dataclasses import replace

    from edgeage.runtime.refinement import RefinementOptions

    session, crop, z, group = _face(bundle)
    usual = RefinementOptions.from_manifest(session.bundle.manifest.refinement)
    options = replace(usual, steps=int(steps))
    return lambda: session.refine(z, [group], crop[None], options)


def lbfgs(checkpoint: str, bundle: str) -> Run:
    import torch

    from edgeage.train.checkpoint import load_checkpoint
    from edgeage.train.latent_optimization import Face, RefinementSettings, optimise

    torch.set_num_threads(1)
    networks = load_checkpoint(checkpoint).networks
    session, crop, z, group = _face(bundle)
    image = (crop[None].transpose(0, 3, 1, 2) / np.float32(127.5) - 1).astype(np.float32)
    y = np.eye(len(session.profile.groups), dtype=np.float32)[[group]]
    settings = RefinementSettings("euclidean", session.bundle.manifest.refinement["pixel_weight"])
    face = Face.of(torch.from_numpy(image), torch.from_numpy(y), networks["embedder"])
    start = torch.from_numpy(z)
    return lambda: optimise(networks["generator"], networks["embedder"], start, face, "combined", settings)


def _face(bundle: str) -> tuple[Any, np.ndarray, np.ndarray, int]:
    """A session, the generator's face at z = 0 as a crop, its latent by the encoder, and its group."""
    from edgeage.runtime.session import load

    session = load(bundle)
    group = len(session.profile.groups) // 2
    made = session.generate(np.zeros((1, session.profile.latent_size), np.float32))[group]
    crop = np.clip((made + 1) * 127.5, 0, 255).astype(np.uint8)
    return session, crop, session.encode(crop), group


KINDS: dict[str, Callable[..., Run]] = {
    "tflite": tflite,
    "onnx": onnx,
    "torch": torch,
    "torch.compile": lambda *arguments: torch(*arguments, compiled=True),
    "refine": refine,
    "lbfgs": lbfgs,
}


def main(kind: str, *arguments: str) -> None:
    talk = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get among the figures
    run = KINDS[kind](*arguments)
    run()
    talk.write("ready\n")
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        run()
        talk.write(f"{time.perf_counter_ns() - begin}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
