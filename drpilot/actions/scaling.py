"""Building a scaling tier on the target: load balancer, target group, listener, launch template, group at
0.

Everything here is known by a name that is unique on a site, or takes a ClientToken (CreateLaunchTemplate,
CreateLaunchTemplateVersion), so that making it twice is not possible. What stands already is brought into
line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drpilot.actions import user_data
from drpilot.actions.carry import (
    app_tags,
    group_ids,
    metadata_options,
    profile,
    subnet,
    subnet_of,
)
from drpilot.actions.members import balancer, group_view, scaling_of, target_group
from drpilot.actions.views import describe, first, specification, tag_list
from drpilot.domain.group import LoadBalancer, ScalingGroup, Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, Context, FailureClass, Site, StepFailed

__all__ = [
    "build_balancer",
    "build_group",
    "build_template",
    "facts_of",
    "mappable",
    "standing_user_data",
    "template_version",
]

_HEALTH = (
    "HealthCheckProtocol",
    "HealthCheckPort",
    "HealthCheckPath",
    "HealthCheckIntervalSeconds",
    "HealthCheckTimeoutSeconds",
    "HealthyThresholdCount",
    "UnhealthyThresholdCount",
    "Matcher",
)


def _vpc(site: Site, subnets: list[str]) -> str:
    return str(subnet_of(site, subnets[0])["VpcId"])


def _group_name(arn_or_name: str) -> str:
    """The name of a target group given by name or ARN (`…:targetgroup/NAME/ID`)."""
    return arn_or_name.split("/")[-2] if arn_or_name.startswith("arn:") else arn_or_name


def _subnets(ctx: Context, listed: tuple[str, ...]) -> list[str]:
    if not listed:
        raise StepFailed(
            FailureClass.INVALID, "a scaling group or load balancer without subnets can't be carried"
        )
    return [subnet(ctx, item) for item in listed]


def _find_listener(site: Site, arn: str, port: int) -> Json | None:
    pages = site.pages("elbv2", "DescribeListeners", {"LoadBalancerArn": arn})
    return first(item for page in pages for item in page.get("Listeners") or [] if item.get("Port") == port)


def build_balancer(ctx: Context, tier: Tier) -> None:
    """Make what is missing of the tier's load balancer, target group and listener on the target."""
    given = tier.load_balancer
    if given is None:
        return
    site = ctx.site("target")
    subnets = _subnets(ctx, given.subnets)
    vpc = _vpc(site, subnets)
    tags = tag_list({**ctx.tags(tier=tier.name, member=given.key, standby="true")})
    found = balancer(site, given.key)
    if found is None:
        params: Json = {
            "Name": given.key,
            "Subnets": subnets,
            "SecurityGroups": group_ids(ctx, site, given.security_groups, vpc),
            "Scheme": given.scheme,
            "Type": given.type,
            "Tags": tags,
        }
        found = first(site.call("elbv2", "CreateLoadBalancer", params).get("LoadBalancers") or [])
    targets = target_group(site, _group_name(given.target_group))
    if targets is None:
        params = _target_group(given, vpc) | {"Tags": tags}
        targets = first(site.call("elbv2", "CreateTargetGroup", params).get("TargetGroups") or [])
    if (
        found is not None
        and targets is not None
        and _find_listener(site, found["LoadBalancerArn"], given.port) is None
    ):
        listener: Json = {
            "LoadBalancerArn": found["LoadBalancerArn"],
            "Port": given.port,
            "Protocol": given.protocol,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": targets["TargetGroupArn"]}],
            "Tags": tags,
        }
        try:
            site.call("elbv2", "CreateListener", listener)
        except CloudError as error:
            if error.code != "DuplicateListener":  # another attempt's reply was lost
                raise


def _target_group(given: LoadBalancer, vpc: str) -> Json:
    health = {key: given.health[key] for key in _HEALTH if given.health.get(key) is not None}
    return {
        "Name": _group_name(given.target_group),
        "Protocol": given.target_protocol,
        "Port": given.target_port,
        "VpcId": vpc,
        "TargetType": "instance",
        "HealthCheckPath": given.health_path,
        **health,
    }


