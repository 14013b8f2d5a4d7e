"""Triton's Python backend over a coop_edge Estimator; ``coop-edge serve-model`` copies it into a model repository.

A request holds one RGB image, its camera and N boxes; the answer N poses. An error of one request is its answer alone.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from coop_edge import Camera, CoopEdgeError, Detection, Estimator, EstimatorConfig


class TritonPythonModel:
    """One Estimator per instance; Triton calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load engines and objects, and run every stage once."""
        given = json.loads(args["model_config"])["parameters"]
        options = {key: value["string_value"] for key, value in given.items()}
        config = EstimatorConfig().updated(json.loads(options["settings"]))
        threads = int(options["threads"])
        self.estimator = Estimator.from_engines(options["engines"], options["device"], config, threads)
        for name, mesh, unit, templates in json.loads(options["objects"]):
            self.estimator.add_object(name, mesh, unit=unit, templates=templates)
        self.estimator.warmup()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Close the Estimator."""
        self.estimator.close()

    def _answer(self, request: Any) -> Any:
        import triton_python_backend_utils as pb_utils  # there is one in Triton's processes alone

        try:
            image, K, boxes = (_array(request, name) for name in ("IMAGE", "K", "BOXES"))
            names = [text.decode() for text in _array(request, "OBJECTS").ravel()]
            distortion, fisheye = _array(request, "DISTORTION"), _array(request, "FISHEYE")
            wide = fisheye is not None and bool(fisheye.ravel()[0])
            camera = Camera(K, image.shape[1], image.shape[0], distortion, wide)
            detections = [Detection(name, tuple(box)) for name, box in zip(names, boxes.tolist(), strict=True)]
            results = self.estimator.estimate(image, camera, detections)
        except (CoopEdgeError, ValueError) as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        nothing = np.full((4, 4), np.nan)
        poses = [nothing if result.T_camera_object is None else result.T_camera_object for result in results]
        columns = {
            "T_CAMERA_OBJECT": np.array(poses, np.float64).reshape(-1, 4, 4),
            "SCORE": np.array([result.score for result in results], np.float64),
            "PRESENCE": np.array([result.presence for result in results], np.float64),
            "SUCCESS": np.array([result.success for result in results], np.bool_),
            "REASON": np.array([result.reason.encode() for result in results], np.object_),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, column) for name, column in columns.items()])


def _array(request: Any, name: str) -> Any:
    import triton_python_backend_utils as pb_utils

    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
