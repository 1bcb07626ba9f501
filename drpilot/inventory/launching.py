"""What a cloud hands a machine at its first boot: the launch template of a scaling group, and user data.

User data often holds passwords. So a group, and with it the journal and every report, knows only its SHA-256; the
text is read from a cloud at the moment another one needs it.

Sources: Amazon EC2 API reference (DescribeInstanceAttribute, DescribeLaunchTemplateVersions) and Auto Scaling API
reference (DescribeLaunchConfigurations).
"""

from __future__ import annotations

import hashlib

from drpilot.domain.plain import Json
from drpilot.domain.ports import Site

__all__ = [
    "attribute",
    "digest_of",
    "group_user_data",
    "instance_user_data",
    "launched_by",
]


def digest_of(user_data: str | None) -> str | None:
    """The SHA-256 (hex) of user data as the API has it, base64; None where there is none."""
    return hashlib.sha256(user_data.encode()).hexdigest() if user_data else None


def attribute(site: Site, instance: str, name: str, member: str) -> Json | None:
    """One attribute that DescribeInstances does not tell."""
    params = {"InstanceId": instance, "Attribute": name}
    found: Json | None = site.call("ec2", "DescribeInstanceAttribute", params).get(member)
    return found


def instance_user_data(site: Site, instance: str) -> str | None:
    """The user data of an instance, base64; None where it has none."""
    return (attribute(site, instance, "userData", "UserData") or {}).get("Value") or None


def launched_by(site: Site, group: Json) -> tuple[Json, Json, str]:
    """What a described scaling group launches: the template it names, that template's data, and its version.

    A launch configuration is given in the words of a template, with an empty template; it can't be changed, so its name
    is its version.
    """
    mixed = (group.get("MixedInstancesPolicy") or {}).get("LaunchTemplate") or {}
    template = group.get("LaunchTemplate") or mixed.get("LaunchTemplateSpecification")
    if template is None:
        name = str(group.get("LaunchConfigurationName") or "")
        return {}, _launch_configuration(site, name) if name else {}, name
    version = _template_version(site, template)
    return template, version.get("LaunchTemplateData") or {}, str(version.get("VersionNumber", ""))


def group_user_data(site: Site, name: str) -> str | None:
    """The user data of what the scaling group `name` launches, base64; None where there is none."""
    for page in site.pages("autoscaling", "DescribeAutoScalingGroups", {"AutoScalingGroupNames": [name]}):
        for group in page.get("AutoScalingGroups") or ():
            return launched_by(site, group)[1].get("UserData") or None
    return None


def _template_version(site: Site, template: Json) -> Json:
    """The version of a launch template that a group uses; the API resolves `$Latest` and `$Default`."""
    named = {name: template[name] for name in ("LaunchTemplateId",) if template.get(name)}
    named = named or {"LaunchTemplateName": template.get("LaunchTemplateName", "")}
    params = {**named, "Versions": [str(template.get("Version") or "$Default")]}
    versions: list[Json] = (
        site.call("ec2", "DescribeLaunchTemplateVersions", params).get("LaunchTemplateVersions") or []
    )
    return versions[0] if versions else {}


def _launch_configuration(site: Site, name: str) -> Json:
    """A launch configuration in the words of a launch template; older clouds have nothing else."""
    params = {"LaunchConfigurationNames": [name]}
    found = site.call("autoscaling", "DescribeLaunchConfigurations", params).get("LaunchConfigurations") or [
        {}
    ]
    profile = found[0].get("IamInstanceProfile") or ""
    given = found[0].get("SecurityGroups") or []
    return {
        **{
            key: found[0].get(key)
            for key in ("ImageId", "InstanceType", "KeyName", "UserData", "MetadataOptions")
        },
        "SecurityGroupIds": [group for group in given if group.startswith("sg-")],
        "SecurityGroups": [group for group in given if not group.startswith("sg-")],
        "BlockDeviceMappings": found[0].get("BlockDeviceMappings") or [],
        "IamInstanceProfile": {"Arn" if profile.startswith("arn:") else "Name": profile} if profile else {},
    }
