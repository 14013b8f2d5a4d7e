"""Options, as frozen dataclasses: every field has a default, a range and an effect (base class: ``base.options``).

``EstimatorConfig`` shows what a user is meant to change; the rest stands under ``EstimatorConfig.advanced``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from coop_edge.base.options import Config as Config

MINIMAL_SOLVERS = ("p3p", "epnp")
ROBUST_LOSSES = ("none", "huber", "cauchy")
MOST_HYPOTHESES = 42
Effort = Literal["fast", "balanced", "best"]


class Schedule(NamedTuple):
    """How many poses per detection are tried, and how many of them are refined to the end."""

    hypotheses: int
    """Views per detection whose poses are tried: they go through the first iteration of refinement."""
    matched: int
    """Views per detection, the best of those, that are also matched with the crop; their poses are tried as well."""
    survivors: int
    """Poses per detection that go on after the first iteration, those of the highest score."""


EFFORTS: dict[Effort, Schedule] = {
    "fast": Schedule(4, 1, 1),
    "balanced": Schedule(12, 1, 4),
    "best": Schedule(20, 3, 5),
}
"""What each ``EstimatorConfig.effort`` stands for."""


@dataclass(frozen=True)
class CoarseConfig(Config):
    """Stage 1, from detections to pose hypotheses. Look here when objects are found wrongly or not at all."""

    hypotheses: int = 0
    """Poses per detection that are tried: k of the schedule. More take longer, and fewer poses come out turned by 180
    degrees; 0 takes the number of ``EstimatorConfig.effort``."""
    matched: int = 0
    """Views per detection that are also matched with the crop, for further poses: n of the schedule. More take longer;
    0 takes the number of ``EstimatorConfig.effort``. Without effect for engines without ``features``, which match all
    templates."""
    margin: float = 1.2
    """Side of the square crop over the longer side of the box. Larger forgives boxes that cut off parts of the object,
    and shows the object smaller."""

    def __post_init__(self) -> None:
        self._int("hypotheses", 0, MOST_HYPOTHESES)
        self._int("matched", 0, MOST_HYPOTHESES)
        self._number("margin", 1.0, 4.0)


@dataclass(frozen=True)
class RansacConfig(Config):
    """The pose from matches, by RANSAC. Look here when the networks match better or worse than the default ones.

    A hypothesis is scored by MSAC: sum over valid points of min(error^2, threshold_px^2).
    """

    threshold_px: float = 10.0
    """Inlier threshold on the reprojection error, pixels; in the Estimator pixels of a 128-pixel crop, growing with the
    crop. Larger accepts less accurate matches, and more wrong ones. The default suits patch matches, which are off by
    several pixels where the network is unsure; for exact ones (local features) use 2 to 4."""
    seed: int = 0
    """Key of the counter-based random number generator. The same seed draws the same samples on the CPU and the GPU."""

    def __post_init__(self) -> None:
        self._number("threshold_px", 1e-6, 1e6)
        self._int("seed", 0, (1 << 63) - 1)


@dataclass(frozen=True)
class RefineConfig(Config):
    """Stage 2, render and compare. Look here to trade time for accuracy."""

    iterations: int = 5
    """Renders per hypothesis. More take longer and correct larger errors; 0 returns the coarse pose."""
    track_iterations: int = 2
    """Renders per object while tracking. 1 is faster; more follow faster motion."""
    survivors: int = 0
    """Hypotheses per detection that go on after the first iteration, those of the highest score: m of the schedule.
    With as many as there are, or more, all are refined to the end, which takes longer and helps little; 0 takes the
    number of ``EstimatorConfig.effort``."""

    def __post_init__(self) -> None:
        self._int("iterations", 0, 100)
        self._int("track_iterations", 1, 100)
        self._int("survivors", 0, MOST_HYPOTHESES)


@dataclass(frozen=True)
class OutlineConfig(Config):
    """Alignment of refined poses with the object's outline. Look here when poses are off in depth, or to save time."""

    iterations: int = 6
    """Renders per hypothesis and alignment, each followed by a solver step. More take longer; 0 leaves poses
    as the networks refined them."""
    track_iterations: int = 3
    """Renders per object while tracking; 0 as above."""
    rounds: int = 2
    """Turns that refinement and alignment take, sharing the refiner's iterations. Each more costs the time of an
    alignment; 1 aligns once, at the end, as tracking always does."""
    min_share: float = 0.4
    """Least share of the outline along which the object must stand out from the background, for the aligned pose to be
    taken. Larger takes fewer of them; above 1 none ever is."""

    def __post_init__(self) -> None:
        self._int("iterations", 0, 100)
        self._int("track_iterations", 0, 100)
        self._int("rounds", 1, 100)
        self._number("min_share", 0.0, 2.0)

    def turns(self, iterations: int) -> list[int]:
        """Share the refiner's iterations among the turns, the first ones the longer; one turn without alignment."""
        rounds = max(1, min(self.rounds if self.iterations else 1, iterations))
        return [(iterations + rounds - 1 - turn) // rounds for turn in range(rounds)]


@dataclass(frozen=True)
class DepthConfig(Config):
    """What is known of the depth camera; without effect where no depth is given. Look here to fit it to a sensor."""

    noise: float = 0.0025
    """Standard deviation of measured depth at 1 m, metres; it grows with the square of the distance, as that of stereo
    and structured light does. Larger trusts depth less against colour."""
    floor: float = 0.0005
    """Least standard deviation, metres: of near depth, and of the model's own surface."""
    information: float = 0.05
    """Share of each measured place's information that is its own, neighbours being wrong together. Larger trusts depth
    more against the outline and the images."""

    def __post_init__(self) -> None:
        self._number("noise", 0.0, 1.0)
        self._number("floor", 1e-6, 1.0)
        self._number("information", 1e-9, 1e9)


@dataclass(frozen=True)
class SelectConfig(Config):
    """Stage 3, rejection. Look here when wrong poses are returned, or right ones are not."""

    min_score: float = 0.05
    """Least score, 0 to 1, of a returned pose: with a score map in the engines the probability that it is exact to a
    tenth of the diameter. Poses below come back as success=False. Larger refuses more wrong poses, and more right ones,
    those of far objects first; 0 refuses none, and switches ``advanced.select.min_presence``,
    ``advanced.select.min_appearance`` and ``advanced.find.min_presence`` off too."""
    min_inlier_ratio: float = 0.15
    """Least share of the confidence W that lies on cells whose match agrees with the pose. Larger rejects more."""
    min_inliers: int = 12
    """Least number of visible cells that match the pose, in a 128-pixel crop; it grows with the crop's area, as the
    number of cells does. Larger rejects more, small and occluded objects first."""

    def __post_init__(self) -> None:
        self._number("min_score", 0.0, 1.0)
        self._number("min_inlier_ratio", 0.0, 1.0)
        self._int("min_inliers", 0, 1 << 30)


@dataclass(frozen=True)
class FindConfig(Config):
    """Search of a whole image, where there are no boxes. Look here to trade its time for what it finds."""

    places: int = 10
    """Places in the image that are tried per object, beside two more per instance after the first. More take longer,
    and find objects that are small, hidden, or in a cluttered image."""
    smallest: float = 0.09
    """Longer side of the smallest box that is looked for, as a share of the image's longer side. Half of it finds
    smaller objects and takes about four times as long."""
    near: float = 0.0
    """Least distance of an object's centre along the optical axis, metres. Knowing it, as with ``far``, makes the
    search more reliable."""
    far: float = 0.0
    """Largest distance, metres; 0 sets no bound."""

    def __post_init__(self) -> None:
        self._int("places", 1, 1000)
        self._number("smallest", 1e-3, 1.0)
        self._number("near", 0.0, 1e6)
        self._number("far", 1e-6, 1e6, or_off=True)


@dataclass(frozen=True)
class AdvancedCoarseConfig(Config):
    """Memory and scores of stage 1. Look here when the memory is short, or for objects that are small or occluded."""

    candidates: int = 12
    """Templates per detection for which a pose is solved, where all are matched: those of the highest score, or as many
    as there are hypotheses. The poses with the most matched probability among the inliers are refined. More take
    longer; 1 trusts the templates' score alone. Without effect for engines with ``features``."""
    micro_batch: int = 168
    """Largest number of query-template pairs decoded in one run, and of crops encoded in one; smaller needs less
    memory. On a GPU the pairs of as many whole detections share a run as this, and the plan, allow (4 of 42 templates,
    which plans are built for by default); on the CPU a run has the pairs of one detection, since sharing is not faster
    there."""
    min_probability: float = 0.0
    """Matches of this probability or a lower one take no part; higher is stricter. Below one half little changes: a
    match that loses against *no match* has probability 0 anyway."""
    min_inliers: int = 6
    """Least inliers of a hypothesis, beside one more per 7 matches (per 44 at a threshold of 4 px, by its square).
    Matches that are all wrong still give a pose with 5 inliers of 8, 6 to 8 of 18, 7 to 9 of 24 and 10 to 14 of 64 at
    the default threshold; lower lets more of those pass on to refinement."""
    full_evidence: float = 0.25
    """Share of the crop's patches that have to be certain inliers for the highest coarse score; fewer lower the score.
    Higher lowers that of small and occluded objects, and tells poses with many inliers apart."""

    def __post_init__(self) -> None:
        self._int("candidates", 1, MOST_HYPOTHESES)
        self._int("micro_batch", 1, 4096)
        self._number("min_probability", 0.0, 1.0)
        self._int("min_inliers", 4, 4096)
        self._number("full_evidence", 1e-6, 1.0)


@dataclass(frozen=True)
class RansacSearchConfig(Config):
    """How RANSAC searches. Look here to trade the time of the coarse stage for robustness."""

    hypotheses: int = 1024
    """Upper bound on the minimal samples drawn per problem. More take longer and tolerate more wrong matches."""
    confidence: float = 0.999
    """Stop early once an all-inlier sample has been drawn with this probability; 1 draws all hypotheses."""
    minimal: Literal["p3p", "epnp"] = "p3p"
    """Minimal solver: "p3p" (3 points, every root scored) or "epnp" (``sample_size`` points)."""
    sample_size: int = 4
    """Points per minimal sample for "epnp", 4 to 6; fewer points need fewer samples."""
    refine: bool = True
    """Run EPnP and Levenberg-Marquardt on the points that fit the best hypothesis."""
    min_inliers: int = 4
    """A problem with fewer inliers comes back unsolved."""

    def __post_init__(self) -> None:
        self._int("hypotheses", 1, 65536)
        self._number("confidence", 0.0, 1.0)
        self._choice("minimal", MINIMAL_SOLVERS)
        self._int("sample_size", 4, 6)
        self._flag("refine")
        self._int("min_inliers", 4, 1 << 30)


@dataclass(frozen=True)
class AdvancedRefineConfig(Config):
    """Crop, stopping rule, prior and memory of stage 2.

    Look here when refinement carries poses away, or hardly moves them (the four options of the prior).
    """

    margin: float = 1.2
    """Side of the square crop over the object's projected diameter. Larger shows the object smaller; the refiner was
    trained near the default."""
    stop_px: float = 0.1
    """A hypothesis is done when an iteration moves all points of the object by less than this, pixels of a 128-pixel
    crop, and less than ``stop_diameter``. Larger stops earlier; 0 always does all iterations."""
    stop_diameter: float = 0.002
    """The same bound in space, as a share of the object's diameter: motion along the line of sight hardly shows in
    pixels."""
    prior_sideways: float = 0.1
    """Standard deviation, in diameters, of the prior on the pose change across the line of sight, from where refinement
    starts (while tracking, from the previous pose). Smaller trusts the start more; 0 switches this axis's prior off."""
    prior_depth: float = 2.0
    """Standard deviation of the same prior along the line of sight, in diameters; 0 leaves depth free. It is wide,
    because a box may show only a part of the object. While tracking it is ``advanced.track.prior_depth``."""
    prior_rotation: float = 0.5
    """Standard deviation of the same prior on the rotation, radians about each axis; 0 leaves it free."""
    prior_information: float = 0.1
    """Share of each cell's information that is its own, neighbours being wrong together: weights times its root are
    inverse standard deviations. Larger trusts the images more against the start; without effect if the three above are
    0."""
    joint_iterations: int = 2
    """Last comparisons of a turn whose matches are solved together, each in a crop turned a quarter further, which the
    network is wrong about in other ways. 1 solves each alone, in upright crops."""
    micro_batch: int = 64
    """Largest number of crops compared in one run; smaller needs less memory."""

    def __post_init__(self) -> None:
        self._number("margin", 1.0, 4.0)
        self._number("stop_px", 0.0, 1e3)
        self._number("stop_diameter", 0.0, 10.0)
        for name in ("prior_sideways", "prior_depth", "prior_rotation"):
            self._number(name, 1e-6, 1e6, or_off=True)
        self._number("prior_information", 1e-9, 1e9)
        self._int("joint_iterations", 1, 100)
        self._int("micro_batch", 1, 4096)


@dataclass(frozen=True)
class LmConfig(Config):
    """Stopping rules, damping and loss of the pose solver in refinement (weighted Levenberg-Marquardt).

    Look here to try a robust loss, or other steps than the default ones.
    """

    iterations: int = 10
    """Upper bound on the steps tried per problem; more take longer."""
    damping: float = 1e-3
    """Initial damping, relative to the diagonal of the normal equations (Marquardt's scaling); larger starts with
    shorter steps."""
    damping_up: float = 10.0
    """Factor on the damping after a rejected step."""
    damping_down: float = 10.0
    """Divisor of the damping after an accepted step."""
    step_tolerance: float = 1e-8
    """Stop when the step is smaller than this (radians; translation relative to the object's distance)."""
    cost_tolerance: float = 1e-10
    """Stop when an accepted step lowers the cost by less than this share."""
    loss: Literal["none", "huber", "cauchy"] = "none"
    """Robust loss on the weighted residual."""
    loss_scale_px: float = 2.0
    """Scale of the robust loss, weighted pixels; smaller discounts more residuals; without effect for "none"."""

    def __post_init__(self) -> None:
        self._int("iterations", 0, 1000)
        self._number("damping", 0.0, 1e12)
        self._number("damping_up", 1.0, 1e6)
        self._number("damping_down", 1.0, 1e6)
        self._number("step_tolerance", 0.0, 1.0)
        self._number("cost_tolerance", 0.0, 1.0)
        self._choice("loss", ROBUST_LOSSES)
        self._number("loss_scale_px", 1e-6, 1e6)


@dataclass(frozen=True)
class AdvancedSelectConfig(Config):
    """Scales of the score, and limits below which a pose is refused. Look here when scores rank poses badly."""

    inlier_px: float = 2.0
    """A cell of the refiner agrees with the final pose if its reprojection error is below this, pixels of a 128-pixel
    crop; larger is more lenient."""
    full_support: float = 0.6
    """Share of the rendered cells that have to be visible and matched for the full score; higher lowers the scores of
    occluded objects."""
    coarse_weight: float = 0.3
    """Exponent of the coarse score in the score; that of refinement is one minus it. 0 leaves the coarse score out."""
    min_size_px: float = 8.0
    """Least diameter of the object in the image, pixels of the image (not of the crop). A smaller one shows too little
    to be measured. Larger rejects more; 0 rejects none."""
    min_weight: float = 12.0
    """While tracking: least sum of the confidence W over the cells that agree with the pose, in a 128-pixel crop; it
    grows with the crop's area. In images without the object it stays below the default. Larger loses objects
    earlier; 0 leaves it to ``min_presence`` and the ratio alone."""
    min_presence: float = 0.27
    """Least presence, 0 to 1, of a returned pose: its score as it would be at six diameters from the camera. The
    default was chosen on the synthetic set, so that with models in plain grey, for which it is hardest, 3 % of
    the objects that are not there pass and 95 % of the right poses stay. Larger refuses more of both; without effect
    where ``select.min_score`` is 0."""
    min_appearance: float = 0.46
    """Least similarity of render and image, -1 to 1, colours and light included, of a returned pose; without effect
    where ``select.min_score`` is 0, with models in plain grey, with engines without ``features``, and for poses that
    are judged by measured depth and have ``trusted_presence``. Larger refuses more objects that are not there, and
    objects whose model has other colours; -1 refuses none."""
    min_filled: float = 0.9
    """Least share of a detection's box that has to lie in the box of the object at the pose, of a returned pose with
    less than ``unfilled_presence``. Only for models in plain grey, whose looks say nothing, without effect where
    ``select.min_score`` is 0. Larger refuses more objects that are not there where boxes are exact, and right poses
    where they are not; 0 refuses none."""
    unfilled_presence: float = 0.5
    """Least presence of a pose that need not fill its box by ``min_filled``. Larger refuses more objects that are not
    there, and right poses in boxes that are not exact."""
    trusted_presence: float = 0.6
    """Least presence of a pose by which a lost object is found again, of one that says where to look for it, of one
    that ends a search without a box, and, with effort "balanced", of one after which no other poses are tried in a box.
    Larger takes longer, and finds fewer lost objects again and fewer that are not there; 0 accepts every pose, 1 tries
    all poses that ``effort`` has."""
    settled_with_depth: float = 0.95
    """With effort "balanced": least presence of a pose judged by measured depth after which no other poses are tried in
    a box; if ``trusted_presence`` is larger, that. With depth another pose is more often better. Larger takes longer,
    and finds more."""

    def __post_init__(self) -> None:
        self._number("inlier_px", 1e-3, 1e3)
        self._number("full_support", 1e-6, 1.0)
        self._number("coarse_weight", 0.0, 1.0)
        self._number("min_size_px", 0.0, 1e6)
        self._number("min_weight", 0.0, 1e9)
        self._number("min_appearance", -1.0, 1.0)
        self._number("min_presence", 0.0, 1.0)
        self._number("min_filled", 0.0, 1.0)
        self._number("unfilled_presence", 0.0, 1.0)
        self._number("trusted_presence", 0.0, 1.0)
        self._number("settled_with_depth", 0.0, 1.0)


@dataclass(frozen=True)
class AdvancedFindConfig(Config):
    """Poses tried in a search, and which are accepted. Look here if it takes long, or finds what is not there."""

    views: int = 2
    """Views tried per place. More take longer, and fewer poses come out turned by 180 degrees."""
    survivors: int = 3
    """Places per object, beside one more per instance after the first, whose poses are refined to the end."""
    largest: float = 1.0
    """Longer side of the largest box that is looked for, as a share of the image's shorter side."""
    min_presence: float = 0.6
    """Least presence of a pose, in place of a smaller ``advanced.select.min_presence``: without a box many places are
    tried, and one of them may look like the object. Larger finds fewer objects, also of those that are not there;
    without effect where ``select.min_score`` is 0."""
    min_weight: float = 20.0
    """Least sum of the confidence W over the cells that agree with a pose, in a 128-pixel crop. Larger finds fewer
    objects that are not there, and fewer that are hidden or small."""

    def __post_init__(self) -> None:
        self._int("views", 1, MOST_HYPOTHESES)
        self._int("survivors", 1, 1000)
        self._number("largest", 1e-3, 4.0)
        self._number("min_presence", 0.0, 1.0)
        self._number("min_weight", 0.0, 1e9)


@dataclass(frozen=True)
class AdvancedTrackConfig(Config):
    """What tracking does about motion and loss. Look here if objects move fast, or get lost."""

    predict: bool = True
    """Expect an object that moved between the last two images to move on. False starts from where it was."""
    search: bool = True
    """Try a lost object also at places around the prediction, which takes the time of ten objects in that image."""
    prior_depth: float = 0.4
    """Standard deviation of the prior along the line of sight, in diameters, in place of that of ``advanced.refine``,
    which switches this one off as well if it is 0. Larger follows faster motion; 0 leaves depth free."""
    relocate_every: int = 5
    """With ``track(relocate=True)``: images from one search for a lost object to the next. Fewer find it sooner, and
    take longer."""

    def __post_init__(self) -> None:
        self._flag("predict")
        self._flag("search")
        self._number("prior_depth", 1e-6, 1e6, or_off=True)
        self._int("relocate_every", 1, 1_000_000)


@dataclass(frozen=True)
class AdvancedConfig(Config):
    """Options that most users leave alone: memory, stopping rules, the prior, scales of evidence, the solvers."""

    coarse: AdvancedCoarseConfig = field(default_factory=AdvancedCoarseConfig)
    """Memory and scores of the coarse stage."""
    ransac: RansacSearchConfig = field(default_factory=RansacSearchConfig)
    """The search of RANSAC in the coarse stage."""
    refine: AdvancedRefineConfig = field(default_factory=AdvancedRefineConfig)
    """Crop, stopping rule, prior and memory of refinement."""
    lm: LmConfig = field(default_factory=LmConfig)
    """The weighted pose solver of refinement."""
    select: AdvancedSelectConfig = field(default_factory=AdvancedSelectConfig)
    """Scales of the score, and limits below which a pose is refused."""
    find: AdvancedFindConfig = field(default_factory=AdvancedFindConfig)
    """Poses tried in a search, and which are accepted."""
    track: AdvancedTrackConfig = field(default_factory=AdvancedTrackConfig)
    """What tracking does about motion and loss."""


@dataclass(frozen=True)
class EstimatorConfig(Config):
    """All options of an Estimator."""

    effort: Effort = "balanced"
    """Views tried per detection (k), of these also matched (n), and poses kept after one iteration of refinement (m):
    "fast" 4, 1, 1; "balanced" 12, 1, 4; "best" 20, 3, 5. "balanced" begins as "fast" does, and goes on where that pose
    is in doubt (``advanced.select.trusted_presence``); "best" tries all. Both try an object once more in the box of a
    pose that is then still in doubt, if that is not the box given; both find more objects. ``coarse.hypotheses``,
    ``coarse.matched`` and ``refine.survivors`` override k, n and m."""
    coarse: CoarseConfig = field(default_factory=CoarseConfig)
    """From detections to pose hypotheses."""
    ransac: RansacConfig = field(default_factory=RansacConfig)
    """The pose solver of the coarse stage."""
    refine: RefineConfig = field(default_factory=RefineConfig)
    """Render and compare."""
    outline: OutlineConfig = field(default_factory=OutlineConfig)
    """Alignment with the object's outline."""
    depth: DepthConfig = field(default_factory=DepthConfig)
    """The depth camera."""
    select: SelectConfig = field(default_factory=SelectConfig)
    """Rejection of poses."""
    find: FindConfig = field(default_factory=FindConfig)
    """Search of a whole image."""
    advanced: AdvancedConfig = field(default_factory=AdvancedConfig)
    """What most users leave alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choice("effort", tuple(EFFORTS))

    @property
    def schedule(self) -> Schedule:
        """Return the numbers of hypotheses that ``effort`` and the options that override it ask for."""
        hypotheses, matched, survivors = EFFORTS[self.effort]
        hypotheses = self.coarse.hypotheses or hypotheses
        matched = min(self.coarse.matched or matched, hypotheses)
        return Schedule(hypotheses, matched, self.refine.survivors or survivors)
