"""What a mover does: read the volumes of its job, write what changed onto the stage, and say how far it is.

A mover that is killed and started again goes on: parts that are there are not sent again, and a volume counts as
staged only with its map, which is written last. One volume that fails does not keep the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from drpilot.base.clock import Chance, Clock, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.base.retry import Patience
from drpilot.domain.ports import CloudError, FailureClass
from drpilot.formats.moverjob import (
    MOST_JOB_BYTES,
    MOST_STATUS_BYTES,
    JobVolume,
    MoverJob,
    MoverStatus,
    VolumeStatus,
    read_job,
    read_status,
    write_status,
)
from drpilot.transfer.attached import DEVICES, Wanted, disks, match
from drpilot.transfer.device import DeviceSource
from drpilot.transfer.pace import Pace
from drpilot.transfer.signedshelf import Carrier, SignedShelf, SignedUrls
from drpilot.transfer.stage import MAP_NAME, Staged, Staging, decode_staged, part_name, stage

__all__ = ["Ground", "fetch_job", "move", "status_of"]

_AT_ONCE = 2  # volumes under way together, each with four parts of 10 MiB
_PLACES = 12  # requests under way: those parts, and what is looked up
_TELL_S = 5.0  # between two statuses
_LOOK_S = 2.0  # between two looks for a job or a device that is not there yet
_IN_PASSING = Patience(attempts=2, first_s=0.2, budget_s=20.0)  # a status on the way may be lost


@dataclass(frozen=True, slots=True)
class Ground:
    """What a mover stands on. `given` names devices by hand; `certificates` is PEM text; `proxy` gives the proxy for a
    URL, or nothing; for `wait_s` seconds a job or a device that is not there yet is waited for.
    """

    clock: Clock
    chance: Chance
    given: Mapping[str, Path] = field(default_factory=dict)
    devices: Path = DEVICES
    certificates: str = ""
    proxy: Callable[[str], str] = lambda url: ""
    wait_s: float = 0.0
    told: Callable[[MoverStatus], None] = lambda status: None

    def carrier(self, url: str, patience: Patience | None = None) -> Carrier:
        """A carrier to the host of a URL."""
        pace = (
            Pace(self.clock, self.chance, most=_PLACES, start=_PLACES)
            if patience is None
            else Pace(self.clock, self.chance, most=_PLACES, patience=patience)
        )
        return Carrier(pace, certificates=self.certificates, proxy=self.proxy(url), most=_PLACES)


def fetch_job(url: str, ground: Ground) -> MoverJob:
    """The job behind a URL; raises `mover-job` and what `Carrier` raises."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host or not url.startswith(("http://", "https://")) or not url.isprintable() or " " in url:
        raise DrpilotError(
            "mover-job", file="what was given", kind="job", what="it is no URL of http or https"
        )
    name, end_s = f"the job at {host}", ground.clock.monotonic() + ground.wait_s
    with closing(ground.carrier(url)) as carrier:
        while True:
            try:
                data = carrier.get(url, "the job", most=MOST_JOB_BYTES)
            except CloudError as error:
                raise _unread(error, name, host) from None
            if data is not None:
                return read_job(data, name)
            if ground.clock.monotonic() >= end_s:
                raise DrpilotError("mover-job", file=name, kind="job", what="there is nothing behind its URL")
            ground.clock.sleep(_LOOK_S)


def _unread(error: CloudError, name: str, host: str) -> DrpilotError:
    """Why the job could not be read, without its URL."""
    said = f"{error.code}: {error.message}"
    if error.kind in (FailureClass.TIMEOUT, FailureClass.TRANSIENT, FailureClass.THROTTLED):
        refused = DrpilotError("unreachable", site=host, endpoint="the URL of the job", why=said)
        refused.hint = (
            "check the network of this machine (route, name server, security group); then the same command"
        )
        return refused
    return DrpilotError("mover-job", file=name, kind="job", what=f"its URL is refused ({said})")


def status_of(job: MoverJob, ground: Ground) -> MoverStatus | None:
    """What the mover of a job last said; None where it said nothing yet. Raises `usage` where the job does not tell
    where its status is read.
    """
    if not job.status_get_url:
        what = "the job does not say where its status is read"
        raise DrpilotError(
            "usage", what=what, hint="drpilot mover JOB; it goes on, or finds that all is staged"
        )
    with closing(ground.carrier(job.status_get_url)) as carrier:
        data = carrier.get(job.status_get_url, "the status", most=MOST_STATUS_BYTES)
    return None if data is None else read_status(data, "the status")


def move(job: MoverJob, ground: Ground) -> MoverStatus:
    """Stage every volume of a job and tell how far it is; gives the last status, in which volumes may have failed.

    Raises `mover-job` for one that has expired, `mover-device` where a device is not surely found.
    """
    if job.expires_at <= ground.clock.now():
        what = f"it expired at {rfc3339(job.expires_at)}"
        expired = DrpilotError("mover-job", file=f"the job of {job.run}", kind="job", what=what)
        if "/" in job.run:  # a run of a group, not an image copied by hand
            expired.hint = f"drpilot run retry {job.run}; on the controller, which writes a new job"
        raise expired
    paths = _found(job, ground)
    work = _Work(job, ground, paths)
    try:
        return work.done()
    finally:
        work.close()


