"""The comparison of outputs, against answers known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from export.verify.outputs import MAX_TIES, Answers, Decisions, compare_outputs

PATCHES = 4


def row(wanted, given, *, role="refiner", output="flow", precision="fp32", decisions=None):
    (found,) = compare_outputs("engine", role, precision, {output: wanted}, {output: given}, decisions)
    return found


def test_the_difference_is_relative_to_the_largest_value():
    wanted = np.array([[8.0, -4.0, 0.0]], np.float32)
    found = row(wanted, wanted + np.array([0.0, 0.0, 2e-4], np.float32))
    assert found.difference == pytest.approx(2e-4, rel=1e-3)
    assert found.scale == 8.0
    assert found.relative == pytest.approx(2.5e-5, rel=1e-3)
    assert found.passed
    assert not row(wanted, wanted + np.float32(1e-3)).passed


def test_a_difference_everywhere_is_not_hidden_by_one_large_value():
    wanted = np.ones(10_000, np.float32)
    wanted[0] = 100.0
    found = row(wanted, wanted + np.float32(2e-3))
    assert found.relative == pytest.approx(2e-5, rel=1e-2)
    assert found.relative_l2 == pytest.approx(0.2 / math.sqrt(19_999), rel=1e-3)
    assert not found.passed
    assert "2e-05 (L2: 0.00141), wanted at most 0.0001" in found.complaint


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_value_that_is_not_finite_fails(bad, precision):
    wanted = np.ones((2, 3), np.float32)
    given = wanted.copy()
    given[1, 1] = bad
    found = row(wanted, given, precision=precision)
    assert not found.passed
    assert "refiner/flow" in found.complaint


def test_an_output_of_another_shape_or_dtype_fails():
    wanted = np.ones((2, 3), np.float32)
    for given in (wanted[:1], wanted.astype(np.float16)):
        assert not row(wanted, given).passed
    assert not compare_outputs("engine", "refiner", "fp32", {"flow": wanted}, {})[0].passed


def test_zeros_allow_nothing_and_no_elements_allow_all():
    wanted = np.zeros((2, 3), np.float32)
    assert row(wanted, wanted).passed
    assert row(wanted, wanted + np.float32(1e-30)).relative == math.inf
    assert row(wanted[:0], wanted[:0]).passed


def test_fp16_outputs_are_left_to_the_poses():
    wanted = np.ones(4, np.float32)
    assert row(wanted, wanted + np.float32(0.5), precision="fp16").passed


def decoder(n=200):
    """n samples of one patch row: class 0 leads everywhere, class 1 by the gap, no match by the other gap behind."""
    index = np.zeros((n, PATCHES), np.int32)
    probability = np.full((n, PATCHES), 0.5, np.float32)
    gap = np.full((n, PATCHES, PATCHES), 3.0)
    gap[..., 0] = 0.0
    gap[0, 0, 1] = 1e-5  # here alone class 1 is as good
    match_gap = np.full((n, PATCHES), 3.0)
    match_gap[0, 1] = 1e-5  # here alone no match is
    outputs = {"probability": probability, "index": index, "offset": np.zeros((n, PATCHES, 2), np.float32)}
    return outputs, Decisions(gap, match_gap, 1e-4, 1e-4)


def changed(outputs, **changes):
    given = {name: array.copy() for name, array in outputs.items()}
    for name, (at, value) in changes.items():
        given[name][at] = value
    return given


def decoder_rows(given):
    outputs, decisions = decoder()
    rows = compare_outputs("engine", "coarse_decoder", "fp32", outputs, given, decisions)
    return {r.output: r for r in rows}


def test_a_tie_may_go_either_way_and_is_counted():
    outputs, _ = decoder()
    rows = decoder_rows(changed(outputs, index=((0, 0), 1), offset=((0, 0), 0.4), probability=((0, 1), 0.0)))
    assert all(r.passed for r in rows.values())
    assert {name: r.ties for name, r in rows.items()} == {"index": 1, "probability": 1, "offset": 0}


@pytest.mark.parametrize("value", [1, -1, PATCHES])
def test_a_flip_is_no_tie(value):
    outputs, _ = decoder()
    rows = decoder_rows(changed(outputs, index=((5, 0), value)))
    assert {name for name, r in rows.items() if not r.passed} == {"index"}
    assert (rows["index"].difference, rows["index"].ties) == (1.0, 0)


def test_a_match_that_is_lost_without_a_tie_fails_the_probability():
    outputs, _ = decoder()
    rows = decoder_rows(changed(outputs, probability=((5, 1), 0.0)))
    assert {name for name, r in rows.items() if not r.passed} == {"probability"}


def test_an_offset_of_the_same_class_has_to_agree():
    outputs, _ = decoder()
    assert not decoder_rows(changed(outputs, offset=((5, 1), 0.1)))["offset"].passed


def test_many_ties_fail():
    outputs, decisions = decoder()
    decisions.index_gap[...] = 0.0
    at = (slice(0, math.ceil(len(outputs["index"]) * 2 * MAX_TIES)), slice(None))
    rows = compare_outputs("engine", "coarse_decoder", "fp32", outputs, changed(outputs, index=(at, 1)), decisions)
    index = next(r for r in rows if r.output == "index")
    assert not index.passed
    assert index.complaint.endswith("elements are ties, wanted at most 1%")


def flow_row(given, n=200):
    """Of a flow of 8 px everywhere that may be 9 in the first column of the first row as well."""
    wanted = np.full((n, 4), 8.0, np.float32)
    high = wanted.copy()
    high[0, 0] = 9.0
    got = wanted.copy()
    for at, value in given.items():
        got[at] = value
    (found,) = compare_outputs(
        "engine", "refiner", "fp32", {"flow": wanted}, {"flow": got}, Answers({"flow": wanted}, {"flow": high})
    )
    return found


@pytest.mark.parametrize("value", [9.0, 8.4, 9.0005])
def test_a_window_may_be_either_and_what_it_moves_is_counted(value):
    found = flow_row({(0, 0): value})
    assert found.passed
    assert (found.ties, found.relative, found.relative_l2) == (1, 0.0, 0.0)


def test_what_agrees_is_no_tie_though_it_could_be():
    assert flow_row({}).ties == 0
    assert flow_row({(0, 0): 8.0005}).ties == 0


@pytest.mark.parametrize("given", [{(0, 0): 9.1}, {(0, 0): 7.9}, {(0, 1): 8.5}, {(0, 0): np.nan}, {(0, 0): np.inf}])
def test_what_no_window_accounts_for_fails(given):
    found = flow_row(given)
    assert not found.passed
    assert found.ties == 0


def test_many_moved_windows_fail():
    found = flow_row({(0, 0): 9.0}, n=20)
    assert not found.passed
    assert found.complaint.endswith("1 of 80 elements are ties, wanted at most 1%")
