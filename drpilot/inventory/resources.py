"""One resource of a site as a value: an instance or a scaling group, whole (load balancers: balancing.py).

All searching is done by the cloud (filters), never by listing an account. Security groups, target groups and
instance profiles are named by their names, because ids mean nothing on the other side; of user data only the digest
is kept (see launching.py). An instance of a drill (tag `drpilot:drill`) is nobody's member.

Sources: Amazon EC2 API reference (DescribeInstances, DescribeVolumes), Auto Scaling and Elastic Load Balancing API
references.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from drpilot.domain.group import Instance, ScalingGroup, Volume
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.inventory.launching import attribute, digest_of, instance_user_data, launched_by

__all__ = [
    "DRILL_TAG",
    "FILTER_VALUES",
    "MEMBER_TAG",
    "chunks",
    "described",
    "group_names",
    "instances_where",
    "lacking",
    "plain_tags",
    "refused",
    "scaling_group",
    "scaling_groups",
    "scaling_groups_tagged",
    "tag_filter",
    "tags_of",
    "target_groups",
]

MEMBER_TAG = "drpilot:member"
DRILL_TAG = "drpilot:drill"
_SCALING_TAG = "aws:autoscaling:groupName"
_LIVE_STATES = ("pending", "running", "stopping", "stopped")

_METADATA = (
    "HttpTokens",
    "HttpPutResponseHopLimit",
    "HttpEndpoint",
    "HttpProtocolIpv6",
    "InstanceMetadataTags",
)
# DescribeVolumes tells the baseline iops of every type; only these take the number when a volume is made.
_WITH_IOPS = frozenset({"gp3", "io1", "io2"})
_WITH_THROUGHPUT = frozenset({"gp3"})
FILTER_VALUES = 200  # EC2 API reference: at most 200 values a filter.
_DEFAULT_EBS_KEY = "alias/aws/ebs"


# -- tags and filters ------------------------------------------------------------------------------------


def tags_of(resource: Mapping[str, Any]) -> dict[str, str]:
    """All tags of a resource as the API lists them."""
    return {tag["Key"]: tag.get("Value", "") for tag in resource.get("Tags") or ()}


def plain_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags a copy may carry: not the cloud's own (`aws:` can't be written) and not ours (they name one
    run).
    """
    return {key: value for key, value in sorted(tags.items()) if not key.startswith(("aws:", "drpilot:"))}


def tag_filter(tag: str) -> Json:
    """The filter for `key=value`; wildcards in it stand for themselves (EC2 user guide, filtering)."""
    key, _, value = tag.partition("=")
    for special in "\\*?":
        value = value.replace(special, f"\\{special}")
    return {"Name": f"tag:{key}", "Values": [value]}


def chunks(values: Sequence[str], size: int) -> Iterator[list[str]]:
    """`values` in lists of at most `size`."""
    for start in range(0, len(values), size):
        yield list(values[start : start + size])


# Refusals of one question; wrong keys and a silent site are another matter.
_REFUSALS = (FailureClass.INVALID, FailureClass.REJECTED)
_DENIED = ("AccessDenied", "AccessDeniedException", "KMS.AccessDeniedException", "UnauthorizedOperation")


_LACKS = ("InvalidAction", "NoEndpoint", "NotImplemented", "UnknownOperationException", "Unsupported")


def lacking(error: CloudError) -> bool:
    """Whether this kind of cloud has no such service or operation at all, so that it can never tell."""
    return error.code in _LACKS


def refused(error: CloudError) -> bool:
    """Whether the site answered and would not tell this one thing: no permission, or no such service or operation."""
    spoken = error.kind in _REFUSALS and error.code != "SSLError"
    return spoken or error.code in _DENIED or lacking(error)


def _name(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]


# -- instances -------------------------------------------------------------------------------------------


