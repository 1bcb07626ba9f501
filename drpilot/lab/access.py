"""A botocore client for a site of the lab, with the few settings that the site's kind of cloud needs.

It is unchanged botocore: what a user of such a cloud would set is set here, and nothing else. For Eucalyptus:
path-style buckets, checksums only when required, version 2 signatures for the object store of 3.4, no ClientToken
on CreateVolume (botocore fills one in by itself, and the field is not known there), and CloudWatch as Query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import botocore.session
from botocore.config import Config

from drpilot.lab.process import SiteAccess

__all__ = ["QueryWatch", "client_of", "forget_token", "recipe", "site_clients"]

_LOADER = botocore.session.get_session().get_component("data_loader")
_TIMEOUT_S = 60


class QueryWatch:
    """A loader of service models in which CloudWatch speaks Query alone, as it did before botocore 1.42.7."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_LOADER, name)

    def load_service_model(self, service: str, kind: str, api_version: str | None = None) -> Any:
        """The model of a service."""
        model = _LOADER.load_service_model(service, kind, api_version)
        if service != "cloudwatch" or kind != "service-2":
            return model
        return {**model, "metadata": {**model["metadata"], "protocol": "query", "protocols": ["query"]}}


def forget_token(params: dict[str, Any], **_: Any) -> None:
    """Take the ClientToken that botocore filled in out of a request; a handler of `before-call` gives nothing."""
    params["body"].pop("ClientToken", None)


def recipe(version: str, service: str) -> dict[str, Any]:
    """The client settings for a service of a Eucalyptus version."""
    settings: dict[str, Any] = {
        "retries": {"total_max_attempts": 1},
        "s3": {"addressing_style": "path"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if service == "s3":
        settings["signature_version"] = "s3" if version == "3.4" else "s3v4"
    return settings


def client_of(site: SiteAccess, service: str) -> Any:
    """A client of one service of a running Eucalyptus site."""
    session = botocore.session.get_session()
    session.register_component("data_loader", QueryWatch())
    version = site.dialect.removeprefix("eucalyptus-")
    made = session.create_client(
        service,
        region_name=site.region,
        endpoint_url=site.endpoint_of(service),
        aws_access_key_id=site.access_key,
        aws_secret_access_key=site.secret_key,
        config=Config(connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, **recipe(version, service)),
    )
    made.meta.events.register("before-call.ec2.CreateVolume", forget_token)
    return made


def site_clients(site: SiteAccess) -> Callable[[str], Any]:
    """Clients of a Eucalyptus site by service, each made once."""
    made: dict[str, Any] = {}

    def client(service: str) -> Any:
        if service not in made:
            made[service] = client_of(site, service)
        return made[service]

    return client
