"""ImportVolume and its tasks: the imaging worker fetches a manifest and its parts and writes a volume.

From 4.x on; 3.4 has the messages and no service. The worker reads by presigned URL, over HTTP where the site
listens, and only from this cloud. A manifest or part that is not there yet is waited for (tunable
`import_patience_s`, 300 lab seconds), since clients begin with the call and upload afterwards. A task ends
`completed`, or `cancelled` with the reason as its message, also where it failed. Sources: the VM import manifest
schema 2010-11-15, and the imaging service of Eucalyptus 4.4.
"""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary
from xml.etree import ElementTree as ET

from drpilot.base.clock import parse_time
from drpilot.lab.cloud import Cloud, Refusal, action, kind, timer
from drpilot.lab.durations import transfer_time
from drpilot.lab.eucalyptus import door
from drpilot.lab.faults import Cut
from drpilot.lab.lookup import zone_names
from drpilot.lab.requests import Incoming
from drpilot.lab.store import GIB
from drpilot.lab.table import Row
from drpilot.lab.volumes import VolumePlan, make_volume

__all__: list[str] = []

_TASKS = "conversion_tasks"
_EXPIRY = timedelta(hours=168)
_PATIENCE_S = 300.0
_FETCH_TIMEOUT_S = 30.0
_MOST_MANIFEST_BYTES = 5 * 1024 * 1024
_ZEROS = bytes(65_536)
kind(_TASKS, "conversion-task", live=lambda row: row["State"] == "active")


class _NotYet(Exception):
    """Something can't be had now."""


class _Hopeless(Exception):
    """Why a task can never be completed."""


@dataclass(frozen=True, slots=True)
class _Part:
    start: int
    size: int
    url: str


def _check_service(cloud: Cloud) -> None:
    if cloud.traits.version == "3.4":
        raise Refusal("InternalError", "Service not available", 500)


def _is_own(cloud: Cloud, url: str) -> bool:
    """Whether a URL leads to this cloud's own object store."""
    netloc = urlsplit(url).netloc
    if cloud.hosts:
        return netloc in cloud.hosts
    return netloc.partition(":")[0] in ("127.0.0.1", "localhost")


# -- the calls --------------------------------------------------------------------------------------------


