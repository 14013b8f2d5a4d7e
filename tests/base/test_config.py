"""Options: defaults are legal, unknown names and values out of range are refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from coop_edge import (
    AdvancedConfig,
    ConfigError,
    EstimatorConfig,
    LmConfig,
    RansacConfig,
    RansacSearchConfig,
    RefineConfig,
)
from coop_edge.config import EFFORTS, MOST_HYPOTHESES


def test_empty_mapping_gives_the_defaults_and_round_trips():
    config = EstimatorConfig.from_dict({})
    assert config == EstimatorConfig()
    assert EstimatorConfig.from_dict(config.to_dict()) == config


def test_nested_values_arrive():
    advanced = {"lm": {"loss": "cauchy"}}
    config = EstimatorConfig.from_dict({"refine": {"iterations": 2}, "ransac": {"seed": 7}, "advanced": advanced})
    assert config.refine == RefineConfig(iterations=2)
    assert config.advanced == AdvancedConfig(lm=LmConfig(loss="cauchy"))
    assert config.ransac == RansacConfig(seed=7)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"refine": {"iteration": 3}}, "did you mean 'iterations'?"),
        ({"refin": {}}, "did you mean 'refine'?"),
        ({"zzz": 1}, "options: advanced, coarse, depth, effort, find, outline, ransac, refine, select"),
        ({"ransac": {"threshold_px": 0}}, "RansacConfig.threshold_px = 0"),
        ({"ransac": {"threshold_px": float("nan")}}, "threshold_px"),
        ({"advanced": {"ransac": {"minimal": "p4p"}}}, "one of 'p3p', 'epnp'"),
        ({"effort": "most"}, "EstimatorConfig.effort = 'most': wanted one of 'fast', 'balanced', 'best'"),
        ({"effort": 2}, "EstimatorConfig.effort = 2"),
        ({"coarse": {"hypotheses": 43}}, "CoarseConfig.hypotheses = 43: wanted an integer in [0, 42]"),
        ({"refine": {"survivors": -1}}, "RefineConfig.survivors = -1: wanted an integer in [0, 42]"),
        ({"advanced": {"ransac": {"hypotheses": 2.5}}}, "an integer in"),
        ({"advanced": {"ransac": {"refine": 1}}}, "True or False"),
        ({"advanced": {"ransac": {"sample_size": 3}}}, "[4, 6]"),
        ({"advanced": {"lm": {"damping": -1}}}, "LmConfig.damping"),
        ({"coarse": {"margin": 0.5}}, "CoarseConfig.margin"),
        ({"advanced": {"coarse": {"min_probability": 1.5}}}, "AdvancedCoarseConfig.min_probability"),
        (
            {"advanced": {"coarse": {"min_inliers": 3}}},
            "AdvancedCoarseConfig.min_inliers = 3: wanted an integer in [4, 4096]",
        ),
        ({"advanced": {"coarse": {"micro_batch": 0}}}, "AdvancedCoarseConfig.micro_batch"),
        ({"advanced": {"refine": {"stop_px": -0.1}}}, "AdvancedRefineConfig.stop_px"),
        ({"advanced": {"refine": {"stop_diameter": float("inf")}}}, "AdvancedRefineConfig.stop_diameter"),
        ({"advanced": {"refine": {"micro_batch": 0}}}, "AdvancedRefineConfig.micro_batch"),
        ({"select": {"min_score": 2}}, "SelectConfig.min_score"),
        ({"advanced": {"select": {"inlier_px": 0}}}, "AdvancedSelectConfig.inlier_px"),
        ({"select": {"min_inlier_ratio": 1.1}}, "SelectConfig.min_inlier_ratio"),
        ({"select": {"min_inliers": -1}}, "SelectConfig.min_inliers"),
        ({"advanced": {"select": {"full_support": 0}}}, "AdvancedSelectConfig.full_support"),
        ({"advanced": {"select": {"coarse_weight": 2}}}, "AdvancedSelectConfig.coarse_weight"),
        ({"coarse": 3}, "EstimatorConfig.coarse = 3: wanted CoarseConfig"),
        ({"advanced": {"lm": 3}}, "AdvancedConfig.lm = 3: wanted LmConfig"),
        ({"refine": {"prior_depth": 1}}, "no option 'prior_depth'; did you mean 'advanced.refine.prior_depth'?"),
        ({"refine": {"lm": {"loss": "huber"}}}, "RefineConfig has no option 'lm'; did you mean 'advanced.lm'?"),
        ({"coarse": {"micro_batch": 42}}, "did you mean 'advanced.coarse.micro_batch'? (options: hypotheses, "),
        (
            {"advanced": {"refine": {"iterations": 2}}},
            "did you mean 'refine.iterations'? (options: joint_iterations, margin, ",
        ),
        ({"advanced": {"outline": {"rounds": 2}}}, "AdvancedConfig has no option 'outline'; did you mean 'outline'?"),
    ],
)
def test_refusals(values, says):
    with pytest.raises(ConfigError) as error:
        EstimatorConfig.from_dict(values)
    assert says in str(error.value)


def test_from_dict_wants_a_mapping():
    with pytest.raises(ConfigError, match="wanted a mapping"):
        EstimatorConfig.from_dict([("ransac", {})])  # type: ignore[arg-type]


def value_of(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def test_every_option_can_be_set_by_a_text():
    config = EstimatorConfig()
    names = EstimatorConfig.names()
    assert {"coarse.margin", "advanced.lm.loss", "advanced.ransac.refine", "select.min_score"} <= set(names)
    assert len(names) == sum(1 for _ in leaves(config.to_dict()))
    assert config.updated(f"{name}={value_of(config, name)}" for name in names) == config
    for name in names:
        (value,) = leaves(EstimatorConfig.parse([f"{name}={value_of(config, name)}"]))
        assert type(value) is type(value_of(config, name)), name


def test_a_user_is_shown_about_fifteen_options_and_the_rest_is_advanced():
    shown = [name for name in EstimatorConfig.names() if not name.startswith("advanced.")]
    assert shown == [
        "effort",
        "coarse.hypotheses",
        "coarse.matched",
        "coarse.margin",
        "ransac.threshold_px",
        "ransac.seed",
        "refine.iterations",
        "refine.track_iterations",
        "refine.survivors",
        "outline.iterations",
        "outline.track_iterations",
        "outline.rounds",
        "outline.min_share",
        "depth.noise",
        "depth.floor",
        "depth.information",
        "select.min_score",
        "select.min_inlier_ratio",
        "select.min_inliers",
        "find.places",
        "find.smallest",
        "find.near",
        "find.far",
    ]
    again = {name.removeprefix("advanced.") for name in EstimatorConfig.names() if name not in shown}
    assert not again & set(shown)


def leaves(values):
    for value in values.values():
        yield from leaves(value) if isinstance(value, dict) else [value]


def test_texts_change_what_they_name_and_nothing_else():
    before = EstimatorConfig(refine=RefineConfig(survivors=3))
    after = before.updated(
        [
            "refine.iterations=3",
            "advanced.lm.loss=huber",
            "advanced.ransac.confidence=1e-1",
            "advanced.ransac.refine=False",
        ]
    )
    refine = dataclasses.replace(before.refine, iterations=3)
    advanced = AdvancedConfig(lm=LmConfig(loss="huber"), ransac=RansacSearchConfig(confidence=0.1, refine=False))
    assert after == EstimatorConfig(refine=refine, advanced=advanced)
    assert before == EstimatorConfig(refine=RefineConfig(survivors=3))
    assert before.updated([]) == before
    assert LmConfig().updated(["loss=cauchy"]) == LmConfig(loss="cauchy")


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_schedule_is_what_effort_says_where_no_number_does(effort):
    def schedule(*settings):
        return EstimatorConfig().updated([f"effort={effort}", *settings]).schedule

    hypotheses, matched, survivors = EFFORTS[effort]
    assert schedule() == (hypotheses, matched, survivors)
    assert schedule("coarse.hypotheses=41") == (41, matched, survivors)
    assert schedule("coarse.matched=2") == (hypotheses, 2, survivors)
    assert schedule("refine.survivors=5") == (hypotheses, matched, 5)
    assert schedule("coarse.hypotheses=7", "coarse.matched=9", "refine.survivors=5") == (7, 7, 5)


def test_more_effort_is_more_hypotheses_and_no_fewer_survivors_and_the_text_says_how_many():
    fast, balanced, best = (EFFORTS[name] for name in ("fast", "balanced", "best"))
    assert 1 <= fast.hypotheses < balanced.hypotheses < best.hypotheses <= MOST_HYPOTHESES
    assert 1 <= fast.survivors <= balanced.survivors <= best.survivors
    assert all(schedule.survivors <= schedule.hypotheses for schedule in EFFORTS.values())
    assert EstimatorConfig().schedule == balanced
    (text,) = (text for name, _, text in EstimatorConfig().described() if name == "effort")
    told = [f'"{name}" {", ".join(map(str, EFFORTS[name]))}' for name in EFFORTS]
    assert "; ".join(told) in text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["refine.iterations"], "setting 'refine.iterations': wanted NAME=VALUE"),
        (["=3"], "wanted NAME=VALUE"),
        (["refine.=3"], "wanted NAME=VALUE"),
        (["refine.iteration=3"], "RefineConfig has no option 'iteration'; did you mean 'iterations'? (options: "),
        (["refin.iterations=3"], "EstimatorConfig has no option 'refin'; did you mean 'refine'? (options: advanced, "),
        (["min_inlier_ratio=1"], "did you mean 'select.min_inlier_ratio'?"),
        (["refine.prior_depth=1"], "did you mean 'advanced.refine.prior_depth'? (options: iterations, "),
        (["refine.lm.loss=huber"], "RefineConfig has no option 'lm'; did you mean 'advanced.lm'?"),
        (["hypotheses=3"], "did you mean 'coarse.hypotheses' or 'advanced.ransac.hypotheses'?"),
        (["refine=3"], "refine is a group of options; set one of refine.iterations, refine.track_iterations, "),
        (["refine.iterations.x=3"], "RefineConfig.iterations is an option, not a group"),
        (["refine.iterations=3.5"], "setting 'refine.iterations=3.5': wanted an integer, got '3.5'"),
        (["coarse.margin=wide"], "setting 'coarse.margin=wide': wanted a number, got 'wide'"),
        (["advanced.ransac.refine=1"], "setting 'advanced.ransac.refine=1': wanted true or false, got '1'"),
        (["effort=fastest"], "setting 'effort=fastest': wanted one of fast, balanced, best, got 'fastest'"),
        (["effort=fast", "effort=best"], "effort has been given already, as 'fast'"),
        (["advanced.ransac.minimal=p4p"], "minimal=p4p': wanted one of p3p, epnp, got 'p4p'"),
        (["refine.iterations=300"], "RefineConfig.iterations = 300: wanted an integer in [0, 100]"),
        (["advanced.refine.margin=nan"], "AdvancedRefineConfig.margin = nan: wanted a number in [1, 4]"),
        (
            ["coarse.margin=2", "coarse.margin=3"],
            "coarse.margin=3': coarse.margin has been given already, as 2.0",
        ),
    ],
)
def test_texts_that_are_refused(settings, says):
    with pytest.raises(ConfigError) as error:
        EstimatorConfig().updated(settings)
    assert says in str(error.value)
