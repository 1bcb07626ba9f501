"""A cloud that refuses what it does not know, as Eucalyptus does: for tests of what really goes out.

Its tables are its own, in the words of the wire (`BlockDeviceMapping.1.Ebs.SnapshotId`), so that a mistake in the
dialect's tables can't agree with itself here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from drpilot.base.clock import Chance, ManualClock
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.clouds.site import BotoSite, Ways
from tests.grounds import Answering, Heard, answering, key_file, response

ACCOUNT = "000123456789"
_SIGNING = {
    "Action",
    "AWSAccessKeyId",
    "Signature",
    "SignatureMethod",
    "SignatureVersion",
    "Timestamp",
    "Version",
}
_EVERY = {
    "AttachVolume": "VolumeId InstanceId Device",
    "CreateImage": "InstanceId Name Description NoReboot",
    "CreateSecurityGroup": "GroupName GroupDescription",
    "CreateSnapshot": "VolumeId Description",
    "CreateTags": "ResourceId.# Tag.#.Key Tag.#.Value",
    "CreateVolume": "Size SnapshotId AvailabilityZone VolumeType Iops",
    "DescribeImages": "ImageId.# Owner.# ExecutableBy.# Filter.#.Name Filter.#.Value.#",
    "DescribeInstances": "InstanceId.# Filter.#.Name Filter.#.Value.#",
    "DescribeRegions": "RegionName.# Filter.#.Name Filter.#.Value.#",
    "DescribeSecurityGroups": "GroupId.# GroupName.# Filter.#.Name Filter.#.Value.#",
    "DescribeSnapshots": "SnapshotId.# Owner.# RestorableBy.# Filter.#.Name Filter.#.Value.#",
    "DescribeVolumes": "VolumeId.# Filter.#.Name Filter.#.Value.#",
    "RegisterImage": "ImageLocation Name Description Architecture KernelId RamdiskId RootDeviceName"
    " VirtualizationType BlockDeviceMapping.#.DeviceName BlockDeviceMapping.#.Ebs.SnapshotId"
    " BlockDeviceMapping.#.Ebs.VolumeSize BlockDeviceMapping.#.Ebs.DeleteOnTermination"
    " BlockDeviceMapping.#.Ebs.VolumeType",
    "RunInstances": "ImageId MinCount MaxCount KeyName SecurityGroup.# SecurityGroupId.# UserData InstanceType"
    " Placement.AvailabilityZone SubnetId PrivateIpAddress ClientToken DisableApiTermination"
    " IamInstanceProfile.Name IamInstanceProfile.Arn BlockDeviceMapping.#.DeviceName"
    " BlockDeviceMapping.#.Ebs.VolumeType BlockDeviceMapping.#.Ebs.DeleteOnTermination",
    "StopInstances": "InstanceId.# Force",
}
_PAGED = dict.fromkeys(("DescribeInstances", "DescribeSnapshots", "DescribeVolumes"), " MaxResults NextToken")
_SPECIFIED = " TagSpecification.#.ResourceType TagSpecification.#.Tag.#.Key TagSpecification.#.Tag.#.Value"
_MORE: Mapping[str, Mapping[str, str]] = {
    "eucalyptus-3.4": {},
    "eucalyptus-4.4": {
        **_PAGED,
        "CreateSecurityGroup": " VpcId",
        "CreateSubnet": "VpcId CidrBlock AvailabilityZone",
        "CreateVolume": " Encrypted",
        "CreateVpc": "CidrBlock InstanceTenancy",
        "DescribeAccountAttributes": "AttributeName.#",
        "DescribeConversionTasks": "ConversionTaskId.#",
        "GetCallerIdentity": "",
        "ImportVolume": "AvailabilityZone Description Image.Format Image.Bytes Image.ImportManifestUrl Volume.Size",
    },
    "eucalyptus-5": {
        **_PAGED,
        "CreateSecurityGroup": " VpcId",
        "CreateSnapshot": _SPECIFIED,
        "CreateVolume": " Encrypted KmsKeyId" + _SPECIFIED,
        "DescribeAccountAttributes": "AttributeName.#",
        "DescribeConversionTasks": "ConversionTaskId.#",
        "DescribeLaunchTemplates": "LaunchTemplateId.# MaxResults NextToken",
        "GetCallerIdentity": "",
        "RunInstances": _SPECIFIED,
    },
}
_ANSWERS = {
    "CreateImage": "<imageId>emi-15A1386E</imageId>",
    "CreateSecurityGroup": "<groupId>sg-0A0B0C0D</groupId>",
    "CreateSnapshot": "<snapshotId>snap-1A2B3C4D</snapshotId>",
    "CreateSubnet": "<subnet><subnetId>subnet-1</subnetId></subnet>",
    "CreateVolume": "<volumeId>vol-5A6B7C8D</volumeId>",
    "CreateVpc": "<vpc><vpcId>vpc-1</vpcId></vpc>",
    "AttachVolume": "<volumeId>vol-5A6B7C8D</volumeId><status>attaching</status>",
    "DescribeAccountAttributes": "<accountAttributeSet><item><attributeName>supported-platforms</attributeName>"
    "<attributeValueSet><item><attributeValue>EC2</attributeValue></item></attributeValueSet></item>"
    "</accountAttributeSet>",
    "DescribeSecurityGroups": f"<securityGroupInfo><item><ownerId>{ACCOUNT}</ownerId><groupName>default</groupName>"
    "</item></securityGroupInfo>",
    "GetCallerIdentity": "<GetCallerIdentityResult><Arn>arn:aws:iam::000123456789:user/ops</Arn>"
    f"<Account>{ACCOUNT}</Account></GetCallerIdentityResult>",
    "ImportVolume": "<conversionTask><conversionTaskId>import-vol-1</conversionTaskId></conversionTask>",
    "RegisterImage": "<imageId>emi-15A1386E</imageId>",
    "RunInstances": "<instancesSet><item><instanceId>i-6F2A0C11</instanceId></item></instancesSet>",
}


def form(heard: Heard) -> dict[str, str]:
    """The parameters of a query request."""
    text = heard.body.decode() or urlsplit(heard.path).query
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}


class Strict:
    """The script of such a cloud; `answers` replaces the canned answer of an operation."""

    def __init__(self, cloud: str, answers: Mapping[str, str | bytes] | None = None) -> None:
        more = _MORE[cloud]
        self.known = {
            name: (_EVERY.get(name, "") + more.get(name, "")).split() for name in {**_EVERY, **more}
        }
        self.answers: dict[str, str | bytes] = {**_ANSWERS, **(answers or {})}
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.heard: list[Heard] = []

    def __call__(self, heard: Heard, number: int) -> bytes:
        """Refuse what is not in the table, with the message of the real one."""
        self.heard.append(heard)
        given = form(heard)
        action = given.get("Action", "")
        asked = {name: value for name, value in given.items() if name not in _SIGNING}
        self.calls.append((action, asked))
        if action not in self.known:
            return _refused(f"Failed to find corresponding class mapping for element: {action}")
        unknown = [name for name in asked if re.sub(r"\.\d+", ".#", name) not in self.known[action]]
        if unknown:
            wrong = "\n".join(f"{name} = {asked[name]}" for name in unknown)
            return _refused(f"Failed to bind the following fields:\n{wrong}")
        answer = self.answers.get(action, "<return>true</return>")
        if isinstance(answer, bytes):
            return answer
        return response(f"<{action}Response>{answer}</{action}Response>")

    def asked(self, action: str) -> list[dict[str, str]]:
        """The parameters of each call of `action`."""
        return [given for name, given in self.calls if name == action]


def _refused(message: str) -> bytes:
    """A request that never reached a service, in the words of the real one."""
    body = f"<Error><Code>400 Bad Request</Code><Message>{message}</Message></Error>"
    return response(f"<Response><Errors>{body}</Errors></Response>", 400, kind="text/plain; charset=UTF-8")


@contextmanager
def strict(
    cloud: str, folder: Path, answers: Mapping[str, str | bytes] | None = None
) -> Iterator[tuple[BotoSite, Strict]]:
    """A site of that kind of cloud before its strict server."""
    script = Strict(cloud, answers)
    with answering(script) as server:
        site = opened(cloud, server, folder)
        try:
            yield site, script
        finally:
            site.close()


def opened(cloud: str, server: Answering, folder: Path, **more: object) -> BotoSite:
    """A site of that kind of cloud at `server`, with a manual clock and no environment."""
    settings = SiteSettings(
        name="milan",
        cloud=cloud,
        region="eucalyptus",
        endpoints={"default": server.url},
        credentials=CredentialsReference("file", str(key_file(folder))),
        **more,  # type: ignore[arg-type]
    )
    return BotoSite(Clients(settings, environment={}), Ways(clock=ManualClock(), chance=Chance(3)))


def tag_filters(given: Mapping[str, str]) -> dict[str, str]:
    """The filters of a listing, name → first value."""
    numbers = {name.split(".")[1] for name in given if name.startswith("Filter.")}
    return {given[f"Filter.{number}.Name"]: unquote(given[f"Filter.{number}.Value.1"]) for number in numbers}
