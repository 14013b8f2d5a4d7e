"""PyTorch's own indecision: which answers of the coarse decoder and the refiner are as good as the one given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.verify import engines as verify_engines
from export.verify.engines import Reference
from export.verify.outputs import compare_outputs
from tests.export.small_bundles import SIZE, fine_refiner, small_net


@pytest.mark.parametrize("head", ["hybrid", "classification", "regression"])
def test_gaps_are_those_of_the_network(head):
    """PyTorch's own answer has no gap, and another answer has one."""
    net = small_net("coarse", head=head)
    reference = Reference({"coarse": net})
    images = np.random.default_rng(0).random((3, 3, SIZE, SIZE), dtype=np.float32)
    tokens = reference.run("coarse_encoder", {"image": images})["tokens"]
    feed = {"query": tokens, "template": tokens[::-1].copy()}
    outputs, decisions = reference.run("coarse_decoder", feed), reference.decisions(feed)
    patches = tokens.shape[1]
    assert decisions.index_gap.shape == (3, patches, patches)
    own = np.take_along_axis(decisions.index_gap, outputs["index"][..., None].astype(int), axis=-1)
    np.testing.assert_allclose(own, 0, atol=1e-6)
    assert (decisions.index_gap > decisions.index_tie).mean() > 0.5
    far = decisions.match_gap > decisions.match_tie
    if head != "regression":
        with torch.inference_mode():
            logits = net.compare(*(torch.from_numpy(feed[k]) for k in ("query", "template"))).logits.numpy()
        lead = logits[..., :-1].max(axis=-1) - logits[..., -1]
        np.testing.assert_array_equal((outputs["probability"] > 0)[far], (lead > 0)[far])
        np.testing.assert_allclose(decisions.match_gap, np.abs(lead), atol=1e-6)


def test_windows_are_moved_one_by_one_where_two_features_are_as_good():
    logits = torch.zeros(3, 4, 5)
    logits[..., 2] = 1.0  # decided, by 1
    logits[0, 1, 4] = 1.0 - 1e-5
    logits[2, 3, 0] = 1.0 - 3e-5
    logits[2, 0, 1] = 1.0 - 2e-5
    moved = [(rows.tolist(), chosen.tolist()) for rows, chosen in verify_engines._moved_windows(logits, 1e-4)]
    assert moved == [([0, 2], [[2, 4, 2, 2], [1, 2, 2, 2]]), ([2], [[2, 2, 2, 0]])]
    assert list(verify_engines._moved_windows(logits, 5e-6)) == []


def test_a_network_without_fine_matching_has_one_answer():
    assert Reference({"refiner": small_net("refiner")}).answers({}) is None


def test_an_engine_that_decides_otherwise_at_a_tie_agrees_and_one_that_errs_elsewhere_does_not():
    """An engine of the same weights whose similarities are rounded otherwise, by more than a real one's."""
    net = fine_refiner()
    with torch.no_grad():
        net.fine.log_prior_power.fill_(-1.0)  # what is similar decides more than it does at first
    images = np.random.default_rng(0).random((2, 40, 3, SIZE, SIZE), dtype=np.float32)
    feed = {"query": images[0], "render": images[1]}
    reference = Reference({"refiner": net})
    wanted, answers = reference.run("refiner", feed), reference.answers(feed)
    assert answers is not None
    free = {name: answers.high[name] > answers.low[name] for name in wanted}
    assert 0 < free["flow"].any(axis=(1, 2, 3)).sum() < 20, "some are undecided, most are not"
    with torch.inference_mode():
        out = net(*map(torch.from_numpy, (feed["query"], feed["render"])))
        two = out.fine_logits.topk(2, dim=2)
        gap = (two.values[..., 0] - two.values[..., 1]).flatten()
        cell = int(gap.argmin())
        other = two.indices[..., 0].clone().flatten()
        other[cell] = two.indices[..., 1].flatten()[cell]
        moved = net.exported(net(torch.from_numpy(feed["query"]), torch.from_numpy(feed["render"]), other.view(40, -1)))
    given = dict(zip(wanted, (t.numpy() for t in moved), strict=True))
    sample = cell // out.fine_logits.shape[1]
    assert np.abs(given["flow"] - wanted["flow"])[sample].max() > 0.1, "a window away"
    bare = {r.output: r for r in compare_outputs("engine", "refiner", "fp32", wanted, given)}
    assert not bare["flow"].passed
    rows = compare_outputs("engine", "refiner", "fp32", wanted, given, answers)
    assert {r.output for r in rows if r.relative > 1e-4} == set()
    assert rows[0].ties > 0
    given["flow"] = given["flow"].copy()
    decided = int(np.flatnonzero(~free["flow"].any(axis=(1, 2, 3)))[0])
    given["flow"][decided, 0, 3, 3] += 0.5
    rows = compare_outputs("engine", "refiner", "fp32", wanted, given, answers)
    assert next(r for r in rows if r.output == "flow").relative > 1e-2
