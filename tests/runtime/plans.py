"""Plans that no TensorRT has built: any bytes, with a sidecar that fits them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from coop_edge.runtime.network import Network
from coop_edge.runtime.plan import PlanInfo, Target, plan_name
from coop_edge.runtime.plan_lookup import LoadedPlan


def made_up_plan(
    network: Network, target: Target, folder: Path | None = None, *, data: bytes = b"a plan", **changes: Any
) -> LoadedPlan:
    """A plan of ``network`` for ``target``, to lie in ``folder``, None = beside the graph. changes: in its sidecar."""
    info = PlanInfo(
        role=network.role,
        **dataclasses.asdict(target),
        onnx_sha256=network.sha256,
        plan_sha256=hashlib.sha256(data).hexdigest(),
        plan_bytes=len(data),
        precision=network.precision,
        batch=(1, 5, 40),
        shapes={spec.name: [[n, *spec.shape[1:]] for n in (1, 5, 40)] for spec in network.inputs},
        built_at="2026-01-01T00:00:00+00:00",
        verification={"against": "onnxruntime", "outputs": {spec.name: 1e-4 for spec in network.outputs}},
    )
    path = (folder or network.path.parent) / plan_name(network, target)
    return LoadedPlan(path, dataclasses.replace(info, **changes), data)
