"""Declares what is compared with what: questions, their variants, and the options that all runs share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coop_edge.base.options import Config
from coop_edge.errors import InputError


@dataclass(frozen=True)
class Variant:
    """One way to train a network."""

    name: str
    role: str
    label: str
    settings: tuple[str, ...] = ()
    """Settings of ``python -m export train ROLE``, besides those that all variants share."""


@dataclass(frozen=True)
class Question:
    """Variants to compare, by name; the others are held against the first."""

    name: str
    title: str
    variants: tuple[str, ...]
    key: str
    """The figure that answers it first."""


PAPER = "network.fine_channels=0"
"""Leaves fine matching out, which is ours: what the paper claims is judged without it."""

VARIANTS = {
    v.name: v
    for v in (
        Variant("hybrid", "coarse", "hybrid: class and offset"),
        Variant("classification", "coarse", "classification: class alone", ("network.head=classification",)),
        Variant("regression", "coarse", "regression: position alone", ("network.head=regression",)),
        Variant("object_only", "coarse", "labels on the object alone", ("no_match=false",)),
        Variant("unranked", "coarse", "class and offset, no ranking loss", ("ranking=0",)),
        Variant("as_rendered", "coarse", "appearance of the renderer", ("appearance=0",)),
        Variant("laplace", "refiner", "Laplace flow, pose loss", (PAPER,)),
        Variant("deterministic", "refiner", "deterministic flow, pose loss", (PAPER, "network.flow=deterministic")),
        Variant("no_pose_loss", "refiner", "Laplace flow, no pose loss", (PAPER, "network.sensitivity=false")),
        Variant("fine", "refiner", "Laplace flow, pose loss, fine matching"),
        Variant("frozen", "refiner", "the same, with frozen features", ("network.trunk.features=true",)),
        Variant("no_small_starts", "refiner", "the same, no small starts", ("small_starts=false",)),
    )
}

QUESTIONS = (
    Question("head", "Head of the coarse network", ("hybrid", "classification", "regression"), "within_5px"),
    Question("no_match", "Background labelled *no match*, or not", ("hybrid", "object_only"), "template_auroc"),
    Question("ranking", "Loss that ranks templates, or none", ("hybrid", "unranked"), "template_auroc"),
    Question("appearance", "Pairs that look like photographs, or as rendered", ("hybrid", "as_rendered"), "within_5px"),
    Question("flow", "Flow of the refiner", ("laplace", "deterministic"), "free_error_after_5"),
    Question("pose_loss", "Pose loss of the refiner", ("laplace", "no_pose_loss"), "free_error_after_5"),
    Question("fine", "Fine matching in the refiner", ("laplace", "fine"), "free_error_after_5"),
    Question("frozen", "Frozen features beside the refiner's stem", ("fine", "frozen"), "free_error_after_5"),
    Question("starts", "Start poses that are nearly right", ("fine", "no_small_starts"), "error_after_5"),
)

SEED_BASE = 0
"""Seed of the first repetition; the others count up. All variants of a repetition share first weights and pairs."""


@dataclass(frozen=True)
class Settings(Config):
    """Options that all runs share. A run sees batch_size times the steps of its role samples."""

    init: Path | None
    """coarse checkpoint that the refiners start from: from nothing they learn too slowly to differ"""
    pack: Path | None = None
    """asset pack; without one all objects are procedural"""
    size: str = "xs"
    """preset of the networks"""
    batch_size: int = 16
    """pairs per step"""
    coarse_steps: int = 750
    """steps of each coarse run"""
    refiner_steps: int = 450
    """steps of each refiner run"""
    hardness: float = 0.5
    """hardness of training pairs at the end of the ramp, 0 to 1"""
    ramp: int = 6000
    """pairs over which they get there"""
    evaluate_samples: int = 256
    """held-out pairs, hard and easy each"""
    ranking_queries: int = 48
    """held-out queries against all templates of their object, hard and easy each"""
    threads: int = 1
    """threads of PyTorch"""
    workers: int = 1
    """processes that draw pairs"""
    compile: bool = True
    """compile the networks"""
    device: str = "cpu"
    """cpu or cuda"""

    def steps(self, role: str) -> int:
        return self.coarse_steps if role == "coarse" else self.refiner_steps

    def same(self, role: str) -> dict[str, Any]:
        """Return what has to be the same in all runs of a role that are compared; files stand by their content."""
        return {
            "size": self.size,
            "batch_size": self.batch_size,
            "steps": self.steps(role),
            "hardness": self.hardness,
            "ramp": self.ramp,
            "evaluate_samples": self.evaluate_samples,
            "ranking_queries": self.ranking_queries if role == "coarse" else None,
            "pack": _content(self.pack),
            "init": _content(self.init) if role == "refiner" else None,
        }

    def command(self, variant: Variant, seed: int, folder: Path) -> list[str]:
        """Return the arguments of ``python -m export`` for one run: one evaluation and one checkpoint, at the end."""
        never = 1e6
        options: dict[str, Any] = {
            "size": self.size, "seed": seed, "batch_size": self.batch_size, "max_steps": self.steps(variant.role),
            "minutes": never, "checkpoint_minutes": never, "evaluate_minutes": never,
            "evaluate_samples": self.evaluate_samples, "hardness": self.hardness, "ramp": self.ramp,
            "threads": self.threads, "workers": self.workers, "device": self.device, "compile": self.compile,
        }  # fmt: skip
        if self.pack is not None:
            options["pack"] = self.pack.absolute()
        words = ["train", variant.role, "--out", str(folder.absolute())]
        if variant.role == "refiner":
            assert self.init is not None
            words += ["--init", str(self.init.absolute())]
        settings = [*(f"{name}={value}" for name, value in options.items()), *variant.settings]
        return words + [word for setting in settings for word in ("--set", setting)]


def chosen(names: Sequence[str]) -> list[Variant]:
    """Return the variants named, or those of the questions named; all without a name.

    Raises:
        InputError: a name is neither a variant nor a question.
    """
    by_question = {q.name: q.variants for q in QUESTIONS}
    wanted: dict[str, Variant] = {}
    for name in names or list(VARIANTS):
        for variant in by_question.get(name, (name,)):
            if variant not in VARIANTS:
                known = ", ".join([*VARIANTS, *by_question])
                raise InputError(f"--only {name}: wanted a variant or a question, one of {known}")
            wanted[variant] = VARIANTS[variant]
    return list(wanted.values())


def _content(path: Path | None) -> str | None:
    """Return a file's name and the beginning of its SHA-256, which do not depend on where it lies."""
    if path is None:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:  # Python 3.10
            digest = hashlib.sha256(file.read())
    return f"{path.name} {digest.hexdigest()[:12]}"
