"""Makes bundles of small networks that know a few pairs by heart, with their checkpoints."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from coop_edge.runtime.bundle import Bundle
from export.data.batch import stack, take
from export.verify import bundle as verify
from tests.export.small_bundles import (
    ROLES,
    learn_by_heart,
    save_nets,
    small_net,
    write_bundles,
)
from tests.export.verify.known_pairs import KINDS, TIMES, easy, pairs_of


@pytest.fixture(scope="session")
def learnt():
    """Networks that find the poses of four pairs, and these pairs."""
    nets = [small_net(role) for role in ROLES]
    coarse, refiner = (easy(role, 24) for role in ("coarse", "refiner"))
    matches = (coarse.match_index < coarse.match_index.shape[1]).sum(axis=1)
    seen = refiner.visible.sum(axis=(1, 2))
    few = pairs_of(take(coarse, np.argsort(-matches)[:KINDS]), take(refiner, np.argsort(-seen)[:KINDS]))
    learn_by_heart(nets, few)
    return nets, pairs_of(stack([few.coarse] * TIMES), stack([few.refiner] * TIMES))


@pytest.fixture(scope="session")
def pairs(learnt):
    return learnt[1]


@pytest.fixture(scope="session")
def files(learnt, tmp_path_factory):
    return save_nets(tmp_path_factory.mktemp("checkpoints"), learnt[0])


@pytest.fixture(scope="session")
def originals(learnt, tmp_path_factory):
    return write_bundles({p: tmp_path_factory.mktemp(p) / "small" for p in ("fp32", "fp16")}, learnt[0])


@pytest.fixture
def bundle_of(originals, tmp_path):
    """precision -> a copy of the bundle that the test may damage."""

    def copy(precision: str) -> Bundle:
        return Bundle.load(shutil.copytree(originals[precision].folder, tmp_path / precision))

    return copy


@pytest.fixture
def quick(monkeypatch, pairs):
    """The pairs that the networks know, whatever is asked for."""
    monkeypatch.setattr(verify, "draw_pairs", lambda *_: pairs)
