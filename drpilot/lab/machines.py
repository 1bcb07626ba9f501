"""Instances as the delivery services see them: a small reading of the EC2 rows, and the few changes they
make.

Everything that knows how EC2 keeps its rows and is not EC2 itself stands here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from drpilot.lab.cloud import Cloud, Refusal

__all__ = [
    "Machine",
    "Subnet",
    "attached",
    "default_group",
    "default_subnets",
    "has_vpc",
    "launch",
    "machine",
    "running_ids",
    "subnet",
    "template",
    "template_version",
    "untag",
    "vpc_of_address",
    "vpc_of_group",
    "vpc_of_subnet",
    "zone_of_subnet",
]


@dataclass(frozen=True, slots=True)
class Machine:
    """One instance. `data_volumes` are all its volumes but the root, in the order of their devices."""

    instance_id: str
    state: str
    vpc_id: str
    subnet_id: str
    zone: str
    address: str
    public: str
    groups: tuple[str, ...]
    instance_type: str
    root_volume: str | None
    data_volumes: tuple[str, ...]
    user_data: str


@dataclass(frozen=True, slots=True)
class Subnet:
    """One subnet."""

    subnet_id: str
    vpc_id: str
    zone: str
    cidr: str


def _user_data(row: Mapping[str, Any]) -> str:
    text = row.get("_user_data") or row.get("UserData") or ""
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return str(text)


def _volumes(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        item["DeviceName"]: item["Ebs"]["VolumeId"]
        for item in row.get("BlockDeviceMappings") or []
        if (item.get("Ebs") or {}).get("Status", "attached") == "attached"
    }


def attached(cloud: Cloud, instance_id: str) -> dict[str, str]:
    """The volumes of an instance but its root, by the names of their devices."""
    row = cloud.table("instances").peek().get(instance_id) or {}
    return {name: volume for name, volume in _volumes(row).items() if name != row.get("RootDeviceName")}


def _read(row: Mapping[str, Any]) -> Machine:
    volumes = _volumes(row)
    root = volumes.pop(str(row.get("RootDeviceName")), None) or row.get("_root")
    return Machine(
        instance_id=row["InstanceId"],
        state=row["State"]["Name"],
        vpc_id=row.get("VpcId") or "",
        subnet_id=row.get("SubnetId") or "",
        zone=row["Placement"]["AvailabilityZone"],
        address=row.get("PrivateIpAddress") or "",
        public=row.get("PublicIpAddress") or "",
        groups=tuple(group["GroupId"] for group in row.get("SecurityGroups") or []),
        instance_type=row["InstanceType"],
        root_volume=root,
        data_volumes=tuple(volume_id for _, volume_id in sorted(volumes.items())),
        user_data=_user_data(row),
    )


def machine(cloud: Cloud, instance_id: str) -> Machine | None:
    """One instance, None when there is no such row."""
    row = cloud.table("instances").peek().get(instance_id)
    return None if row is None else _read(row)


def running_ids(cloud: Cloud) -> set[str]:
    """The ids of all running instances."""
    rows = cloud.table("instances").peek().items()
    return {instance_id for instance_id, row in rows if row["State"]["Name"] == "running"}


def subnet(cloud: Cloud, subnet_id: str) -> Subnet | None:
    """One subnet, None when there is no such row."""
    row = cloud.table("subnets").peek().get(subnet_id)
    if row is None:
        return None
    return Subnet(subnet_id, row["VpcId"], row["AvailabilityZone"], row["CidrBlock"])


def zone_of_subnet(cloud: Cloud, subnet_id: str) -> str:
    """The zone of a subnet; empty when it is gone."""
    found = subnet(cloud, subnet_id)
    return found.zone if found else ""


def vpc_of_subnet(cloud: Cloud, subnet_id: str) -> str:
    """The VPC of a subnet; empty when it is gone."""
    found = subnet(cloud, subnet_id)
    return found.vpc_id if found else ""


def default_subnets(cloud: Cloud, zones: Iterable[str]) -> list[str]:
    """The default subnets of some zones: none where the account has no default VPC."""
    wanted = set(zones)
    rows = cloud.table("subnets").peek().items()
    return [key for key, row in rows if row.get("DefaultForAz") and row["AvailabilityZone"] in wanted]


def has_vpc(cloud: Cloud, vpc_id: str) -> bool:
    """Whether there is such a VPC."""
    return vpc_id in cloud.table("vpcs")


def vpc_of_address(cloud: Cloud, address: str) -> str | None:
    """The VPC whose block holds an address, None when there is none or it is no address."""
    try:
        wanted = ip_address(address)
    except ValueError:
        return None
    for vpc_id, row in cloud.table("vpcs").peek().items():
        if wanted in ip_network(row["CidrBlock"]):
            return vpc_id
    return None


def vpc_of_group(cloud: Cloud, group_id: str) -> str | None:
    """The VPC of a security group, None when there is no such group."""
    row = cloud.table("groups").peek().get(group_id)
    return None if row is None else str(row["VpcId"])


def default_group(cloud: Cloud, vpc_id: str) -> str:
    """The default security group of a VPC."""
    for group_id, row in cloud.table("groups").peek().items():
        if row["VpcId"] == vpc_id and row["GroupName"] == "default":
            return group_id
    raise Refusal("InvalidSecurityGroup", f"The VPC '{vpc_id}' has no default security group")


def template(cloud: Cloud, given: Mapping[str, Any]) -> dict[str, str] | None:
    """Id, name and version (`$Default`, `$Latest` or a number) of a launch template; None when not there."""
    wanted = {name: given[name] for name in ("LaunchTemplateId", "LaunchTemplateName") if given.get(name)}
    version = str(given.get("Version") or "$Default")
    try:
        shown = cloud.invoke("ec2", "DescribeLaunchTemplateVersions", {**wanted, "Versions": [version]})
    except Refusal:
        return None
    found = shown["LaunchTemplateVersions"]
    if not found:
        return None
    return {"id": found[0]["LaunchTemplateId"], "name": found[0]["LaunchTemplateName"], "version": version}


def template_version(cloud: Cloud, kept: Mapping[str, str]) -> str:
    """The number that a kept template version means now."""
    request = {"LaunchTemplateId": kept["id"], "Versions": [kept["version"]]}
    shown = cloud.invoke("ec2", "DescribeLaunchTemplateVersions", request)["LaunchTemplateVersions"]
    return str(shown[0]["VersionNumber"])


def launch(cloud: Cloud, given: Mapping[str, Any], subnet_id: str, tags: list[dict[str, str]]) -> str:
    """Launch one instance and tag it, also with tags that only the cloud itself may set; gives its id.

    `given` are parameters of RunInstances: a launch template, or what a launch configuration stands for.
    """
    request = {
        **given,
        "SubnetId": subnet_id,
        "MinCount": 1,
        "MaxCount": 1,
    }
    made = cloud.invoke("ec2", "RunInstances", request)["Instances"][0]
    instance_id: str = made["InstanceId"]
    row = cloud.table("instances")[instance_id]
    merged = {tag["Key"]: tag["Value"] for tag in [*(row.get("Tags") or []), *tags]}
    row["Tags"] = [{"Key": key, "Value": value} for key, value in merged.items()]
    return instance_id


def untag(cloud: Cloud, instance_id: str, key: str) -> None:
    """Take one tag off an instance."""
    row = cloud.table("instances").get(instance_id)
    if row is not None:
        row["Tags"] = [tag for tag in row.get("Tags") or [] if tag["Key"] != key]