def _template_data(ctx: Context, site: Site, group: ScalingGroup, image: str) -> Json:
    vpc = _vpc(site, _subnets(ctx, group.subnets))
    known = ctx.group.mapping(ctx.source)
    data: Json = {
        "ImageId": image,
        "InstanceType": known.types.get(group.type, group.type),
        "SecurityGroupIds": group_ids(ctx, site, group.security_groups, vpc),
    }
    if group.key_pair:
        data["KeyName"] = known.keys.get(group.key_pair, group.key_pair)
    carried = profile(ctx, group.profile)
    if carried:
        data["IamInstanceProfile"] = carried
    options = metadata_options(group.metadata_options)
    if options:
        data["MetadataOptions"] = options
    return data


def _latest(site: Site, name: str) -> Json | None:
    """The newest version of a launch template, or None where there is no such template."""
    filters = [{"Name": "launch-template-name", "Values": [name]}]
    template = first(describe(site, "DescribeLaunchTemplates", "LaunchTemplates", filters))
    if template is None:
        return None
    params: Json = {"LaunchTemplateId": template["LaunchTemplateId"], "Versions": ["$Latest"]}
    reply = site.call("ec2", "DescribeLaunchTemplateVersions", params)
    return first(reply.get("LaunchTemplateVersions") or [])


def _template_name(group: ScalingGroup) -> str:
    return group.template or f"drpilot-{group.key}"


def template_version(ctx: Context, tier: Tier, image: str) -> Json | None:
    """The launch template version on the target that says what `image` and the group need; None where
    none does.
    """
    site, group = ctx.site("target"), scaling_of(tier)
    found = _latest(site, _template_name(group))
    if found is None:
        return None
    wanted, have = _template_data(ctx, site, group, image), found.get("LaunchTemplateData") or {}
    same = all(_same(have.get(key), value) for key, value in wanted.items())
    return found if same and user_data.fits(ctx, group, have.get("UserData")) else None


def standing_user_data(site: Site, group: ScalingGroup) -> Json:
    """The user data of a group's launch template on `site`, as RunInstances takes it; empty where it has none."""
    found = ((_latest(site, _template_name(group)) or {}).get("LaunchTemplateData") or {}).get("UserData")
    return {"UserData": found} if found else {}