def instances_where(site: Site, *filters: Json) -> list[Json]:
    """The live instances the filters find, in the API's words; those of a drill and of a scaling group are
    left out, because nobody protects the first and the group itself stands for the second.
    """
    live = {"Name": "instance-state-name", "Values": list(_LIVE_STATES)}
    found = []
    for page in site.pages("ec2", "DescribeInstances", {"Filters": [*filters, live]}):
        for reservation in page.get("Reservations") or ():
            for instance in reservation.get("Instances") or ():
                tags = tags_of(instance)
                if DRILL_TAG not in tags and _SCALING_TAG not in tags:
                    found.append(instance)
    return found


def described(site: Site, raw: Sequence[Json]) -> tuple[Instance, ...]:
    """Instances of one tier with everything that is needed to build them again, ordered by key."""
    names = Counter(tags_of(one).get("Name") for one in raw)
    volumes, elastic = _volumes(site, raw), _elastic(site, raw)
    built = []
    for one in raw:
        tags = tags_of(one)
        name = tags.get("Name")
        key = tags.get(MEMBER_TAG) or (name if name and names[name] == 1 else one["InstanceId"])
        built.append(
            replace(_instance(site, one, key, volumes), elastic_address=elastic.get(one["InstanceId"]))
        )
    return tuple(sorted(built, key=lambda instance: instance.key))


def _elastic(site: Site, raw: Sequence[Json]) -> dict[str, str]:
    """The elastic address of each instance that has one: instance id → address.

    DescribeInstances tells an address that the cloud lends a running instance in the same member; DescribeAddresses
    lists the account's own. It is asked only where an instance has a public address at all.
    """
    public = {one["InstanceId"]: one["PublicIpAddress"] for one in raw if one.get("PublicIpAddress")}
    found: dict[str, str] = {}
    for chunk in chunks(sorted(public), FILTER_VALUES):
        filters: Json = {"Filters": [{"Name": "instance-id", "Values": chunk}]}
        for page in site.pages("ec2", "DescribeAddresses", filters):
            for address in page.get("Addresses") or ():
                if public.get(address.get("InstanceId", "")) == address["PublicIp"]:
                    found[address["InstanceId"]] = address["PublicIp"]
    return found


def _instance(site: Site, one: Json, key: str, volumes: Mapping[str, Json]) -> Instance:
    root = one.get("RootDeviceName") or "/dev/xvda"
    groups = {group["GroupName"] for group in one.get("SecurityGroups") or () if group.get("GroupName")}
    metadata = one.get("MetadataOptions") or {}
    profile = (one.get("IamInstanceProfile") or {}).get("Arn")
    return Instance(
        key=key,
        id=one["InstanceId"],
        type=one.get("InstanceType", ""),
        zone=(one.get("Placement") or {}).get("AvailabilityZone", ""),
        subnet=one.get("SubnetId", ""),
        image=one.get("ImageId", ""),
        state=(one.get("State") or {}).get("Name", ""),
        private_address=one.get("PrivateIpAddress", ""),
        security_groups=tuple(sorted(groups)),
        key_pair=one.get("KeyName"),
        profile=_name(profile) if profile else None,
        user_data_sha256=digest_of(instance_user_data(site, one["InstanceId"])),
        metadata_options={name: metadata[name] for name in _METADATA if name in metadata},
        root_device=root,
        architecture=one.get("Architecture", "x86_64"),
        termination_protection=_protected(site, one["InstanceId"]),
        product_codes=_product_codes(one.get("ProductCodes")),
        volumes=_attached(site, one, (key, root), volumes),
        tags=plain_tags(tags_of(one)),
    )


def _protected(site: Site, instance: str) -> bool:
    """Whether it is protected from termination, where a cloud knows such a thing."""
    if "termination-protection" not in site.capabilities:
        return False
    found = attribute(site, instance, "disableApiTermination", "DisableApiTermination")
    return bool((found or {}).get("Value"))


