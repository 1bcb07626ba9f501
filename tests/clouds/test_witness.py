"""The witness under faults: a claim is written once, whatever happens to the answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drpilot.clouds.witness import S3Witness, witness_error
from drpilot.domain.fence import Claim, claimed, confirmed
from drpilot.domain.ports import CloudError, FailureClass, Stale
from tests.contract.grounds import Ground, opened

CLAIM = Claim("shop", 2, "away", "shop/1", "home")
THEIRS = Claim("shop", 2, "away", "shop/2", "home")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """A lab site in this process with a bucket `claims`."""
    with opened("lab-inprocess", tmp_path) as running:
        where = {"LocationConstraint": running.site.region}
        running.call("CreateBucket", service="s3", Bucket="claims", CreateBucketConfiguration=where)
        yield running


def _break(ground: Ground, fault: str) -> None:
    with ground.cloud.transaction():
        ground.cloud.faults.set(fault)


def _puts(ground: Ground) -> int:
    return sum(one["operation"] == "PutObject" for one in ground.cloud.calls)


@pytest.fixture
def witness(ground: Ground) -> S3Witness:
    """The witness in it."""
    return S3Witness(ground.site, "claims", "/drpilot/")


def test_objects_lie_under_the_prefix(witness: S3Witness) -> None:
    """PREFIX/GROUP.json, whatever slashes the prefix was given."""
    assert witness.key("shop") == "drpilot/shop.json"
    assert S3Witness(witness._site, "claims").key("shop") == "shop.json"


def test_a_lost_answer_is_settled_by_reading_back(ground: Ground, witness: S3Witness) -> None:
    """The effect happened and the answer was cut off: the claim counts as written, and is written once."""
    _break(ground, "lost-reply:s3.PutObject@1")
    etag = witness.write(CLAIM, replaces="")
    assert witness.read("shop") == (CLAIM, etag)
    assert _puts(ground) == 1


def test_a_write_that_never_arrived_is_sent_again(ground: Ground, witness: S3Witness) -> None:
    """The connection broke before the effect: the old state is read back and the write repeated."""
    first = witness.write(CLAIM, replaces="")
    _break(ground, "reset:s3.PutObject@1")
    done = confirmed(CLAIM, "shop/1")
    assert done is not None
    second = witness.write(done, replaces=first)
    assert witness.read("shop") == (done, second)


def test_a_server_error_that_stays_is_raised(ground: Ground, witness: S3Witness) -> None:
    """Three attempts, then the failure with its unknown outcome; nothing was claimed."""
    _break(ground, "error-5xx:s3.PutObject")
    with pytest.raises(CloudError) as caught:
        witness.write(CLAIM, replaces="")
    assert caught.value.happened == "unknown"
    assert _puts(ground) == 3
    assert witness.read("shop") == (None, "")


def test_a_lost_answer_of_the_loser_is_stale(ground: Ground, witness: S3Witness) -> None:
    """Reading back finds the other's claim: stale, never overwritten."""
    witness.write(CLAIM, replaces="")
    _break(ground, "lost-reply:s3.PutObject@1")
    with pytest.raises(Stale, match="claimed by shop/1"):
        witness.write(THEIRS, replaces="")
    assert witness.read("shop")[0] == CLAIM


def test_a_claim_over_a_witness_that_was_emptied_is_stale(ground: Ground, witness: S3Witness) -> None:
    """If-Match on an object that is gone can't win."""
    etag = witness.write(CLAIM, replaces="")
    ground.call("DeleteObject", service="s3", Bucket="claims", Key=witness.key("shop"))
    with pytest.raises(Stale, match="is gone"):
        witness.write(Claim("shop", 2, "away"), replaces=etag)


def test_the_epoch_rises_once_for_a_run_that_claims_twice(witness: S3Witness) -> None:
    """Domain rule and witness together: a run that lost its memory claims again and finds its own epoch."""
    for _ in range(2):
        current, etag = witness.read("shop")
        wanted = claimed(current, group="shop", source="home", target="away", run="shop/1")
        assert wanted is not None
        if wanted != current:
            witness.write(wanted, replaces=etag)
    found, _ = witness.read("shop")
    assert found is not None
    assert (found.epoch, found.run) == (2, "shop/1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"drpilot": 2, "group": "shop", "epoch": 2, "active": "away"}',
        b'{"drpilot": 1, "group": "crm", "epoch": 2, "active": "away"}',
        b'{"drpilot": 1, "group": "shop", "epoch": "many", "active": "away"}',
    ],
)
def test_an_object_that_is_no_claim_is_never_taken_for_none(
    ground: Ground, witness: S3Witness, body: bytes
) -> None:
    """Garbage in the witness stops the move with a message that names the object."""
    ground.call("PutObject", service="s3", Bucket="claims", Key=witness.key("shop"), Body=body)
    with pytest.raises(CloudError) as caught:
        witness.read("shop")
    assert (caught.value.code, caught.value.kind) == ("WitnessUnreadable", FailureClass.INVALID)
    assert "s3://claims/drpilot/shop.json" in caught.value.message
    assert witness_error(caught.value).word == "witness-wrong"


def test_a_missing_bucket_is_not_an_empty_witness(ground: Ground) -> None:
    """A misspelt bucket must not look like a group that was never moved."""
    with pytest.raises(CloudError) as caught:
        S3Witness(ground.site, "misspelt").read("shop")
    assert caught.value.code == "NoSuchBucket"


def test_a_witness_that_can_not_be_reached_says_so(ground: Ground, witness: S3Witness) -> None:
    """An outage of the third place has its own word and exit code."""
    _break(ground, "refuse")
    with pytest.raises(CloudError) as caught:
        witness.read("shop")
    told = witness_error(caught.value)
    assert (told.word, told.exit_code) == ("witness-unreachable", 8)
