"""Tells whether intrinsics fit the image they are said to be of: units, size, principal point."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.geometry.lens import Lens

OFF_CENTRE = 0.15
"""Distance of the principal point from the image's centre, in widths or heights, from which it is doubted."""
WIDE, NARROW = 170.0, 1.0
"""Fields of view in degrees beyond which a pinhole's focal length is doubted."""
UNEQUAL = 1.33
"""Ratio of the focal lengths from which they are doubted."""
_JUDGED_FROM = 32  # pixels: smaller images have focal lengths and centres of any kind
_STACK = 4  # check_fit, __post_init__, __init__, the caller


def check_fit(K: NDArray[np.float64], width: int, height: int, *, fisheye: bool) -> None:
    """Raise InputError where K is surely not in pixels of a width x height image; warn where it hardly can be."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if min(width, height) < _JUDGED_FROM:
        return
    given = f"fx = {fx:g}, fy = {fy:g}, cx = {cx:g}, cy = {cy:g}"
    if max(fx, fy) < 10.0 and 0.0 <= cx <= 1.0 and 0.0 <= cy <= 1.0:
        unit = "metres" if max(fx, fy) < 0.1 else "shares of the image (0..1)"
        how = (
            "divide by the size of a pixel in metres"
            if unit == "metres"
            else f"multiply its first row by the width, {width}, and its second by the height, {height}"
        )
        raise InputError(f"K: looks like {unit}, not pixels ({given}, of a {width}x{height} image); {how}")
    if fx < 0.1 * width and fy < 0.1 * height and 0.0 < cx < 0.06 * width and 0.0 < cy < 0.06 * height:
        raise InputError(
            f"K: looks like millimetres, not pixels ({given}, of a {width}x{height} image); divide by the size of a "
            "pixel on the sensor in millimetres"
        )
    for doubt in _doubts(K, width, height, fisheye):
        warnings.warn(f"Camera: {doubt} ({given}, of a {width}x{height} image)", UserWarning, stacklevel=_STACK)


def _doubts(K: NDArray[np.float64], width: int, height: int, fisheye: bool) -> list[str]:
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    doubts = []
    off = max(abs(cx - (width - 1) / 2) / width, abs(cy - (height - 1) / 2) / height)
    if off > OFF_CENTRE:
        doubts.append(f"the principal point is far from the image's centre{_of_another(cx, cy, width, height)}")
    view = math.degrees(2.0 * math.atan(0.5 * width / fx))
    if not fisheye and view > WIDE:
        doubts.append(f"the focal length gives a field of view of {view:.0f} degrees; is it in pixels?")
    if view < NARROW:
        doubts.append(f"the focal length gives a field of view of {view:.2g} degrees; is it in pixels?")
    if not 1.0 / UNEQUAL < fx / fy < UNEQUAL:
        doubts.append("the focal lengths fx and fy are far apart; are both in pixels?")
    return doubts


def _of_another(cx: float, cy: float, width: int, height: int) -> str:
    """Return what image K is of, as far as its centre tells; "" if it does not."""
    across, down = (2.0 * cx + 1.0) / width, (2.0 * cy + 1.0) / height
    if across <= 0.0 or down <= 0.0:
        return ""
    if abs((2.0 * cx + 1.0) / height - 1.0) < 0.1 and abs((2.0 * cy + 1.0) / width - 1.0) < 0.1:
        return ": K fits the image turned by 90 degrees, or width and height are swapped"
    if 0.8 < across / down < 1.25:
        like = f"{2 * cx + 1:.0f}x{2 * cy + 1:.0f}"
        about = f", about {2.0 / (across + down):.3g}" if 0.9 < across / down < 1.1 else ""
        return (
            f": K fits an image of about {like}; was this one resized? Then multiply fx, fy, cx and cy by this image's "
            f"size over that one's{about}"
        )
    return ""


def check_lens(lens: Lens, width: int, height: int) -> None:
    """Warn where a lens' coefficients cannot describe the whole image."""
    edges = [(width - 1, lens.K[1, 2]), (0, lens.K[1, 2]), (lens.K[0, 2], height - 1), (lens.K[0, 2], 0)]
    lost = np.isnan(lens.undistort(np.array(edges, np.float64))).any(axis=1)
    if lost.any():
        given = lens.coefficients.tolist()
        warnings.warn(
            f"Camera: the distortion {given} folds the image back before its border, so part of it cannot be used; "
            "are the coefficients in OpenCV's order (k1, k2, p1, p2, k3, ...), and those of this K?",
            UserWarning,
            stacklevel=_STACK + 1,
        )
