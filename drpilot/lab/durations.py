"""How long things take, in lab seconds.

The tunable `durations` {name: seconds} changes them; `speed` divides them all. They are shorter than on a
real cloud, but in its order: a copy takes longer than a snapshot, a boot longer than making a volume.
"""

from __future__ import annotations

from drpilot.lab.cloud import Cloud

__all__ = ["DURATIONS", "duration", "transfer_time"]

DURATIONS: dict[str, float] = {
    "instance.boot": 3.0,
    "instance.checks": 1.0,
    "instance.stop": 2.0,
    "instance.terminate": 2.0,
    "instance.forget": 600.0,
    "volume.create": 1.0,
    "volume.attach": 0.5,
    "volume.detach": 0.5,
    "volume.delete": 0.5,
    "volume.modify": 2.0,
    "snapshot.create": 2.0,
    "snapshot.copy": 3.0,
    "snapshot.complete": 1.0,
    "image.create": 2.0,
    "image.copy": 1.0,
    "bytes_per_second": 64.0 * 1024 * 1024,
}


def duration(cloud: Cloud, name: str) -> float:
    """Lab seconds that `name` takes on this site."""
    return float(cloud.setting("durations", {}).get(name, DURATIONS[name]))


def transfer_time(cloud: Cloud, size_bytes: int) -> float:
    """Lab seconds that moving `size_bytes` takes."""
    return size_bytes / duration(cloud, "bytes_per_second")