def _product_codes(codes: Iterable[Json] | None) -> tuple[str, ...]:
    return tuple(
        sorted(f"{code.get('ProductCodeType', '')}:{code.get('ProductCodeId', '')}" for code in codes or ())
    )


def _volumes(site: Site, raw: Sequence[Json]) -> dict[str, Json]:
    ids = sorted(
        mapping["Ebs"]["VolumeId"]
        for one in raw
        for mapping in one.get("BlockDeviceMappings") or ()
        if mapping.get("Ebs", {}).get("VolumeId")
    )
    found: dict[str, Json] = {}
    for chunk in chunks(ids, FILTER_VALUES):
        for page in site.pages(
            "ec2", "DescribeVolumes", {"Filters": [{"Name": "volume-id", "Values": chunk}]}
        ):
            found |= {volume["VolumeId"]: volume for volume in page.get("Volumes") or ()}
    return found


def _attached(
    site: Site, one: Json, named: tuple[str, str], volumes: Mapping[str, Json]
) -> tuple[Volume, ...]:
    """The volumes of an instance. `named` are its key and its root device. A cloud with one kind of volume says nothing
    of the kind (it calls them all `standard`): the type is empty then, and the other side takes its own default.
    """
    built, (key, root), kinds = [], named, "volume-types" in site.capabilities
    for mapping in one.get("BlockDeviceMappings") or ():
        ebs = mapping.get("Ebs") or {}
        volume = volumes.get(ebs.get("VolumeId", ""))
        if volume is None:
            continue  # Detached between the two looks: the next look tells.
        kind, device = volume.get("VolumeType", "standard") if kinds else "", mapping["DeviceName"]
        built.append(
            Volume(
                key=f"{key}{device}" if device.startswith("/") else f"{key}/{device}",
                id=volume["VolumeId"],
                device=device,
                size_gib=int(volume["Size"]),
                type=kind,
                root=device == root,
                iops=volume.get("Iops") if kind in _WITH_IOPS else None,
                throughput=volume.get("Throughput") if kind in _WITH_THROUGHPUT else None,
                encrypted=bool(volume.get("Encrypted")),
                kms_key=volume.get("KmsKeyId"),
                delete_on_termination=bool(ebs.get("DeleteOnTermination")),
                zone=volume.get("AvailabilityZone", ""),
            )
        )
    return tuple(sorted(built, key=lambda volume: (not volume.root, volume.device)))


# -- scaling groups --------------------------------------------------------------------------------------


def scaling_groups_tagged(site: Site, key: str, value: str) -> list[Json]:
    """The scaling groups with a tag, in the API's words; where the cloud has no filter for them, all are looked through
    (Eucalyptus: DescribeAutoScalingGroups takes none).
    """
    given: Json = {"Filters": [{"Name": f"tag:{key}", "Values": [value]}]}
    try:
        return scaling_groups(site, given)
    except CloudError as error:
        if error.code != "UnknownParameter":
            raise
    return [one for one in scaling_groups(site, {}) if tags_of(one).get(key) == value]


def scaling_groups(site: Site, params: Json) -> list[Json]:
    """Every scaling group that the parameters ask for, in the API's words."""
    pages = site.pages("autoscaling", "DescribeAutoScalingGroups", params)
    return [one for page in pages for one in page.get("AutoScalingGroups") or ()]


def scaling_group(site: Site, name: str) -> ScalingGroup | None:
    """The Auto Scaling group called `name` with what its launch template (or configuration) says; None if
    absent.
    """
    for page in site.pages("autoscaling", "DescribeAutoScalingGroups", {"AutoScalingGroupNames": [name]}):
        for found in page.get("AutoScalingGroups") or ():
            if found.get("AutoScalingGroupName") == name and not found.get("Status"):
                return _scaling_group(site, found)
    return None


