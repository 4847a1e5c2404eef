"""The processes of a run: torchrun starts them, each computes some shards of every batch.

This is plain torch.distributed. DistributedDataParallel, and with it Fabric and Accelerate, reduces gradients
in the backward pass of one wrapped forward; a step here sends the same networks through the losses of several
optimizers, sometimes with second derivatives, and sums gradients once per optimizer step instead.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from edgeage.errors import EdgeageError
from edgeage.train.device import choose_device

T = TypeVar("T")
PATIENCE = timedelta(hours=12)  # the others wait while process 0 decodes half a million photos


class StoppedElsewhere(EdgeageError):
    """Another process of the run has failed, and says why: this one leaves without a word."""


@dataclass(frozen=True)
class Processes:
    """This process among the others; alone by default. Every method that talks must be called by all."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process is the one that speaks, logs and saves."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor (all of one type) by its sum over the processes, the same bits on all."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _together():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def copy_from_leader(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by what it is on process 0."""
        if self.count > 1:
            with _together():
                for tensor in tensors:
                    whole = tensor.contiguous()
                    dist.broadcast(whole, 0)
                    tensor.copy_(whole)

    def require_same(self, what: str, value: object) -> None:
        """EdgeageError unless `value` reads the same on all processes."""
        if self.count == 1:
            return
        number = int(hashlib.sha256(repr(value).encode()).hexdigest()[:12], 16)  # exact in float64
        extremes = torch.tensor([number, -number], dtype=torch.float64, device=self.device)
        with _together():
            dist.all_reduce(extremes, dist.ReduceOp.MAX)
        if extremes[0] != -extremes[1]:
            self.fail(f"the processes do not have the same {what}; all nodes need the same files and --out")

    def fail(self, message: str) -> NoReturn:
        """Stop all processes for a reason that all have found; one of them says it."""
        raise EdgeageError(message) if self.leads else StoppedElsewhere(message)

    def leader_only(self, action: Callable[[], object]) -> None:
        """Run `action` on process 0 while the others wait; if it fails, all stop."""
        self._attempt(action, self.leads)

    def leader_first(self, action: Callable[[], T]) -> T:
        """What `action` returns; process 0 runs it first and may leave files for the others."""
        results = [self._attempt(action, self.leads), self._attempt(action, not self.leads)]
        (result,) = results[0] or results[1]
        return result

    def _attempt(self, action: Callable[[], T], mine: bool) -> tuple[T, ...]:
        """(result,) where `mine`, else (); an error is raised where it happened, the others just leave."""
        result: tuple[T, ...] = ()
        problem: Exception | None = None
        if mine:
            try:
                result = (action(),)
            except Exception as error:
                problem = error
        failed = torch.tensor([float(problem is not None)], device=self.device)
        self.sum([failed])
        if problem is not None:
            raise problem
        if failed:
            raise StoppedElsewhere("another process of this run has failed")
        return result


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """All processes that the launcher has started, joined by nccl on CUDA and by gloo on CPUs.

    A process group that the caller has made is taken as it is, and left.

    Raises EdgeageError if the device is not there or the others cannot be reached.
    """
    chosen = choose_device(device)
    rank, count = _environment("RANK", 0), _environment("WORLD_SIZE", 1)
    if count == 1:
        yield Processes(device=chosen)
        return
    if chosen.type == "cuda":
        if ":" in device:
            raise EdgeageError(f"--device {device} with {count} processes; give --device cuda: one GPU each")
        chosen = torch.device("cuda", _environment("LOCAL_RANK", None))
        torch.cuda.set_device(chosen)
    if dist.is_initialized():
        yield Processes(rank, count, chosen)
        return
    try:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise EdgeageError(
            f"process {rank} of {count} cannot join the others: {_first_line(error)}; start with torchrun"
        ) from None
    try:
        yield Processes(rank, count, chosen)
    finally:
        dist.destroy_process_group()


def leads() -> bool:
    """Whether this is process 0, by the launcher's environment."""
    return _environment("RANK", 0) == 0


def leave() -> None:
    """End a process that torchrun started and that has done and written everything.

    Now and then (2 of 12 starts, torch 2.13 with gloo) the interpreter's own exit aborts with "terminate
    called without an active exception" after the process group is gone, and torchrun calls a finished run
    failed.
    """
    if _environment("WORLD_SIZE", 1) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def shards_of(asked: int | None, begun_with: int | None, processes: int) -> int:
    """How many shards each batch is cut into: what was asked for, else what the run was begun with, else
    one per process.

    Raises EdgeageError if a run would go on with another number (batch norm sees shards, so its results
    would change), or if the shards cannot be shared out evenly.
    """
    shards = asked or begun_with or processes
    if begun_with is not None and shards != begun_with:
        raise EdgeageError(
            f"the run was begun with another cut of its batches (shards: {begun_with} -> {shards}); "
            f"leave --shards away or choose another --out"
        )
    if shards % processes:
        raise EdgeageError(
            f"{shards} shards of a batch cannot be shared out evenly to {processes} processes; "
            f"start as many processes as divide {shards}, or choose other --shards and another --out"
        )
    return shards


def _environment(name: str, default: int | None) -> int:
    value = os.environ.get(name, default)
    try:
        return int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise EdgeageError(
            f"the environment says {name}={value} where a number is needed; start with torchrun"
        ) from None


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise EdgeageError(
            f"lost the other processes of the run ({_first_line(error)}); the last checkpoint stays, "
            f"the same command goes on from it"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
