"""What a cloud keeps on disk: blocks, volumes, rows and saved points."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpilot.base.clock import ManualClock
from drpilot.lab.cloud import Cloud, Refusal, Settings
from drpilot.lab.store import BLOCK_BYTES, GIB, MissingBlock, Store
from tests.lab.core_world import REAL, block_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, lambda: REAL.now().timestamp())


def test_a_volume_comes_back_as_its_blocks(store: Store) -> None:
    """Bytes written anywhere are captured block by block, zeros left out, and make an equal volume."""
    store.create_volume("vol-a", GIB, {})
    store.write_volume("vol-a", 0, block_of(1))
    store.write_volume("vol-a", 5 * BLOCK_BYTES + 100, b"tail of the shop")
    store.write_volume("vol-a", GIB - 10, b"0123456789")
    blocks = store.capture("vol-a")
    assert sorted(blocks) == [0, 5, 2047]
    store.create_volume("vol-b", GIB, blocks)
    assert store.hash_volume("vol-b") == store.hash_volume("vol-a")
    assert store.read_volume("vol-b", GIB - 10, 10) == b"0123456789"


def test_a_write_right_after_a_capture_is_seen(store: Store) -> None:
    """A capture is never answered from memory while the file's time could still lie."""
    store.create_volume("vol-a", GIB, {})
    for number in range(5):
        store.write_volume("vol-a", 0, block_of(number))
        digest = store.capture("vol-a")[0]
        assert store.get_block(digest) == block_of(number)


def test_writing_beyond_the_end_is_refused(store: Store) -> None:
    """A volume has its size."""
    store.create_volume("vol-a", GIB, {})
    with pytest.raises(ValueError, match="beyond the end"):
        store.write_volume("vol-a", GIB - 1, b"ab")


def test_lost_bytes_are_missed_and_leave_a_hole(store: Store) -> None:
    """A block whose file is gone can't be read, and a volume made of it has zeros there."""
    store.create_volume("vol-a", GIB, {})
    store.write_volume("vol-a", 0, block_of(1))
    blocks = store.capture("vol-a")
    store.block_path(blocks[0]).unlink()
    with pytest.raises(MissingBlock):
        store.get_block(blocks[0])
    store.create_volume("vol-b", GIB, blocks)
    assert store.read_volume("vol-b", 0, BLOCK_BYTES) == bytes(BLOCK_BYTES)


def test_a_saved_point_brings_bytes_and_maps_back(store: Store) -> None:
    """After changes of every sort the saved state is there again, as often as asked."""
    store.create_volume("vol-a", GIB, {})
    store.create_volume("vol-b", GIB, {})
    store.write_volume("vol-a", 0, block_of(1))
    store.set_blocks("snap-a", store.capture("vol-a"))
    store.write([("t", "1", "{}")])
    store.save("before")
    wanted = store.hash_volume("vol-a")
    for number in range(3):
        store.write_volume("vol-a", 0, block_of(10 + number))
        store.delete_volume("vol-b")
        store.create_volume("vol-c", GIB, {})
        store.drop_map("snap-a")
        store.write([("t", "1", None), ("t", "2", "{}")])
        store.restore("before")
        assert store.hash_volume("vol-a") == wanted
        assert store.volume_path("vol-b").exists()
        assert not store.volume_path("vol-c").exists()
        assert list(store.block_map("snap-a")) == [0]
        assert list(store.rows()) == [("t", "1", "{}")]


def test_a_label_is_a_plain_name(store: Store) -> None:
    """A label can't leave its directory, and one that was never saved is not found."""
    for label in ("", "../x", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="a label has"):
            store.save(label)
    with pytest.raises(KeyError):
        store.restore("never")


def _open(directory: Path, clock: ManualClock) -> Cloud:
    return Cloud.open(directory, Settings(keys={"A": "B"}), clock)


