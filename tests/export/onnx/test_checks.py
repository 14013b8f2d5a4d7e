"""``checked`` finds what must not be in a graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from coop_edge.errors import BundleError
from coop_edge.runtime.base import TensorSpec
from export.onnx.checks import checked
from tests.export.onnx.models import node, traced


class TestChecks:
    """``checked`` finds what must not be in a graph."""

    INPUTS, OUTPUTS = (TensorSpec("x", (None, 4)),), (TensorSpec("y", (None, 4)),)
    Y = (("y", TensorProto.FLOAT, ["N", 4]),)

    def check(self, model, precision="fp32"):
        return checked(model, "refiner", self.INPUTS, self.OUTPUTS, precision)

    def test_a_sound_one_passes(self):
        assert self.check(traced([node("Relu", ["x"], ["y"])], outputs=self.Y)).graph.node[0].op_type == "Relu"

    @pytest.mark.parametrize(
        ("model", "precision", "message"),
        [
            (traced([node("Relu", ["x"], ["z"])], outputs=(("z", 1, ["N", 4]),)), "fp32", "outputs are z .* wanted y"),
            (traced([node("Relu", ["x"], ["y"])], outputs=(("y", 1, ["N", 5]),)), "fp32", "not a valid ONNX graph"),
            (traced([node("Identity", ["x"], ["y"])], outputs=Y), "fp32", "/y is a standard Identity"),
            (
                traced([node("Add", ["x", "c"], ["y"])], [("c", np.float32([1, 2, np.nan, 4]))], outputs=Y),
                "fp32",
                "c holds NaN or infinity",
            ),
            (
                traced(
                    [
                        node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
                        node("Softmax", ["h"], ["p"]),
                        node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
                    ],
                    outputs=Y,
                ),
                "fp16",
                "/p reads h in FP16, wanted FP32",
            ),
            (traced([node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], outputs=Y), "fp32", "type that is there"),
            (traced([node("Relu", ["x"], ["y"])], outputs=Y), "fp16", "without a product in FP16"),
            (
                traced([node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Add", ["h", "x"], ["y"])], outputs=Y),
                "fp16",
                "not a valid ONNX graph",
            ),
        ],
        ids=["name", "shape", "operator", "nan", "half-softmax", "idle-cast", "no-half", "mixed-types"],
    )
    def test_faults_are_named(self, model, precision, message):
        with pytest.raises(BundleError, match=f"refiner: .*{message}"):
            self.check(model, precision)

    def test_an_older_opset_is_refused(self):
        model = traced([node("Relu", ["x"], ["y"])], outputs=self.Y)
        model.opset_import[0].version = 16
        with pytest.raises(BundleError, match="wanted ONNX's own of version 18 alone"):
            self.check(model)
