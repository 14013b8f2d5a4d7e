"""Isolation: whatever a probe does, the report gets one line."""

from __future__ import annotations

import os
import sys

import pytest

from coop_edge.doctor import isolate

PROBES = """
import os, sys, time
def answers():
    print("noise"); os.write(1, b"more noise"); print("told", file=sys.stderr)
    return {"pid": os.getpid(), "path": sys.path}
def raises(): raise LookupError("first line\\nsecond line")
def raises_nothing_to_read(): raise LookupError
def crashes(): os.abort()
def leaves(): sys.exit("left early")
def hangs(): time.sleep(600)
def is_not_plain(): return {"object": object()}
def dies_on_unload():
    import atexit; atexit.register(os.abort); return {}
"""


@pytest.fixture
def probes(tmp_path, monkeypatch) -> str:
    (tmp_path / "some_probes.py").write_text(PROBES)
    monkeypatch.syspath_prepend(tmp_path)
    return "some_probes"


def test_a_child_answers_whatever_it_prints(probes):
    outcome = isolate.in_child(f"{probes}:answers")
    assert outcome.problem == ""
    assert outcome.facts["pid"] != os.getpid()
    assert outcome.facts["path"] == sys.path
    assert {"noise", "told"} <= set(outcome.said.replace("more noise", "").split())


@pytest.mark.parametrize(
    ("probe", "problem"),
    [
        ("raises", "LookupError: first line"),
        ("raises_nothing_to_read", "LookupError"),
        ("crashes", "crashed with SIGABRT"),
        ("leaves", "ended with exit code 1: left early"),
        ("is_not_plain", "ended with exit code 1: TypeError: Object of type object is not JSON serializable"),
        ("is_nowhere", "AttributeError: module 'some_probes' has no attribute 'is_nowhere'"),
    ],
)
def test_what_goes_wrong_in_a_child_becomes_one_line(probes, probe, problem):
    outcome = isolate.in_child(f"{probes}:{probe}")
    assert outcome.facts is None
    assert outcome.problem == problem


def test_a_child_that_hangs_is_ended(probes):
    assert isolate.in_child(f"{probes}:hangs", timeout_s=1).problem == "gave no answer within 1 s"


def test_a_crash_while_unloading_does_not_count(probes):
    assert isolate.in_child(f"{probes}:dies_on_unload").facts == {}


def test_without_a_process_to_start_that_is_said(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "FileNotFoundError" in isolate.in_child("a:b").problem


def test_a_probe_in_this_process_may_raise():
    assert isolate.here(lambda: {"a": 1 // 0}).problem.startswith("ZeroDivisionError")
    assert isolate.here(lambda: {"a": 1}).facts == {"a": 1}
