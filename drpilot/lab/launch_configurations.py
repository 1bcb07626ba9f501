"""Launch configurations: what Auto Scaling launched from before there were launch templates.

Source: Amazon EC2 Auto Scaling API reference 2011-01-01. They can't be changed, only replaced. Clouds that follow
the API of those years have nothing else.
"""

from __future__ import annotations

from typing import Any

from drpilot.base.clock import parse_time
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.flavors import check_flavor
from drpilot.lab.keys import check_key_name
from drpilot.lab.lookup import find
from drpilot.lab.marker import page

__all__ = ["CONFIGURATIONS", "GROUPS", "has_configuration", "run_request"]

CONFIGURATIONS = "launch_configurations"
GROUPS = "autoscaling_groups"
"""The table of the groups that launch from them."""
kind(CONFIGURATIONS, "launch-configuration")

_KEPT = (
    "ImageId KeyName SecurityGroups UserData InstanceType KernelId RamdiskId BlockDeviceMappings InstanceMonitoring"
    " SpotPrice IamInstanceProfile EbsOptimized AssociatePublicIpAddress PlacementTenancy MetadataOptions"
)


def has_configuration(cloud: Cloud, name: str) -> bool:
    """Whether there is such a configuration."""
    return name in cloud.table(CONFIGURATIONS)


@action("autoscaling", "CreateLaunchConfiguration")
def create_launch_configuration(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateLaunchConfiguration; AlreadyExists for a name in use."""
    name = params["LaunchConfigurationName"]
    if has_configuration(cloud, name):
        raise Refusal(
            "AlreadyExists",
            f"Launch Configuration by this name already exists - A launch configuration {name}",
        )
    if not params.get("ImageId") or not params.get("InstanceType"):
        raise Refusal(
            "ValidationError",
            "Valid requests must contain either the InstanceID parameter or both the ImageId and InstanceType "
            "parameters.",
        )
    try:
        image = find(cloud, "images", params["ImageId"])
        check_key_name(cloud, params.get("KeyName"))
        check_flavor(cloud, params["InstanceType"], image["Architecture"], None)
        for group in params.get("SecurityGroups") or []:
            if group.startswith("sg-"):
                find(cloud, "groups", group)
    except Refusal as refusal:
        raise Refusal("ValidationError", refusal.message) from None
    unique = cloud.new_hex(32)
    prefix = f"arn:aws:autoscaling:{cloud.region}:{cloud.account}:launchConfiguration"
    row = {member: params[member] for member in _KEPT.split() if params.get(member) is not None}
    row |= {
        "LaunchConfigurationName": name,
        "LaunchConfigurationARN": f"{prefix}:{unique[:8]}:launchConfigurationName/{name}",
        "CreatedTime": cloud.stamp(),
    }
    cloud.table(CONFIGURATIONS)[name] = row
    return {}


@action("autoscaling", "DescribeLaunchConfigurations")
def describe_launch_configurations(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DescribeLaunchConfigurations: a name that is not there is simply missing from the answer."""
    names = params.get("LaunchConfigurationNames")
    rows = [row for key, row in cloud.table(CONFIGURATIONS).peek().items() if not names or key in names]
    size = params.get("MaxRecords") or 50
    shown, token = page(rows, lambda row: str(row["LaunchConfigurationName"]), size, params.get("NextToken"))
    answer = [
        {
            "SecurityGroups": [],
            "BlockDeviceMappings": [],
            **row,
            "CreatedTime": parse_time(row["CreatedTime"]),
        }
        for row in shown
    ]
    return {"LaunchConfigurations": answer, **({"NextToken": token} if token else {})}


@action("autoscaling", "DeleteLaunchConfiguration")
def delete_launch_configuration(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteLaunchConfiguration: ResourceInUse while a group launches from it."""
    name = params["LaunchConfigurationName"]
    if not has_configuration(cloud, name):
        raise Refusal("ValidationError", f"Launch configuration name not found - {name}")
    if any(row.get("configuration") == name for row in cloud.table(GROUPS).peek().values()):
        raise Refusal(
            "ResourceInUse",
            f"Cannot delete launch configuration {name} because it is attached to an AutoScalingGroup",
        )
    del cloud.table(CONFIGURATIONS)[name]
    return {}


def run_request(cloud: Cloud, name: str) -> dict[str, Any]:
    """The parameters of RunInstances that a configuration stands for."""
    row = cloud.table(CONFIGURATIONS).peek().get(name)
    if row is None:
        raise Refusal("ValidationError", f"Launch configuration name not found - {name}")
    same = ("ImageId", "InstanceType", "KeyName", "UserData", "KernelId", "RamdiskId", "BlockDeviceMappings")
    request = {member: row[member] for member in same if row.get(member)}
    groups = row.get("SecurityGroups") or []
    ids, names = (
        [one for one in groups if one.startswith("sg-")],
        [one for one in groups if not one.startswith("sg-")],
    )
    if ids:
        request["SecurityGroupIds"] = ids
    if names:
        request["SecurityGroups"] = names
    profile = row.get("IamInstanceProfile")
    if profile:
        request["IamInstanceProfile"] = {"Arn" if profile.startswith("arn:") else "Name": profile}
    if row.get("InstanceMonitoring"):
        request["Monitoring"] = {"Enabled": bool(row["InstanceMonitoring"].get("Enabled"))}
    return request
