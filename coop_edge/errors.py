"""The errors of coop_edge.

Wrong use raises one of these, with what was given, what was wanted and what to do. A scene that cannot be solved does
not raise: it comes back as ``PoseEstimate(success=False, reason=...)``.
"""

from __future__ import annotations


class CoopEdgeError(Exception):
    """Base class: ``except CoopEdgeError`` catches everything this package raises on purpose."""


class InputError(CoopEdgeError, ValueError):
    """An argument that cannot be meant: image, intrinsics, box, mask, pose, NaN, wrong shape or dtype."""


class MeshError(CoopEdgeError, ValueError):
    """A mesh that cannot be used: unreadable, no faces, non-finite, or of an unlikely size."""


class ConfigError(CoopEdgeError, ValueError):
    """An option with an unknown name or a value outside its range."""


class BundleError(CoopEdgeError, RuntimeError):
    """A model bundle or a template file that does not hold what it says."""


class EngineError(CoopEdgeError, RuntimeError):
    """A compiled network that cannot be built, loaded or run here."""


class BackendUnavailable(CoopEdgeError, RuntimeError):
    """A device or optional package that was asked for and is not here; the message names the probe that failed."""


def quoted(error: BaseException) -> str:
    """Return kind and first line of another package's error, to stand in the text of one of ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
