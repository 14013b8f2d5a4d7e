"""Calls OpenCV and PoseLib as peers of our pose solvers."""

from __future__ import annotations

import cv2
import numpy as np
import poselib

from benchmarks.pnp_problems import IMAGE_SIZE, PnpProblems
from coop_edge.geometry import se3


def opencv_ransac(
    problems: PnpProblems, *, threshold_px: float, iterations: int, confidence: float, flags: int = cv2.SOLVEPNP_EPNP
) -> np.ndarray:
    """Run ``cv2.solvePnPRansac`` on each problem: T [B,4,4], NaN where it failed."""
    T = np.full((len(problems), 4, 4), np.nan)
    for i, valid in enumerate(problems.valid):
        cv2.setRNGSeed(0)
        found, rvec, tvec, _ = cv2.solvePnPRansac(
            problems.points_object[i, valid],
            problems.points_image[i, valid],
            problems.K[i],
            None,
            iterationsCount=iterations,
            reprojectionError=threshold_px,
            confidence=confidence,
            flags=flags,
        )
        if found:
            T[i] = se3.from_rt(cv2.Rodrigues(rvec)[0], tvec[:, 0])
    return T


def opencv_refine_lm(problems: PnpProblems, T_init: np.ndarray, *, iterations: int) -> np.ndarray:
    """Run ``cv2.solvePnPRefineLM`` from T_init on the points of weight > 0; it knows no weights, all count alike."""
    T = np.empty_like(T_init)
    criteria = (cv2.TERM_CRITERIA_COUNT, iterations, 0.0)
    for i, weights in enumerate(problems.weights):
        used = weights > 0
        rvec, tvec = cv2.Rodrigues(T_init[i, :3, :3])[0], T_init[i, :3, 3:].copy()
        rvec, tvec = cv2.solvePnPRefineLM(
            problems.points_object[i, used], problems.points_image[i, used], problems.K[i], None, rvec, tvec, criteria
        )
        T[i] = se3.from_rt(cv2.Rodrigues(rvec)[0], tvec[:, 0])
    return T


def poselib_ransac(
    problems: PnpProblems, *, threshold_px: float, iterations: int, confidence: float, min_iterations: int
) -> np.ndarray:
    """Run ``poselib.estimate_absolute_pose`` on each problem: T [B,4,4], NaN where it has no inliers."""
    T = np.full((len(problems), 4, 4), np.nan)
    options = {
        "max_reproj_error": threshold_px,
        "max_iterations": iterations,
        "min_iterations": min_iterations,
        "success_prob": confidence,
    }
    for i, (valid, K) in enumerate(zip(problems.valid, problems.K, strict=True)):
        camera = {
            "model": "PINHOLE",
            "width": IMAGE_SIZE[0],
            "height": IMAGE_SIZE[1],
            "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
        }
        pose, info = poselib.estimate_absolute_pose(
            problems.points_image[i, valid], problems.points_object[i, valid], camera, options, {}
        )
        if info["num_inliers"] >= 4:
            T[i] = se3.from_rt(pose.R, pose.t)
    return T
