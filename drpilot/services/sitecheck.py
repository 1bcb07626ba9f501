"""A thorough look at one site: who we are, what it can do, what we may do, how much room there is.

Permissions are asked by DryRun, which is believed only where it proves itself first: there are clouds that carry the
call out instead. A call is asked with parameters that would do nothing if they were believed (deleting what never was)
or that EC2 refuses to carry out because of DryRun alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.inventory.euca2ools import resolve
from drpilot.services.check import PROBE_S, check_site
from drpilot.services.checked import Checked, bad, ok, unknown, warning
from drpilot.services.house import House
from drpilot.services.looks import VCPU_QUOTA

__all__ = ["inspect_site"]

_NOBODY = "drpilot-dry-run-probe"
_CIDR = "10.255.255.0/28"


def inspect_site(house: House, name: str, bound_s: float = PROBE_S) -> tuple[Checked, ...]:
    """Everything `check_site` sees, then permissions and quotas where the site answers."""
    seen = check_site(house, name, bound_s)
    if any(each.verdict == "bad" for each in seen):
        return seen
    site = house.site(name)
    return (*seen, *_certificates(house, name), *_permissions(site), *_quota(site))


def _certificates(house: House, name: str) -> Iterator[Checked]:
    """A warning where any certificate is trusted: whoever stands in between reads and changes everything."""
    settings = house.configuration.sites[name]
    trusting = settings.verify is False
    if settings.euca2ools is not None and settings.verify is None and settings.ca_bundle is None:
        try:
            found = resolve(settings.euca2ools)
            trusting = not (found.verify or found.is_aws)
        except DrpilotError as error:
            yield unknown("certificates", name, "checked", error.title)
            return
    if not trusting:
        return
    message = f"{name} may show any certificate: whoever stands in between can read and change every call"
    hint = f"give sites.{name}.ca_bundle the cloud's certificate, or verify-ssl = true in its ini file"
    finding = Finding("certificates-unchecked", "warning", message, name, hint)
    yield warning("certificates", name, "checked", "any is trusted", finding)


def _asked(site: Site, operation: str, params: Json) -> bool | None:
    """Whether we may; None where the site's answer says neither."""
    try:
        site.call("ec2", operation, {**params, "DryRun": True})
    except CloudError as error:
        if error.code == "DryRunOperation":
            return True
        return False if error.kind is FailureClass.AUTH else None
    return None


def _permissions(site: Site) -> Iterator[Checked]:
    if "dry-run" not in site.capabilities:
        yield ok("permissions", site.name, "asked by DryRun where the cloud has it", "it has none: not asked")
        return
    if not _trusted(site):
        yield unknown(
            "permissions", site.name, "DryRun answers", "DryRun can't be trusted here; nothing was asked"
        )
        return
    zone = _zone(site)
    questions: tuple[tuple[str, Json], ...] = (
        ("CreateVolume", {"AvailabilityZone": zone, "Size": 1}),
        ("CreateSecurityGroup", {"GroupName": _NOBODY, "Description": "asked by DryRun only"}),
        ("CreateVpc", {"CidrBlock": _CIDR}),
        (
            "CreateLaunchTemplate",
            {"LaunchTemplateName": _NOBODY, "LaunchTemplateData": {"InstanceType": "t3.small"}},
        ),
    )
    for operation, params in questions:
        may = _asked(site, operation, params)
        what = f"ec2:{operation}"
        if may is None:
            yield unknown(what, site.name, "allowed", "can't be told by DryRun")
        elif may:
            yield ok(what, site.name, "allowed", "allowed")
        else:
            message = f"{what} is not allowed on {site.name}"
            hint = f"allow {what} in the policy of the role drpilot uses"
            yield bad(
                what,
                site.name,
                "allowed",
                "denied",
                Finding("permission-missing", "error", message, site.name, hint),
            )


def _trusted(site: Site) -> bool:
    """Whether DryRun holds calls back: deleting what never was says so, or is denied where looking says so."""
    may = _asked(site, "DeleteKeyPair", {"KeyName": _NOBODY})
    return may is True or (may is False and _asked(site, "DescribeRegions", {}) is True)


def _zone(site: Site) -> str:
    zones = site.call("ec2", "DescribeAvailabilityZones", {}).get("AvailabilityZones") or [{}]
    return str(zones[0].get("ZoneName", ""))


def _quota(site: Site) -> Iterator[Checked]:
    if "service-quotas" not in site.capabilities:
        return
    params: Json = {"ServiceCode": "ec2", "QuotaCode": VCPU_QUOTA}
    try:
        limit = float(site.call("service-quotas", "GetServiceQuota", params)["Quota"]["Value"])
    except CloudError as error:
        yield unknown("vCPU quota", site.name, "a number", f"{error.code}: {error.message}")
        return
    text = f"{limit:g} vCPU of standard instances"
    if limit > 0:
        yield ok("vCPU quota", site.name, "more than none", text)
    else:
        message = f"quota vCPU on {site.name}: none may run"
        hint = f"ask the cloud for a higher quota on {site.name}"
        yield warning(
            "vCPU quota",
            site.name,
            "more than none",
            text,
            Finding("quota-short", "warning", message, site.name, hint),
        )
