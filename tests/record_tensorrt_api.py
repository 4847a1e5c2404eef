"""Record which names the bindings of TensorRT and of CUDA have, from their wheels, without a GPU.

TensorRT's bindings want its libraries; a stub of three empty ones, compiled here, lets them import. Run by
hand when a version is added (needs gcc and a package index):

    python tests/record_tensorrt_api.py tensorrt-cu12-bindings==10.3.0 cuda-python==12.6.0
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "tensorrt_api"
# Classes whose members are recorded; of everything else the name.
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "DeviceType", "EngineInspector", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILayer", "ILogger", "ILogger.Severity", "INetworkDefinition",
    "IProgressMonitor", "ITimingCache", "LayerInformationFormat", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "ProfilingVerbosity", "Runtime",
    "TensorIOMode", "cudaDeviceProp", "cudaMemcpyKind", "cudaStreamCaptureMode",
)  # fmt: skip
_STUB = """
#include <stddef.h>
#define NONE(name) void *name(void) { return NULL; }
NONE(createInferBuilder_INTERNAL) NONE(createInferRefitter_INTERNAL) NONE(createInferRuntime_INTERNAL)
NONE(createNvOnnxParserRefitter_INTERNAL) NONE(createNvOnnxParser_INTERNAL) NONE(getBuilderPluginRegistry)
NONE(getPluginRegistry)
int getNvOnnxParserVersion(void) { return 0; }
_Bool initLibNvInferPlugins(void *logger, const char *name) { return 1; }
"""
_DUMP = """
import importlib, json, sys
for name in ("tensorrt_bindings", "cuda.bindings.runtime", "cuda.cudart"):
    try:
        module = importlib.import_module(name)
        break
    except ModuleNotFoundError:
        continue
def members(value):
    return sorted(name for name in dir(value) if not name.startswith("_"))
found = {"module": members(module), "classes": {}}
for path in json.loads(sys.argv[1]):
    value = module
    for part in path.split("."):
        value = getattr(value, part, None)
    if value is not None:
        found["classes"][path] = members(value)
print(json.dumps(found))
"""


def record(requirement: str) -> Path:
    """The surface of one wheel, as a file of `FOLDER`."""
    name, _, version = requirement.partition("==")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wanted = [requirement, "cuda-pathfinder"] if name.startswith("cuda") else [requirement]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary]
        subprocess.run([*pip, *wanted], check=True)
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder / "site")
        _stub_libraries(folder)
        environment = {**os.environ, "LD_LIBRARY_PATH": temporary, "PYTHONPATH": str(folder / "site")}
        command = [sys.executable, "-W", "ignore", "-c", _DUMP, json.dumps(CLASSES)]
        run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    surface = {"version": version, **json.loads(run.stdout)}
    surface["classes"] = dict(sorted(surface["classes"].items()))
    kind = "cuda" if name.startswith("cuda") else "tensorrt"
    path = FOLDER / f"{kind}-{version}.json"
    lines = [f'"version": "{version}"', f'"module": {json.dumps(surface["module"])}']
    classes = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in surface["classes"].items())
    path.write_text("{" + ",\n".join([*lines, f'"classes": {{\n{classes}\n}}']) + "}\n")
    return path


def _stub_libraries(folder: Path) -> None:
    source = folder / "stub.c"
    source.write_text(_STUB)
    for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        for major in (10, 11):
            name = f"lib{library}.so.{major}"
            output = str(folder / name)
            command = ["gcc", "-shared", "-fPIC", "-o", output, f"-Wl,-soname,{name}", str(source)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for argument in sys.argv[1:]:
        print(record(argument))
