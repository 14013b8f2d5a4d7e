"""Every kind of exported graph, FP32 and FP16, is parsed and built by TensorRT for RTX for SM 86, 89 and 120.

No GPU is needed for that. RTX stands in for TensorRT, which cannot be had without one: same parser and API, another
compiler behind them.
"""

from __future__ import annotations

import logging

import onnx
import pytest

from coop_edge.runtime.build import build_for_targets
from tests.export.small_graphs import GRAPHS_OF_VARIANTS, small_model

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


# The encoders of networks that differ in their heads alone are the same.
GRAPHS = [
    (variant, role)
    for variant, role in GRAPHS_OF_VARIANTS
    if role != "coarse_encoder" or variant in ("hybrid", "linear-stem")
]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("variant", "role"), GRAPHS, ids=lambda text: text)
def test_builds_for_three_sm(variant, role, precision, caplog):
    model = small_model(variant, role, precision)
    halves = [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert bool(halves) == (precision == "fp16")
    with caplog.at_level(logging.WARNING, "coop_edge.tensorrt"):
        plan = build_for_targets(
            model.SerializeToString(), ("86", "89", "120"), batch=(1, 2, 6), what=f"{variant}/{role}"
        )
    assert len(plan) > 10_000
    assert not caplog.records, "TensorRT had something to remark"
