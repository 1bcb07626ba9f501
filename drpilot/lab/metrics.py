"""CloudWatch metrics: data points put in, statistics read out (CloudWatch API reference 2010-08-01).

A point keeps the wall time it has for readers and the lab second it falls on for alarms, so that an alarm's
periods pass as fast as everything else in a lab. The newest 20,000 points are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from drpilot.base.clock import parse_time, rfc3339
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.table import Row

__all__ = ["STATISTICS", "dimensions_of", "merged", "points_of", "statistic"]

_POINTS = "metric_points"
_MOST_POINTS = 20_000
STATISTICS = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")
kind(_POINTS, "metric-point", live=lambda row: False)


def dimensions_of(given: Iterable[Mapping[str, str]] | None) -> list[list[str]]:
    """Dimensions as rows keep them: pairs, sorted."""
    return sorted([item["Name"], item["Value"]] for item in given or ())


def _number(entry: Mapping[str, Any]) -> dict[str, float]:
    """Count, sum, minimum and maximum of a datum in any of its three forms."""
    if entry.get("StatisticValues"):
        given = entry["StatisticValues"]
        return {name: float(given[name]) for name in ("SampleCount", "Sum", "Minimum", "Maximum")}
    if entry.get("Values"):
        values = [float(value) for value in entry["Values"]]
        counts = [float(value) for value in entry.get("Counts") or [1] * len(values)]
        if len(counts) != len(values):
            raise Refusal("InvalidParameterValue", "Values and Counts must be of the same length.")
        total = sum(value * count for value, count in zip(values, counts, strict=True))
        return {"SampleCount": sum(counts), "Sum": total, "Minimum": min(values), "Maximum": max(values)}
    if entry.get("Value") is None:
        raise Refusal("MissingParameter", "A datum needs a Value, Values or StatisticValues")
    value = float(entry["Value"])
    return {"SampleCount": 1.0, "Sum": value, "Minimum": value, "Maximum": value}


@action("cloudwatch", "PutMetricData")
def put_metric_data(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """PutMetricData: all of the call or none; namespaces of the cloud's own are not for customers."""
    space = params["Namespace"]
    if space.startswith("AWS/"):
        raise Refusal("InvalidParameterValue", "The value AWS/ for parameter Namespace is invalid.")
    now, lab = cloud.timestamp(), cloud.now()
    made = []
    for entry in params.get("MetricData") or []:
        moment = entry.get("Timestamp") or now
        made.append(
            {
                "space": space,
                "name": entry["MetricName"],
                "dimensions": dimensions_of(entry.get("Dimensions")),
                "time": rfc3339(moment.astimezone(UTC)),
                "lab_s": lab - (now - moment).total_seconds(),
                "unit": entry.get("Unit") or "None",
                **_number(entry),
            }
        )
    table = cloud.table(_POINTS)
    for row in made:
        table[cloud.new_hex(16)] = row
    for key in list(table.peek())[: max(0, len(table) - _MOST_POINTS)]:
        del table[key]
    return {}


def points_of(cloud: Cloud, metric: Mapping[str, Any]) -> list[Row]:
    """The points of one metric: Namespace, MetricName, exactly these Dimensions, and Unit where given."""
    dimensions = dimensions_of(metric.get("Dimensions"))
    return [
        row
        for row in cloud.table(_POINTS).peek().values()
        if (row["space"], row["name"], row["dimensions"])
        == (metric["Namespace"], metric["MetricName"], dimensions)
        and metric.get("Unit") in (None, row["unit"])
    ]


def merged(points: Iterable[Row]) -> dict[str, float]:
    """Count, sum, minimum and maximum over points, of which there is at least one."""
    found = list(points)
    return {
        "SampleCount": sum(row["SampleCount"] for row in found),
        "Sum": sum(row["Sum"] for row in found),
        "Minimum": min(row["Minimum"] for row in found),
        "Maximum": max(row["Maximum"] for row in found),
    }


def statistic(values: Mapping[str, float], name: str) -> float:
    """One statistic of merged points."""
    return values["Sum"] / values["SampleCount"] if name == "Average" else values[name]


@action("cloudwatch", "GetMetricStatistics")
def get_metric_statistics(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """GetMetricStatistics: one data point a period that has any, aligned to the period."""
    period = int(params["Period"])
    if period < 1 or (period >= 60 and period % 60):
        raise Refusal("InvalidParameterValue", "The parameter Period must be a multiple of 60")
    start, end = params["StartTime"], params["EndTime"]
    if start >= end:
        raise Refusal("InvalidParameterCombination", "The parameter StartTime must be less than EndTime.")
    wanted = params.get("Statistics") or []
    if not wanted and not params.get("ExtendedStatistics"):
        raise Refusal("MissingParameter", "At least one of Statistics or ExtendedStatistics must be given")
    if params.get("ExtendedStatistics") or set(wanted) - set(STATISTICS):
        raise Refusal("InvalidParameterValue", "The lab has no percentiles")
    slots: dict[int, list[Row]] = {}
    units: dict[int, str] = {}
    for row in points_of(cloud, params):
        moment = parse_time(row["time"])
        if start <= moment < end:
            slot = int(moment.timestamp()) // period * period
            slots.setdefault(slot, []).append(row)
            units[slot] = row["unit"]
    answer = [
        {
            "Timestamp": datetime.fromtimestamp(slot, UTC),
            "Unit": units[slot],
            **{name: statistic(merged(rows), name) for name in wanted},
        }
        for slot, rows in sorted(slots.items())
    ]
    return {"Label": params["MetricName"], "Datapoints": answer}


@action("cloudwatch", "ListMetrics")
def list_metrics(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListMetrics: each metric once."""
    found: dict[str, dict[str, Any]] = {}
    for row in cloud.table(_POINTS).peek().values():
        if params.get("Namespace") not in (None, row["space"]) or params.get("MetricName") not in (
            None,
            row["name"],
        ):
            continue
        pairs = row["dimensions"]
        wanted = params.get("Dimensions") or []
        if any(
            not any(item["Name"] == name and item.get("Value") in (None, value) for name, value in pairs)
            for item in wanted
        ):
            continue
        shown = [{"Name": name, "Value": value} for name, value in pairs]
        metric = {"Namespace": row["space"], "MetricName": row["name"], "Dimensions": shown}
        found[f"{row['space']}\0{row['name']}\0{pairs}"] = metric
    return {"Metrics": [metric for _, metric in sorted(found.items())]}
