"""Lets several processes train one network: what torchrun sets up, and what they have to agree on.

Started alone, a process is a group of one and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from coop_edge.errors import BackendUnavailable


@dataclass(frozen=True)
class Group:
    """This process's rank among ``size`` processes, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Tell whether this is the process that writes the files."""
        return self.rank == 0

    def wrap(self, net: nn.Module) -> nn.Module:
        """Return the network whose backward pass averages gradients over the group.

        Batch normalisation takes each process's own batch; the running statistics are those of the first process.
        """
        if self.size == 1:
            return net
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(net, device_ids=ids)

    def largest(self, *values: float) -> tuple[float, ...]:
        """Return the largest of each value over the group: the same answer everywhere."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()


def pick_device(name: str) -> torch.device:
    """Return the device of "auto", "cpu" or "cuda"; under torchrun each process has a GPU of its own.

    Raises:
        BackendUnavailable: PyTorch finds no GPU, or fewer than there are local processes.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendUnavailable(f"device='cuda' was asked for, but PyTorch {torch.__version__} finds no CUDA device")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise BackendUnavailable(
            f"local process {local} has no GPU: PyTorch finds {torch.cuda.device_count()}; "
            "start torchrun with --nproc-per-node of at most that"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


@contextmanager
def join(device_name: str) -> Iterator[Group]:
    """Join the group that torchrun's environment describes (NCCL on GPUs, gloo on CPUs), or a group of one."""
    device = pick_device(device_name)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(0, 1, device)
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(distributed.get_rank(), size, device)
    finally:
        distributed.destroy_process_group()
