"""What every engine must pass before it enters a bundle, by the compilers that are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeage.errors import EdgeageError
from edgeage.export.compilers import tensorrt_rtx, vela
from edgeage.export.engines import TRAITS
from edgeage.runtime.bench import xnnpack

ONNX = ("qdq.onnx", "qdq-float16.onnx", "float16.onnx")  # what TensorRT reads


def gate(
    engine: str, files: Mapping[str, bytes], absent: Mapping[str, str], *, all_int8: bool
) -> dict[str, Any]:
    """Reports of the compilers on one engine's files, for the manifest.

    Args:
        files: bytes by flavour, see `edgeage.export.bundle.FLAVOURS`.
        absent: ONNX flavour that is not there -> why.
        all_int8: False for a mixed plan, whose float layers no NPU takes; its reports gate nothing.

    Raises EdgeageError if an all-INT8 engine is split, leaves an operator to the CPU or does not parse. A
    compiler that is not installed is "not run" in the report.
    """
    reports: dict[str, Any] = {}
    traits = TRAITS[engine]
    # A gradient that is split (its terms too unlike each other for XNNPACK to add) is slow, not wrong.
    strict = all_int8 and not traits.is_gradient
    for flavour in ("int8.tflite", "int8-float-io.tflite"):
        found = xnnpack.delegation(files[flavour])
        reports[f"xnnpack {flavour}"] = found.to_dict()
        if strict and (found.partitions != 1 or found.left):
            left = ", ".join(f"{count} {name}" for name, count in found.left.items()) or "nothing"
            raise EdgeageError(
                f"XNNPACK splits {engine}.{flavour} into {found.partitions} partitions and leaves {left}; "
                "no bundle was written"
            )
    if traits.for_cpus:
        reports["vela"] = {"not run": "several faces at once are for CPUs"}
    elif vela.executable() is None:
        reports["vela"] = {"not run": f"ethos-u-vela is not installed; {vela.INSTALL}"}
    else:
        cache = vela.SMALLER_CACHE if engine == "refine" else None
        compiled = vela.compile_tflite(files["int8.tflite"], cache=cache)
        reports["vela"] = compiled.to_dict()
        if strict and compiled.cpu_operators:
            raise EdgeageError(
                f"vela leaves {compiled.cpu_operators} operators of the {engine} on the CPU: "
                f"{'; '.join(compiled.refused)}; no bundle was written"
            )
    for flavour in ONNX:
        if flavour not in files:
            told = {"not run": absent[flavour]}
        elif tensorrt_rtx.available():
            told = tensorrt_rtx.build(files[flavour]).to_dict()
        else:
            told = {"not run": f"TensorRT for RTX is not installed; {tensorrt_rtx.INSTALL}"}
        reports[f"tensorrt-rtx {flavour}"] = told
    return reports
