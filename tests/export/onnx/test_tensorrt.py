"""Every kind of exported graph, FP32 and FP16, is parsed and built by TensorRT for RTX for SM 86, 89 and 120.

No GPU is needed for that. RTX stands in for TensorRT, which cannot be had without one: same parser and API, another
compiler behind them.
"""

from __future__ import annotations

import logging

import onnx
import pytest

from coop_edge.runtime.tensorrt_api import load
from tests.export.small_graphs import GRAPHS_OF_VARIANTS, small_model

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("variant", "role"), GRAPHS_OF_VARIANTS, ids=lambda text: text)
def test_builds_for_three_sm(variant, role, precision, caplog):
    model = small_model(variant, role, precision)
    halves = [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert bool(halves) == (precision == "fp16")
    with caplog.at_level(logging.WARNING, "coop_edge.tensorrt"):
        built = load("tensorrt_rtx").build(
            model.SerializeToString(), f"{variant}/{role}", (1, 2, 6), targets=("86", "89", "120")
        )
    assert len(built.plan) > 10_000
    remarks = [record for record in caplog.records if record.name.startswith("coop_edge")]
    assert not remarks, "TensorRT had something to remark"
