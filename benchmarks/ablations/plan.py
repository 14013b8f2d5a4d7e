"""What is compared with what: questions, their variants, and the options that all runs share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coop_edge.errors import InputError


@dataclass(frozen=True)
class Variant:
    """One way to train a network. arguments: of ``python -m export train ROLE``, besides those that all share."""

    name: str
    role: str
    label: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """Variants to compare, by name; the others are held against the first."""

    name: str
    title: str
    variants: tuple[str, ...]
    key: str
    """The figure that answers it first."""


PAPER = ("--fine-channels", "0")
"""Fine matching is ours: what the paper claims is judged without it."""

VARIANTS = {
    v.name: v
    for v in (
        Variant("hybrid", "coarse", "hybrid: class and offset"),
        Variant("classification", "coarse", "classification: class alone", ("--head", "classification")),
        Variant("regression", "coarse", "regression: position alone", ("--head", "regression")),
        Variant("object_only", "coarse", "labels on the object alone", ("--no-match", "off")),
        Variant("laplace", "refiner", "Laplace flow, pose loss", PAPER),
        Variant("deterministic", "refiner", "deterministic flow, pose loss", (*PAPER, "--flow", "deterministic")),
        Variant("no_pose_loss", "refiner", "Laplace flow, no pose loss", (*PAPER, "--pose-loss", "off")),
        Variant("fine", "refiner", "Laplace flow, pose loss, fine matching"),
    )
}

QUESTIONS = (
    Question("head", "Head of the coarse network", ("hybrid", "classification", "regression"), "within_5px"),
    Question("no_match", "Background labelled *no match*, or not", ("hybrid", "object_only"), "template_auroc"),
    Question("flow", "Flow of the refiner", ("laplace", "deterministic"), "free_error_after_5"),
    Question("pose_loss", "Pose loss of the refiner", ("laplace", "no_pose_loss"), "free_error_after_5"),
    Question("fine", "Fine matching in the refiner", ("laplace", "fine"), "free_error_after_5"),
)

SEED_BASE = 0
"""Seed of the first repetition; the others count up. A repetition's variants share first weights and pairs."""


@dataclass(frozen=True)
class Settings:
    """What all runs share. Samples of a run: batch_size times the steps of its role."""

    init: Path | None
    """Coarse checkpoint from which every refiner starts: from nothing they learn too slowly to differ."""
    pack: Path | None = None
    size: str = "xs"
    batch_size: int = 16
    coarse_steps: int = 750
    refiner_steps: int = 450
    hardness: float = 0.5
    ramp: int = 6000
    evaluate_samples: int = 256
    ranking_queries: int = 48
    """Queries by which a coarse network's ranking of templates is judged, at each hardness; four per object."""
    threads: int = 1
    workers: int = 1
    compile: bool = True
    device: str = "cpu"

    def steps(self, role: str) -> int:
        return self.coarse_steps if role == "coarse" else self.refiner_steps

    def same(self, role: str) -> dict[str, Any]:
        """What has to be the same in all runs of a role that are held against each other; files by their content."""
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
        """Arguments of ``python -m export`` for one run: one evaluation and one checkpoint, both at the end."""
        never = "1000000"
        options: dict[str, Any] = {
            "size": self.size, "out": folder.absolute(), "seed": seed, "batch-size": self.batch_size,
            "max-steps": self.steps(variant.role), "minutes": never, "checkpoint-minutes": never,
            "evaluate-minutes": never, "evaluate-samples": self.evaluate_samples, "hardness": self.hardness,
            "ramp": self.ramp, "threads": self.threads, "workers": self.workers, "device": self.device,
        }  # fmt: skip
        if self.pack is not None:
            options["pack"] = self.pack.absolute()
        if variant.role == "refiner":
            assert self.init is not None
            options["init"] = self.init.absolute()
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return ["train", variant.role, *words, "--compile" if self.compile else "--no-compile", *variant.arguments]


def chosen(names: Sequence[str]) -> list[Variant]:
    """The variants named, or those of the questions named; all without a name. Raises InputError."""
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
    """Name and the beginning of the SHA-256 of a file: what it was, wherever it lay."""
    if path is None:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:  # Python 3.10
            digest = hashlib.sha256(file.read())
    return f"{path.name} {digest.hexdigest()[:12]}"
