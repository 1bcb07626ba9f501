"""What EC2's operations answer on a Eucalyptus cloud where it is not what EC2 answers."""

from __future__ import annotations

from typing import Any

from drpilot.lab import network, snapshots, volumes
from drpilot.lab.cloud import Cloud, Refusal, action, resident
from drpilot.lab.eucalyptus import compute, services
from drpilot.lab.flavors import flavors_of
from drpilot.lab.lookup import read_all

__all__: list[str] = []


@resident
def know_stubs(cloud: Cloud) -> None:
    """The operations that answer and do nothing."""
    names = compute.STUBS[cloud.traits.version] if cloud.traits.eucalyptus else frozenset()
    cloud.stubs = frozenset(("ec2", name) for name in names)


@action("ec2", "DescribeRegions", family="eucalyptus")
def describe_regions(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The one region there is, with the cloud's own endpoint."""
    unknown = [name for name in params.get("RegionNames") or [] if name != cloud.region]
    if unknown:
        return {"Regions": []}
    origin = min(cloud.hosts) if cloud.hosts else "127.0.0.1"
    return {
        "Regions": [
            {
                "RegionName": cloud.region,
                "Endpoint": services.endpoints_of(cloud.traits.version, f"http://{origin}")["ec2"],
            }
        ]
    }


@action("ec2", "DescribeAccountAttributes", family="eucalyptus")
def describe_account_attributes(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """What the account has; which networking, above all. 3.4 has one, and no such action."""
    answer = network.describe_account_attributes(cloud, params)["AccountAttributes"]
    for item in answer:
        if item["AttributeName"] == "supported-platforms":
            item["AttributeValues"] = [{"AttributeValue": "EC2" if cloud.classic else "VPC"}]
    return {"AccountAttributes": answer}


@action("ec2", "DescribeNatGateways", family="eucalyptus")
def describe_nat_gateways(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """None: the lab can't make one."""
    return {"NatGateways": []}


@action("ec2", "DescribeInstanceTypes", family="eucalyptus")
def describe_instance_types(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Eucalyptus' own operation of this name: its reply has other members than EC2's."""
    wanted = params.get("InstanceType") or []
    return {
        "instanceTypeDetails": [
            {"name": name, "cpu": cpus, "disk": 10, "memory": memory}
            for name, (cpus, memory, _) in flavors_of(cloud).items()
            if not wanted or name in wanted
        ]
    }


@action("ec2", "DescribeSnapshots", family="eucalyptus")
def describe_snapshots(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Snapshots as everywhere; RestorableBy is taken."""
    if params.get("RestorableByUserIds") and not {"self", cloud.account} & set(params["RestorableByUserIds"]):
        read_all(cloud, "snapshots", params.get("SnapshotIds"))
        return {"Snapshots": []}
    return snapshots.describe_snapshots(cloud, params)


@action("ec2", "CreateVolume", family="eucalyptus")
def create_volume(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A volume of the only type there is; nothing is encrypted."""
    if params.get("Encrypted"):
        raise Refusal("UnsupportedOperation", "Encrypted volumes are not supported")
    return volumes.create_volume(cloud, params)
