"""What drpilot may do on a site, asked by DryRun of every changing EC2 call that an action names.

The list comes from the actions' own `permissions`. DryRun is believed only where it proves itself first: there are
clouds that carry the call out instead. So each question names things that never were: there is nothing to change. A
cloud that answers "there is no such thing" before it has judged the permission says neither yes nor no.

Sources: Amazon EC2 API reference (Common query parameters, DryRun) and botocore's model of EC2 (which calls take it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from drpilot.base.errors import Finding
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.services.checked import Checked, bad, ok, unknown
from drpilot.services.house import House
from drpilot.services.together import Task, together

__all__ = ["NOT_ASKED", "QUESTIONS", "needed", "permissions"]

NOT_ASKED = "not asked"
"""The check that names what DryRun does not tell. It is no finding, and not unknown either: it is so by nature, and a
look that could never end well would be of no use to anybody.
"""

BOUND_S = 20.0
_NOBODY = "drpilot-dry-run-probe"
_INSTANCE = "i-00000000000000000"
_VOLUME = "vol-00000000000000000"
_SNAPSHOT = "snap-00000000000000000"
_IMAGE = "ami-00000000000000000"
_VPC = "vpc-00000000000000000"
_SUBNET = "subnet-00000000000000000"
_GROUP = "sg-00000000000000000"
_ADDRESS = "eipalloc-00000000000000000"
_TEMPLATE = "lt-00000000000000000"
_CIDR = "10.255.255.0/28"
_RULES: Json = {"GroupId": _GROUP, "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": _CIDR}]}]}
_TAGS: Json = {"Resources": [_INSTANCE], "Tags": [{"Key": "drpilot:run", "Value": _NOBODY}]}
_SHARE: Json = {"OperationType": "add", "UserIds": ["000000000000"]}
_HERE = "{region}"
_ZONE = "{zone}"

# The public half of a key that nobody has: RFC 8032, section 7.1, test 1.
_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"
QUESTIONS: Mapping[str, Json] = {
    "AllocateAddress": {"Domain": "vpc"},
    "AssociateAddress": {"AllocationId": _ADDRESS, "InstanceId": _INSTANCE},
    "AttachVolume": {"InstanceId": _INSTANCE, "VolumeId": _VOLUME, "Device": "/dev/sdz"},
    "AuthorizeSecurityGroupEgress": _RULES,
    "AuthorizeSecurityGroupIngress": _RULES,
    "CopyImage": {"Name": _NOBODY, "SourceImageId": _IMAGE, "SourceRegion": _HERE},
    "CopySnapshot": {"SourceRegion": _HERE, "SourceSnapshotId": _SNAPSHOT},
    "CreateLaunchTemplate": {
        "LaunchTemplateName": _NOBODY,
        "LaunchTemplateData": {"InstanceType": "t3.small"},
    },
    "CreateLaunchTemplateVersion": {
        "LaunchTemplateId": _TEMPLATE,
        "LaunchTemplateData": {"InstanceType": "t3.small"},
    },
    "CancelConversionTask": {"ConversionTaskId": "import-vol-00000000000000000"},
    "CreateSecurityGroup": {"GroupName": _NOBODY, "Description": "asked by DryRun only"},
    "CreateSnapshot": {"VolumeId": _VOLUME},
    "CreateSnapshots": {"InstanceSpecification": {"InstanceId": _INSTANCE}},
    "CreateSubnet": {"VpcId": _VPC, "CidrBlock": _CIDR},
    "CreateTags": _TAGS,
    "CreateVolume": {"AvailabilityZone": _ZONE, "Size": 1},
    "CreateVpc": {"CidrBlock": _CIDR},
    "DeleteLaunchTemplate": {"LaunchTemplateId": _TEMPLATE},
    "DeleteSecurityGroup": {"GroupId": _GROUP},
    "DeleteSnapshot": {"SnapshotId": _SNAPSHOT},
    "DeleteSubnet": {"SubnetId": _SUBNET},
    "DeleteTags": _TAGS,
    "DeleteVolume": {"VolumeId": _VOLUME},
    "DeleteVpc": {"VpcId": _VPC},
    "DeregisterImage": {"ImageId": _IMAGE},
    "DetachVolume": {"VolumeId": _VOLUME},
    "DisassociateAddress": {"AssociationId": "eipassoc-00000000000000000"},
    "ImportKeyPair": {"KeyName": _NOBODY, "PublicKeyMaterial": _KEY},
    "ImportVolume": {
        "AvailabilityZone": _ZONE,
        "Image": {"Format": "RAW", "Bytes": 1, "ImportManifestUrl": "https://192.0.2.1/manifest.xml"},
        "Volume": {"Size": 1},
    },
    "ModifyImageAttribute": {"ImageId": _IMAGE, "Attribute": "launchPermission", **_SHARE},
    "ModifyInstanceAttribute": {"InstanceId": _INSTANCE, "DisableApiTermination": {"Value": False}},
    "ModifySnapshotAttribute": {
        "SnapshotId": _SNAPSHOT,
        "Attribute": "createVolumePermission",
        **_SHARE,
    },
    "RegisterImage": {
        "Name": _NOBODY,
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": _SNAPSHOT}}],
    },
    "ReleaseAddress": {"AllocationId": _ADDRESS},
    "RevokeSecurityGroupEgress": _RULES,
    "RevokeSecurityGroupIngress": _RULES,
    "RunInstances": {"ImageId": _IMAGE, "InstanceType": "t3.small", "MinCount": 1, "MaxCount": 1},
    "StartInstances": {"InstanceIds": [_INSTANCE]},
    "StopInstances": {"InstanceIds": [_INSTANCE]},
    "TerminateInstances": {"InstanceIds": [_INSTANCE]},
}
"""The parameters of each question. Some of them would make something new, and nothing else, on a cloud that lied about
DryRun; `_trusted` has found out before.
"""

_ITEMS = {"dynamodb:GetItem", "dynamodb:PutItem"}


def needed(house: House, name: str) -> tuple[str, ...]:
    """What the actions need on a site, as IAM calls it, sorted.

    A site that is neither side of a group but holds the witness or a name needs no more than those.
    """
    every = {item for action in house.catalogue.values() for item in action.permissions}
    views = house.journal.groups()
    sides = {site for view in views for site in (view.group.primary, view.group.secondary)}
    witness = house.configuration.witness
    thirds = {view.group.traffic.site for view in views if view.group.traffic is not None}
    thirds |= {witness.site} if witness is not None and witness.bucket else set()
    third = ("route53:", "s3:")
    if name in sides:
        here = {item for item in every if name in thirds or not item.startswith(third)}
    else:
        here = {item for item in every if item.startswith(third)} if name in thirds else every
    if witness is not None and witness.table and witness.site == name:
        here = _ITEMS | (here if name in sides | thirds else set())
    return tuple(sorted(here))


def _looks(permission: str) -> bool:
    """Whether it is for looking, which every look itself asks for."""
    return permission.partition(":")[2].startswith(("Describe", "Get", "List", "Test"))


def _operation(permission: str) -> str:
    service, _, operation = permission.partition(":")
    return operation if service == "ec2" else ""


def permissions(site: Site, wanted: Iterable[str], bound_s: float = BOUND_S) -> Iterator[Checked]:
    """One check for each changing EC2 call, all at once and within `bound_s` seconds; a denial is bad.

    Then one that names what was not told: calls of other services, and those whose answer was neither yes nor no.
    """
    changing = [each for each in wanted if not _looks(each)]
    untold = [each for each in changing if _operation(each) not in QUESTIONS]
    operations = [each for each in map(_operation, changing) if each in QUESTIONS]
    if operations and "dry-run" not in site.capabilities:
        yield ok("permissions", site.name, "asked by DryRun where the cloud has it", "it has none: not asked")
        return
    if operations and not _trusted(site):
        why = "DryRun can't be trusted here; nothing was asked"
        yield unknown("permissions", site.name, "DryRun answers", why)
        return
    facts = {_HERE: site.region, _ZONE: _zone(site) if operations else ""}
    tasks = [Task(f"ec2:{each}", site.name, partial(_question, site, each, facts)) for each in operations]
    for answer in together(tasks, bound_s):
        if answer.observed == _NEITHER_WORD:
            untold.append(answer.name)
        else:
            yield answer
    if untold:
        yield ok(NOT_ASKED, site.name, "told by DryRun", ", ".join(sorted(untold)))


_NEITHER_WORD = "neither yes nor no"


def _question(site: Site, operation: str, facts: Mapping[str, str]) -> Iterator[Checked]:
    params = {
        key: facts.get(value, value) if isinstance(value, str) else value
        for key, value in QUESTIONS[operation].items()
    }
    may = _asked(site, operation, params)
    what = f"ec2:{operation}"
    if may is None:
        yield ok(what, site.name, "allowed", _NEITHER_WORD)
    elif may:
        yield ok(what, site.name, "allowed", "allowed")
    else:
        message = f"{what} is not allowed on {site.name}"
        hint = f"allow {what} in the policy of the role drpilot uses"
        finding = Finding("permission-missing", "error", message, site.name, hint)
        yield bad(what, site.name, "allowed", "denied", finding)


_NEITHER = (FailureClass.NOT_FOUND, FailureClass.INVALID, FailureClass.REJECTED, FailureClass.CONFLICT)


def _asked(site: Site, operation: str, params: Json) -> bool | None:
    """Whether we may; None where the site finds fault with what was named. CloudError where it gives no answer."""
    try:
        site.call("ec2", operation, {**params, "DryRun": True})
    except CloudError as error:
        if error.code == "DryRunOperation":
            return True
        if error.kind is FailureClass.AUTH:
            return False
        if error.kind not in _NEITHER:
            raise
    return None


def _trusted(site: Site) -> bool:
    """Whether DryRun holds calls back: deleting what never was says so, or is denied where looking says so."""
    try:
        may = _asked(site, "DeleteKeyPair", {"KeyName": _NOBODY})
        return may is True or (may is False and _asked(site, "DescribeRegions", {}) is True)
    except CloudError:
        return False


def _zone(site: Site) -> str:
    """A zone of the site; any text where it does not tell, for the answer is then neither yes nor no."""
    try:
        zones = site.call("ec2", "DescribeAvailabilityZones", {}).get("AvailabilityZones") or [{}]
    except CloudError:
        return f"{site.region}a"
    return str(zones[0].get("ZoneName", ""))
