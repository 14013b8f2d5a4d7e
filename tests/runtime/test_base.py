"""The contract of runners: what a feed may be, when a runner may run, and that errors say what was given and wanted."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import EngineError, InputError
from coop_edge.runtime.base import Runner, TensorSpec

INPUTS = (TensorSpec("a", (None, 3)), TensorSpec("b", (None, 2, 2), "int32"))
OUTPUTS = (TensorSpec("sum", (None,)),)


class SumRunner(Runner):
    """Adds all numbers of a row; notes what the base class asks of it."""

    device = "cpu"

    def __init__(self, fail: str = "") -> None:
        super().__init__("tiny/sum", INPUTS, OUTPUTS)
        self.calls: list[str] = []
        self.fail = fail

    def _load(self):
        self.calls.append("load")
        if self.fail:
            raise EngineError(self.fail)

    def _release(self):
        self.calls.append("release")

    def _run(self, feed, batch, stream):
        self.calls.append(f"run {batch}")
        return {"sum": np.float32(feed["a"].sum(1) + feed["b"].sum((1, 2)))}


def feed(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    return {"a": rng.random((n, 3), np.float32), "b": rng.integers(0, 9, (n, 2, 2), np.int32)}


@pytest.mark.parametrize("n", [0, 1, 5])
def test_every_batch_has_its_outputs(n):
    with SumRunner() as runner:
        outputs = runner.run(feed(n))
    assert set(outputs) == {"sum"}
    assert outputs["sum"].shape == (n,)
    assert outputs["sum"].dtype == np.float32
    assert "run 0" not in runner.calls  # an empty batch never reaches the engine
    expected = [float(np.sum(a)) + float(np.sum(b)) for a, b in zip(feed(n)["a"], feed(n)["b"], strict=True)]
    np.testing.assert_allclose(outputs["sum"], expected, rtol=1e-6)


def test_nothing_is_loaded_before_open_and_nothing_after_close():
    runner = SumRunner()
    assert runner.calls == []
    with pytest.raises(EngineError, match=r"tiny/sum is closed; use it in a `with` statement or call open\(\)"):
        runner.run(feed(1))
    with runner:
        runner.open()
        runner.run(feed(1))
    runner.close()
    assert runner.calls == ["load", "run 1", "release"]
    with pytest.raises(EngineError, match="is closed"):
        runner.run(feed(0))
    with runner:  # opened again
        runner.run(feed(2))
    assert runner.calls[3:] == ["load", "run 2", "release"]


def test_what_a_failed_load_took_is_given_back():
    runner = SumRunner(fail="no room")
    with pytest.raises(EngineError, match="no room"):
        runner.open()
    assert runner.calls == ["load", "release"]
    with pytest.raises(EngineError, match="is closed"):
        runner.run(feed(1))
    runner.close()
    assert runner.calls == ["load", "release"]


def test_an_exception_inside_the_with_statement_closes_the_runner():
    runner = SumRunner()
    with pytest.raises(KeyError), runner:
        raise KeyError("x")
    assert runner.calls == ["load", "release"]


GOOD = feed(2)
BAD = {
    "no mapping": ([GOOD["a"], GOOD["b"]], "wanted a mapping of arrays by input name, got list"),
    "nothing": ({}, "wanted the inputs a, b, got nothing"),
    "one missing": ({"a": GOOD["a"]}, "wanted the inputs a, b, got a"),
    "one too many": ({**GOOD, "c": GOOD["a"]}, "wanted the inputs a, b, got a, b, c"),
    "keys of two kinds": ({**GOOD, 3: GOOD["a"]}, "wanted the inputs a, b, got 3, a, b"),
    "a list": ({**GOOD, "a": GOOD["a"].tolist()}, r"wanted a \[N,3\] float32, an array, got list"),
    "None": ({**GOOD, "a": None}, r"wanted a \[N,3\] float32, an array, got NoneType"),
    "a scalar": ({**GOOD, "a": np.array(1.0, np.float32)}, r"wanted a \[N,3\] float32, got \[\] float32"),
    "rank": ({**GOOD, "a": GOOD["a"][0]}, r"wanted a \[N,3\] float32, got \[3\] float32"),
    "extent": ({**GOOD, "a": GOOD["a"][:, :2]}, r"wanted a \[N,3\] float32, got \[2, 2\] float32"),
    "dtype": ({**GOOD, "a": GOOD["a"].astype(np.float64)}, r"wanted a \[N,3\] float32, got \[2, 3\] float64"),
    "byte order": ({**GOOD, "a": GOOD["a"].astype(">f4")}, r"wanted a \[N,3\] float32, got \[2, 3\] >f4"),
    "int64": ({**GOOD, "b": GOOD["b"].astype(np.int64)}, r"wanted b \[N,2,2\] int32, got \[2, 2, 2\] int64"),
    "two N": ({**GOOD, "b": GOOD["b"][:1]}, r"wanted one N for all inputs, got \{'a': 2, 'b': 1\}"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_feed_that_does_not_fit_is_refused_with_what_was_given_and_wanted(case):
    given, message = BAD[case]
    with SumRunner() as runner, pytest.raises(InputError, match=f"tiny/sum: {message}"):
        runner.run(given)
    assert "run 2" not in runner.calls


def test_the_device_is_asked_about_whatever_looks_like_an_array():
    class Elsewhere:
        shape, dtype = (2, 3), np.dtype("float32")

    with (
        SumRunner() as runner,
        pytest.raises(InputError, match=r"a: wanted a numpy\.ndarray for device 'cpu', got a .*Elsewhere"),
    ):
        runner.run({**GOOD, "a": Elsewhere()})


def test_a_batch_above_the_engines_largest_is_refused():
    runner = SumRunner()
    runner.max_batch = 3
    with runner:
        assert runner.run(feed(3))["sum"].shape == (3,)
        with pytest.raises(InputError, match=r"N = 4 is above the engine's largest batch, 3; split it"):
            runner.run(feed(4))


def test_check_works_on_a_closed_runner():
    assert SumRunner().check(feed(4)) == 4


@pytest.mark.parametrize(
    ("name", "shape"),
    [("x", ()), ("x", (3, 3)), ("x", (None, None)), ("x", (None, 0)), ("x", (None, True)), ("", (None,))],
)
def test_a_spec_has_a_name_a_batch_axis_and_static_sizes(name, shape):
    with pytest.raises(InputError, match="wanted a name, and None then positive sizes"):
        TensorSpec(name, shape)


def test_a_spec_prints_as_the_design_writes_it():
    assert str(TensorSpec("offset", (None, 16, 2))) == "offset [N,16,2] float32"
    assert str(TensorSpec("score", (None,))) == "score [N] float32"
