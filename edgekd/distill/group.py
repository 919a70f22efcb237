"""The processes that train one network together: one alone, or several under ``accelerate launch``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.errors import InfrastructureError, UsageError
from edgekd.lazy import require

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launched_processes(environ: Mapping[str, str]) -> int:
    """How many processes were launched to work together; 1 where nobody launched several.

    Raises:
        UsageError: a launcher that was asked for several and starts one.
    """
    found = next((environ[k] for k in _SIZES if environ.get(k, "").isdigit()), "")
    # accelerate sets an address for processes to meet at only where it was asked for several.
    if not found and environ.get("ACCELERATE_USE_CPU") and environ.get("MASTER_ADDR"):
        raise UsageError(
            "accelerate launch --cpu starts one process, whatever --num_processes says, unless it has mpirun",
            "say --multi_gpu instead of --cpu: it starts them, and they train on the CPU",
        )
    return int(found or 1)


class Group:
    """One process alone: every question answers itself.

    Attributes:
        rank: this process, from 0; the first one writes. size: how many there are.
        rows: how many of this process's rows of the present batch count; all: of the whole batch.
    """

    rank: int = 0
    size: int = 1

    def __init__(self) -> None:
        self.rows = 0
        self.all = 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def share(self) -> float:
        """This process's part of the present batch."""
        return self.rows / self.all

    def take(self, n: int) -> slice:
        """This process's rows of a batch of ``n``; never empty, where none are left it has one that does not count."""
        self.rows = self.all = n
        return slice(0, n)

    def prepare(self, pupil: Any, optimiser: Any, inputs: Sequence[Any]) -> tuple[Any, Any]:
        """What to call instead of the network, and to step instead of the optimiser.

        Args:
            inputs: a few examples, with which it is called once.
        """
        return pupil, optimiser

    def backward(self, loss: Any) -> None:
        """Leave in every process the gradients of the sum of all processes' losses."""
        loss.backward()

    def gather(self, rows: Any) -> Any:
        """All processes' rows of the present batch in order; only this process's carry a gradient."""
        return rows

    def add(self, values: Any) -> Any:
        """The sum of a tensor over processes, through which gradients flow back into every addend."""
        return values

    def agree(self, value: Any) -> Any:
        """The first process's value, in all."""
        return value

    def wait(self) -> None:
        """Until every process has come here."""

    def leave(self) -> None:
        """End the group."""


class _Together(Group):
    """One of several processes that accelerate started, on CPUs, over gloo."""

    def __init__(self) -> None:
        super().__init__()
        accelerate = require("accelerate", extra="train", purpose="training in several processes")
        self._handlers = require("accelerate.utils", extra="train", purpose="training in several processes")
        from datetime import timedelta

        self._torch = require("torch", extra="torch", purpose="training")
        # The first process may ask a teacher for hours while the others wait; precision is the recipe's to say.
        self._accelerator = accelerate.Accelerator(
            cpu=True,
            mixed_precision="no",
            kwargs_handlers=[self._handlers.InitProcessGroupKwargs(timeout=timedelta(days=7))],
        )
        self.rank = int(self._accelerator.process_index)
        self.size = int(self._accelerator.num_processes)

    def take(self, n: int) -> slice:
        start, stop = self._bounds(n, self.rank)
        self.rows, self.all = stop - start, n
        return slice(start, stop) if stop > start else slice(0, 1)

    def _bounds(self, n: int, rank: int) -> tuple[int, int]:
        return -(-n * rank // self.size), -(-n * (rank + 1) // self.size)

    def prepare(self, pupil: Any, optimiser: Any, inputs: Sequence[Any]) -> tuple[Any, Any]:
        # Whether some parameters take no part must be said beforehand; finding out in every step costs time.
        answer, features = pupil.eval()(*inputs)
        found = self._torch.autograd.grad(
            answer.sum() + sum(f.sum() for f in features),
            [p for p in pupil.parameters() if p.requires_grad],
            allow_unused=True,
        )
        self._accelerator.ddp_handler = self._handlers.DistributedDataParallelKwargs(
            find_unused_parameters=any(g is None for g in found)
        )
        prepared = self._accelerator.prepare(pupil, optimiser)
        return prepared[0], prepared[1]

    def backward(self, loss: Any) -> None:
        # Data parallel training takes the mean of the gradients. Not by accelerate, which divides by the
        # ACCELERATE_GRADIENT_ACCUMULATION_STEPS of the environment.
        (loss * self.size).backward()

    def gather(self, rows: Any) -> Any:
        torch = self._torch
        spans = [self._bounds(self.all, rank) for rank in range(self.size)]
        most = max(stop - start for start, stop in spans)
        own = rows.detach()[: self.rows]
        padded = torch.zeros((most, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in spans]
        torch.distributed.all_gather(parts, padded)
        parts = [p[: stop - start] for p, (start, stop) in zip(parts, spans, strict=True)]
        parts[self.rank] = rows[: self.rows]
        return torch.cat(parts)

    def add(self, values: Any) -> Any:
        from edgekd_torch._shared_sum import SharedSum

        return SharedSum.apply(values)

    def agree(self, value: Any) -> Any:
        told = [value]
        self._torch.distributed.broadcast_object_list(told, src=0)
        return told[0]

    def wait(self) -> None:
        self._torch.distributed.barrier()

    def leave(self) -> None:
        self._torch.distributed.destroy_process_group()


#: One process by itself.
ALONE = Group()


def join(environ: Mapping[str, str]) -> Group:
    """The group that this process was launched into; alone where nobody launched several.

    Raises:
        UsageError: as :func:`launched_processes`; MissingDependencyError: several, and accelerate is not installed;
        InfrastructureError: the launcher's processes did not find each other.
    """
    size = launched_processes(environ)
    if size < 2:
        return Group()
    made = _Together()
    if made.size != size:
        raise InfrastructureError(
            f"{size} processes were launched, {made.size} found each other", "launch with `accelerate launch`"
        )
    return made