def _same(have: Any, wanted: Any) -> bool:
    """Whether a described value says what was asked for; the cloud may add words of its own to a mapping."""
    if isinstance(wanted, Mapping):
        return isinstance(have, Mapping) and all(have.get(key) == value for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(have, list) and sorted(have) == sorted(wanted)
    return bool(have == wanted)


def build_template(ctx: Context, tier: Tier, image: str) -> None:
    """Make the launch template, or its next version, that launches `image`."""
    if template_version(ctx, tier, image) is not None:
        return
    site, group = ctx.site("target"), scaling_of(tier)
    name = _template_name(group)
    found = _latest(site, name)
    have = ((found or {}).get("LaunchTemplateData") or {}).get("UserData")
    data = _template_data(ctx, site, group, image) | user_data.of_group(ctx, group, have)
    params: Json = {"LaunchTemplateData": data, "VersionDescription": f"drpilot:{ctx.name}"[:255]}
    if found is None:
        tags = ctx.tags(tier=tier.name, member=group.key, standby="true")
        params |= {"LaunchTemplateName": name, "TagSpecifications": [specification("launch-template", tags)]}
        site.call("ec2", "CreateLaunchTemplate", params, token=ctx.sub(f"template/{name}"))
        return
    params["LaunchTemplateId"] = found["LaunchTemplateId"]
    site.call("ec2", "CreateLaunchTemplateVersion", params, token=ctx.sub(f"version/{name}"))


def mappable(ctx: Context, tier: Tier, image: str) -> None:
    """StepFailed where the map or the target lacks what the tier needs; asked before anything is made."""
    site, group = ctx.site("target"), scaling_of(tier)
    _template_data(ctx, site, group, image)
    front = tier.load_balancer
    made = ""
    if front is not None:
        made = _group_name(front.target_group)
        if balancer(site, front.key) is None:
            group_ids(ctx, site, front.security_groups, _vpc(site, _subnets(ctx, front.subnets)))
    for given in group.target_groups:
        name = _group_name(given)
        if name != made and target_group(site, name) is None:
            text = f"target group {name} is not on {site.name}; the tier needs its `load_balancer`"
            raise StepFailed(FailureClass.PRECONDITION, text)


def _unlisted(site: Site, operation: str, what: str) -> CloudError:
    """What was made a moment ago is not listed yet: only a later look can tell, with the same token."""
    return CloudError(
        FailureClass.TRANSIENT,
        "NotListedYet",
        f"{what} is not listed yet",
        happened="unknown",
        site=site.name,
        operation=operation,
    )


def build_group(ctx: Context, tier: Tier, image: str) -> None:
    """Make the Auto Scaling group at 0, or bring its template, size limit and target groups into line.

    Counts of a group that stands are left alone: they are changed by `standby.grow` and `writers.stop`.
    """
    site, group = ctx.site("target"), scaling_of(tier)
    version = template_version(ctx, tier, image)
    if version is None:
        raise _unlisted(site, "DescribeLaunchTemplates", f"launch template {_template_name(group)}")
    template: Json = {
        "LaunchTemplateId": version["LaunchTemplateId"],
        "Version": str(version["VersionNumber"]),
    }
    subnets = ",".join(_subnets(ctx, group.subnets))
    found = group_view(site, group.key)
    most = max(group.maximum, group.desired, tier.standby.grow_count or 0)
    if found is not None:
        change: Json = {
            "AutoScalingGroupName": group.key,
            "LaunchTemplate": template,
            "MaxSize": max(most, found.desired),
            "VPCZoneIdentifier": subnets,
        }
        if not _in_line(found.raw, change):
            site.call("autoscaling", "UpdateAutoScalingGroup", change)
        return
    own = {**app_tags(group.tags), "drpilot:tier": tier.name, "drpilot:group": ctx.group.name}
    ours = {"drpilot:member": group.key, "drpilot:standby": "true"}
    params: Json = {
        "AutoScalingGroupName": group.key,
        "LaunchTemplate": template,
        "MinSize": 0,
        "MaxSize": most,
        "DesiredCapacity": 0,
        "VPCZoneIdentifier": subnets,
        "HealthCheckType": group.health_check,
        "HealthCheckGracePeriod": group.grace_s,
        "TargetGroupARNs": _target_groups(site, group),
        "Tags": [_group_tag(group.key, item) for item in tag_list(own | ours)],
    }
    site.call("autoscaling", "CreateAutoScalingGroup", params)


def _in_line(raw: Json, change: Json) -> bool:
    template = raw.get("LaunchTemplate") or {}
    return (
        all(template.get(key) == value for key, value in change["LaunchTemplate"].items())
        and raw["MaxSize"] == change["MaxSize"]
        and sorted(str(raw.get("VPCZoneIdentifier") or "").split(","))
        == sorted(change["VPCZoneIdentifier"].split(","))
    )


def _group_tag(name: str, item: Mapping[str, str]) -> Json:
    propagate = not item["Key"].startswith("drpilot:")
    return {**item, "ResourceId": name, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": propagate}


def _target_groups(site: Site, group: ScalingGroup) -> list[str]:
    arns = []
    for given in group.target_groups:
        found = target_group(site, _group_name(given))
        if found is None:  # `mappable` has seen it, or this step has just made it
            raise _unlisted(site, "DescribeTargetGroups", f"target group {_group_name(given)}")
        arns.append(found["TargetGroupArn"])
    return arns


def facts_of(ctx: Context, tier: Tier, image: str) -> Json | None:
    """What stands on the target for a scaling tier, as the journal keeps it; None while something is missing.

    `group`, `template` (id and version), and with a load balancer `load_balancer` (arn, dns, zone, state) and
    `target_group`.
    """
    site, group = ctx.site("target"), scaling_of(tier)
    found, version = group_view(site, group.key), template_version(ctx, tier, image)
    if found is None or version is None:
        return None
    used = found.raw.get("LaunchTemplate") or {}
    if str(used.get("Version")) not in (str(version["VersionNumber"]), "$Latest"):
        return None
    facts: Json = {
        "group": group.key,
        "image": image,
        "template": {"id": version["LaunchTemplateId"], "version": str(version["VersionNumber"])},
    }
    if tier.load_balancer is None:
        return facts
    front = balancer(site, tier.load_balancer.key)
    targets = target_group(site, _group_name(tier.load_balancer.target_group))
    if front is None or targets is None:
        return None
    if _find_listener(site, front["LoadBalancerArn"], tier.load_balancer.port) is None:
        return None
    facts["load_balancer"] = {
        "arn": front["LoadBalancerArn"],
        "dns": front["DNSName"],
        "zone": front.get("CanonicalHostedZoneId", ""),
        "state": front["State"]["Code"],
    }
    facts["target_group"] = targets["TargetGroupArn"]
    return facts
