"""CloudWatch on both kinds of cloud: data points in, statistics out, alarms that follow the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.lab.core_world import Pair
from tests.lab.euca_world import Twin, refused

_METRIC = {"Namespace": "Shop", "MetricName": "Load", "Dimensions": [{"Name": "group", "Value": "web"}]}
_ALARM = {
    **_METRIC,
    "AlarmName": "web-hot",
    "Statistic": "Average",
    "Period": 60,
    "EvaluationPeriods": 2,
    "Threshold": 80.0,
    "ComparisonOperator": "GreaterThanThreshold",
}


class Watch:
    """One site's CloudWatch and its time."""

    def __init__(self, client: Any, wait: Callable[[float], None], clock: Any) -> None:
        self.client, self.wait, self.clock = client, wait, clock

    def put(self, *values: float, **more: Any) -> None:
        metric = {key: value for key, value in _METRIC.items() if key != "Namespace"}
        data = [{**metric, "Value": value, "Unit": "Percent", **more} for value in values]
        self.client.put_metric_data(Namespace="Shop", MetricData=data)

    def state(self, name: str = "web-hot") -> str:
        return str(self.client.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"])


@pytest.fixture(params=["3.4", "4.4", "aws"])
def watch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watch]:
    if request.param == "aws":
        pair = Pair(tmp_path)
        yield Watch(pair.client("cloudwatch"), pair.wait, pair.clock)
        pair.close()
        return
    twin = Twin(tmp_path, str(request.param))
    yield Watch(twin.client("cloudwatch"), twin.wait, twin.clock)
    twin.close()


def test_statistics_are_over_periods(watch: Watch) -> None:
    """Count, sum, average, minimum and maximum of what fell into each period, for exactly these dimensions."""
    start = watch.clock.now() - timedelta(minutes=10)
    early = watch.clock.now() - timedelta(minutes=5)
    watch.put(10.0, 20.0, 60.0, Timestamp=early)
    watch.put(7.0)
    watch.client.put_metric_data(Namespace="Shop", MetricData=[{"MetricName": "Load", "Value": 1000.0}])
    found = watch.client.get_metric_statistics(
        **_METRIC,
        StartTime=start,
        EndTime=watch.clock.now() + timedelta(minutes=1),
        Period=60,
        Statistics=["SampleCount", "Sum", "Average", "Minimum", "Maximum"],
    )["Datapoints"]
    assert [
        (row["SampleCount"], row["Sum"], row["Average"], row["Minimum"], row["Maximum"]) for row in found
    ] == [
        (3.0, 90.0, 30.0, 10.0, 60.0),
        (1.0, 7.0, 7.0, 7.0, 7.0),
    ]
    metrics = watch.client.list_metrics(Namespace="Shop", MetricName="Load")["Metrics"]
    assert sorted((row["Dimensions"] for row in metrics), key=len) == [
        [],
        [{"Name": "group", "Value": "web"}],
    ]


def test_an_alarm_follows_its_data(watch: Watch) -> None:
    """Without data it is insufficient, with two breaching periods ALARM (one is not enough), then OK, then silent."""
    watch.client.put_metric_alarm(**_ALARM)
    watch.wait(1)
    assert watch.state() == "INSUFFICIENT_DATA"
    watch.put(95.0)
    watch.wait(1)
    assert watch.state() == "INSUFFICIENT_DATA"
    watch.wait(59.5)
    watch.put(90.0, 99.0)
    watch.wait(0.2)
    assert watch.state() == "ALARM"
    watch.wait(60)
    watch.put(10.0)
    watch.wait(1)
    assert watch.state() == "OK"
    watch.wait(130)
    assert watch.state() == "INSUFFICIENT_DATA"
    history = watch.client.describe_alarm_history(AlarmName="web-hot", HistoryItemType="StateUpdate")
    assert [item["HistorySummary"] for item in reversed(history["AlarmHistoryItems"])] == [
        "Alarm updated from INSUFFICIENT_DATA to ALARM",
        "Alarm updated from ALARM to OK",
        "Alarm updated from OK to INSUFFICIENT_DATA",
    ]


def test_a_state_set_by_hand_holds_for_a_period(watch: Watch) -> None:
    """SetAlarmState is seen at once; after a period the data decide again."""
    watch.client.put_metric_alarm(**_ALARM)
    watch.client.set_alarm_state(AlarmName="web-hot", StateValue="ALARM", StateReason="a rehearsal")
    watch.wait(30)
    shown = watch.client.describe_alarms(StateValue="ALARM")["MetricAlarms"][0]
    assert (shown["AlarmName"], shown["StateReason"]) == ("web-hot", "a rehearsal")
    watch.wait(31)
    assert watch.state() == "INSUFFICIENT_DATA"
    watch.client.delete_alarms(AlarmNames=["web-hot"])
    assert watch.client.describe_alarms()["MetricAlarms"] == []


def test_what_can_t_be_is_refused(watch: Watch) -> None:
    """The cloud's own namespace, an unknown alarm, a period that is none."""
    data = [{"MetricName": "CPUUtilization", "Value": 1.0}]
    assert (
        refused(watch.client.put_metric_data, Namespace="AWS/EC2", MetricData=data)[1]
        == "InvalidParameterValue"
    )
    gone = {"AlarmName": "none", "StateValue": "OK", "StateReason": "x"}
    assert refused(watch.client.set_alarm_state, **gone)[1] in (
        "ResourceNotFound",
        "ResourceNotFoundException",
    )
    assert refused(watch.client.delete_alarms, AlarmNames=["none"])[0] == 404
    now = watch.clock.now()
    span = {"StartTime": now - timedelta(hours=1), "EndTime": now, "Period": 90, "Statistics": ["Sum"]}
    assert refused(watch.client.get_metric_statistics, **_METRIC, **span)[1] == "InvalidParameterValue"
