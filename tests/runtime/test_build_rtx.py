"""The real parser and builder of TensorRT for RTX, which need no GPU: a stand-in for TensorRT, and said to be one."""

from __future__ import annotations

import pytest

from coop_edge.errors import EngineError
from coop_edge.runtime.build import BuildOptions, build_plans
from coop_edge.runtime.bundle import ROLES, Bundle, available
from coop_edge.runtime.plan import Target
from coop_edge.runtime.plan_lookup import find_plan, read_plan
from coop_edge.runtime.tensorrt_api import load
from coop_edge.runtime.tensorrt_callbacks import Progress
from tests.runtime.networks import tiny_bundle, tiny_model

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


def build_for_targets(graph: bytes, targets=("86", "89", "120"), what="graph") -> bytes:
    """One plan for all these SM, without a GPU; the last step of its compilation is left to the device."""
    return load("tensorrt_rtx").build(graph, what, (1, 2, 4), targets=targets).plan


@pytest.mark.parametrize("role", ROLES)
def test_tiny_graphs_are_parsed_and_built_for_three_sm(role):
    graph = tiny_model(role).SerializeToString()
    plan = build_for_targets(graph, what=role)
    assert len(plan) > 10_000
    assert plan != build_for_targets(graph, ["86"], what=role), "a plan says what it is for"


@pytest.mark.parametrize("folder", available(), ids=lambda folder: folder.name)
def test_the_graphs_of_every_bundle_that_is_here_are_parsed_and_built_for_three_sm(folder):
    for network in Bundle.load(folder).networks.values():
        assert len(build_for_targets(network.path.read_bytes(), what=f"{folder.name}/{network.role}")) > 10_000


def test_what_does_not_build_says_why():
    with pytest.raises(EngineError, match=r"^graph: the graph cannot be parsed; TensorRT says: .+"):
        build_for_targets(b"not ONNX", ["86"])
    model = tiny_model("features")
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match=r"cannot be parsed; TensorRT says: .*NoSuchOperator"):
        build_for_targets(model.SerializeToString(), ["86"])
    with pytest.raises(EngineError, match=r"does not build for SM87; it knows .*SM86"):
        build_for_targets(tiny_model("features").SerializeToString(), ["87"])


class Counting:
    """A Progress that counts."""

    def __init__(self) -> None:
        self.started, self.finished, self.steps = [], [], 0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        assert steps > 0
        assert parent is None or parent in self.started
        self.started.append(phase)

    def step(self, phase: str, step: int) -> bool:
        self.steps += 1
        return True

    def finish(self, phase: str) -> None:
        self.finished.append(phase)


class Stopping(Counting):
    def step(self, phase: str, step: int) -> bool:
        raise KeyboardInterrupt


def test_plans_for_another_gpu_are_built_stored_and_found_here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Bundle.load(tiny_bundle(tmp_path / "tiny"))
    progress: Progress = Counting()
    options = BuildOptions(sm="86", workspace_mb=256)
    for built in build_plans(bundle, options=options, engine="tensorrt_rtx", progress=progress):
        network = bundle.network(built.role)
        target = Target.here(load("tensorrt_rtx"), sm="86")
        assert find_plan(network, target) == built.path
        assert read_plan(built.path, network, target).info.verification == {
            "against": None,
            "reason": "built for SM 86 without running it",
        }
        with pytest.raises(EngineError, match=r"SM: the plan was built for 86, wanted 89"):
            read_plan(built.path, network, Target.here(load("tensorrt_rtx"), sm="89"))
    assert progress.steps > 0
    assert sorted(progress.started) == sorted(progress.finished)
    assert "Building engine" in progress.started


def test_ctrl_c_stops_a_real_build_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Bundle.load(tiny_bundle(tmp_path / "tiny"))
    before = set(bundle.folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        build_plans(bundle, options=BuildOptions(sm="86"), engine="tensorrt_rtx", progress=Stopping())
    assert set(bundle.folder.iterdir()) == before
