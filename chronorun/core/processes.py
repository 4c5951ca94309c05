"""The processes of one run: the rank of this one, and how they exchange tensors.

Every process trains on its rows of the global batch and makes each decision by itself, from
figures that are the same everywhere: counts and gradients are summed over all processes, the rest
is computed from the same weights and tokens. ``agree`` compares digests before anything is kept, so
that processes which part ways end instead of training two models. The first one writes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from chronorun.core.jsonl import encode_json
from chronorun.core.launch import Place
from chronorun.errors import ProcessLostError, RanksDisagreeError

TIMEOUT = timedelta(seconds=20)
"""Longest wait in a sum or comparison; a process that hangs longer is lost."""
MEETING = timedelta(minutes=2)
"""Longest wait for all processes to start."""
PATIENCE = timedelta(minutes=30)
"""Longest wait for work of the first process alone: a checkpoint, a corpus, a report."""
_DIGITS = 15
"""Hexadecimal digits of a digest: as many as fit into an int64."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Processes:
    """This process among those of its run. Alone, every method gives back what it was given.

    Tensors may be on any device; those of one call have the same shape in each process.
    """

    place: Place = Place()
    patient: Any = None

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.place.rank

    @property
    def world(self) -> int:
        """How many there are."""
        return self.place.world

    @property
    def is_first(self) -> bool:
        """Return whether this process writes logs and checkpoints."""
        return self.place.is_first

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, a new tensor; alone the tensor itself."""
        if self.world == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return tensor if self.world == 1 else self.sum(tensor) / self.world

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        if self.world == 1:
            return number
        # On the CPU even where the model is on a GPU: no step waits for it.
        found = torch.tensor(number)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def smallest(self, number: int) -> int:
        """Return the smallest of the processes' numbers."""
        return -self.largest(-number)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return each process's tensor, in the order of ranks."""
        if self.world == 1:
            return [tensor]
        mine = tensor.detach().contiguous()
        found = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(found, mine)
        return found

    def from_first(self, text: str) -> str:
        """Return the first process's text."""
        if self.world == 1:
            return text
        data = torch.tensor(list(os.fsencode(text)), dtype=torch.uint8)
        size = torch.tensor(len(data))
        dist.broadcast(size, 0, group=self.patient)
        if not self.is_first:
            data = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, 0, group=self.patient)
        return os.fsdecode(bytes(data.tolist()))

    def wait(self) -> None:
        """Wait until every process has come this far, for as long as the first one may need."""
        if self.world > 1:
            dist.barrier(group=self.patient)

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Let the first process do something before the others do it."""
        if not self.is_first:
            self.wait()
        try:
            yield
        finally:
            if self.is_first:
                self.wait()

    def agree(self, what: str, digest: Callable[[], str]) -> None:
        """Compare a digest (hexadecimal); a process that is alone computes none.

        Raises RanksDisagreeError, in every process, with the digests of all.
        """
        if self.world == 1:
            return
        mine = torch.tensor(int(digest()[:_DIGITS], 16))
        found = [int(one) for one in self.gather(mine)]
        if len(set(found)) > 1:
            each = ", ".join(f"{one:0{_DIGITS}x} (rank {rank})" for rank, one in enumerate(found))
            raise RanksDisagreeError(
                f"processes: digest of {what} is {each}, expected one and the same; nothing of it "
                f"was saved: see that all run the same code, then resume from the last checkpoint"
            )

    @contextmanager
    def ending_together(self, *agreed: type[Exception]) -> Iterator[None]:
        """Leave at the same time where all come to an end: by itself, or by an ``agreed`` error.

        When one process leaves first, ``torchrun`` kills the others in the middle of their writes.
        Raises ProcessLostError when another process was lost.
        """
        try:
            yield
        except agreed:
            self._leave()
            raise
        except RuntimeError as error:
            if not self.is_broken(error):
                raise
            raise ProcessLostError(
                f"processes: another of the {self.world} was lost, expected all to answer within "
                f"{TIMEOUT.seconds} s; see what it said, then resume from the last checkpoint"
            ) from error
        else:
            self._leave()

    def is_broken(self, error: Exception) -> bool:
        """Return whether an error says that another process was lost.

        gloo raises plain RuntimeErrors; the words of a process that is alone mean nothing.
        """
        said = str(error).lower()
        return (
            self.world > 1
            and isinstance(error, RuntimeError)
            and (
                isinstance(error, dist.DistError)
                or any(word in said for word in ("gloo", "nccl", "connection closed"))
            )
        )

    def _leave(self) -> None:
        if self.world > 1:
            with suppress(RuntimeError):
                self.wait()
            dist.destroy_process_group()


ALONE = Processes()


def connect(place: Place) -> Processes:
    """Meet the other processes of a launch: gloo for the CPU, NCCL for GPUs.

    Raises ProcessLostError when they do not come.
    """
    if place.world == 1:
        return Processes(place)
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
    try:
        # Their starts may lie further apart than their steps.
        store, rank, world = next(rendezvous("env://", place.rank, place.world, timeout=MEETING))
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(world)], MEETING)
        dist.init_process_group(backend, store=store, timeout=TIMEOUT, rank=rank, world_size=world)
        return Processes(place, dist.new_group(backend="gloo", timeout=PATIENCE))
    except (RuntimeError, ValueError) as error:
        raise ProcessLostError(
            f"processes: rank {place.rank} did not meet the other {place.world - 1}, expected all "
            f"within {MEETING.seconds} s; see that all were started and reach MASTER_ADDR"
        ) from error


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names, shapes and bits; the bits are summed by row on their device.

    Mappings that differ only in order have the same digest.
    """
    sha, sums = hashlib.sha256(), []
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        rows = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()])
        rows = rows.reshape(len(rows) if rows.ndim else 1, -1)
        sums.append(rows.sum(dim=1, dtype=torch.int64))
    if sums:
        device = sums[0].device
        sha.update(torch.cat([one.to(device) for one in sums]).cpu().numpy().tobytes())
    return sha.hexdigest()


def digest_plain(data: Any) -> str:
    """Return a digest of plain data; the order within its sets and mappings does not matter."""
    return hashlib.sha256(encode_json(data, order="deterministic")).hexdigest()
