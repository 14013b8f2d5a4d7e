"""Reads what others wrote: JSON, and numbers; whatever is in it, the answer is data or an error with a name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import InputError


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: the message says what is wrong with it, nesting without end included.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def floats(value: Any, name: str, wanted: str = "numbers") -> NDArray[np.float64]:
    """Return real numbers as a new float64 array.

    Raises:
        InputError: no numbers, complex ones (their imaginary part would be lost), or integers beyond float64.
    """
    try:
        if np.iscomplexobj(value):
            raise InputError(f"{name}: wanted real {wanted}, got complex ones")
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: wanted {wanted}, got {type(value).__name__}: {value!r:.80} ({error})") from None
    except OverflowError:
        raise InputError(f"{name}: wanted {wanted} that fit a double, got a larger integer") from None
