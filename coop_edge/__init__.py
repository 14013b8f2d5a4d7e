"""coop_edge: the 6-DoF pose of an object known only by its CAD model, from one RGB image, on the device itself.

Public names are resolved on first use; importing the package loads nothing but the standard library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from coop_edge.base.version import __version__

_PUBLIC = {
    "backend": ("Backend",),
    "config": (
        "AdvancedCoarseConfig",
        "AdvancedConfig",
        "AdvancedFindConfig",
        "AdvancedRefineConfig",
        "AdvancedSelectConfig",
        "AdvancedTrackConfig",
        "CoarseConfig",
        "EstimatorConfig",
        "FindConfig",
        "LmConfig",
        "DepthConfig",
        "OutlineConfig",
        "RansacConfig",
        "RansacSearchConfig",
        "RefineConfig",
        "SelectConfig",
    ),
    "errors": (
        "BackendUnavailable",
        "BundleError",
        "ConfigError",
        "CoopEdgeError",
        "EngineError",
        "InputError",
        "MeshError",
    ),
    "estimator": ("Estimator",),
    "mesh": ("LoadLimits", "Mesh", "Symmetries", "load_symmetries"),
    "templates": ("TemplateSet",),
    "types": ("Camera", "Detection", "PoseEstimate", "StageTimes"),
    "visual.overlay": ("OverlayItem", "draw_overlay"),
}
"""Module -> its public names. The imports below tell type checkers the same; a test keeps the two equal."""
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from coop_edge.backend import Backend as Backend
    from coop_edge.config import AdvancedCoarseConfig as AdvancedCoarseConfig
    from coop_edge.config import AdvancedConfig as AdvancedConfig
    from coop_edge.config import AdvancedFindConfig as AdvancedFindConfig
    from coop_edge.config import AdvancedRefineConfig as AdvancedRefineConfig
    from coop_edge.config import AdvancedSelectConfig as AdvancedSelectConfig
    from coop_edge.config import AdvancedTrackConfig as AdvancedTrackConfig
    from coop_edge.config import CoarseConfig as CoarseConfig
    from coop_edge.config import DepthConfig as DepthConfig
    from coop_edge.config import EstimatorConfig as EstimatorConfig
    from coop_edge.config import FindConfig as FindConfig
    from coop_edge.config import LmConfig as LmConfig
    from coop_edge.config import OutlineConfig as OutlineConfig
    from coop_edge.config import RansacConfig as RansacConfig
    from coop_edge.config import RansacSearchConfig as RansacSearchConfig
    from coop_edge.config import RefineConfig as RefineConfig
    from coop_edge.config import SelectConfig as SelectConfig
    from coop_edge.errors import BackendUnavailable as BackendUnavailable
    from coop_edge.errors import BundleError as BundleError
    from coop_edge.errors import ConfigError as ConfigError
    from coop_edge.errors import CoopEdgeError as CoopEdgeError
    from coop_edge.errors import EngineError as EngineError
    from coop_edge.errors import InputError as InputError
    from coop_edge.errors import MeshError as MeshError
    from coop_edge.estimator import Estimator as Estimator
    from coop_edge.mesh import LoadLimits as LoadLimits
    from coop_edge.mesh import Mesh as Mesh
    from coop_edge.mesh import Symmetries as Symmetries
    from coop_edge.mesh import load_symmetries as load_symmetries
    from coop_edge.templates import TemplateSet as TemplateSet
    from coop_edge.types import Camera as Camera
    from coop_edge.types import Detection as Detection
    from coop_edge.types import PoseEstimate as PoseEstimate
    from coop_edge.types import StageTimes as StageTimes
    from coop_edge.visual.overlay import OverlayItem as OverlayItem
    from coop_edge.visual.overlay import draw_overlay as draw_overlay


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'coop_edge' has no attribute {name!r} (it offers: {', '.join(sorted(_HOME))})")
    value = getattr(importlib.import_module(f"coop_edge.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
