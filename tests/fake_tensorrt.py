"""TensorRT without it: it records calls, and computes with ONNX Runtime.

A `World` has the names of one recorded version (`data/tensorrt_api`) and no other, so code that uses a name
which that version lacks fails here as it would there.
"""

from __future__ import annotations

import ctypes
import enum
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_cuda import FakeCuda, members

INSPECTIONS = Path(__file__).parent / "data" / "tensorrt_inspector"
TENSORRT_VERSIONS = ("10.3.0", "10.7.0", "10.16.1.11", "11.4.0.106")
_OLD_CUDART = ("12.2.1", "12.6.0")  # "cuda.cudart", before cuda.bindings


class World:
    """One machine: a device, a TensorRT, a CUDA runtime.

    Attributes:
        calls: (name, ...) in order, of everything that was called.
        fail: {name of a CUDA function: how many more calls succeed}; afterwards it fails.
        refuse: things that TensorRT will not do: "start", "parse", "build", "context", "enqueue", "capture".
        cores: of a DLA; device: name; cannot_dla: layer names that the DLA cannot run.
    """

    def __init__(self, tensorrt: str = "10.3.0", cuda: str = "12.6.0") -> None:
        self.tensorrt_version, self.cuda_version = tensorrt, cuda
        self.calls: list[tuple[Any, ...]] = []
        self.fail: dict[str, int] = {}
        self.refuse: set[str] = set()
        self.cores, self.device, self.cannot_dla = 0, "Orin", set[str]()
        self.memory: dict[int, Any] = {}
        self.configs: list[Any] = []
        self.network_flags: list[int] = []
        self.inspection = "11" if tensorrt.startswith("11") else "10"
        self.builds = 0
        self.cuda = FakeCuda(self)
        self.trt = make_tensorrt(self)

    def install(self, monkeypatch: Any) -> World:
        """Where `import` finds them, under the names of their versions."""
        old = self.cuda_version in _OLD_CUDART
        place = "cuda.cudart" if old else "cuda.bindings.runtime"
        for name in [one for one in sys.modules if one.split(".")[0] in ("cuda", "tensorrt")]:
            monkeypatch.delitem(sys.modules, name)
        for name in ("cuda",) if old else ("cuda", "cuda.bindings"):
            package = ModuleType(name)
            package.__path__ = []  # holds what sys.modules has and nothing else, whatever is installed
            monkeypatch.setitem(sys.modules, name, package)
        monkeypatch.setitem(sys.modules, place, self.cuda)
        monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        return self

    def count(self) -> Counter[str]:
        return Counter(call[0] for call in self.calls)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def allowed(self, kind: str, name: str) -> frozenset[str]:
        return members(kind, getattr(self, f"{kind}_version"), name)


# TensorRT ----------------------------------------------------------------------------------------