def _scaling_group(site: Site, found: Json) -> ScalingGroup:
    mixed = (found.get("MixedInstancesPolicy") or {}).get("LaunchTemplate") or {}
    template, data, number = launched_by(site, found)
    image = _image(site, data.get("ImageId", ""))
    overrides = [one["InstanceType"] for one in mixed.get("Overrides") or () if one.get("InstanceType")]
    profile = data.get("IamInstanceProfile") or {}
    return ScalingGroup(
        key=found["AutoScalingGroupName"],
        image=data.get("ImageId", ""),
        type=data.get("InstanceType") or (overrides[0] if overrides else ""),
        minimum=int(found.get("MinSize", 0)),
        maximum=int(found.get("MaxSize", 0)),
        desired=int(found.get("DesiredCapacity", 0)),
        subnets=tuple(
            part for part in (found.get("VPCZoneIdentifier") or "").replace(" ", "").split(",") if part
        ),
        template=template.get("LaunchTemplateName", ""),
        template_id=template.get("LaunchTemplateId", ""),
        template_version=number,
        target_groups=tuple(
            sorted(one["TargetGroupName"] for one in target_groups(site, found.get("TargetGroupARNs") or []))
        ),
        security_groups=_template_groups(site, data),
        key_pair=data.get("KeyName"),
        profile=_name(profile["Arn"]) if profile.get("Arn") else profile.get("Name"),
        user_data_sha256=digest_of(data.get("UserData")),
        metadata_options={
            name: value for name, value in (data.get("MetadataOptions") or {}).items() if name in _METADATA
        },
        root_device=image.get("RootDeviceName") or "/dev/xvda",
        product_codes=_product_codes(image.get("ProductCodes")),
        encrypted_key=_template_key(data, image),
        health_check=found.get("HealthCheckType", "EC2"),
        grace_s=int(found.get("HealthCheckGracePeriod") or 0),
        tags=plain_tags(tags_of(found)),
        zones=tuple(sorted(found.get("AvailabilityZones") or ())),
        balancers=tuple(sorted(found.get("LoadBalancerNames") or ())),
    )


def _template_groups(site: Site, data: Json) -> tuple[str, ...]:
    ids = set(data.get("SecurityGroupIds") or ())
    for interface in data.get("NetworkInterfaces") or ():
        ids |= set(interface.get("Groups") or ())
    return tuple(sorted({*(data.get("SecurityGroups") or ()), *group_names(site, ids)}))


def _template_key(data: Json, image: Json) -> str | None:
    """The KMS key the instances' volumes are encrypted with; the account's default where none is named."""
    mappings = [*(data.get("BlockDeviceMappings") or ()), *(image.get("BlockDeviceMappings") or ())]
    disks = [mapping.get("Ebs") or {} for mapping in mappings]
    for disk in disks:
        if disk.get("KmsKeyId"):
            return str(disk["KmsKeyId"])
    return _DEFAULT_EBS_KEY if any(disk.get("Encrypted") for disk in disks) else None


def _image(site: Site, image: str) -> Json:
    """What the image says; empty where it was deregistered, which does not stop what already runs."""
    if not image:
        return {}
    for page in site.pages("ec2", "DescribeImages", {"Filters": [{"Name": "image-id", "Values": [image]}]}):
        for found in page.get("Images") or ():
            return dict(found)
    return {}


def group_names(site: Site, ids: Iterable[str]) -> set[str]:
    """The names of security groups given by id."""
    names = set()
    for chunk in chunks(sorted(set(ids)), FILTER_VALUES):
        for page in site.pages(
            "ec2", "DescribeSecurityGroups", {"Filters": [{"Name": "group-id", "Values": chunk}]}
        ):
            names |= {group["GroupName"] for group in page.get("SecurityGroups") or ()}
    return names


def target_groups(site: Site, arns: Sequence[str]) -> list[Json]:
    """Target groups by ARN, in the API's words."""
    if not arns:
        return []
    found: list[Json] = []
    for page in site.pages("elbv2", "DescribeTargetGroups", {"TargetGroupArns": list(arns)}):
        found += page.get("TargetGroups") or []
    return found
