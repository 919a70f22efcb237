"""What the calls of the double do: an "engine" is a plan header and the ONNX file, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
import time
from pathlib import Path
from typing import Any

import fixtures_tensorrt_cuda as cuda
import numpy as np
import onnx
from fixtures_tensorrt import has_fault, note
from fixtures_tensorrt_graph import Graph, HostMemory, dims, numpy_type

_TYPES = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "int64": "INT64", "bool": "BOOL",
          "uint8": "UINT8"}  # fmt: skip


class Behaviour:
    """Method ``Class_method`` acts out ``Class.method``; ``Class_get_prop`` a property that was not set."""

    double: Any

    def _say(self, logger: Any, text: str) -> None:
        logger.log(self.double.enums["ILogger.Severity"].ERROR, text)
        logger.log(self.double.enums["ILogger.Severity"].VERBOSE, "much more")

    # Logger and builder ------------------------------------------------------------------------------------------
    def Builder_init(self, this: Any, logger: Any) -> None:
        if has_fault("builder"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        this._log = logger

    Runtime_init = Builder_init

    def Builder_create_network(self, this: Any, flags: int = 0) -> Any:
        return self.double.make("INetworkDefinition", _bits=flags, _proto=None)

    def INetworkDefinition_get_flag(self, this: Any, flag: Any) -> bool:
        return bool(this._bits >> int(flag) & 1) and not has_fault("not-strong")

    def INetworkDefinition_get_num_inputs(self, this: Any) -> int:
        return len(this._graph.inputs)

    def INetworkDefinition_get_num_outputs(self, this: Any) -> int:
        return len(this._graph.outputs)

    def INetworkDefinition_get_num_layers(self, this: Any) -> int:
        return len(this._graph.proto.graph.node)

    def INetworkDefinition_get_input(self, this: Any, index: int) -> Any:
        return self._tensor(this._graph, this._graph.inputs[index])

    def INetworkDefinition_get_output(self, this: Any, index: int) -> Any:
        return self._tensor(this._graph, this._graph.outputs[index])

    def _tensor(self, graph: Graph, value: Any) -> Any:
        kind = self.double.enums["DataType"][_TYPES[numpy_type(value.type.tensor_type.elem_type)]]
        shaping = value.name in graph.shape_inputs
        return self.double.make("ITensor", _name=value.name, _dtype=kind, _is_shape_tensor=shaping)

    def OnnxParser_init(self, this: Any, network: Any, logger: Any) -> None:
        this._network, this._log, this._faults = network, logger, []

    def OnnxParser_parse_from_file(self, this: Any, model: str) -> bool:
        proto = onnx.load(model)
        standard = {"", "ai.onnx"}
        bad = [(i, n) for i, n in enumerate(proto.graph.node) if n.domain not in standard]
        if has_fault("parse"):
            bad = list(enumerate(proto.graph.node))[:2]
        code = self.double.enums["ErrorCode"].UNSUPPORTED_NODE
        this._faults = [
            self.double.make("ParserError", _i=i, _node=n.name, _op=n.op_type, _code=code) for i, n in bad
        ]
        this._network._graph = Graph(proto.SerializeToString())
        return not bad

    def OnnxParser_get_num_errors(self, this: Any) -> int:
        return len(this._faults)

    def OnnxParser_get_error(self, this: Any, index: int) -> Any:
        return this._faults[index]

    def OnnxParser_get_flag(self, this: Any, flag: Any) -> bool:
        return flag.name == "NATIVE_INSTANCENORM"

    def OnnxParser_get_used_vc_plugin_libraries(self, this: Any) -> list[str]:
        return []

    def ParserError_node(self, this: Any) -> int:
        return int(this._i)

    def ParserError_node_name(self, this: Any) -> str:
        return str(this._node)

    def ParserError_node_operator(self, this: Any) -> str:
        return str(this._op)

    def ParserError_desc(self, this: Any) -> str:
        return "no importer\nfor this node"

    def ParserError_code(self, this: Any) -> Any:
        return this._code

    def ParserError_local_function_stack(self, this: Any) -> list[str]:
        return []

    # Configuration -----------------------------------------------------------------------------------------------
    def Builder_create_builder_config(self, this: Any) -> Any:
        enums = self.double.enums
        return self.double.make(
            "IBuilderConfig", _flags={"TF32"}, _pools={}, _profiles=[], _cache=None, _log=this._log,
            _profiling_verbosity=enums["ProfilingVerbosity"].LAYER_NAMES_ONLY, _builder_optimization_level=3,
            _hardware_compatibility_level=enums["HardwareCompatibilityLevel"].NONE,
            _runtime_platform=enums["RuntimePlatform"].SAME_AS_BUILD, _l2_limit_for_tiling=-1, _max_aux_streams=-1,
            _tiling_optimization_level=enums["TilingOptimizationLevel"].NONE, _avg_timing_iterations=1,
            _max_num_tactics=-1, _build_route="",
        )  # fmt: skip

    def IBuilderConfig_set_memory_pool_limit(self, this: Any, pool: Any, pool_size: int) -> None:
        this._pools[pool] = pool_size

    def IBuilderConfig_get_memory_pool_limit(self, this: Any, pool: Any) -> int:
        return int(this._pools.get(pool, 0))

    def IBuilderConfig_set_flag(self, this: Any, flag: Any) -> None:
        this._flags.add(flag.name)

    def IBuilderConfig_clear_flag(self, this: Any, flag: Any) -> None:
        this._flags.discard(flag.name)

    def IBuilderConfig_get_flag(self, this: Any, flag: Any) -> bool:
        return flag.name in this._flags or (has_fault("flag") and flag.name == "TF32")

    def IBuilderConfig_get_tactic_sources(self, this: Any) -> int:
        return 1 << int(self.double.enums["TacticSource"].JIT_CONVOLUTIONS)

    def IBuilderConfig_get_preview_feature(self, this: Any, feature: Any) -> bool:
        return False

    def IBuilderConfig_get_num_optimization_profiles(self, this: Any) -> int:
        return len(this._profiles)

    def Builder_create_optimization_profile(self, this: Any) -> Any:
        return self.double.make("IOptimizationProfile", _sizes={}, _values={})

    def IOptimizationProfile_set_shape(self, this: Any, input: str, min: Any, opt: Any, max: Any) -> None:
        this._sizes[input] = (tuple(min), tuple(opt), tuple(max))

    def IOptimizationProfile_set_shape_input(
        self, this: Any, input: str, min: Any, opt: Any, max: Any
    ) -> None:
        this._values[input] = (list(min), list(opt), list(max))

    def IBuilderConfig_add_optimization_profile(self, this: Any, profile: Any) -> int:
        this._profiles.append(profile)
        return -1 if has_fault("profile") else len(this._profiles) - 1

    def IBuilderConfig_create_timing_cache(self, this: Any, serialized_timing_cache: bytes) -> Any:
        told = bytes(serialized_timing_cache)
        if told and not told.startswith(b"FAKECACHE"):
            return None
        return self.double.make("ITimingCache", _told=json.loads(told[9:]) if told else {})

    def IBuilderConfig_set_timing_cache(self, this: Any, cache: Any, ignore_mismatch: bool) -> bool:
        made_by = cache._told.get("version", self.double.table["version"])
        if has_fault("cache") or made_by != self.double.table["version"]:
            return False
        this._cache = cache
        return True

    def IBuilderConfig_get_timing_cache(self, this: Any) -> Any:
        return this._cache

    def ITimingCache_serialize(self, this: Any) -> Any:
        return HostMemory(b"FAKECACHE" + json.dumps(this._told, sort_keys=True).encode())

    # The build ---------------------------------------------------------------------------------------------------
    def Builder_build_serialized_network(self, this: Any, network: Any, config: Any) -> Any:
        if has_fault("hang"):
            time.sleep(600)
        if has_fault("crash"):
            os.abort()
        for fault, text in (("build", "Error Code 10: could not find any implementation for node conv"),
                            ("build-oom", "Error Code 2: OutOfMemory (requested 123 bytes)")):  # fmt: skip
            if has_fault(fault):
                self._say(this._log, text)
                return None
        cache = config._cache
        key = hashlib.sha256(network._graph.data).hexdigest()
        known = cache._told.get(key) if cache is not None else None
        if known is None and "ERROR_ON_TIMING_CACHE_MISS" in config._flags:
            self._say(this._log, "a tactic is missing in the timing cache")
            return None
        tactic = known or (f"tactic_{os.getpid()}" if has_fault("vary") else "tactic_0")
        if cache is not None:
            cache._told.update({"version": self.double.table["version"], key: tactic})
        told = {
            "tactic": tactic, "flags": sorted(config._flags),
            "profiles": [{**p._sizes} for p in config._profiles],
            "values": [{**p._values} for p in config._profiles],
        }  # fmt: skip
        version = [int(n) for n in self.double.table["version"].split(".")]
        head = b"ftrt" + struct.pack("<I", 0) + bytes(16) + bytes(n % 256 for n in version)
        text = json.dumps(told, sort_keys=True).encode()
        return HostMemory(head + struct.pack("<Q", len(text)) + text + network._graph.data)

    # Engines -----------------------------------------------------------------------------------------------------
    def Runtime_deserialize_cuda_engine(self, this: Any, data: bytes) -> Any:
        if has_fault("load"):
            self._say(this._log, "Error Code 1: Serialization (version tag does not match)")
            return None
        (size,) = struct.unpack("<Q", data[28:36])
        told = json.loads(data[36 : 36 + size])
        stripped = "STRIP_PLAN" in told["flags"]
        return self.double.make(
            "ICudaEngine", _graph=Graph(data[36 + size :]), _told=told, _log=this._log, _whole=not stripped,
            _weight_streaming_budget_v2=0,
        )  # fmt: skip

    def ICudaEngine_get_num_io_tensors(self, this: Any) -> int:
        return len(self._io(this))

    def _io(self, engine: Any) -> dict[str, Any]:
        return {v.name: v for v in (*engine._graph.inputs, *engine._graph.outputs)}

    def ICudaEngine_get_tensor_name(self, this: Any, index: int) -> str:
        return list(self._io(this))[index]

    def ICudaEngine_get_tensor_mode(self, this: Any, name: str) -> Any:
        is_input = name in {i.name for i in this._graph.inputs}
        return self.double.enums["TensorIOMode"]["INPUT" if is_input else "OUTPUT"]

    def ICudaEngine_get_tensor_dtype(self, this: Any, name: str) -> Any:
        return self._tensor(this._graph, self._io(this)[name])._dtype

    def ICudaEngine_get_tensor_shape(self, this: Any, name: str) -> Any:
        return dims(self._io(this)[name])

    def ICudaEngine_is_shape_inference_io(self, this: Any, name: str) -> bool:
        return name in this._graph.shape_inputs

    def ICudaEngine_get_num_layers(self, this: Any) -> int:
        return len(this._graph.proto.graph.node)

    def ICudaEngine_get_device_memory_size_v2(self, this: Any) -> int:
        return 1 << 20

    def ICudaEngine_get_weight_streaming_automatic_budget(self, this: Any) -> int:
        return 4096

    def ICudaEngine_get_streamable_weights_size(self, this: Any) -> int:
        return 8192

    def ICudaEngine_create_execution_context(self, this: Any, strategy: Any = None) -> Any:
        if has_fault("context"):
            self._say(this._log, "OutOfMemory: no memory for activations")
            return None
        return self.double.make(
            "IExecutionContext", _engine=this, _shapes={}, _at={}, _allocators={}, _active=-1, _profiler=None,
            _enqueue_emits_profile=True, _pending=[],
        )  # fmt: skip

    def ICudaEngine_create_engine_inspector(self, this: Any) -> Any:
        return self.double.make("EngineInspector", _of=this, _execution_context=None)

    def EngineInspector_get_engine_information(self, this: Any, format: Any) -> str:
        from fixtures_tensorrt_text import inspection

        major = int(self.double.table["version"].split(".")[0])
        return inspection(this._of._graph.proto, this._of._told["tactic"], major)

    # Refit -------------------------------------------------------------------------------------------------------
    def Refitter_init(self, this: Any, engine: Any, logger: Any) -> None:
        this._of = engine

    def OnnxParserRefitter_init(self, this: Any, refitter: Any, logger: Any) -> None:
        this._of = refitter

    def OnnxParserRefitter_refit_from_file(self, this: Any, model: str) -> bool:
        return Path(model).is_file()

    def Refitter_refit_cuda_engine(self, this: Any) -> bool:
        this._of._whole = True
        return True

    def Refitter_get_missing_weights(self, this: Any) -> list[str]:
        return ["conv.weight"] if has_fault("refit") else []

    # Execution ---------------------------------------------------------------------------------------------------
    def IExecutionContext_set_optimization_profile_async(self, this: Any, index: int, stream: int) -> bool:
        if index >= max(1, len(this._engine._told["profiles"])):
            return False
        this._active, this._shapes = index, {}
        return True

    def IExecutionContext_set_input_shape(self, this: Any, name: str, shape: tuple[int, ...]) -> bool:
        if has_fault("input-shape"):
            return False
        profiles = this._engine._told["profiles"]
        ends = profiles[this._active].get(name) if profiles and this._active >= 0 else None
        if ends and not all(a <= n <= b for a, n, b in zip(ends[0], shape, ends[2], strict=True)):
            return False
        this._shapes[name] = tuple(shape)
        return True

    def IExecutionContext_set_tensor_address(self, this: Any, name: str, memory: int) -> bool:
        on_host = name in this._engine._graph.shape_inputs
        if on_host == cuda.inside(memory, 1):
            raise AssertionError(f"{name} is on the wrong side of the bus")
        this._at[name] = memory
        return True

    def IExecutionContext_set_output_allocator(self, this: Any, name: str, allocator: Any) -> bool:
        this._allocators[name] = allocator
        return True

    def IExecutionContext_infer_shapes(self, this: Any) -> list[str]:
        if has_fault("infer"):
            return ["x"]
        return [i.name for i in this._engine._graph.inputs if i.name not in this._shapes]

    def _feeds(self, this: Any, zeros: bool) -> dict[str, Any]:
        feeds = {}
        for value in this._engine._graph.inputs:
            dtype = np.dtype(numpy_type(value.type.tensor_type.elem_type))
            array = np.zeros(this._shapes[value.name], dtype)
            if not zeros or value.name in this._engine._graph.shape_inputs:
                ctypes.memmove(array.ctypes.data, this._at[value.name], array.nbytes)
            feeds[value.name] = array
        return feeds

    def IExecutionContext_get_tensor_shape(self, this: Any, name: str) -> Any:
        graph = this._engine._graph
        if graph.data_dependent:
            return tuple(-1 for _ in dims(self._io(this._engine)[name]))
        made = graph.run(self._feeds(this, zeros=True))
        return made[[o.name for o in graph.outputs].index(name)].shape

    def IExecutionContext_execute_async_v3(self, this: Any, stream: int) -> bool:
        if stream not in cuda.STREAMS:
            raise AssertionError(f"no stream {stream}")
        if has_fault("execute") or not this._engine._whole:
            self._say(this._engine._log, "Error Code 1: Cask (cudaErrorIllegalAddress)")
            return False
        if stream in cuda.CAPTURING:
            if has_fault("capture-refused"):
                return False
            if has_fault("capture-raises"):
                raise RuntimeError("planted")
            broken = has_fault("capture") or cuda.CAPTURING[stream] is None
            cuda.CAPTURING[stream] = None if broken else [*cuda.CAPTURING[stream], lambda: self._run(this)]
            return True
        self._run(this)
        return True

    def _run(self, this: Any) -> None:
        note("run")
        graph = this._engine._graph
        for value, array in zip(graph.outputs, graph.run(self._feeds(this, zeros=False)), strict=True):
            made = np.ascontiguousarray(array + 1 if has_fault("wrong") else array)
            if value.name in this._allocators:
                allocator = this._allocators[value.name]
                address = allocator.reallocate_output_async(value.name, 0, made.nbytes, 256, 0)
                allocator.notify_shape(value.name, made.shape)
            else:
                address = this._at[value.name]
            if made.nbytes and not cuda.inside(address, made.nbytes):
                raise AssertionError(f"output {value.name} does not fit its memory")
            ctypes.memmove(address, made.ctypes.data, made.nbytes)
        if this._profiler is not None:
            this._pending = [n.name or n.op_type for n in graph.proto.graph.node]

    def IExecutionContext_report_to_profiler(self, this: Any) -> bool:
        for name in this._pending:
            this._profiler.report_layer_time(name, 0.25)
        return bool(this._pending) and not has_fault("profiler")
