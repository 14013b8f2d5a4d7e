"""Crops on the GPU: ``stages.crop`` with the kernel in ``kernels/warp.cu``, all crops of an image in one launch.

The sampling is that of ``stages.crop``: the same m, and the mean of m x m bilinear samples, black outside the image and
behind the camera, rounded to 8 bits. It is rounded once, from samples at exact places in FP32; so it is within half a
grey level of the mean in real numbers, plus 0.03 for the place of a sample, which is off by 1e-4 pixels at most. The
CPU rounds the samples too, before their mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError
from coop_edge.kernels.device import Array, Device
from coop_edge.stages.crop import Floats, samples_per_side

_SOURCE = "warp.cu"
_BLOCK = 128  # kBlock
_FARTHEST = float(1 << 22)  # pixels: of the anchor, which FP32 holds exactly


class CudaWarp:
    """``crop.Warp`` on a device: (image uint8 [h,w,3], H [N,3,3] on the host, S) -> float32 [N,3,S,S] in [0, 1].

    Image and crops live on the device. Work is queued on its current stream, and nothing waits for it. N = 0 is legal.
    Raises InputError for an image that is not uint8 [h,w,3] on the device.
    """

    def __init__(self, device: Device) -> None:
        self._device = device

    def __call__(self, image: Array, H: Floats, size: int) -> Array:
        xp = self._device.xp
        if not isinstance(image, xp.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            given = f"{image.dtype} {list(image.shape)}" if hasattr(image, "dtype") else ""
            kind, wanted = type(image), xp.ndarray
            raise InputError(
                f"image: wanted a {wanted.__module__}.{wanted.__name__} uint8 [height,width,3] on the device, got a "
                f"{kind.__module__}.{kind.__name__} {given}".rstrip()
            )
        out = xp.empty((len(H), 3, size, size), dtype=np.float32)
        if not len(H):
            return out
        crops = xp.asarray(crop_numbers(H, size))
        height, width = (np.int32(side) for side in image.shape[:2])
        self._device.kernel(_SOURCE, "warp_crops")(
            (-(-len(H) * size * size // _BLOCK),),
            (_BLOCK,),
            (xp.ascontiguousarray(image), height, width, crops, np.int32(len(H)), np.int32(size), out),
        )
        return out


def crop_numbers(H: Floats, size: int) -> NDArray[np.float32]:
    """What the kernel reads of each crop, float32 [N,12]: see ``CropToImage`` in ``kernels/warp.cuh``.

    H [N,3,3]: image pixels -> crop pixels. Coordinates are taken relative to the crop's middle and to the image pixel
    nearest to what is seen there, which is done here, in FP64.
    """
    middle = 0.5 * (size - 1)
    h = np.linalg.inv(H) @ np.array([[1.0, 0.0, middle], [0.0, 1.0, middle], [0.0, 0.0, 1.0]])
    depth = h[:, 2, 2]  # of the middle's ray; without one in front there is no anchor, and none is needed
    ahead = depth > 0.0
    h /= np.where(ahead, depth, np.abs(h[:, 2]).max(axis=1))[:, None, None]
    anchor = np.where(ahead[:, None], np.clip(np.rint(h[:, :2, 2]), -_FARTHEST, _FARTHEST), 0.0)
    h[:, :2] -= anchor[:, :, None] * h[:, 2:]
    samples = samples_per_side(H, size)
    return np.concatenate([h.reshape(-1, 9), anchor, samples[:, None]], axis=1).astype(np.float32)