@action("ec2", "ImportVolume", family="eucalyptus")
def import_volume(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Begin a task; the manifest need not be there yet."""
    _check_service(cloud)
    image, size_gib = params["Image"], int(params["Volume"]["Size"])
    zone = params.get("AvailabilityZone")
    if zone not in zone_names(cloud):
        raise Refusal("InvalidParameterValue", f"The zone '{zone}' does not exist.")
    if str(image["Format"]).upper() not in ("RAW", "VMDK"):
        raise Refusal("InvalidParameterValue", f"unsupported image format: {image['Format']}")
    if int(image["Bytes"]) > size_gib * GIB:
        raise Refusal("InvalidParameterValue", "The volume is smaller than the image")
    if not _is_own(cloud, image["ImportManifestUrl"]):
        raise Refusal("InvalidParameterValue", "The import manifest is not in this cloud's object store")
    task_id = cloud.new_id("import-vol")
    ends = cloud.timestamp() + _EXPIRY
    cloud.table(_TASKS)[task_id] = {
        "ConversionTaskId": task_id,
        "ExpirationTime": ends.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "State": "active",
        "StatusMessage": "Pending",
        "ImportVolume": {
            "BytesConverted": 0,
            "AvailabilityZone": zone,
            "Description": params.get("Description", ""),
            "Image": {
                "Format": str(image["Format"]).upper(),
                "Size": int(image["Bytes"]),
                "ImportManifestUrl": image["ImportManifestUrl"],
            },
            "Volume": {"Size": size_gib},
        },
        "Tags": [],
        "_since": cloud.now(),
        "_parts": None,
        "_next": 0,
    }
    cloud.later(0.5, "conversion.step", task_id)
    return {"ConversionTask": cloud.table(_TASKS)[task_id]}


@action("ec2", "DescribeConversionTasks", family="eucalyptus")
def describe_conversion_tasks(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """All tasks, or those named."""
    _check_service(cloud)
    rows, wanted = cloud.table(_TASKS).peek(), params.get("ConversionTaskIds")
    for task_id in wanted or []:
        if task_id not in rows:
            raise Refusal("InvalidConversionTaskId", f"The task '{task_id}' does not exist")
    return {"ConversionTasks": [row for key, row in rows.items() if not wanted or key in wanted]}


@action("ec2", "CancelConversionTask", family="eucalyptus")
def cancel_conversion_task(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """End an active task; its volume goes."""
    _check_service(cloud)
    row = cloud.table(_TASKS).get(params["ConversionTaskId"])
    if row is None:
        raise Refusal("InvalidConversionTaskId", f"The task '{params['ConversionTaskId']}' does not exist")
    if row["State"] == "active":
        _cancel(cloud, row, params.get("ReasonMessage") or "User requested")
    return {}


def _cancel(cloud: Cloud, row: Row, why: str) -> None:
    row.update(State="cancelled", StatusMessage=why)
    volume_id = row["ImportVolume"]["Volume"].pop("Id", None)
    if volume_id is not None and cloud.table("volumes").pop(volume_id, None) is not None:
        cloud.after_commit(lambda: cloud.store.delete_volume(volume_id))


# -- the worker -------------------------------------------------------------------------------------------


@timer("conversion.step", locked=False)
def conversion_step(cloud: Cloud, task_id: str, details: dict[str, Any]) -> None:
    """Read the manifest, or fetch and write the next parts."""
    with cloud.lock:
        row = cloud.table(_TASKS).peek().get(task_id)
        if row is None or row["State"] != "active":
            return
        image, parts, place = row["ImportVolume"]["Image"], row["_parts"], row["_next"]
    try:
        if parts is None:
            if image["Format"] != "RAW":
                raise _Hopeless(f"The imaging worker of the lab can't convert {image['Format']}")
            data = _fetch(cloud, image["ImportManifestUrl"], _MOST_MANIFEST_BYTES)
            found = _read_manifest(cloud, data, row)
            with cloud.transaction():
                _take_volume(cloud, task_id, found)
            return
        fetched = []
        for number, part in enumerate(_next_parts(cloud, parts, place), place):
            data = _fetched(cloud, part)
            if len(data) != part.size:
                raise _Hopeless(f"Part {number} has {len(data)} bytes, its byte range {part.size}")
            fetched.append((part, data))
    except _NotYet as problem:
        with cloud.transaction():
            _wait(cloud, task_id, str(problem))
        return
    except _Hopeless as problem:
        with cloud.transaction():
            _cancel(cloud, cloud.table(_TASKS)[task_id], str(problem))
        return
    with cloud.transaction():
        _written(cloud, task_id, fetched)


_RECENT: WeakKeyDictionary[Cloud, tuple[str, bytes]] = WeakKeyDictionary()


def _fetched(cloud: Cloud, part: _Part) -> bytes:
    """A part's bytes. Parts of zeros that follow each other are often one object: it is fetched once."""
    url, data = _RECENT.get(cloud, ("", b""))
    if url != part.url or len(data) != part.size:
        data = _fetch(cloud, part.url, part.size + 1)
        _RECENT[cloud] = (part.url, data)
    return data


def _fetch(cloud: Cloud, url: str, most: int) -> bytes:
    """The bytes behind a presigned URL of this cloud."""
    if not _is_own(cloud, url):
        raise _Hopeless(f"{urlsplit(url).netloc} is not this cloud's object store")
    parts = urlsplit(url)
    try:
        if cloud.hosts:
            status, data = _over_http(parts.netloc, f"{parts.path}?{parts.query}", most)
        else:
            reply = door.answer(cloud, Incoming("GET", parts.path, parts.query, {"host": parts.netloc}, b""))
            status, data = reply.status, reply.body[:most]
    except (OSError, http.client.HTTPException, Cut) as error:
        raise _NotYet(f"Failed to download {parts.path}: {error}") from None
    if status == 200:
        return data
    problem = f"Failed to download {parts.path}: HTTP status {status}"
    raise _NotYet(problem) if status in (404, 503) else _Hopeless(problem)


def _over_http(netloc: str, target: str, most: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(netloc, timeout=_FETCH_TIMEOUT_S)
    try:
        connection.request("GET", target)
        reply = connection.getresponse()
        return reply.status, reply.read(most)
    finally:
        connection.close()


def _read_manifest(cloud: Cloud, data: bytes, row: Row) -> list[_Part]:
    """The parts; every one of them of this cloud, together as long as the image."""
    if b"<!DOCTYPE" in data:
        raise _Hopeless("The import manifest has a document type")
    size, asked = row["ImportVolume"]["Image"]["Size"], row["ImportVolume"]["Volume"]["Size"]
    try:
        root = ET.fromstring(data)
        told = int(root.findtext("import/size") or "-1")
        volume_gib = int(root.findtext("import/volume-size") or "-1")
        parts, at = [], 0
        for element in sorted(root.findall("import/parts/part"), key=lambda one: int(one.get("index", "-1"))):
            span = element.find("byte-range")
            url = element.findtext("get-url") or ""
            if span is None or int(span.get("start", "-1")) != at:
                raise _Hopeless("The byte ranges of the import manifest have a gap")
            length = int(span.get("end", "-1")) + 1 - at
            parts.append(_Part(at, length, url))
            at += length
    except (ET.ParseError, ValueError) as error:
        raise _Hopeless(f"The import manifest can't be read: {error}") from None
    if (root.findtext("file-format") or "").upper() != "RAW":
        raise _Hopeless("The import manifest is of another format than the call")
    if told != size or at != size or volume_gib > asked:
        raise _Hopeless(f"The import manifest tells of {told} bytes in parts of {at}, the call of {size}")
    strangers = [part.url for part in parts if not _is_own(cloud, part.url)]
    if strangers or not parts:
        raise _Hopeless(f"A part is not in this cloud's object store: {(strangers or ['none'])[0]}")
    return parts


def _take_volume(cloud: Cloud, task_id: str, parts: list[_Part]) -> None:
    row = cloud.table(_TASKS)[task_id]
    if row["State"] != "active":
        return
    details = row["ImportVolume"]
    plan = VolumePlan(details["Volume"]["Size"], cloud.traits.volume_type, None, None, None, False, None)
    volume = make_volume(cloud, plan, details["AvailabilityZone"], [])
    volume["State"] = "in-use"  # the worker has it attached; it is no instance of the account's
    details["Volume"]["Id"] = volume["VolumeId"]
    row["_parts"] = [[part.start, part.size, part.url] for part in parts]
    cloud.later(transfer_time(cloud, parts[0].size), "conversion.step", task_id)


def _wait(cloud: Cloud, task_id: str, why: str) -> None:
    row = cloud.table(_TASKS)[task_id]
    if row["State"] != "active":
        return
    late = cloud.now() - row["_since"] >= float(cloud.setting("import_patience_s", _PATIENCE_S))
    if late or cloud.timestamp() >= parse_time(row["ExpirationTime"]):
        _cancel(cloud, row, why)
    else:
        cloud.later(1.0, "conversion.step", task_id)


def _next_parts(cloud: Cloud, parts: list[list[Any]], place: int) -> list[_Part]:
    """The parts of about a second from `place` on, at least one."""
    found = [_Part(*parts[place])]
    for one in parts[place + 1 :]:
        part = _Part(*one)
        if transfer_time(cloud, sum(each.size for each in found) + part.size) > 1.0:
            break
        found.append(part)
    return found


def _written(cloud: Cloud, task_id: str, fetched: list[tuple[_Part, bytes]]) -> None:
    row = cloud.table(_TASKS)[task_id]
    if row["State"] != "active":
        return
    details = row["ImportVolume"]
    volume_id = details["Volume"]["Id"]
    for part, data in fetched:
        _write_sparse(cloud, volume_id, part.start, data)
        details["BytesConverted"] += part.size
    row.update(_next=row["_next"] + len(fetched), _since=cloud.now())
    if row["_next"] < len(row["_parts"]):
        row["StatusMessage"] = f"Progress: {details['BytesConverted'] * 100 // details['Image']['Size']}%"
        following = sum(part.size for part in _next_parts(cloud, row["_parts"], row["_next"]))
        cloud.later(transfer_time(cloud, following), "conversion.step", task_id)
        return
    row["State"] = "completed"
    row.pop("StatusMessage")
    cloud.table("volumes")[volume_id]["State"] = "available"


def _write_sparse(cloud: Cloud, volume_id: str, start: int, data: bytes) -> None:
    """Write what is not zero: the volume is new, its holes read as zeros."""
    for at in range(0, len(data), len(_ZEROS)):
        piece = data[at : at + len(_ZEROS)]
        if piece != _ZEROS and piece.strip(b"\0"):
            cloud.store.write_volume(volume_id, start + at, piece)
