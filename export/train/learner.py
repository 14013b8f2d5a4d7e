"""Holds what a training step changes (weights, optimiser, averaged weights), and takes the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from export.networks import Net
from export.train.distributed import Group
from export.train.optimiser import Ema, adamw
from export.train.options import TrainOptions
from export.train.task import Task, to_tensors


class Learner:
    """A network in training, with its optimiser and the moving average of its weights."""

    def __init__(self, task: Task, net: Net, options: TrainOptions, group: Group) -> None:
        self.task, self.device, self.clip = task, group.device, options.clip
        # Channels last: convolutions forward and backward take a third less on a CPU, and give the same numbers.
        self.net = net.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.model = group.wrap(torch.compile(self.net) if options.compile else self.net)  # type: ignore[arg-type]
        self.bfloat16 = uses_bfloat16(options.precision, self.device)
        self.optimiser = adamw(self.net)
        self.ema = Ema(self.net, options.ema_decay)

    def step(
        self, batch: Any, progress: float, learning_rate: float, mark: Callable[[str], None] = lambda stage: None
    ) -> dict[str, Tensor]:
        """Take one optimiser step on a batch.

        Args:
            batch: a CoarseBatch or RefinerBatch.
            progress: share of the run that has passed, in [0, 1].
            learning_rate: of this step.
            mark: called with the name of each stage when it is done.

        Returns:
            "loss", "gradient_norm" and the weighted parts of the loss, as scalars on the device.
        """
        tensors = to_tensors(batch, self.device)
        mark("waiting")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            parts = self.task.losses(self.model, tensors, progress)
        loss = torch.stack(list(parts.values())).sum()
        mark("forward")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        mark("backward")
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.step()
        self.ema.update(self.net)
        mark("update")
        return {"loss": loss, "gradient_norm": norm, **parts}

    @contextmanager
    def averaged(self) -> Iterator[Net]:
        """Yield the network in eval mode with its averaged weights; its own come back at the end."""
        own = {k: v.clone() for k, v in self.net.state_dict().items()}
        self.net.load_state_dict(self.ema.weights)
        try:
            yield self.net.eval()
        finally:
            self.net.load_state_dict(own)
            self.net.train()

    def state(self) -> dict[str, Any]:
        """Return everything that ``restore`` needs to go on as if nothing had happened."""
        return {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "ema": self.ema.state(),
            "rng": torch.get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ema.load(state["ema"])
        torch.set_rng_state(state["rng"])


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Tell whether matrix products run in bfloat16 on ``device`` with option ``precision``."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
