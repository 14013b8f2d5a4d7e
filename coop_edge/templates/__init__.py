"""Renders the templates of an object from the 42 viewpoints, once, when it is onboarded."""

from __future__ import annotations

from coop_edge.templates import viewpoints
from coop_edge.templates.template_set import MakeRenderer, TemplateSet
from coop_edge.templates.viewpoints import VIEWPOINTS, template_camera, template_poses

__all__ = ["VIEWPOINTS", "MakeRenderer", "TemplateSet", "template_camera", "template_poses", "viewpoints"]
