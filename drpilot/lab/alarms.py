"""CloudWatch alarms: evaluated from data points in every tick, their state and history readable.

Rules of the user guide's "Evaluating an alarm": M of the last N periods must breach (M is DatapointsToAlarm, N
EvaluationPeriods); periods without data are missing and, unless said otherwise, decide nothing. Periods are lab
seconds. A state set by hand holds for one period. Actions are not carried out: whoever wants to act reads.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from drpilot.base.clock import parse_time
from drpilot.lab.cloud import Cloud, Refusal, action, kind, resident
from drpilot.lab.marker import page
from drpilot.lab.metrics import STATISTICS, dimensions_of, merged, points_of, statistic
from drpilot.lab.table import Row

__all__ = ["evaluate"]

_ALARMS = "alarms"
_HISTORY = "alarm_history"
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_STATES = ("OK", "ALARM", "INSUFFICIENT_DATA")
_MOST_HISTORY = 5_000
kind(_ALARMS, "alarm")


@action("cloudwatch", "PutMetricAlarm")
def put_metric_alarm(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """PutMetricAlarm: makes or replaces; the state begins, or stays, as it is until the next look."""
    for member in ("MetricName", "Namespace", "Statistic", "Period", "Threshold"):
        if params.get(member) is None:
            raise Refusal("ValidationError", f"The lab's alarms need the parameter {member}")
    if params["ComparisonOperator"] not in _COMPARISONS:
        raise Refusal("ValidationError", f"{params['ComparisonOperator']} is not a comparison of the lab")
    if params["Statistic"] not in STATISTICS:
        raise Refusal("ValidationError", f"{params['Statistic']} is not a statistic")
    needed = params.get("DatapointsToAlarm") or params["EvaluationPeriods"]
    if not 1 <= needed <= params["EvaluationPeriods"]:
        raise Refusal("ValidationError", "DatapointsToAlarm must not be above EvaluationPeriods")
    name = params["AlarmName"]
    old = cloud.table(_ALARMS).peek().get(name)
    kept = {key: value for key, value in params.items() if key != "Tags"}
    row: Row = {
        "ActionsEnabled": True,
        "OKActions": [],
        "AlarmActions": [],
        "InsufficientDataActions": [],
        "Dimensions": [],
        **kept,
        "AlarmArn": f"arn:aws:cloudwatch:{cloud.region}:{cloud.account}:alarm:{name}",
        "AlarmConfigurationUpdatedTimestamp": cloud.stamp(),
        "StateValue": old["StateValue"] if old else "INSUFFICIENT_DATA",
        "StateReason": old["StateReason"] if old else "Unchecked: Initial alarm creation",
        "StateUpdatedTimestamp": old["StateUpdatedTimestamp"] if old else cloud.stamp(),
        "Tags": params.get("Tags") or (old or {}).get("Tags") or [],
        "_held_until": 0.0,
    }
    cloud.table(_ALARMS)[name] = row
    _note(cloud, name, "ConfigurationUpdate", f'Alarm "{name}" {"updated" if old else "created"}')
    return {}


def _note(cloud: Cloud, name: str, what: str, summary: str) -> None:
    table = cloud.table(_HISTORY)
    table[f"{len(table):08d}-{cloud.new_hex(8)}"] = {
        "AlarmName": name,
        "AlarmType": "MetricAlarm",
        "Timestamp": cloud.stamp(),
        "HistoryItemType": what,
        "HistorySummary": summary,
    }
    for key in list(table.peek())[: max(0, len(table) - _MOST_HISTORY)]:
        del table[key]


def _named(cloud: Cloud, name: str) -> Row:
    row = cloud.table(_ALARMS).get(name)
    if row is None:
        raise Refusal("ResourceNotFound", f"There is no alarm {name}", 404)
    return row


def _change(cloud: Cloud, row: Row, state: str, reason: str, data: str = "") -> None:
    if row["StateValue"] != state:
        old = row["StateValue"]
        row["StateTransitionedTimestamp"] = cloud.stamp()
        _note(cloud, row["AlarmName"], "StateUpdate", f"Alarm updated from {old} to {state}")
    row.update(StateValue=state, StateReason=reason, StateUpdatedTimestamp=cloud.stamp())
    if data:
        row["StateReasonData"] = data


@action("cloudwatch", "SetAlarmState")
def set_alarm_state(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """SetAlarmState: for one period, then the data points decide again."""
    row = _named(cloud, params["AlarmName"])
    if params["StateValue"] not in _STATES:
        raise Refusal("ValidationError", f"{params['StateValue']} is not a state of an alarm")
    _change(cloud, row, params["StateValue"], params["StateReason"], params.get("StateReasonData") or "")
    row["_held_until"] = cloud.now() + row["Period"]
    return {}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    times = ("AlarmConfigurationUpdatedTimestamp", "StateUpdatedTimestamp", "StateTransitionedTimestamp")
    return {**row, **{name: parse_time(row[name]) for name in times if name in row}}


@action("cloudwatch", "DescribeAlarms")
def describe_alarms(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeAlarms by name, prefix or state; a name that is not there is simply missing from the answer."""
    names, prefix = params.get("AlarmNames"), params.get("AlarmNamePrefix") or ""
    if names and prefix:
        raise Refusal("ValidationError", "AlarmNames and AlarmNamePrefix can't be used together")
    rows = [
        row
        for key, row in cloud.table(_ALARMS).peek().items()
        if (not names or key in names)
        and key.startswith(prefix)
        and params.get("StateValue") in (None, row["StateValue"])
    ]
    size = params.get("MaxRecords") or 50
    shown, token = page(rows, lambda row: str(row["AlarmName"]), size, params.get("NextToken"))
    return {"MetricAlarms": [_shown(row) for row in shown], **({"NextToken": token} if token else {})}


