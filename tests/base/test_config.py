"""Options: defaults are legal, unknown names and values out of range are refused by name."""

from __future__ import annotations

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
