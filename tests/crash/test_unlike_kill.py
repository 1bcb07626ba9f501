"""A replication between unlike clouds under SIGKILL: at commits, behind calls, between two parts and two blocks.

drpilot carries the bytes itself there, so that there is far more to lose than a call: parts on the stage, a ledger,
a mover that goes on alone, a snapshot that is half written. A sample of the points is tried, every kind of them.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest

from tests.crash.test_kill import Case, clean
from tests.crash.yard import Yard

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(3600)]

ENDS = {"euca-aws": "finished succeeded", "aws-euca": "finished succeeded_with_warnings"}
COMMITS, EACH, BLOCKS = 16, 2, 6
"""Points tried: commits in all, calls of each operation, blocks in all."""

Point = list[Any]


@pytest.fixture(scope="module", params=ENDS)
def unlike(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """A lab of two unlike clouds with the shop protected (`protected`)."""
    made = Yard(tmp_path_factory.mktemp("unlike"), request.param)
    try:
        made.open()
        yield made
    finally:
        made.close()


def replicate(yard: Yard, start: str = "protected") -> Case:
    """The case of this pair."""
    return Case("replicate", start, ENDS[yard.pair])


def spread(count: int, tried: int) -> list[int]:
    """So many of the numbers 1 to `count`, evenly, the first and the last among them."""
    if count <= tried:
        return list(range(1, count + 1))
    return sorted({1 + round(step * (count - 1) / (tried - 1)) for step in range(tried)})


def by_operation(calls: list[str]) -> dict[str, list[int]]:
    """The places of each operation's calls in their order, from 1."""
    places: dict[str, list[int]] = {}
    for place, call in enumerate(calls, start=1):
        places.setdefault(call, []).append(place)
    return places


def points(said: dict[str, Any]) -> list[Point]:
    """Where it is killed: some commits, some calls of each operation, some blocks."""
    commits = [["commit", n] for n in spread(said["commits"], COMMITS)]
    calls = [
        ["call", places[n - 1]]
        for places in by_operation(said["calls"]).values()
        for n in spread(len(places), EACH)
    ]
    return [*commits, *calls, *(["block", n] for n in spread(said["blocks"], BLOCKS))]


def root(image: dict[str, Any]) -> str:
    """The snapshot behind an image."""
    return next(str(each["Ebs"]["SnapshotId"]) for each in image["BlockDeviceMappings"] if "Ebs" in each)


def replicas(yard: Yard) -> dict[str, str]:
    """What lies on away, and what it is a copy of on home: each volume's snapshot, and each group's image's root."""
    images = {row["id"]: row["row"] for row in yard.inventory() if row["kind"] == "image"}
    journal = yard.journal()
    (point,) = journal.points("shop")
    journal.database.close()
    found = {}
    for replica in point.replicas:
        if replica.kind == "snapshot":
            found[replica.id] = replica.source_id
        elif replica.source_id in images:
            found[root(images[replica.id])] = root(images[replica.source_id])
    return found


def unequal(yard: Yard) -> list[str]:
    """Replicas whose bytes differ from what they are a copy of, by the clouds' own files."""
    pairs = replicas(yard)
    assert len(pairs) == 6
    digests = {
        each: yard.lab.control(site, "blocks", snapshot=each)["digest"]
        for pair in pairs.items()
        for site, each in zip(("away", "home"), pair, strict=True)
    }
    return [copy for copy, source in pairs.items() if digests[copy] != digests[source]]


def thawed_late(yard: Yard, ended: str) -> bool:
    """Whether a run warns of this alone: killed between freeze and thaw, its volumes are not of one instant."""
    journal = yard.journal()
    (run,) = journal.runs("shop")
    warned = [
        event.body.get("note", "") for event in journal.events(run=run.id) if event.body.get("to") == "warned"
    ]
    journal.database.close()
    return (
        ended == "finished succeeded_with_warnings"
        and len(warned) == 1
        and warned[0].startswith(
            "the driver was lost while shop-db was being frozen; it was thawed afterwards"
        )
    )


def different(end: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """What two ends differ in, each with what was found and what was expected."""
    found = {**end, **end["resources"]}
    wanted = {**expected, **expected["resources"]}
    keys = (found.keys() | wanted.keys()) - {"resources"}
    return {key: (found.get(key), wanted.get(key)) for key in keys if found.get(key) != wanted.get(key)}


def test_killed_while_it_carries(unlike: Yard, record_property: Callable[[str, object], None]) -> None:
    """Killed and resumed once: the end of an undisturbed run, one of everything, all bytes equal, all intended."""
    case = replicate(unlike)
    said, expected = clean(unlike, case)
    assert unequal(unlike) == []
    mine, died, wrong = points(said), Tally[str](), {}
    for kill in mine:
        unlike.restore(case.start)
        first = unlike.run(case.mode, kill=kill)
        assert not unlike.unintended(), kill
        if first["killed"]:
            died[kill[0]] += 1
            again = unlike.run(case.mode)
            assert again["ended"] == case.wanted or thawed_late(unlike, again["ended"]), (kill, again)
        if (difference := different(unlike.end(), expected)) or unequal(unlike):
            wrong[str(kill)] = (difference, unequal(unlike))
    record_property("said", f"{unlike.pair}: killed at {dict(died)} of {len(mine)} points")
    assert wrong == {}
    assert died.total() >= 0.8 * len(mine)


def test_lost_replies_while_it_carries(unlike: Yard, record_property: Callable[[str, object], None]) -> None:
    """The effect happens, the answer is cut off: for the first and the last call of each operation."""
    case = replicate(unlike)
    said, expected = clean(unlike, case)
    cut = [
        (call, n) for call, places in by_operation(said["calls"]).items() for n in spread(len(places), EACH)
    ]
    wrong = {}
    for call, number in cut:
        site, _, operation = call.partition(":")
        unlike.restore(case.start)
        fault = f"lost-reply:{operation}@{number}"
        unlike.lab.control(site, "break", fault=fault)
        again = unlike.run(case.mode)
        unlike.lab.control(site, "heal", fault=fault)
        assert again["ended"] == case.wanted, (call, number, again)
        assert again["unintended"] == [], (call, number)
        if (difference := different(unlike.end(), expected)) or unequal(unlike):
            wrong[f"{call}@{number}"] = (difference, unequal(unlike))
    record_property("said", f"{unlike.pair}: {len(cut)} replies lost in turn")
    assert wrong == {}
    assert {call for call, _ in cut} == set(chain(said["calls"]))
