"""The runs, one after the other: each trains in a process of its own and leaves its figures in the results."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablations.plan import Settings, Variant
from benchmarks.ablations.store import Store
from benchmarks.common import versions
from coop_edge.errors import CoopEdgeError

ROOT = Path(__file__).parents[2]
"""Of the checkout, where ``python -m export`` is found."""
COMMAND = (sys.executable, "-m", "export")
STATE = "training_state.pt"
LOG_TAIL = 12
"""Lines of a failed run's log that are shown."""
QUERIES_PER_OBJECT = 4
"""Of the templates' ranking: encoding an object's templates costs as much as some queries."""
FREE = ("error_after_1", "error_after_5", "within_10_percent_5")
"""Figures of refinement that are also taken without a prior."""
PATIENCE = 60.0
"""Seconds that a training has to end after it was asked to."""


class RunFailedError(CoopEdgeError, RuntimeError):
    """A training ended before its steps were done; the message ends with its last lines."""


def run_all(settings: Settings, variants: Sequence[Variant], seeds: Iterable[int], store: Store) -> list[str]:
    """Do what is not done yet, and return the names of the runs that failed.

    Seeds are the outer loop: after the first round every variant has one. A run that was killed starts anew, because
    one that went on would follow another schedule than its peers.

    Raises:
        InputError: the results hold one of these runs with other options.
    """
    seeds = list(seeds)
    same = {role: settings.same(role) for role in {v.role for v in variants}}
    for seed in seeds:  # what cannot be compared is said before the first hour is spent
        for variant in variants:
            store.find(variant.name, seed, same[variant.role])
    failed = []
    for seed in seeds:
        for variant in variants:
            name = f"{variant.name}_seed{seed}"
            with store.claim(name) as mine:
                if not mine:
                    print(f"{name}: another process is at it", flush=True)
                    continue
                if store.find(variant.name, seed, same[variant.role]) is not None:
                    print(f"{name}: done already", flush=True)
                    continue
                print(f"{name}: {settings.steps(variant.role)} steps of {settings.batch_size}", flush=True)
                try:
                    record = run_one(settings, variant, seed, store.folder / name, same[variant.role])
                except RunFailedError as error:
                    print(f"{name}: {error}", file=sys.stderr, flush=True)
                    failed.append(name)
                    continue
                store.add(record)
                # Only to go on from, which nobody will: four times the size of the weights.
                (store.folder / name / STATE).unlink(missing_ok=True)
                print(f"{name}: {record['minutes']:.1f} minutes", flush=True)
    return failed


def run_one(settings: Settings, variant: Variant, seed: int, folder: Path, same: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate, and return the record for the results.

    Raises:
        RunFailedError: training ended before its steps were done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)  # of a run that was killed
    log = folder / "train.log"
    status = _train(settings.command(variant, seed, folder), log)
    wanted = settings.steps(variant.role)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text()) if status == 0 else {"steps": 0}
    if report["steps"] != wanted:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL:])
        raise RunFailedError(
            f"ended with status {status} after {report['steps']} of {wanted} steps; {log} ends with:\n{tail}"
        )
    figures: dict[str, float] = dict(report["final"])
    more = ranking_figures if variant.role == "coarse" else free_figures
    figures |= more(folder / f"{variant.role}.safetensors", settings)
    kept = ("steps", "samples", "minutes", "parameters", "device", "hardware", "code", "data")
    return {
        "variant": variant.name,
        "role": variant.role,
        "seed": seed,
        **{name: report[name] for name in kept},
        "options": same,
        "machine": {name: getattr(settings, name) for name in ("threads", "workers", "compile")},
        "versions": versions("torch", "numpy"),
        "figures": figures,
    }


def ranking_figures(checkpoint: Path, settings: Settings) -> dict[str, float]:
    """Measure how a coarse network ranks templates: figures of hard queries, and with ``easy_`` those of easy ones."""
    import torch

    from export.networks import CoarseNet
    from export.train.checkpoint import load_network
    from export.train.evaluate_templates import evaluate_ranking

    if settings.threads:
        torch.set_num_threads(settings.threads)
    net = load_network(checkpoint, "coarse")[0].eval()
    assert isinstance(net, CoarseNet)
    size = net.config.trunk.image_size
    figures: dict[str, float] = {}
    for prefix, hardness in (("", 1.0), ("easy_", 0.0)):
        ranking = _ranking(size, hardness, settings.ranking_queries, settings.pack)
        found = evaluate_ranking(net, ranking, torch.device("cpu"))
        figures |= {f"{prefix}{name}": value for name, value in found.items()}
    return figures


def free_figures(checkpoint: Path, settings: Settings) -> dict[str, float]:
    """Measure a refiner's poses by the paper's solver, ``free_...`` of hard pairs and ``easy_free_...`` of easy ones.

    The estimator anchors refinement by a prior and takes the flow's scale at its word. Without the prior cells weigh by
    the confidence W, as the pose loss teaches it and as a flow without a scale still has it.
    """
    import torch

    from coop_edge.config import EstimatorConfig
    from export.networks import RefinerNet
    from export.train.checkpoint import load_network
    from export.train.evaluate_refiner import evaluate_refiner

    if settings.threads:
        torch.set_num_threads(settings.threads)
    net = load_network(checkpoint, "refiner")[0].eval()
    assert isinstance(net, RefinerNet)
    free = EstimatorConfig().updated(f"advanced.refine.prior_{axis}=0" for axis in ("sideways", "depth", "rotation"))
    size = net.config.trunk.image_size
    figures: dict[str, float] = {}
    for prefix, hardness in (("free_", 1.0), ("easy_free_", 0.0)):
        pairs = _refiner_pairs(size, hardness, settings.evaluate_samples, settings.pack)
        found = evaluate_refiner(net, pairs, torch.device("cpu"), free)
        figures |= {f"{prefix}{name}": found[name] for name in FREE if name in found}
    return figures


@functools.lru_cache(maxsize=2)
def _refiner_pairs(size: int, hardness: float, samples: int, pack: Path | None) -> list[Any]:
    """The held-out pairs of the training's own evaluation, with their scenes."""
    from export.data.stream import make_stream
    from export.train.refiner import BATCH
    from export.train.task import EVALUATION_SEED

    options: dict[str, Any] = {
        "batch_size": BATCH,
        "workers": 0,
        "seed": EVALUATION_SEED,
        "split": "heldout",
        "keep_scenes": True,
    }
    with make_stream("refiner", size, **options, hardness=hardness, pack=pack) as stream:
        return [next(stream) for _ in range(-(-samples // BATCH))]


@functools.lru_cache(maxsize=2)
def _ranking(size: int, hardness: float, queries: int, pack: Path | None) -> Any:
    from export.train.evaluate_templates import draw_ranking
    from export.train.task import EVALUATION_SEED

    count = -(-queries // QUERIES_PER_OBJECT)
    return draw_ranking(size, queries=queries, count=count, hardness=hardness, seed=EVALUATION_SEED, pack=pack)


def _train(arguments: Sequence[str], log: Path) -> int:
    """Status of ``python -m export ARGUMENTS``, its output in ``log``; ended with us, whatever ends us."""
    with log.open("wb") as file:
        child = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
