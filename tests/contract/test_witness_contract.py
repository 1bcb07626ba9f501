"""What every kind of witness promises: S3 and its stand-in on the lab, a DynamoDB table, a row of PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from drpilot.clouds.witness import S3Witness, witness_error
from drpilot.clouds.witness_item import ItemWitness
from drpilot.clouds.witness_row import TABLE, RowWitness
from drpilot.domain.fence import Claim, claimed, confirmed, released
from drpilot.domain.ports import CloudError, Stale, Witness
from tests.contract.grounds import opened
from tests.postgres import Server, line_to

CLAIM = Claim("shop", 2, "away", "shop/1", "home")
THEIRS = Claim("shop", 2, "away", "shop/2", "home")
KINDS = ("lab", "s3", "dynamodb", "postgresql")


class Place:
    """A witness, how garbage gets into it, how it is emptied, and one that is misspelt."""

    def __init__(
        self, witness: Witness, spoil: Callable[[str], None], clear: Callable[[], None], wrong: Witness
    ) -> None:
        self.witness, self.spoil, self.clear, self.wrong = witness, spoil, clear, wrong


@contextmanager
def bucket(ground_name: str, folder: Path) -> Iterator[Place]:
    """An object of S3: on the lab's own, which the edge of a lab is, and on moto's."""
    with opened(ground_name, folder) as ground:
        where = {"LocationConstraint": ground.site.region}
        ground.call("CreateBucket", service="s3", Bucket="claims", CreateBucketConfiguration=where)
        witness = S3Witness(ground.site, "claims")
        name = {"Bucket": "claims", "Key": "shop.json"}

        def spoil(text: str) -> None:
            ground.site.call("s3", "PutObject", {**name, "Body": text.encode()})

        def clear() -> None:
            ground.site.call("s3", "DeleteObject", dict(name))

        yield Place(witness, spoil, clear, S3Witness(ground.site, "misspelt"))


@contextmanager
def table(folder: Path) -> Iterator[Place]:
    """An item of DynamoDB, on moto's server."""
    with opened("moto", folder) as ground:
        key = {"AttributeName": "group"}
        given = {
            "TableName": "claims",
            "KeySchema": [{**key, "KeyType": "HASH"}],
            "AttributeDefinitions": [{**key, "AttributeType": "S"}],
            "BillingMode": "PAY_PER_REQUEST",
        }
        ground.site.call("dynamodb", "CreateTable", given)

        def spoil(text: str) -> None:
            item = {"group": {"S": "shop"}, "claim": {"S": text}, "version": {"S": "1"}}
            ground.site.call("dynamodb", "PutItem", {"TableName": "claims", "Item": item})

        def clear() -> None:
            ground.site.call(
                "dynamodb", "DeleteItem", {"TableName": "claims", "Key": {"group": {"S": "shop"}}}
            )

        yield Place(ItemWitness(ground.site, "claims"), spoil, clear, ItemWitness(ground.site, "misspelt"))


