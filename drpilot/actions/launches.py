"""What a scaling group on the target launches: a launch template's version, or a launch configuration.

Templates have versions and take a ClientToken. A configuration can't be changed (Auto Scaling API reference,
CreateLaunchConfiguration): each change is a new one, whose name says what it holds, so that making it twice is not
possible; the group is pointed at it, and those of ours that it left are removed after. Which of the two is the site's
by what it can: versions of templates, not templates alone, which a cloud may have without versions and without a
scaling group that launches from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drpilot.actions import user_data
from drpilot.actions.carry import group_ids
from drpilot.actions.members import GroupView, group_view, scaling_of
from drpilot.actions.placing import guest, role, spread
from drpilot.actions.views import describe, first, not_found, specification
from drpilot.base.ids import digest
from drpilot.domain.group import ScalingGroup, Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, Context, Site
from drpilot.inventory.launching import digest_of

__all__ = [
    "Launch",
    "build",
    "configurations",
    "describable",
    "named",
    "standing_user_data",
    "sweep",
    "there",
]

_NAME = "drpilot"
_HOLDS = re.compile(r"[0-9a-f]{12}")
_MOST_KEY = 190  # of 255 characters, beside a group's name (40) and what a configuration holds (12)


@dataclass(frozen=True, slots=True)
class Launch:
    """Something on the target that launches what is wanted: as a scaling group's call names it, and as the journal
    keeps it.
    """

    named: Json
    facts: Json

    def used_by(self, raw: Json) -> bool:
        """Whether the described scaling group launches from this one."""
        if "LaunchConfigurationName" in self.named:
            return bool(raw.get("LaunchConfigurationName") == self.named["LaunchConfigurationName"])
        used, wanted = raw.get("LaunchTemplate") or {}, self.named["LaunchTemplate"]
        return all(used.get(key) == value for key, value in wanted.items())


def _versions(site: Site) -> bool:
    return "ec2:CreateLaunchTemplateVersion" in site.capabilities


def describable(ctx: Context, tier: Tier, image: str) -> None:
    """StepFailed where the map or the target lacks what is launched; asked before anything is made."""
    site, group = ctx.site("target"), scaling_of(tier)
    (_data if _versions(site) else _configuration)(ctx, site, group, image)


def there(ctx: Context, tier: Tier, image: str) -> Launch | None:
    """What on the target launches `image` as the group needs it; None where nothing does."""
    site = ctx.site("target")
    found = (_version if _versions(site) else _fitting)(ctx, tier, image)
    if found is None:
        return None
    if not _versions(site):
        name = str(found["LaunchConfigurationName"])
        return Launch({"LaunchConfigurationName": name}, {"configuration": name})
    id_, number = found["LaunchTemplateId"], str(found["VersionNumber"])
    named: Json = {"LaunchTemplate": {"LaunchTemplateId": id_, "Version": number}}
    return Launch(named, {"template": {"id": id_, "version": number}})


def build(ctx: Context, tier: Tier, image: str) -> None:
    """Make what launches `image`, where there is none yet."""
    if there(ctx, tier, image) is None:
        (_build_version if _versions(ctx.site("target")) else _build_configuration)(ctx, tier, image)


def standing_user_data(site: Site, group: ScalingGroup) -> Json:
    """The user data of what a group on `site` launches, as RunInstances takes it; empty where it has none."""
    if _versions(site):
        found = ((_latest(site, _template_name(group)) or {}).get("LaunchTemplateData") or {}).get("UserData")
    else:
        found = (_used(site, group_view(site, group.key)) or {}).get("UserData")
    return {"UserData": found} if found else {}


def _same(have: Any, wanted: Any) -> bool:
    """Whether a described value says what was asked for; the cloud may add words of its own to a mapping."""
    if isinstance(wanted, Mapping):
        return isinstance(have, Mapping) and all(have.get(key) == value for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(have, list) and sorted(have) == sorted(wanted)
    return bool(have == wanted)


# -- launch templates ------------------------------------------------------------------------------------


def _data(ctx: Context, site: Site, group: ScalingGroup, image: str) -> Json:
    where = spread(ctx, group.subnets, group.zones)
    known = ctx.group.mapping(ctx.source)
    return {
        "ImageId": image,
        "InstanceType": known.types.get(group.type, group.type),
        "SecurityGroupIds": group_ids(ctx, site, group.security_groups, where.vpc),
        **guest(ctx, group),
        **role(ctx, group.profile),
    }


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


def _version(ctx: Context, tier: Tier, image: str) -> Json | None:
    """The launch template version on the target that says what `image` and the group need; None where none does."""
    site, group = ctx.site("target"), scaling_of(tier)
    found = _latest(site, _template_name(group))
    if found is None:
        return None
    wanted, have = _data(ctx, site, group, image), found.get("LaunchTemplateData") or {}
    same = all(_same(have.get(key), value) for key, value in wanted.items())
    return found if same and user_data.fits(ctx, group, have.get("UserData")) else None


def _build_version(ctx: Context, tier: Tier, image: str) -> None:
    site, group = ctx.site("target"), scaling_of(tier)
    name = _template_name(group)
    found = _latest(site, name)
    have = ((found or {}).get("LaunchTemplateData") or {}).get("UserData")
    data = _data(ctx, site, group, image) | user_data.of_group(ctx, group, have)
    params: Json = {"LaunchTemplateData": data, "VersionDescription": f"drpilot:{ctx.name}"[:255]}
    if found is None:
        tags = ctx.tags(tier=tier.name, member=group.key, standby="true")
        params |= {"LaunchTemplateName": name, "TagSpecifications": [specification("launch-template", tags)]}
        site.call("ec2", "CreateLaunchTemplate", params, token=ctx.sub(f"template/{name}"))
        return
    params["LaunchTemplateId"] = found["LaunchTemplateId"]
    site.call("ec2", "CreateLaunchTemplateVersion", params, token=ctx.sub(f"version/{name}"))


# -- launch configurations -------------------------------------------------------------------------------


def _configuration(ctx: Context, site: Site, group: ScalingGroup, image: str) -> Json:
    where = spread(ctx, group.subnets, group.zones)
    known = ctx.group.mapping(ctx.source)
    data: Json = {
        "ImageId": image,
        "InstanceType": known.types.get(group.type, group.type),
        "SecurityGroups": group_ids(ctx, site, group.security_groups, where.vpc),
        **guest(ctx, group),
    }
    profile = role(ctx, group.profile).get("IamInstanceProfile")
    if profile:
        data["IamInstanceProfile"] = profile.get("Arn") or profile["Name"]
    return data


def _stem(group_name: str, key: str) -> str:
    """What all configurations of a scaling group are called, but for what they hold. A key may have dots; one that
    would make the name too long is cut, and told from others by its digest.
    """
    if len(key) > _MOST_KEY:
        key = f"{key[: _MOST_KEY - 13]}-{digest(key)[:12]}"
    return f"{_NAME}.{group_name}.{key}"


def named(group_name: str, key: str, holds: str) -> str:
    """The name of a configuration made for the scaling group `key` of a group: at most 255 characters; `holds` says
    what is in it, in 12 hex digits.
    """
    return f"{_stem(group_name, key)}.{holds}"


def _is_of(name: str, group_name: str, key: str) -> bool:
    """Whether a configuration was made for a group (whose name has no dot), or for its scaling group `key`."""
    if not key:
        return name.startswith(f"{_NAME}.{group_name}.")
    stem, _, holds = name.rpartition(".")
    return stem == _stem(group_name, key) and _HOLDS.fullmatch(holds) is not None


def configurations(site: Site, group_name: str, key: str = "") -> list[str]:
    """The launch configurations on `site` that were made for a group, or for its scaling group `key`.

    They have no tags: their names say it.
    """
    if "launch-configuration" not in site.capabilities:
        return []
    names = [str(one["LaunchConfigurationName"]) for one in _all(site)]
    return sorted(name for name in names if _is_of(name, group_name, key))


def _all(site: Site) -> list[Json]:
    pages = site.pages("autoscaling", "DescribeLaunchConfigurations", {})
    return [one for page in pages for one in page.get("LaunchConfigurations") or ()]


def _used(site: Site, view: GroupView | None) -> Json | None:
    """The configuration that a standing scaling group launches from."""
    name = view.raw.get("LaunchConfigurationName") if view is not None else None
    if not name:
        return None
    params: Json = {"LaunchConfigurationNames": [name]}
    reply = site.call("autoscaling", "DescribeLaunchConfigurations", params)
    return first(reply.get("LaunchConfigurations") or [])


def _fitting(ctx: Context, tier: Tier, image: str) -> Json | None:
    """The configuration the group has, else one of ours for it, that says what `image` and the group need."""
    site, group = ctx.site("target"), scaling_of(tier)
    wanted = _configuration(ctx, site, group, image)
    used = _used(site, group_view(site, group.key))
    ours = [
        one for one in _all(site) if _is_of(str(one["LaunchConfigurationName"]), ctx.group.name, group.key)
    ]
    for have in [*([used] if used is not None else []), *ours]:
        same = all(_same(have.get(key), value) for key, value in wanted.items())
        if same and user_data.fits(ctx, group, have.get("UserData") or None):
            return have
    return None


def _build_configuration(ctx: Context, tier: Tier, image: str) -> None:
    site, group = ctx.site("target"), scaling_of(tier)
    have = (_used(site, group_view(site, group.key)) or {}).get("UserData") or None
    data = _configuration(ctx, site, group, image)
    carried = user_data.of_group(ctx, group, have)
    holds = digest([data, digest_of(carried.get("UserData"))])[:12]
    params: Json = {
        **data,
        **carried,
        "LaunchConfigurationName": named(ctx.group.name, group.key, holds),
    }
    try:
        site.call("autoscaling", "CreateLaunchConfiguration", params)
    except CloudError as error:
        if error.code not in ("AlreadyExists", "AlreadyExistsFault"):  # of the same contents, by its name
            raise


def sweep(ctx: Context, tier: Tier, kept: Launch) -> None:
    """Remove the configurations of ours that the group has left; one that something still launches from stays."""
    site, group = ctx.site("target"), scaling_of(tier)
    if _versions(site):
        return
    remove(
        site,
        [
            name
            for name in configurations(site, ctx.group.name, group.key)
            if name != kept.named.get("LaunchConfigurationName")
        ],
    )


def remove(site: Site, names: list[str]) -> None:
    """Delete launch configurations; one that is gone is as wanted, one in use is left for the next time."""
    for name in names:
        try:
            site.call("autoscaling", "DeleteLaunchConfiguration", {"LaunchConfigurationName": name})
        except CloudError as error:
            gone = not_found(error) or (error.code == "ValidationError" and "not found" in error.message)
            if not gone and error.code not in ("ResourceInUse", "ResourceInUseFault"):
                raise
