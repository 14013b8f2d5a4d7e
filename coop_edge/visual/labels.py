"""Places short texts beside what they name: on a dark plate, inside the image, and not over one another if possible."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Extent = tuple[float, float, float, float]
"""Left, top, right and bottom, pixels."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Labels:
    """Collects labels of an image of ``width`` x ``height``, then draws them all on top.

    Args:
        unit: size of the labels; 1 suits an image of 640 x 480.
    """

    def __init__(self, width: int, height: int, unit: float) -> None:
        self._size = (width, height)
        self._scale = max(0.32, 0.45 * unit)
        self._thickness = max(1, round(unit))
        self._pad = max(2, round(4 * unit))
        self._placed: list[tuple[tuple[int, int, int, int], str, tuple[int, int, int]]] = []

    @property
    def plates(self) -> list[tuple[int, int, int, int]]:
        """Return (left, top, width, height) of every label so far, pixels."""
        return [plate for plate, _, _ in self._placed]

    def add(self, text: str, extent: Extent | None, color: tuple[int, int, int]) -> None:
        """Place ``text`` beside what has this extent, or at the image's foot if it has none."""
        text = self._fitting(_ascii(text))
        (w, h), below = cv2.getTextSize(text, _FONT, self._scale, self._thickness)
        bar = self._pad
        width, height = w + 2 * self._pad + bar, h + below + self._pad
        width, height = min(width, self._size[0]), min(height, self._size[1])
        self._placed.append((self._place(width, height, extent), text, color))

    def _fitting(self, text: str) -> str:
        """Return as much of the text as the image is wide."""
        room = self._size[0] - 3 * self._pad

        def fits(candidate: str) -> bool:
            return cv2.getTextSize(candidate, _FONT, self._scale, self._thickness)[0][0] <= room

        if fits(text):
            return text
        while text and not fits(text + "..."):
            text = text[:-1]
        return text + "..."

    def _place(self, width: int, height: int, extent: Extent | None) -> tuple[int, int, int, int]:
        left, top, right, bottom = extent or (0.0, self._size[1], 0.0, self._size[1])
        gap = self._pad
        wanted = [
            (left, top - gap - height),
            (left, bottom + gap),
            (right - width, top - gap - height),
            (left, top + gap),
        ]
        rows = np.arange(self._size[1] - height, -1, -(height + 1)).tolist()
        wanted += [(left, float(row)) for row in rows]  # where it is crowded: the first free row from the foot
        spots = [self._inside(x, y, width, height) for x, y in wanted]
        free = [spot for spot in spots if not any(_overlap(spot, plate) for plate in self.plates)]
        return (free or spots)[0]

    def _inside(self, x: float, y: float, width: int, height: int) -> tuple[int, int, int, int]:
        left = min(max(round(x), 0), self._size[0] - width)
        top = min(max(round(y), 0), self._size[1] - height)
        return left, top, width, height

    def draw(self, image: NDArray[np.uint8]) -> None:
        """Draw the labels onto the image: a dark plate with a bar in the item's colour, and light text on it."""
        for (x, y, w, h), text, color in self._placed:
            patch = image[y : y + h, x : x + w]
            patch[:] = np.rint(0.22 * patch.astype(np.float32) + 0.78 * np.array((18, 20, 24), np.float32))
            patch[:, : self._pad] = color
            below = cv2.getTextSize(text, _FONT, self._scale, self._thickness)[1]
            at = (x + 2 * self._pad, y + h - below - self._pad // 2 + 1)
            cv2.putText(image, text, at, _FONT, self._scale, (255, 255, 255), self._thickness, cv2.LINE_AA)


def _ascii(text: str) -> str:
    """Keep what OpenCV 4's fonts know: ASCII without line breaks."""
    return " ".join(text.split()).encode("ascii", "replace").decode()


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
