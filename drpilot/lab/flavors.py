"""Instance types: what each has, and where it is offered.

Sizes: EC2 instance types guide, general purpose, compute and memory optimized.
"""

from __future__ import annotations

from typing import Any

from drpilot.lab.cloud import Cloud, action
from drpilot.lab.filters import field, matching, paged
from drpilot.lab.lookup import zone_names
from drpilot.lab.refusal import Refusal

__all__ = ["FLAVORS", "check_flavor", "flavors_of", "vcpus"]

_SIZES = {
    # family: (GiB of memory a vCPU, architecture, sizes)
    "m5": (4.0, "x86_64", ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge")),
    "m6i": (4.0, "x86_64", ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge")),
    "m7g": (4.0, "arm64", ("medium", "large", "xlarge", "2xlarge", "4xlarge")),
    "c5": (2.0, "x86_64", ("large", "xlarge", "2xlarge", "4xlarge")),
    "c6i": (2.0, "x86_64", ("large", "xlarge", "2xlarge", "4xlarge")),
    "r5": (8.0, "x86_64", ("large", "xlarge", "2xlarge", "4xlarge")),
    "r6i": (8.0, "x86_64", ("large", "xlarge", "2xlarge", "4xlarge")),
}
_VCPUS = {"medium": 1, "large": 2, "xlarge": 4, "2xlarge": 8, "4xlarge": 16, "8xlarge": 32}
_BURST = {
    "nano": (2, 512),
    "micro": (2, 1024),
    "small": (2, 2048),
    "medium": (2, 4096),
    "large": (2, 8192),
    "xlarge": (4, 16384),
    "2xlarge": (8, 32768),
}


def _make() -> dict[str, tuple[int, int, str]]:
    found = {
        f"{family}.{size}": (cpus, memory, "arm64" if family == "t4g" else "x86_64")
        for family in ("t3", "t3a", "t4g")
        for size, (cpus, memory) in _BURST.items()
    }
    found["t2.micro"], found["t2.small"] = (1, 1024, "x86_64"), (1, 2048, "x86_64")
    found["t2.medium"], found["t2.large"] = (2, 4096, "x86_64"), (2, 8192, "x86_64")
    for family, (ratio, architecture, sizes) in _SIZES.items():
        for size in sizes:
            cpus = _VCPUS[size]
            found[f"{family}.{size}"] = (cpus, int(cpus * ratio * 1024), architecture)
    return found


FLAVORS: dict[str, tuple[int, int, str]] = _make()
"""vCPUs, memory in MiB and architecture by instance type."""


EUCALYPTUS_FLAVORS: dict[str, tuple[int, int, str]] = {
    name: (cpus, memory, "x86_64")
    for name, cpus, memory in (
        ("t1.micro", 1, 256),
        ("m1.small", 1, 512),
        ("m1.medium", 1, 1024),
        ("m1.large", 2, 1024),
        ("m1.xlarge", 2, 2048),
        ("c1.medium", 2, 1024),
        ("c1.xlarge", 2, 2048),
        ("m2.xlarge", 2, 2048),
        ("m2.2xlarge", 2, 4096),
        ("m2.4xlarge", 8, 4096),
        ("m3.xlarge", 4, 2048),
        ("m3.2xlarge", 4, 4096),
        ("cc1.4xlarge", 8, 3072),
        ("cc2.8xlarge", 16, 6144),
    )
}
"""The types of a Eucalyptus cloud; their sizes are the operator's to set, these are the lab's."""


def flavors_of(cloud: Cloud) -> dict[str, tuple[int, int, str]]:
    """The types of a site's dialect."""
    return EUCALYPTUS_FLAVORS if cloud.traits.eucalyptus else FLAVORS


def vcpus(name: str) -> int:
    """VCPUs of an instance type."""
    return (FLAVORS.get(name) or EUCALYPTUS_FLAVORS[name])[0]


def check_flavor(cloud: Cloud, name: str, architecture: str | None, zone: str | None) -> None:
    """Refuse a type that does not exist, does not fit the image or is not offered in the zone (tunable
    `not_offered`: a list of `type` or `zone/type`).
    """
    flavors = flavors_of(cloud)
    if name not in flavors:
        raise Refusal("InvalidParameterValue", f"Invalid value '{name}' for InstanceType.")
    own = flavors[name][2]
    runs = (own, "i386") if cloud.traits.eucalyptus else (own,)
    if architecture is not None and architecture not in runs:
        raise Refusal(
            "InvalidParameterValue",
            f"The architecture '{own}' of the specified instance type does not match the "
            f"architecture '{architecture}' of the specified AMI.",
        )
    if zone is not None and not _offered(cloud, name, zone):
        raise Refusal(
            "Unsupported",
            f"Your requested instance type ({name}) is not supported in your requested Availability Zone "
            f"({zone}).",
        )


def _offered(cloud: Cloud, name: str, zone: str) -> bool:
    missing = cloud.setting("not_offered", [])
    return name not in missing and f"{zone}/{name}" not in missing


_TYPE_FILTERS = {
    "instance-type": field("InstanceType"),
    "current-generation": field("CurrentGeneration"),
    "vcpu-info.default-vcpus": field("VCpuInfo", "DefaultVCpus"),
    "memory-info.size-in-mib": field("MemoryInfo", "SizeInMiB"),
    "processor-info.supported-architecture": field("ProcessorInfo", "SupportedArchitectures"),
    "burstable-performance-supported": field("BurstablePerformanceSupported"),
}


@action("ec2", "DescribeInstanceTypes")
def describe_instance_types(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """What the types have; those offered in no zone are left out."""
    wanted = params.get("InstanceTypes") or []
    for name in wanted:
        if name not in FLAVORS or not any(_offered(cloud, name, zone) for zone in zone_names(cloud)):
            raise Refusal(
                "InvalidInstanceType", f"The following supplied instance types do not exist: [{name}]"
            )
    rows = [
        {
            "InstanceType": name,
            "CurrentGeneration": not name.startswith("t2."),
            "SupportedUsageClasses": ["on-demand"],
            "SupportedRootDeviceTypes": ["ebs"],
            "SupportedVirtualizationTypes": ["hvm"],
            "BareMetal": False,
            "Hypervisor": "nitro",
            "ProcessorInfo": {"SupportedArchitectures": [architecture]},
            "VCpuInfo": {"DefaultVCpus": cpus},
            "MemoryInfo": {"SizeInMiB": memory},
            "InstanceStorageSupported": False,
            "EbsInfo": {"EbsOptimizedSupport": "default", "EncryptionSupport": "supported"},
            "NetworkInfo": {"MaximumNetworkInterfaces": 4, "Ipv4AddressesPerInterface": 15},
            "BurstablePerformanceSupported": name.startswith("t"),
        }
        for name, (cpus, memory, architecture) in FLAVORS.items()
        if (not wanted or name in wanted) and any(_offered(cloud, name, zone) for zone in zone_names(cloud))
    ]
    rows = matching(rows, params.get("Filters"), _TYPE_FILTERS)
    page, token = paged(params, rows, ids="InstanceTypes", most=100)
    return {"InstanceTypes": page, "NextToken": token}


@action("ec2", "DescribeInstanceTypeOfferings")
def describe_instance_type_offerings(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Where the types are offered: in the region, or zone by zone."""
    kind = params.get("LocationType", "region")
    if kind not in ("region", "availability-zone"):
        raise Refusal("InvalidParameterValue", f"Value ({kind}) for parameter locationType is invalid.")
    places = [cloud.region] if kind == "region" else zone_names(cloud)
    rows = [
        {"InstanceType": name, "LocationType": kind, "Location": place}
        for place in places
        for name in FLAVORS
        if any(_offered(cloud, name, zone) for zone in (zone_names(cloud) if kind == "region" else [place]))
    ]
    known = {"instance-type": field("InstanceType"), "location": field("Location")}
    page, token = paged(params, matching(rows, params.get("Filters"), known))
    return {"InstanceTypeOfferings": page, "NextToken": token}