def _found(job: MoverJob, ground: Ground) -> dict[str, Path]:
    wanted = [Wanted(one.device, one.expected_bytes, one.size_bytes) for one in job.volumes]
    end_s = ground.clock.monotonic() + ground.wait_s
    before: dict[str, Path] | None = None
    while True:
        try:
            found = match(wanted, ground.given, disks(ground.devices))
            if found == before or len(ground.given) == len(wanted):
                return found
            before = found  # a disk may still be on its way: what is found must be found twice
        except DrpilotError as error:
            if error.word != "mover-device" or ground.clock.monotonic() >= end_s:
                raise
        ground.clock.sleep(_LOOK_S)


class _Stopped(Exception):
    """Somebody asked for an end."""


class _Work:
    """One mover at work."""

    def __init__(self, job: MoverJob, ground: Ground, paths: Mapping[str, Path]) -> None:
        self._job, self._ground, self._paths = job, ground, paths
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._rows = [VolumeStatus(one.snapshot, one.device, len(one.part_urls)) for one in job.volumes]
        first = job.volumes[0].map_url
        self._carrier = ground.carrier(first)
        self._teller = ground.carrier(job.status_url or first, _IN_PASSING)

    def done(self) -> MoverStatus:
        """All volumes, a few at once."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="drpilot-mover") as pool:
            pairs = zip(self._job.volumes, self._rows, strict=True)
            under_way = [pool.submit(self._volume, volume, row) for volume, row in pairs]
            try:
                self._tell(self._teller)
                while wait(under_way, timeout=_TELL_S).not_done:
                    self._tell(self._teller)
            except BaseException:
                self._stop.set()
                for future in under_way:
                    future.cancel()
                raise
        for future in under_way:
            future.result()
        return self._tell(self._carrier)

    def close(self) -> None:
        """Close the connections."""
        self._carrier.close()
        self._teller.close()

    def _volume(self, volume: JobVolume, row: VolumeStatus) -> None:
        """One volume to its map, in a thread of its own; what fails is in its row."""
        self._set(row, state="working")
        try:
            shelf = SignedShelf(f"the stage of {self._job.run}", _urls_of(volume), self._carrier)
            with closing(_source(volume, self._paths[volume.device])) as source:
                _, tally = stage(source, shelf, volume.snapshot, _base(volume, shelf), self._progress(row))
            self._note(row, tally)
            self._set(row, state="done")
        except CloudError as error:
            self._set(row, state="failed", error=f"{error.site}: {error.code}: {error.message}")
        except DrpilotError as error:
            self._set(row, state="failed", error=f"{error.row.code}: {error.title}")

    def _progress(self, row: VolumeStatus) -> Callable[[Staging], None]:
        def told(tally: Staging) -> None:
            if self._stop.is_set():
                raise _Stopped
            self._note(row, tally)

        return told

    def _note(self, row: VolumeStatus, tally: Staging) -> None:
        self._set(
            row,
            done=tally.done,
            blocks_read=tally.blocks_read,
            blocks_changed=tally.blocks_changed,
            parts_written=tally.parts_written,
            bytes_written=tally.bytes_written,
        )

    def _set(self, row: VolumeStatus, **facts: int | str) -> None:
        with self._lock:
            for name, value in facts.items():
                setattr(row, name, value)

    def _tell(self, carrier: Carrier) -> MoverStatus:
        """Say how far it is, here and on the stage; nobody's work fails because nobody hears of it."""
        now: datetime = self._ground.clock.now()
        with self._lock:
            status = MoverStatus(self._job.run, now, [_copy(row) for row in self._rows])
        self._ground.told(status)
        if self._job.status_url:
            try:
                carrier.put(self._job.status_url, "the status", write_status(status))
            except CloudError:
                return status  # the map of each volume is what counts
        return status


def _copy(row: VolumeStatus) -> VolumeStatus:
    return VolumeStatus(**{name: getattr(row, name) for name in VolumeStatus.__slots__})


def _source(volume: JobVolume, path: Path) -> DeviceSource:
    """The device, as long as its snapshot is."""
    source = DeviceSource(path)
    if source.size_bytes < volume.size_bytes:
        source.close()
        what = f"{path} has {source.size_bytes} bytes, the job wants {volume.size_bytes}"
        raise DrpilotError("mover-device", device=volume.device, what=what)
    source.size_bytes = volume.size_bytes
    source.name = volume.snapshot
    return source


def _base(volume: JobVolume, shelf: SignedShelf) -> Staged | None:
    """The base as it is staged; where it is gone, everything is staged."""
    if volume.base is None:
        return None
    name = f"{volume.base.snapshot}/{MAP_NAME}"
    data = shelf.get(name)
    return None if data is None else decode_staged(data, volume.base.snapshot, name)


def _urls_of(volume: JobVolume) -> Callable[[str], SignedUrls]:
    """The URLs of a volume's objects by their names on the stage."""
    names = {part_name(volume.snapshot, index): index for index in range(len(volume.part_urls))}
    own, base = f"{volume.snapshot}/{MAP_NAME}", volume.base

    def urls(name: str) -> SignedUrls:
        if name == own:
            return SignedUrls(put=volume.map_url)
        if base is not None and name == f"{base.snapshot}/{MAP_NAME}":
            return SignedUrls(get=base.map_url)
        if name not in names:
            return SignedUrls()
        index = names[name]
        head = volume.head_urls[index] if volume.head_urls else ""
        return SignedUrls(put=volume.part_urls[index], head=head)

    return urls