@action("cloudwatch", "DescribeAlarmsForMetric")
def describe_alarms_for_metric(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeAlarmsForMetric: those that watch exactly this metric."""
    wanted = (params["Namespace"], params["MetricName"], dimensions_of(params.get("Dimensions")))
    rows = [
        row
        for row in cloud.table(_ALARMS).peek().values()
        if (row["Namespace"], row["MetricName"], dimensions_of(row["Dimensions"])) == wanted
    ]
    return {"MetricAlarms": [_shown(row) for row in rows]}


@action("cloudwatch", "DescribeAlarmHistory")
def describe_alarm_history(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeAlarmHistory, newest first."""
    rows = [
        {**row, "Timestamp": parse_time(row["Timestamp"])}
        for row in reversed(list(cloud.table(_HISTORY).peek().values()))
        if params.get("AlarmName") in (None, row["AlarmName"])
        and params.get("HistoryItemType") in (None, row["HistoryItemType"])
    ]
    return {"AlarmHistoryItems": rows[: params.get("MaxRecords") or 50]}


@action("cloudwatch", "DeleteAlarms")
def delete_alarms(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteAlarms: all or none."""
    for name in params["AlarmNames"]:
        _named(cloud, name)
    for name in params["AlarmNames"]:
        del cloud.table(_ALARMS)[name]
    return {}


def _enable(cloud: Cloud, names: list[str], value: bool) -> dict[str, Any]:
    for name in names:
        if name in cloud.table(_ALARMS):
            cloud.table(_ALARMS)[name]["ActionsEnabled"] = value
    return {}


@action("cloudwatch", "EnableAlarmActions")
def enable_alarm_actions(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """EnableAlarmActions."""
    return _enable(cloud, params["AlarmNames"], True)


@action("cloudwatch", "DisableAlarmActions")
def disable_alarm_actions(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DisableAlarmActions."""
    return _enable(cloud, params["AlarmNames"], False)


# -- evaluation -------------------------------------------------------------------------------------------


def _verdict(cloud: Cloud, row: Mapping[str, Any]) -> tuple[str, str] | None:
    """State and reason by the data; None where the data decide nothing."""
    now, period, count = cloud.now(), float(row["Period"]), int(row["EvaluationPeriods"])
    points = points_of(cloud, row)
    values = []
    for step in range(count):
        window = [one for one in points if now - (step + 1) * period < one["lab_s"] <= now - step * period]
        if window:
            values.append(statistic(merged(window), row["Statistic"]))
    breaches = _COMPARISONS[row["ComparisonOperator"]]
    bad = [value for value in values if breaches(value, float(row["Threshold"]))]
    missing, treat = count - len(values), row.get("TreatMissingData") or "missing"
    breaching = len(bad) + (missing if treat == "breaching" else 0)
    told = f"{len(bad)} out of the last {count} datapoints {[round(value, 3) for value in values]}"
    if breaching >= int(row.get("DatapointsToAlarm") or count):
        return "ALARM", f"Threshold Crossed: {told} crossed the threshold ({row['Threshold']})."
    if len(values) > len(bad) or (missing and treat == "notBreaching"):
        return "OK", f"Threshold Crossed: {told} did not cross the threshold ({row['Threshold']})."
    if not values and treat == "missing":
        return "INSUFFICIENT_DATA", f"Insufficient Data: {missing} datapoints were unknown."
    return None


def evaluate(cloud: Cloud) -> None:
    """One look at every alarm."""
    for name, seen in list(cloud.table(_ALARMS).peek().items()):
        if cloud.now() < seen["_held_until"]:
            continue
        verdict = _verdict(cloud, seen)
        if verdict is not None and verdict[0] != seen["StateValue"]:
            _change(cloud, cloud.table(_ALARMS)[name], *verdict)


@resident
def install(cloud: Cloud) -> None:
    """Let the alarms of a cloud be looked at."""
    cloud.on_tick(lambda: evaluate(cloud))
