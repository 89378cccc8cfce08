"""Predictions as JSON documents, and as text for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from utilctl_cli.documents import (
    LivePredictionDocument,
    PredictedWorkloadDocument,
    PredictionDocument,
    PredictionForGoalsDocument,
    SweepDocument,
)
from utilctl_cli.render import Column, name_column, text_table
from utilctl_common.responsetime.goals import Answer
from utilctl_common.responsetime.model import Prediction
from utilctl_common.responsetime.sweep import Sweep

_DIGITS: Final = 12
"""Digits in JSON: beyond what anything measures, within what is computed."""

_MOST_COLUMNS: Final = 5
"""Workloads of a sweep that a table has room for; JSON has all of them."""


def prediction_document(prediction: Prediction) -> PredictionDocument:
    """``utilctl predict -o json``."""
    return {
        "workloads": _workloads(prediction),
        "mean_response_time_s": _rounded(prediction.mean_response_time_s),
        "notes": list(prediction.notes),
    }


def sweep_document(sweep: Sweep) -> SweepDocument:
    """``utilctl predict --sweep -o json``."""
    return {
        "name": sweep.name,
        "field": sweep.knob,
        "points": [
            {
                "value": float(f"{value:.{_DIGITS}g}"),
                "workloads": _workloads(prediction),
                "mean_response_time_s": _rounded(prediction.mean_response_time_s),
            }
            for value, prediction in sweep.points
        ],
    }


def goal_document(answer: Answer) -> PredictionForGoalsDocument:
    """``utilctl predict --goal -o json``."""
    return {
        "settings": [
            {"name": one.name, "field": one.knob, "value": one.value, "cores": float(f"{one.cores:.{_DIGITS}g}")}
            for one in answer.settings
        ],
        **prediction_document(answer.prediction),
    }


def prediction(document: PredictionDocument) -> str:
    """A row for each workload, then the mean."""
    columns = (name_column("WORKLOAD"), Column("RESPONSE"), Column("SLOWDOWN"))
    rows = [(one["name"], _seconds(one["response_time_s"]), _times(one["slowdown"])) for one in document["workloads"]]
    mean = f"mean by CPU used: {_seconds(document['mean_response_time_s'])}"
    return text_table(columns, rows, "there is no workload", [mean, *document["notes"]])


def sweep(document: SweepDocument) -> str:
    """A row for each value, a column for each workload."""
    names = [one["name"] for one in document["points"][0]["workloads"]]
    shown = names[:_MOST_COLUMNS]
    columns = [Column(document["field"].upper()), *(Column(name, flexible=True) for name in shown), Column("MEAN")]
    rows = [
        (
            f"{point['value']:.4g}",
            *(_seconds(one["response_time_s"]) for one in point["workloads"][: len(shown)]),
            _seconds(point["mean_response_time_s"]),
        )
        for point in document["points"]
    ]
    notes = [f"response times by the {document['field']} of {document['name']}; mean by CPU used"]
    if len(names) > len(shown):
        notes.append(f"{len(names) - len(shown)} more workloads: -o json has all of them")
    return text_table(columns, rows, "there is no point", notes)


def goals(document: PredictionForGoalsDocument) -> str:
    """What to set, then what that does to everybody."""
    sentences = [
        f"{one['name']}: {one['field']} {one['value']:g}"
        + ("" if one["field"] != "share" else f", which stands for {one['cores']:.3g} cores")
        for one in document["settings"]
    ]
    return "\n".join([*sentences, "", prediction(document)])


def live(document: LivePredictionDocument) -> str:
    """A row for each service that uses CPU somewhere."""
    columns = (name_column("SERVICE"), Column("USED"), Column("HOSTS"), Column("NOW"), Column("THEN"))
    rows = [
        (
            one["name"],
            f"{one['utilization_cores']:.2f}",
            str(len(one["per_host"])),
            _times(one["now_response_time_s"]),
            _times(one["response_time_s"]),
        )
        for one in document["workloads"]
    ]
    notes = ["slowdowns: seconds that a CPU-second of work takes, from what hosts measured last", *document["notes"]]
    return text_table(columns, rows, "no service uses CPU on a host that is not full", notes)


def _workloads(prediction: Prediction) -> list[PredictedWorkloadDocument]:
    return [
        {
            "name": one.name,
            "response_time_s": _rounded(one.response_time_s),
            "slowdown": _rounded(one.slowdown),
        }
        for one in prediction.workloads
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _seconds(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4g} s"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def series(document: SweepDocument) -> Iterable[tuple[str, list[float], list[float]]]:
    """For each workload its name, the values where it has a response time, and these times."""
    for place, first in enumerate(document["points"][0]["workloads"]):
        values: list[float] = []
        times_s: list[float] = []
        for point in document["points"]:
            time_s = point["workloads"][place]["response_time_s"]
            if time_s is not None:
                values.append(point["value"])
                times_s.append(time_s)
        yield first["name"], values, times_s
