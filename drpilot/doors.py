"""Doors to sites and no more: what commands that move bytes need of an installation.

No journal, no engine, no actions: a sync of buckets that finds nothing to do is over in the time that importing them
would take.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from drpilot.base.clock import Chance, RealClock
from drpilot.base.errors import DrpilotError
from drpilot.base.log import Secret
from drpilot.clouds.credentials import CredentialsReference, Keys
from drpilot.clouds.failures import as_drpilot_error
from drpilot.clouds.login import ACTIONS, Login
from drpilot.clouds.objects import object_plane
from drpilot.clouds.session import Clients
from drpilot.clouds.session import SiteSettings as CloudSettings
from drpilot.clouds.site import BotoSite, Ways
from drpilot.domain.objects import ObjectPlane
from drpilot.domain.ports import CloudError
from drpilot.inventory import configuration, euca2ools
from drpilot.inventory.configuration import SiteSettings
from drpilot.transfer.bucketsync import BucketDoors

__all__ = ["bucket_doors", "cloud_settings", "home_of", "told"]


def told(error: CloudError) -> DrpilotError:
    """A cloud's error as the catalogue has it, where no installation is open."""
    return as_drpilot_error(error)


def home_of(*, lab: bool) -> Path:
    """The folder of drpilot.yaml: the lab's own, or the installation's."""
    return configuration.lab_home() if lab else configuration.home()


def cloud_settings(site: SiteSettings, environment: Mapping[str, str] | None = None) -> CloudSettings:
    """The configuration's words for a site as the clouds room takes them.

    The ini files of euca2ools are read here, each time a site is opened. Where they lead nowhere, the error comes
    with the first call, as any other missing credential does: a site that is lost must not stop the other one.
    """
    given = CloudSettings(
        name=site.name,
        cloud=site.cloud,
        region=site.region or configuration.EUCALYPTUS_REGION,
        account=site.account or None,
        profile=site.profile,
        endpoints=dict(site.endpoints),
        credentials=_reference(site.credentials),
        ca_bundle=site.ca_bundle,
        verify=site.verify is not False,
        login=_login(site),
    )
    if site.euca2ools is None:
        return given
    try:
        found = euca2ools.resolve(site.euca2ools, environment)
    except DrpilotError as error:
        refused = error

        def refuse() -> Keys:
            raise refused

        return replace(given, keys=refuse)
    verify = found.verify or site.ca_bundle is not None if site.verify is None else site.verify
    return replace(
        given,
        region=site.region or found.region_name,
        endpoints={**found.endpoints, **site.endpoints},
        keys=lambda: Keys(found.key_id, Secret(found.secret)),
        verify=verify or found.is_aws,
        signatures={"s3": "s3v4"} if found.s3_sigv4 else {},
    )


def _reference(given: configuration.Credentials | None) -> CredentialsReference | None:
    return CredentialsReference(given.kind, given.value) if given is not None else None


def _login(site: SiteSettings) -> Login | None:
    """How keys of a site are got by a password; None where they are not."""
    if site.login is None:
        return None
    action = ACTIONS.get(site.cloud, "GetAccessToken")
    return Login(
        site.login.account, site.login.user, Path(site.login.file), _reference(site.login.password), action
    )


def bucket_doors(*, lab: bool, engine: str, note: Callable[[str], None] | None = None) -> BucketDoors:
    """What a sync of buckets reaches the world by; drpilot.yaml is read now. `note` is told when another
    engine than the one asked for has to serve a site.
    """
    clock, folder = RealClock(), home_of(lab=lab)
    settings, opened, lock = configuration.read(folder, lab=lab), dict[str, BotoSite](), threading.Lock()

    def site(name: str) -> BotoSite:
        with lock:
            if name not in opened:
                opened[name] = BotoSite(Clients(cloud_settings(settings.site(name))), Ways(clock=clock))
            return opened[name]

    def plane(name: str) -> ObjectPlane:
        found = object_plane(site(name), engine)
        if found.note and note is not None:
            note(f"{name}: objects go by {found.engine}: {found.note}")
        return found

    def endpoint(name: str) -> str:
        return site(name).endpoint("s3")

    return BucketDoors(site, plane, endpoint, folder / "transfers", clock, Chance())
