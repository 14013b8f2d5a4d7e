"""Options: defaults are legal, unknown names and values out of range are refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from coop_edge import ConfigError, EstimatorConfig, LmConfig, RansacConfig, RefineConfig


def test_empty_mapping_gives_the_defaults_and_round_trips():
    config = EstimatorConfig.from_dict({})
    assert config == EstimatorConfig()
    assert EstimatorConfig.from_dict(config.to_dict()) == config


def test_nested_values_arrive():
    config = EstimatorConfig.from_dict({"refine": {"iterations": 2, "lm": {"loss": "cauchy"}}, "ransac": {"seed": 7}})
    assert config.refine == RefineConfig(iterations=2, lm=LmConfig(loss="cauchy"))
    assert config.ransac == RansacConfig(seed=7)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"refine": {"iteration": 3}}, "did you mean 'iterations'?"),
        ({"refin": {}}, "did you mean 'refine'?"),
        ({"zzz": 1}, "options: coarse, outline, ransac, refine, select"),
        ({"ransac": {"threshold_px": 0}}, "RansacConfig.threshold_px = 0"),
        ({"ransac": {"threshold_px": float("nan")}}, "threshold_px"),
        ({"ransac": {"minimal": "p4p"}}, "one of 'p3p', 'epnp'"),
        ({"ransac": {"hypotheses": 2.5}}, "an integer in"),
        ({"ransac": {"refine": 1}}, "True or False"),
        ({"ransac": {"sample_size": 3}}, "[4, 6]"),
        ({"refine": {"lm": {"damping": -1}}}, "LmConfig.damping"),
        ({"coarse": {"margin": 0.5}}, "CoarseConfig.margin"),
        ({"coarse": {"min_probability": 1.5}}, "CoarseConfig.min_probability"),
        ({"coarse": {"min_inliers": 3}}, "CoarseConfig.min_inliers = 3: wanted an integer in [4, 4096]"),
        ({"coarse": {"micro_batch": 0}}, "CoarseConfig.micro_batch"),
        ({"refine": {"stop_px": -0.1}}, "RefineConfig.stop_px"),
        ({"refine": {"stop_diameter": float("inf")}}, "RefineConfig.stop_diameter"),
        ({"refine": {"micro_batch": 0}}, "RefineConfig.micro_batch"),
        ({"select": {"min_score": 2}}, "SelectConfig.min_score"),
        ({"select": {"inlier_px": 0}}, "SelectConfig.inlier_px"),
        ({"select": {"min_inlier_ratio": 1.1}}, "SelectConfig.min_inlier_ratio"),
        ({"select": {"min_inliers": -1}}, "SelectConfig.min_inliers"),
        ({"select": {"full_support": 0}}, "SelectConfig.full_support"),
        ({"select": {"coarse_weight": 2}}, "SelectConfig.coarse_weight"),
        ({"coarse": 3}, "EstimatorConfig.coarse = 3: wanted CoarseConfig"),
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
    assert {"coarse.margin", "refine.lm.loss", "ransac.refine", "select.min_score"} <= set(names)
    assert len(names) == sum(1 for _ in leaves(config.to_dict()))
    assert config.updated(f"{name}={value_of(config, name)}" for name in names) == config
    for name in names:
        (value,) = leaves(EstimatorConfig.parse([f"{name}={value_of(config, name)}"]))
        assert type(value) is type(value_of(config, name)), name


def leaves(values):
    for value in values.values():
        yield from leaves(value) if isinstance(value, dict) else [value]


def test_texts_change_what_they_name_and_nothing_else():
    before = EstimatorConfig(refine=RefineConfig(survivors=3))
    after = before.updated(
        [
            "refine.iterations=3",
            "refine.lm.loss=huber",
            "ransac.confidence=1e-1",
            "ransac.refine=False",
        ]
    )
    refine = dataclasses.replace(before.refine, iterations=3, lm=LmConfig(loss="huber"))
    assert after == EstimatorConfig(refine=refine, ransac=RansacConfig(confidence=0.1, refine=False))
    assert before == EstimatorConfig(refine=RefineConfig(survivors=3))
    assert before.updated([]) == before
    assert LmConfig().updated(["loss=cauchy"]) == LmConfig(loss="cauchy")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["refine.iterations"], "setting 'refine.iterations': wanted NAME=VALUE"),
        (["=3"], "wanted NAME=VALUE"),
        (["refine.=3"], "wanted NAME=VALUE"),
        (["refine.iteration=3"], "RefineConfig has no option 'iteration'; did you mean 'iterations'? (options: "),
        (["refin.iterations=3"], "EstimatorConfig has no option 'refin'; did you mean 'refine'? (options: coarse, "),
        (["min_inlier_ratio=1"], "did you mean 'select.min_inlier_ratio'?"),
        (["refine=3"], "refine is a group of options; set one of refine.iterations, refine.survivors, "),
        (["refine.iterations.x=3"], "RefineConfig.iterations is an option, it has none inside"),
        (["refine.iterations=3.5"], "setting 'refine.iterations=3.5': wanted an integer, got '3.5'"),
        (["refine.margin=wide"], "setting 'refine.margin=wide': wanted a number, got 'wide'"),
        (["ransac.refine=1"], "setting 'ransac.refine=1': wanted true or false, got '1'"),
        (["ransac.minimal=p4p"], "setting 'ransac.minimal=p4p': wanted one of p3p, epnp, got 'p4p'"),
        (["refine.iterations=300"], "RefineConfig.iterations = 300: wanted an integer in [0, 100]"),
        (["refine.margin=nan"], "RefineConfig.margin = nan: wanted a number in [1, 4]"),
        (
            ["refine.margin=2", "refine.margin=3"],
            "refine.margin=3': refine.margin has been given already, as 2.0",
        ),
    ],
)
def test_texts_that_are_refused(settings, says):
    with pytest.raises(ConfigError) as error:
        EstimatorConfig().updated(settings)
    assert says in str(error.value)
