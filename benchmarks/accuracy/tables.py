"""The figures of a run on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.accuracy.reliability import with_interval
from benchmarks.common import print_table

_COLUMNS = ("object", "targets", "AR", "AR_MSSD", "AR_MSPD", "AR_VSD", "ADD(-S) 0.1 d")


def print_tables(result: Mapping[str, Any]) -> None:
    """Print the content of the JSON file as tables."""
    if result["method"] == "poses" and (strange := result["poses_file"]["rows_of_no_target"]):
        print(f"{strange} of {result['poses_file']['rows']} poses are of no target measured here and were left out")
    effort = f" ({result['effort']})" if "effort" in result else ""
    title = f"{result['method']}{effort} on {result['dataset']}, {result['targets']['images']} images"
    rows = [_row(obj_id, scores) for obj_id, scores in result["per_object"].items()]
    print_table(title, [*rows, _row("all", result["total"])], _COLUMNS)
    if result["total"]["ar_vsd"] is None:
        print("AR: mean of AR_MSSD and AR_MSPD (no depth, so no VSD; not BOP's AR)")
    if result["box_noise"]:
        _print_noise(result)
    if result["time"]:
        _print_times(result["time"])
    if poses := result["poses"]:
        rows = [(name, poses[name]["p50"], poses[name]["p90"]) for name in poses if name != "count"]
        print_table(f"{poses['count']} poses against the truth", rows, ("error", "p50", "p90"))
        score = result["reliability"]
        area, off = (with_interval(score[name], score[f"{name}_interval"]) for name in ("auroc", "ece"))
        print(f"{score['right']} of them are right (MSSD < {score['correct']:g} d)")
        print(f"a right pose scores above a wrong one with probability {area} (AUROC)")
        print(f"the score is off from the probability of being right by {off} on average (ECE)")
    classes = [(f"{c['from']:.0%} to {c['to']:.0%}", c["instances"], c["ar"]) for c in result["by_visibility"]]
    print_table("By visible share", classes, ("visible", "targets", "AR"))
    if result["miss_counts"]:
        title = f"{len(result['misses'])} of {result['targets']['instances']} meet no threshold"
        print_table(title, [(count, why) for why, count in result["miss_counts"].items()], ("targets", "why"))


def _print_noise(result: Mapping[str, Any]) -> None:
    rows = [("as given", *_row("", result["total"])[2:], "")]
    rows += [(each["noise"], *_row("", each)[2:], f"{each['change']:+.3f}") for each in result["box_noise"]]
    print_table("Boxes that are off", rows, ("boxes", *_COLUMNS[2:], "change of AR"))


def _row(name: str, scores: Mapping[str, Any]) -> tuple[Any, ...]:
    recalls = [scores[key] for key in ("ar", "ar_mssd", "ar_mspd", "ar_vsd", "add_recall")]
    return name, scores["instances"], *(None if recall is None else f"{recall:.3f}" for recall in recalls)


def _print_times(time: Mapping[str, Any]) -> None:
    rows = [("all", 1e3 * time["image_s"]["p50"], 1e3 * time["object_s"]["p50"])]
    per_object = time["stages_ms_per_object"]
    rows += [(stage, ms, per_object[stage]) for stage, ms in time["stages_ms_per_image"].items()]
    lines = [(stage, *(f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" for ms in both)) for stage, *both in rows]
    print_table("Milliseconds, medians", lines, ("stage", "image", "object"))
    print(f"{time['objects_per_image']:.1f} objects an image; the stages treat them as one batch")