def test_a_cloud_opened_again_goes_on(tmp_path: Path) -> None:
    """Rows, timers, faults, ids and lab time are those of before; what became due meanwhile happens."""
    clock = ManualClock()
    first = _open(tmp_path, clock)
    volume = first.dispatch("ec2", "CreateVolume", {"AvailabilityZone": "eu-south-1a", "Size": 1})["VolumeId"]
    with first.transaction():
        first.faults.set("throttle:ec2.CreateVpc")
    now = first.now()
    first.close()
    clock.advance(30)
    second = _open(tmp_path, clock)
    assert second.now() == pytest.approx(now + 30)
    state = second.dispatch("ec2", "DescribeVolumes", {"VolumeIds": [volume]})["Volumes"][0]["State"]
    assert state == "available"
    with pytest.raises(Refusal, match="RequestLimitExceeded"):
        second.dispatch("ec2", "CreateVpc", {"CidrBlock": "10.0.0.0/16"})
    other = second.dispatch("ec2", "CreateVolume", {"AvailabilityZone": "eu-south-1a", "Size": 1})["VolumeId"]
    assert other != volume
    second.close()


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    """Changes deep in a row, new rows and deleted rows are all undone."""
    cloud = _open(tmp_path, ManualClock())
    with cloud.transaction():
        cloud.table("t")["a"] = {"deep": {"list": [1]}}
        cloud.table("t")["b"] = {}

    def spoil() -> None:
        with cloud.transaction():
            cloud.table("t")["a"]["deep"]["list"].append(2)
            cloud.table("t")["c"] = {}
            del cloud.table("t")["b"]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        spoil()
    assert dict(cloud.table("t").peek()) == {"a": {"deep": {"list": [1]}}, "b": {}}
    cloud.close()


def test_a_restored_cloud_repeats_itself(tmp_path: Path) -> None:
    """From a saved point the same calls give the same ids, and pending states are pending again."""
    clock = ManualClock()
    cloud = _open(tmp_path, clock)
    request = {"AvailabilityZone": "eu-south-1a", "Size": 1}
    first = cloud.dispatch("ec2", "CreateVolume", request)["VolumeId"]
    cloud.save("early")
    second = cloud.dispatch("ec2", "CreateVolume", request)["VolumeId"]
    clock.advance(60)
    cloud.tick()
    cloud.restore("early")
    rows = cloud.dispatch("ec2", "DescribeVolumes", {})["Volumes"]
    assert [(row["VolumeId"], row["State"]) for row in rows] == [(first, "creating")]
    assert cloud.dispatch("ec2", "CreateVolume", request)["VolumeId"] == second
    cloud.close()


def test_advance_and_speed_move_lab_time(tmp_path: Path) -> None:
    """Advancing lets due things happen at once; a new speed counts from now on; replies keep the wall clock."""
    clock = ManualClock()
    cloud = _open(tmp_path, clock)
    cloud.dispatch("ec2", "CreateVolume", {"AvailabilityZone": "eu-south-1a", "Size": 1})
    cloud.advance(100)
    volume = cloud.dispatch("ec2", "DescribeVolumes", {})["Volumes"][0]
    assert volume["State"] == "available"
    assert volume["CreateTime"].startswith("2026-01-01T00:00:00")
    before = cloud.now()
    cloud.set_speed(10)
    clock.advance(3)
    assert cloud.now() == pytest.approx(before + 30)
    cloud.close()


def test_a_reset_cloud_is_as_on_the_first_day(tmp_path: Path) -> None:
    """Everything is gone but what the cloud itself makes, and the keys."""
    cloud = _open(tmp_path, ManualClock())
    first_day = cloud.inventory()
    cloud.dispatch("ec2", "CreateVolume", {"AvailabilityZone": "eu-south-1a", "Size": 1})
    cloud.reset()
    assert [item["kind"] for item in cloud.inventory()] == [item["kind"] for item in first_day]
    assert cloud.keys == {"A": "B"}
    assert list((tmp_path / "volumes").iterdir()) == []
    cloud.close()