@contextmanager
def row(server: Server) -> Iterator[Place]:
    """A row on a real server."""
    url, empty = server.empty(), server.empty()

    def do(statement: str, *values: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement, values)  # type: ignore[arg-type]

    do(TABLE)
    put = "INSERT INTO drpilot_witness VALUES ('shop', '1', %s) ON CONFLICT (name) DO UPDATE SET claim = %s"
    try:
        yield Place(
            RowWitness(url),
            lambda text: do(put, text, text),
            lambda: do("DELETE FROM drpilot_witness"),
            RowWitness(empty),
        )
    finally:
        server.drop(url)
        server.drop(empty)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place of each kind."""
    match request.param:
        case "lab":
            made = bucket("lab-inprocess", tmp_path)
        case "s3":
            made = bucket("moto", tmp_path)
        case "dynamodb":
            made = table(tmp_path)
        case _:
            made = row(request.getfixturevalue("server"))
    with made as found:
        yield found


def test_a_claim_goes_its_way_and_every_write_names_what_it_replaces(place: Place) -> None:
    """Nothing, a claim, its confirmation, the next one, its release: each replaces the one before, none twice."""
    witness = place.witness
    assert witness.read("shop") == (None, "")
    version = witness.write(CLAIM, replaces="")
    assert witness.read("shop") == (CLAIM, version)
    with pytest.raises(Stale, match="claimed by shop/1"):
        witness.write(THEIRS, replaces="")
    done = confirmed(CLAIM, "shop/1")
    assert done is not None
    second = witness.write(done, replaces=version)
    with pytest.raises(Stale, match="epoch 2, active away"):
        witness.write(THEIRS, replaces=version)
    back = claimed(done, group="shop", source="away", target="home", run="shop/3")
    assert back is not None
    third = witness.write(back, replaces=second)
    given_back = released(back, "shop/3")
    assert given_back is not None
    fourth = witness.write(given_back, replaces=third)
    assert witness.read("shop") == (given_back, fourth)
    assert witness.read("crm") == (None, "")
    assert len({version, second, third, fourth}) == 4


def test_of_eight_that_claim_at_once_one_wins(place: Place) -> None:
    """Whatever their clocks believe: one claim stands, seven are stale and told whose it is."""
    gate, won, lost = threading.Barrier(8), [], []

    def claim(number: int) -> None:
        gate.wait()
        mine = Claim("shop", 2, "away", f"shop/{number}", "home")
        try:
            place.witness.write(mine, replaces="")
            won.append(mine)
        except Stale as error:
            lost.append(str(error))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (len(won), len(lost)) == (1, 7)
    assert place.witness.read("shop")[0] == won[0]
    assert all(f"claimed by {won[0].run}" in text for text in lost)


def test_what_is_no_claim_is_never_taken_for_none(place: Place) -> None:
    """Garbage, another version's and another group's stop the move; an emptied witness makes a write stale."""
    version = place.witness.write(CLAIM, replaces="")
    for text in ("{", '{"drpilot": 2}', '{"drpilot": 1, "group": "crm", "epoch": 2, "active": "away"}'):
        place.spoil(text)
        with pytest.raises(CloudError) as caught:
            place.witness.read("shop")
        assert caught.value.code == "WitnessUnreadable"
        assert witness_error(caught.value).word == "witness-wrong"
    place.clear()
    with pytest.raises(Stale, match="is gone"):
        place.witness.write(Claim("shop", 3, "away"), replaces=version)


def test_a_misspelt_place_is_not_an_empty_witness(place: Place) -> None:
    """It must not look like a group that was never moved."""
    with pytest.raises(CloudError) as caught:
        place.wrong.read("shop")
    assert caught.value.code in ("NoSuchBucket", "ResourceNotFoundException", "42P01")
    assert caught.value.happened == "no"


@pytest.mark.parametrize("cut", ["request", "reply"])
def test_a_lost_answer_of_a_server_is_settled_by_reading_back(server: Server, cut: str) -> None:
    """The connection breaks before or after the commit: the row is there in the end, and was written once."""
    with row(server) as place, line_to(place.witness._url) as (line, url):  # type: ignore[attr-defined]
        witness = RowWitness(url)
        first = witness.write(CLAIM, replaces="")
        line.cut = cut
        done = confirmed(CLAIM, "shop/1")
        assert done is not None
        second = witness.write(done, replaces=first)
        assert line.cuts == 1
        assert place.witness.read("shop") == (done, second)


def test_a_server_that_is_away_can_not_be_reached(server: Server) -> None:
    """An outage of the third place has its own word and exit code, and names no password."""
    witness = RowWitness("postgresql://dr:secret@127.0.0.1:9/witness")
    with pytest.raises(CloudError) as caught:
        witness.write(CLAIM, replaces="")
    told = witness_error(caught.value)
    assert (told.word, told.exit_code, caught.value.happened) == ("witness-unreachable", 8, "no")
    assert "secret" not in str(caught.value) + told.title + told.why
