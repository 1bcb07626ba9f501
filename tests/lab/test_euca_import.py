"""ImportVolume on the twin: real parts by presigned URL become a volume's bytes, or the task says why not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.euca_world import Twin, import_manifest, import_request, refused

# Two and a half parts of a small size: a run of zeros, and bytes that no compression or alignment hides.
_IMAGE = (
    hashlib.shake_256(b"image").digest(300_001) + bytes(400_000) + hashlib.shake_256(b"tail").digest(99_999)
)
_PART = 262_144


@pytest.fixture(params=("4.4", "5"))
def twin(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Twin]:
    made = Twin(tmp_path, str(request.param))
    made.client("s3").create_bucket(Bucket="import")
    yield made
    made.close()


def _task(twin: Twin, task_id: str) -> dict[str, Any]:
    return dict(twin.client().describe_conversion_tasks(ConversionTaskIds=[task_id])["ConversionTasks"][0])


def _begin(twin: Twin, url: str, size: int = len(_IMAGE)) -> str:
    return str(twin.client().import_volume(**import_request(url, size))["ConversionTask"]["ConversionTaskId"])


def test_an_import_ends_with_the_images_bytes(twin: Twin) -> None:
    """The task goes from active with progress to completed; the volume holds the image and zeros after it."""
    told = import_manifest(twin.client("s3"), _IMAGE, part_bytes=_PART)
    with twin.cloud.transaction():
        twin.cloud.tune(durations={"bytes_per_second": 100_000.0})
    task_id = _begin(twin, told["url"])
    assert task_id.startswith("import-vol-")
    first = _task(twin, task_id)
    assert (first["State"], first["StatusMessage"], first["ImportVolume"]["BytesConverted"]) == (
        "active",
        "Pending",
        0,
    )
    twin.wait(5)
    middle = _task(twin, task_id)
    assert middle["StatusMessage"].startswith("Progress: ")
    volume_id = middle["ImportVolume"]["Volume"]["Id"]
    assert twin.client().describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"] == "in-use"
    twin.wait(10)
    last = _task(twin, task_id)
    assert (last["State"], last["ImportVolume"]["BytesConverted"]) == ("completed", len(_IMAGE))
    assert "StatusMessage" not in last
    shown = twin.client().describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
    assert (shown["State"], shown["Size"], shown["AvailabilityZone"]) == ("available", 1, "cluster01")
    assert twin.cloud.store.read_volume(volume_id, 0, len(_IMAGE)) == _IMAGE
    assert not twin.cloud.store.read_volume(volume_id, len(_IMAGE), 1 << 20).strip(b"\0")


def test_the_manifest_may_come_after_the_call(twin: Twin) -> None:
    """A client that calls first and uploads afterwards is waited for."""
    s3 = twin.client("s3")
    told = import_manifest(s3, _IMAGE, part_bytes=_PART)
    s3.delete_object(Bucket="import", Key=told["key"])
    task_id = _begin(twin, told["url"])
    twin.wait(20)
    assert _task(twin, task_id)["State"] == "active"
    s3.put_object(Bucket="import", Key=told["key"], Body=told["text"].encode())
    twin.wait(10)
    assert _task(twin, task_id)["State"] == "completed"


def test_a_missing_part_ends_cancelled_with_the_reason(twin: Twin) -> None:
    """A part that never comes cancels the task, says which, and leaves no volume behind."""
    s3 = twin.client("s3")
    told = import_manifest(s3, _IMAGE, part_bytes=_PART)
    s3.delete_object(Bucket="import", Key="image.part.1")
    twin.cloud.tune(import_patience_s=10)
    task_id = _begin(twin, told["url"])
    twin.wait(30)
    ended = _task(twin, task_id)
    assert ended["State"] == "cancelled"
    assert "image.part.1: HTTP status 404" in ended["StatusMessage"]
    assert twin.client().describe_volumes()["Volumes"] == []


@pytest.mark.parametrize(
    "fault", ["short part", "wrong size", "gap", "stranger", "garbage", "another format"]
)
def test_what_does_not_fit_ends_cancelled(twin: Twin, fault: str) -> None:
    """Sizes and ranges that don't fit, a part elsewhere and a broken manifest: cancelled, never half a volume."""
    s3, size = twin.client("s3"), len(_IMAGE)
    told = import_manifest(s3, _IMAGE, part_bytes=_PART)
    text = told["text"]
    if fault == "short part":
        s3.put_object(Bucket="import", Key="image.part.2", Body=b"short")
    elif fault == "wrong size":
        size += 1
    elif fault == "gap":
        text = text.replace(f'start="{_PART}"', f'start="{_PART + 1}"')
    elif fault == "stranger":
        text = text.replace("<get-url>http://127.0.0.1:9/", "<get-url>http://elsewhere.example.org/", 1)
    elif fault == "garbage":
        text = text[:-20]
    else:
        text = text.replace(">RAW<", ">VMDK<")
    s3.put_object(Bucket="import", Key=told["key"], Body=text.encode())
    task_id = _begin(twin, told["url"], size)
    twin.wait(10)
    ended = _task(twin, task_id)
    assert ended["State"] == "cancelled"
    words = {
        "short part": "Part 2 has 5 bytes",
        "wrong size": f"the call of {size}",
        "gap": "gap",
        "stranger": "elsewhere.example.org",
        "garbage": "can't be read",
        "another format": "another format",
    }
    assert words[fault] in ended["StatusMessage"]
    assert twin.client().describe_volumes()["Volumes"] == []


def test_a_task_can_be_cancelled(twin: Twin) -> None:
    """CancelConversionTask ends an active task with the caller's reason and takes its volume away."""
    told = import_manifest(twin.client("s3"), _IMAGE, part_bytes=_PART)
    twin.cloud.tune(durations={"bytes_per_second": 10_000.0})
    task_id = _begin(twin, told["url"])
    twin.wait(2)
    assert len(twin.client().describe_volumes()["Volumes"]) == 1
    twin.client().cancel_conversion_task(ConversionTaskId=task_id, ReasonMessage="not this one")
    ended = _task(twin, task_id)
    assert (ended["State"], ended["StatusMessage"]) == ("cancelled", "not this one")
    twin.wait(60)
    assert twin.client().describe_volumes()["Volumes"] == []


def test_an_impossible_import_is_refused_at_once(twin: Twin) -> None:
    """VHD, a volume smaller than the image, a manifest of another host and an unknown zone make no task."""
    ec2, url = twin.client(), "http://127.0.0.1:9/services/objectstorage/import/m"
    wrong = (
        import_request(url, 5) | {"Image": {"Format": "VHD", "Bytes": 5, "ImportManifestUrl": url}},
        import_request(url, 2 << 30),
        import_request("http://s3.example.org/import/m", 5),
        import_request(url, 5) | {"AvailabilityZone": "cluster09"},
    )
    for params in wrong:
        assert refused(ec2.import_volume, **params)[:2] == (400, "InvalidParameterValue")
    assert ec2.describe_conversion_tasks()["ConversionTasks"] == []
    assert refused(ec2.describe_conversion_tasks, ConversionTaskIds=["import-vol-00000000"])[0] == 400


def test_in_3_4_the_service_is_not_there(tmp_path: Path) -> None:
    """3.4 binds the messages and throws InternalError."""
    twin = Twin(tmp_path, "3.4")
    ec2 = twin.client()
    for call, params in (
        (ec2.import_volume, import_request("http://127.0.0.1:9/services/Walrus/import/m", 5)),
        (ec2.describe_conversion_tasks, {}),
    ):
        assert refused(call, **params) == (500, "InternalError", "Service not available")
    twin.close()
