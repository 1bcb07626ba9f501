"""The survey that a draft is made from, on an estate of real calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.inventory.survey import offer, survey
from tests.inventory.test_discover import Estate, estate

__all__ = ["estate"]


def test_a_survey_sorts_what_runs_by_tier(estate: Estate) -> None:
    """What carries the tag, by the value of the tag `tier`, described as members are."""
    seen = survey(estate.site, "app=shop")
    assert sorted(seen.tiers) == ["", "app", "db", "web"]
    assert [one.key for one in seen.tiers["db"].instances] == ["shop-db"]
    assert [one.id for one in seen.tiers[""].instances] == [estate.batch]
    assert [one.key for one in seen.tiers["web"].scaling_groups] == ["shop-web"]
    assert [one.key for one in seen.tiers["web"].load_balancers] == ["shop-lb"]


def test_without_a_tag_everything_that_runs_is_surveyed(estate: Estate) -> None:
    """All machines, groups and balancers, by tier; those of drills and the dead are nobody's."""
    seen = survey(estate.site)
    assert sorted(seen.tiers) == ["", "app", "d?", "db", "web"]
    assert [one.key for one in seen.tiers["db"].instances] == ["shop-db"]
    assert [one.key for one in seen.tiers["d?"].instances] == ["other"]
    assert [one.key for one in seen.tiers["web"].scaling_groups] == ["shop-web"]
    assert [one.key for one in seen.tiers["web"].load_balancers] == ["shop-lb"]


def test_an_offer_lists_what_machines_can_be_built_from(estate: Estate) -> None:
    """Zones, subnets, key pairs, security groups, types and KMS keys, for the guesses of a draft; no machines."""
    seen = offer(estate.site)
    assert estate.ground.zone in seen.zones
    assert {estate.ground.base["subnet"], estate.ground.base["second"]} <= {
        subnet.id for subnet in seen.subnets
    }
    assert "ops" in seen.key_pairs
    assert "shop" in seen.security_groups
    assert "t3.micro" in seen.types
    assert estate.key in seen.kms_keys
    assert seen.tiers == {}
    assert seen.untold == {}


class _Failing:
    """A site that fails one listing; everything else is the real site."""

    def __init__(self, site: Site, operation: str, error: CloudError, only_with: str = "") -> None:
        self._site, self._operation, self._error, self._only_with = site, operation, error, only_with
        self.name, self.region, self.account = site.name, site.region, site.account

    @property
    def capabilities(self) -> frozenset[str]:
        return self._site.capabilities

    def call(self, service: str, operation: str, params: Json, *, token: str | None = None) -> Json:
        return self._site.call(service, operation, params, token=token)

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        if operation == self._operation and (not self._only_with or self._only_with in params):
            raise self._error
        return self._site.pages(service, operation, params)


def _denied(code: str = "UnauthorizedOperation", kind: FailureClass = FailureClass.AUTH) -> CloudError:
    return CloudError(kind, code, "no", happened="no")


def test_a_survey_goes_on_without_a_list_it_may_not_see(estate: Estate) -> None:
    """One denied listing is named; the others are still there, also where scaling groups are denied."""
    seen = survey(_Failing(estate.site, "DescribeKeyPairs", _denied()))
    assert seen.key_pairs == ()
    assert "UnauthorizedOperation" in seen.untold["ec2:DescribeKeyPairs"]
    assert seen.zones
    seen = survey(_Failing(estate.site, "DescribeAutoScalingGroups", _denied("AccessDenied")))
    assert [one.key for one in seen.tiers["db"].instances] == ["shop-db"]
    assert list(seen.untold) == ["autoscaling:DescribeAutoScalingGroups"]


def test_a_cloud_without_a_filter_is_looked_through(estate: Estate) -> None:
    """Where scaling groups can't be filtered by tag, all are listed and the tag is looked for; no other is taken."""
    unfiltered = _Failing(
        estate.site, "DescribeAutoScalingGroups", _denied("UnknownParameter", FailureClass.INVALID), "Filters"
    )
    assert [one.key for one in survey(unfiltered, "app=shop").tiers["web"].scaling_groups] == ["shop-web"]
    assert all(not one.scaling_groups for one in survey(unfiltered, "app=sh*").tiers.values())


def test_what_a_cloud_never_has_is_no_error(estate: Estate) -> None:
    """A cloud of a kind without an operation says so for itself; the rest is surveyed."""
    plain = _Failing(
        estate.site, "DescribeInstanceTypeOfferings", _denied("Unsupported", FailureClass.CAPACITY)
    )
    seen = survey(plain)
    assert list(seen.untold) == ["ec2:DescribeInstanceTypeOfferings"]
    assert (seen.types, bool(seen.zones)) == ((), True)


@pytest.mark.parametrize(
    "error",
    [
        _denied("EndpointConnectionError", FailureClass.TRANSIENT),
        _denied("ReadTimeoutError", FailureClass.TIMEOUT),
        _denied("AuthFailure"),
        _denied("SSLError", FailureClass.INVALID),
    ],
    ids=lambda error: error.code,
)
def test_a_site_that_does_not_answer_is_no_refusal(estate: Estate, error: CloudError) -> None:
    """Silence and wrong keys end the survey: an empty list would look as if nothing were there."""
    with pytest.raises(CloudError):
        survey(_Failing(estate.site, "DescribeSubnets", error))
