"""One execution context with its memory and stream: set up, run, captured, read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError, TargetUnavailableError
from edgekd_tensorrt.configure import numpy_name
from edgekd_tensorrt.engine import Engine
from edgekd_tensorrt.profiles import fitting_profile


class Execution:
    """A context of an engine: not to be used by two callers at once.

    Attributes:
        stream: handle of its CUDA stream; profile: the optimisation profile that is set, -1 before the first.
        graph_reason: why there is no CUDA graph; empty where there is one.
    """

    def __init__(self, loaded: Engine) -> None:
        self._loaded, self._cuda = loaded, loaded.cuda
        self.context: Any = loaded.engine.create_execution_context()
        if self.context is None:
            raise ModelError(
                f"{loaded.device.name} has no memory for a context of {loaded.path} "
                f"({loaded.log.trouble() or 'no error in the log'})",
                "use a smaller model or profile, or stop what else runs on the GPU",
            )
        self.stream = self._cuda.new_stream()
        self.profile = -1
        self.graph_reason = "not captured"
        self._graph: Any = None
        self._buffers: dict[str, tuple[int, int]] = {}
        self._host: dict[str, Array] = {}
        self._allocators: dict[str, Any] = {}

    def set_inputs(self, feeds: Mapping[str, Array]) -> None:
        """Choose the profile, set every shape and address, and copy the inputs in.

        Args:
            feeds: checked against the specs already.

        Raises:
            DataError: no profile takes these sizes; ModelError: TensorRT refused one of them, or memory ran out.
        """
        self.drop_graph()
        self._host = {}
        self._choose(feeds)
        engine, context = self._loaded.engine, self.context
        for name, array in feeds.items():
            whole = np.require(array, requirements=["C", "A"])
            if not context.set_input_shape(name, tuple(int(n) for n in array.shape)):
                raise DataError(
                    f"{self._loaded.path}: TensorRT refuses {tuple(array.shape)} for input '{name}'",
                    f"profile {self.profile} takes {self._profiles()[self.profile].get(name, 'its fixed size')}",
                )
            if engine.is_shape_inference_io(name):
                self._host[name] = np.array(whole)  # read by the CPU whenever shapes are inferred
                self._address(name, self._host[name].ctypes.data)
                continue
            buffer = self.buffer(name, whole.nbytes)
            self._cuda.to_device(buffer, whole.ctypes.data, whole.nbytes, self.stream, f"input '{name}'")
            self._address(name, buffer)
        self._cuda.synchronize(self.stream, "copying inputs")  # the caller may change its arrays from here on
        unset = [str(name) for name in context.infer_shapes()]
        if unset:
            raise ModelError(
                f"{self._loaded.path}: TensorRT cannot infer shapes, '{unset[0]}' is not set ({len(unset)} in all)",
                "report it: every input was given",
            )
        self._set_outputs()

    def _profiles(self) -> Any:
        return self._loaded.record.profiles

    def _choose(self, feeds: Mapping[str, Array]) -> None:
        profiles = self._profiles()
        wanted = fitting_profile(profiles, feeds)
        if wanted is None:
            worst = next(
                (name, ends) for name, ends in profiles[0].items()
                if not all(a <= n <= b for a, n, b in zip(ends[0], feeds[name].shape, ends[2], strict=True))
            )  # fmt: skip
            raise DataError(
                f"{self._loaded.path}: input '{worst[0]}' has shape {tuple(feeds[worst[0]].shape)}, "
                f"no profile of the engine takes it (the first: {worst[1][0]} to {worst[1][2]})",
                "feed a size in range, or build with --shape or profiles= that cover it",
            )
        if wanted == self.profile:
            return
        # Shapes are forgotten with the profile, so it comes first.
        if not self.context.set_optimization_profile_async(wanted, self.stream):
            raise ModelError(
                f"{self._loaded.path}: TensorRT refuses its profile {wanted}", "build the engine again"
            )
        self._cuda.synchronize(self.stream, "setting a profile")
        self.profile = wanted

    def _set_outputs(self) -> None:
        for spec in self._loaded.record.outputs:
            name = spec.name
            dtype = np.dtype(numpy_name(self._loaded.engine.get_tensor_dtype(name)))
            shape = tuple(int(n) for n in self.context.get_tensor_shape(name))
            if any(n < 0 for n in shape):  # known only once it ran
                allocator = self._allocators.setdefault(name, _allocator(self._loaded.trt, self))
                if not self.context.set_output_allocator(name, allocator):
                    raise ModelError(
                        f"{self._loaded.path}: TensorRT refuses an allocator for output '{name}', whose size "
                        "depends on the data", "report it",
                    )  # fmt: skip
                continue
            if self._loaded.engine.is_shape_inference_io(name):
                self._host[name] = np.zeros(shape, dtype)
                self._address(name, self._host[name].ctypes.data)
                continue
            self._address(name, self.buffer(name, math.prod(shape) * dtype.itemsize))

    def _address(self, name: str, address: int) -> None:
        if not self.context.set_tensor_address(name, address):
            raise ModelError(f"{self._loaded.path}: TensorRT refuses the memory of '{name}'", "report it")

    def buffer(self, name: str, size_bytes: int) -> int:
        """Device memory for a tensor; kept as long as it is large enough."""
        have = self._buffers.get(name)
        if have is not None and have[1] >= size_bytes:
            return have[0]
        if have is not None:
            del self._buffers[name]
            self._cuda.free(have[0])
        made = self._cuda.malloc(size_bytes, f"'{name}'")
        self._buffers[name] = (made, max(1, size_bytes))
        return made

    def enqueue(self, stream: int) -> None:
        """Put one run on ``stream``; does not wait.

        Raises:
            ModelError: TensorRT refused.
        """
        if not self.context.execute_async_v3(stream):
            log = self._loaded.log
            if log.out_of_memory():
                raise ModelError(
                    f"{self._loaded.device.name} is out of memory running {self._loaded.path} ({log.trouble()})",
                    "use a smaller batch, or stop what else runs on the GPU",
                )
            raise ModelError(
                f"{self._loaded.path} failed while running ({log.trouble() or 'no error in the log'})", "check the model"
            )  # fmt: skip

    def run(self) -> None:
        """One run, waited for."""
        self.enqueue(self.stream)
        self._cuda.synchronize(self.stream)

    def capture(self, *, required: bool) -> None:
        """Capture a run as a CUDA graph, after one that was not captured; says why where it cannot.

        Raises:
            TargetUnavailableError: ``required`` and not possible.
        """
        self.graph_reason = self._try_capture()
        if self.graph_reason and required:
            raise TargetUnavailableError(
                f"{self._loaded.path} cannot be captured as a CUDA graph ({self.graph_reason})",
                "use cuda_graph=auto or off",
            )

    def _try_capture(self) -> str:
        if self._allocators:
            return "an output's size depends on the data"
        cudart = self._cuda.cudart
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda.check(cudart.cudaStreamBeginCapture(self.stream, mode), "beginning a capture")
        enqueued = captured = False
        try:
            enqueued = bool(self.context.execute_async_v3(self.stream))
        finally:  # whatever happens: a stream that stays in capture runs nothing any more
            code, graph = cudart.cudaStreamEndCapture(self.stream)
            captured = code == cudart.cudaError_t.cudaSuccess
            if not (enqueued and captured):
                cudart.cudaGetLastError()  # a failed capture leaves its error behind for the next call
                if captured:
                    cudart.cudaGraphDestroy(graph)
        if not (enqueued and captured):
            return f"capture failed: {code.name if enqueued else 'TensorRT refused to enqueue'}"
        try:
            self._graph = self._cuda.check(cudart.cudaGraphInstantiate(graph, 0), "instantiating a graph")
        finally:
            cudart.cudaGraphDestroy(graph)
        return ""

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def launch(self, stream: int) -> None:
        """Put one run on ``stream``, by the CUDA graph where there is one; does not wait."""
        if self._graph is None:
            self.enqueue(stream)
        else:
            self._cuda.check(self._cuda.cudart.cudaGraphLaunch(self._graph, stream), "launching the graph")

    def outputs(self) -> dict[str, Array]:
        """Copies of what the last run wrote, in the order of the record."""
        made: dict[str, Array] = {}
        for spec in self._loaded.record.outputs:
            name = spec.name
            if name in self._host:
                made[name] = self._host[name].copy()
                continue
            dtype = np.dtype(numpy_name(self._loaded.engine.get_tensor_dtype(name)))
            allocator = self._allocators.get(name)
            shape = allocator.shape if allocator is not None else self.context.get_tensor_shape(name)
            array = np.empty(tuple(int(n) for n in shape), dtype)
            made[name] = array
            if array.size:
                address = self._buffers[name][0]
                self._cuda.to_host(array.ctypes.data, address, array.nbytes, self.stream, f"output '{name}'")
        self._cuda.synchronize(self.stream, "copying outputs")
        return made

    def drop_graph(self) -> None:
        """A graph holds shapes and addresses: it goes with them."""
        if self._graph is not None:
            self._cuda.cudart.cudaGraphExecDestroy(self._graph)
        self._graph, self.graph_reason = None, "not captured"

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        if self.context is None:
            return
        self.drop_graph()
        self.context = None
        for address, _ in self._buffers.values():
            self._cuda.free(address)
        self._buffers, self._allocators, self._host = {}, {}, {}
        self._cuda.drop_stream(self.stream)


def _allocator(trt: Any, owner: Execution) -> Any:
    """Memory for an output whose size is known only while it runs."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = ()

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            try:
                # cudaMalloc aligns to 256 bytes, more than TensorRT asks for.
                return owner.buffer(tensor_name, int(size))
            except ModelError:
                return 0  # an exception would pass through C++; TensorRT then fails the run and logs why

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(int(n) for n in shape)

    return Allocator()