def make_tensorrt(world: World) -> Any:
    """A module-like object with the classes that are used, each limited to its recorded members."""
    module = world.allowed("tensorrt", "")

    class Guarded:
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_") and name not in world.allowed("tensorrt", type(self).__name__):
                raise AttributeError(
                    f"{type(self).__name__} of TensorRT {world.tensorrt_version} has no {name}"
                )
            return object.__getattribute__(self, name)

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_") and name not in world.allowed("tensorrt", type(self).__name__):
                raise AttributeError(
                    f"{type(self).__name__} of TensorRT {world.tensorrt_version} has no {name}"
                )
            object.__setattr__(self, name, value)

    def enumeration(name: str) -> Any:
        members = sorted(part for part in world.allowed("tensorrt", name) if part.isupper() or "_" in part)
        return enum.IntEnum(name, members, start=0)  # type: ignore[misc]

    enums = {
        name: enumeration(name)
        for name in (
            "BuilderFlag", "DataType", "DeviceType", "LayerInformationFormat", "MemoryPoolType",
            "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "TensorIOMode",
        )
    }  # fmt: skip

    class ILogger:
        Severity = enumeration("ILogger.Severity")

    class IProgressMonitor:
        pass

    class ITimingCache(Guarded):
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return self._content

    class ILayer(Guarded):
        def __init__(self, name: str) -> None:
            self.name = name

    class INetworkDefinition(Guarded):
        def __init__(self) -> None:
            self._layers: list[ILayer] = []

        @property
        def num_layers(self) -> int:
            return len(self._layers)

        def get_layer(self, index: int) -> ILayer:
            return self._layers[index]

    class ParserError(Guarded):
        def desc(self) -> str:
            return "Unsupported\n operator"

        def node(self) -> int:
            return 7

    class OnnxParser(Guarded):
        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            self._network = network

        @property
        def num_errors(self) -> int:
            return 1

        def get_error(self, index: int) -> ParserError:
            return ParserError()

        def parse(self, content: bytes) -> bool:
            world.calls.append(("parse", len(content)))
            if "parse" in world.refuse:
                return False
            self._network._onnx = content  # type: ignore[attr-defined]
            self._network._layers = [ILayer("conv"), ILayer("tanh")]
            return True

    class IBuilderConfig(Guarded):
        def __init__(self) -> None:
            self._flags, self._cleared, self._pools = set[Any](), set[Any](), dict[Any, int]()
            self._timings: ITimingCache | None = None
            world.configs.append(self)

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self._cleared.add(flag.name)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._pools[pool.name] = size

        def create_timing_cache(self, content: bytes) -> ITimingCache | None:
            return None if content == b"damaged" else ITimingCache(content)

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            if cache._content.startswith(b"other"):
                return False
            self._timings = cache
            return True

        def get_timing_cache(self) -> ITimingCache | None:
            return ITimingCache((self._timings._content if self._timings else b"") + b"+")

        def can_run_on_DLA(self, layer: ILayer) -> bool:
            return layer.name not in world.cannot_dla

    class Builder(Guarded):
        def __init__(self, logger: Any) -> None:
            if "start" in world.refuse:
                logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        @property
        def num_DLA_cores(self) -> int:
            return world.cores

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            world.network_flags.append(flags)
            return INetworkDefinition()

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def build_serialized_network(self, network: Any, config: IBuilderConfig) -> bytes | None:
            world.calls.append(("build",))
            world.builds += 1
            monitor = config.__dict__.get("progress_monitor")
            if monitor is not None:
                monitor.phase_start("Building", None, 3)
                monitor.phase_start("inner", "Building", 9)
                for step in range(3):
                    monitor.step_complete("inner", step)
                    if not monitor.step_complete("Building", step):
                        return None
                monitor.phase_finish("Building")
            if "build" in world.refuse:
                self._logger.log(ILogger.Severity.ERROR, "no implementation\n for node conv")
                return None
            self._logger.log(ILogger.Severity.WARNING, "a warning")
            header = json.dumps({"version": world.tensorrt_version, "build": world.builds}).encode()
            return b"PLAN" + len(header).to_bytes(4, "little") + header + network._onnx

    class EngineInspector(Guarded):
        def get_engine_information(self, form: Any) -> str:
            assert form.name == "JSON"
            return (INSPECTIONS / f"inspector-{world.inspection}.json").read_text()

    class IExecutionContext(Guarded):
        def __init__(self, engine: ICudaEngine) -> None:
            self._engine, self._addresses = engine, dict[str, int]()

        def set_tensor_address(self, name: str, address: int) -> bool:
            world.calls.append(("set_tensor_address", name, address))
            self._addresses[name] = address
            return name in self._engine._ports

        def execute_async_v3(self, stream: int) -> bool:
            world.calls.append(("execute_async_v3", stream))
            if "enqueue" in world.refuse:
                self._engine._logger.log(ILogger.Severity.ERROR, "invalid launch")
                return False
            held = world.cuda._streams[stream]
            engine, addresses = self._engine, dict(self._addresses)
            if held.capture is not None:
                if "capture" in world.refuse:
                    return False
                held.capture.append(lambda: engine._compute(addresses))
            else:
                self._engine._compute(addresses)
            return True

        def __del__(self) -> None:
            world.calls.append(("context deleted",))

    class ICudaEngine(Guarded):
        def __init__(self, onnx: bytes, logger: Any) -> None:
            self._logger = logger
            self._session = session(onnx)
            inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
            self._ports = {port.name: (port, port in inputs) for port in (*inputs, *outputs)}

        @property
        def num_io_tensors(self) -> int:
            return len(self._ports)

        def get_tensor_name(self, index: int) -> str:
            return list(self._ports)[index]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self._ports[name][0].shape)

        def get_tensor_dtype(self, name: str) -> Any:
            is_float = self._ports[name][0].type == "tensor(float)"
            return enums["DataType"]["FLOAT" if is_float else "HALF"]

        def get_tensor_mode(self, name: str) -> Any:
            return enums["TensorIOMode"]["INPUT" if self._ports[name][1] else "OUTPUT"]

        def create_execution_context(self) -> IExecutionContext | None:
            world.calls.append(("create_execution_context",))
            return None if "context" in world.refuse else IExecutionContext(self)

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector()

        def _compute(self, addresses: dict[str, int]) -> None:
            def view(name: str) -> Any:
                shape = self._ports[name][0].shape
                assert addresses[name] in world.memory, f"{name} is bound to freed memory"
                array = (ctypes.c_float * int(np.prod(shape))).from_address(addresses[name])
                return np.frombuffer(memoryview(array), np.float32).reshape(shape)

            feeds = {name: view(name) for name, (_, is_input) in self._ports.items() if is_input}
            outputs = [name for name, (_, is_input) in self._ports.items() if not is_input]
            for name, made in zip(outputs, self._session.run(outputs, feeds), strict=True):
                view(name)[...] = made

    class Runtime(Guarded):
        def __init__(self, logger: Any) -> None:
            if "start" in world.refuse:
                logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
            world.calls.append(("deserialize", len(plan)))
            if plan[:4] != b"PLAN":
                self._logger.log(ILogger.Severity.ERROR, "magicTag mismatch")
                return None
            size = int.from_bytes(plan[4:8], "little")
            if json.loads(plan[8 : 8 + size])["version"] != world.tensorrt_version:
                self._logger.log(ILogger.Severity.ERROR, "the version tag does not match")
                return None
            return ICudaEngine(plan[8 + size :], self._logger)

    classes = {
        one.__name__: one for one in (ILogger, IProgressMonitor, Builder, OnnxParser, Runtime, IBuilderConfig)
    }

    class Module:
        __version__ = world.tensorrt_version

        def __getattr__(self, name: str) -> Any:
            if name not in module:
                raise AttributeError(f"TensorRT {world.tensorrt_version} has no {name}")
            return {**classes, **enums}[name]

    return Module()


_SESSIONS: dict[int, Any] = {}


def session(content: bytes) -> Any:
    """Without the optimiser that overflows the float16 biases of Q/DQ graphs (ONNX Runtime 1.32)."""
    if hash(content) not in _SESSIONS:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        _SESSIONS[hash(content)] = onnxruntime.InferenceSession(
            content,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["WeightBiasQuantization"] if _is_half_and_int8(content) else None,
        )
    return _SESSIONS[hash(content)]


def _is_half_and_int8(content: bytes) -> bool:
    graph = onnx.load_from_string(content).graph
    half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in graph.initializer)
    return half and any(node.op_type == "QuantizeLinear" for node in graph.node)
