"""Refiners for the evaluation that know the truth, or always say the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.networks import CONFIGS, build
from export.networks.refiner import cell_pixels
from export.train import poses
from tests.export.small_nets import NET


def small_refiner():
    torch.manual_seed(0)
    return build(CONFIGS["refiner"].from_dict({**NET["refiner"], "radius_px": 2.0})).eval()


def put_out(monkeypatch: pytest.MonkeyPatch, net, answer) -> None:
    """Let ``net`` put out ``answer(query, render)``, NumPy arrays [N,3,S,S] to flow, scale, certainty, sensitivity."""

    def outputs(query, render):
        return tuple(torch.from_numpy(np.float32(value)) for value in answer(query.numpy(), render.numpy()))

    monkeypatch.setattr(net, "export_outputs", outputs)


def walk(certainty):
    """See every pair a few pixels off to the right, however often it is moved there."""

    def answer(query, _):
        flow = np.zeros((len(query), 2, *(side // 4 for side in query.shape[2:])))
        flow[:, 0] = 3.0
        even = np.ones_like(flow[:, :1])
        return flow, even, certainty * even, even

    return answer


def know(monkeypatch: pytest.MonkeyPatch, net, batch, factor=1.0) -> None:
    """Let ``net`` put out the labels of ``batch``, and of what is rendered again of it; the flow times ``factor``."""
    cells, known = cell_pixels(net.config.stride), {}

    def remember(seen):
        for i, images in enumerate(zip(seen.query, seen.render, strict=True)):
            known[b"".join(image.tobytes() for image in images)] = (
                factor * seen.flow[i, :, cells, cells],
                seen.visible[i, None, cells, cells],
            )
        return seen

    def answer(query, render):
        rgb = [np.rint(255 * images).astype(np.uint8).transpose(0, 2, 3, 1) for images in (query, render)]
        rows = [
            known[b"".join(np.ascontiguousarray(image).tobytes() for image in pair)] for pair in zip(*rgb, strict=True)
        ]
        flow, visible = (np.stack(column) for column in zip(*rows, strict=True))
        return flow, np.full(visible.shape, 0.25), visible, np.ones(visible.shape)

    rerender = poses.rerender
    monkeypatch.setattr(poses, "rerender", lambda *given: remember(rerender(*given)))
    remember(batch)
    put_out(monkeypatch, net, answer)
