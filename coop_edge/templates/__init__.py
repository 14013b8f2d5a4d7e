"""Onboarding: the 42 viewpoints, and the templates rendered from them."""

from __future__ import annotations

from coop_edge.templates import viewpoints
from coop_edge.templates.template_set import TemplateSet, template_camera
from coop_edge.templates.viewpoints import VIEWPOINTS, template_poses

__all__ = ["VIEWPOINTS", "TemplateSet", "template_camera", "template_poses", "viewpoints"]
