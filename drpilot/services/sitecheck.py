"""A thorough look at one site: who we are, what it can do, what we may do, how much room there is."""

from __future__ import annotations

from collections.abc import Iterator

from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, Site
from drpilot.inventory.euca2ools import resolve
from drpilot.services.check import PROBE_S, check_site
from drpilot.services.checked import Checked, ok, unknown, warning
from drpilot.services.house import House
from drpilot.services.looks import VCPU_QUOTA
from drpilot.services.permissions import needed, permissions

__all__ = ["inspect_site"]


def inspect_site(house: House, name: str, bound_s: float = PROBE_S) -> tuple[Checked, ...]:
    """Everything `check_site` sees, then permissions and quotas where the site answers."""
    seen = check_site(house, name, bound_s)
    if any(each.verdict == "bad" for each in seen):
        return seen
    site = house.site(name)
    return (*seen, *_certificates(house, name), *permissions(site, needed(house, name)), *_quota(site))


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
