"""Setting up: the sites of drpilot.yaml, and the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.cli.options import reasoned
from drpilot.cli.render import Answer, Table, moment
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.inventory.configuration import SiteSettings
    from drpilot.services.watch import Happening

__all__ = [
    "serve",
    "site_add",
    "site_check",
    "site_list",
]

SiteName = Annotated[str, typer.Argument(metavar="SITE", help="a site's name", show_default=False)]
Reason = Annotated[str, reasoned("why; kept with the group")]
GIB = 1 << 30


# -- sites ------------------------------------------------------------------------------------------------------


def site_add(  # one option a way to reach a site
    session: Session,
    name: SiteName,
    region: Annotated[
        str, typer.Option("--region", metavar="REGION", help="the region, as the cloud calls it")
    ],
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="PROFILE", help="a profile of the AWS configuration files"),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", metavar="SERVICE=URL", help="an endpoint; several may be given"),
    ] = None,
    credentials: Annotated[
        str | None,
        typer.Option(
            "--credentials",
            metavar="env:VAR|file:PATH|command:LINE",
            help="where the keys are; never the keys themselves",
        ),
    ] = None,
    ca_bundle: Annotated[
        str | None, typer.Option("--ca-bundle", metavar="FILE", help="certificates to trust for this site")
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(
            "--account", metavar="ID", help="the account it must be; left out: pinned as it answers"
        ),
    ] = None,
) -> Answer:
    """Connect to a site, pin its account and write it into drpilot.yaml; no secret is stored."""
    from drpilot import wiring
    from drpilot.base.clock import RealClock
    from drpilot.inventory.configuration import Configuration, SiteSettings, add_site

    session.quiet()
    folder = wiring.home_of(lab=session.common.lab)
    wanted = SiteSettings(
        name,
        "aws",
        region,
        account or "",
        profile,
        _endpoints(endpoint),
        _credentials(credentials, profile),
        ca_bundle,
    )
    trial = Configuration(folder, "", None, {name: wanted}, {})
    session.say(f"asking {name} who it is …")
    identity = wiring.Sites(trial, RealClock()).site(name).connect()
    settings = SiteSettings(
        name, "aws", region, identity.account, profile, wanted.endpoints, wanted.credentials, ca_bundle
    )
    path = add_site(folder, settings)
    data = {
        "site": name,
        "cloud": "aws",
        "region": region,
        "account": identity.account,
        "identity": identity.arn,
        "file": str(path),
    }
    lines = (f"{name}: aws {region}, account {identity.account}, as {identity.arn}", f"written to {path}")
    return Answer(data, lines, session.command(f"site check {name}"))


def _endpoints(given: list[str] | None) -> dict[str, str]:
    found = {}
    for text in given or []:
        service, equals, url = text.partition("=")
        if not equals or not url:
            raise DrpilotError(
                "usage",
                what=f"--endpoint {text}: not SERVICE=URL",
                hint="--endpoint ec2=https://ec2.example.org",
            )
        found[service] = url
    return found


def _credentials(text: str | None, profile: str | None) -> Any:
    from drpilot.inventory.configuration import Credentials

    if text is None:
        if profile is None:
            raise DrpilotError(
                "usage", what="a site needs --profile, or --credentials", hint="--profile PROFILE"
            )
        return None
    if profile is not None:
        raise DrpilotError(
            "usage", what="--profile and --credentials exclude each other", hint="give one of them"
        )
    kind, _, value = text.partition(":")
    if kind == "env" and value:
        return Credentials("env", value)
    if kind == "file" and value:
        return Credentials("file", str(Path(value).expanduser().absolute()))
    if kind == "command" and value:
        return Credentials("command", value)
    raise DrpilotError(
        "usage",
        what="--credentials is not env:VAR, file:PATH or command:LINE",
        hint="--credentials file:PATH",
    )


def site_list(session: Session) -> Answer:
    """The sites of drpilot.yaml, and when each was last seen."""
    house = session.house
    now = house.clock.now()
    rows, documents = [], []
    for name, site in house.configuration.sites.items():
        known = house.journal.site(name)
        answers = None if known is None else known.answers
        looked = known.last_looked_at if known is not None else None
        word = {None: "never looked at", True: "answers", False: "silent"}[answers]
        rows.append(
            (name, site.cloud, site.region, site.account, word, moment(looked, now) if looked else None)
        )
        documents.append(
            _site_document(site)
            | {"answers": answers, "looked_at": looked, "last_seen_at": known.last_seen_at if known else None}
        )
    if not rows:
        return Answer(
            {"sites": []},
            ("no site was added yet",),
            session.command("site add NAME --profile PROFILE --region REGION"),
        )
    return Answer(
        {"sites": documents},
        (Table(("SITE", "CLOUD", "REGION", "ACCOUNT", "STATE", "LOOKED"), tuple(rows)),),
        session.command(f"site check {rows[0][0]}"),
    )


def _site_document(site: SiteSettings) -> dict[str, Any]:
    reference = {"credentials": {site.credentials.kind: site.credentials.value}} if site.credentials else {}
    own = {"profile": site.profile} if site.profile else {}
    return {
        "site": site.name,
        "cloud": site.cloud,
        "region": site.region,
        "account": site.account,
        "endpoints": dict(site.endpoints),
        **own,
        **reference,
    }


def site_check(session: Session, name: SiteName) -> Answer:
    """Look at one site: identity, permissions, clock, capabilities, quotas; exit code 3 on findings."""
    from drpilot.cli.checking import site_answer

    return site_answer(session, name)


# -- serve ----------------------------------------------------------------------------------------------------------


def serve(
    session: Session,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, max=64, help="runs driven at once; moves never wait for room")
    ] = 8,
) -> Answer:
    """Begin what is due, drive what nobody drives, repeat open fences; until SIGTERM."""
    from drpilot import serve as service

    session.kind = "serve"
    house = session.house
    told = 0

    def tell(happening: Happening) -> None:
        nonlocal told
        told += 1
        name = happening.run or happening.group or ""
        text = f"{name}: {happening.text}" if name else happening.text
        session.say(f"{moment(happening.at, house.clock.now())}  {happening.what:<8} {text}")

    options = service.Options(parallel=parallel, notify_socket=os.environ.get("NOTIFY_SOCKET"), tell=tell)
    code = service.serve(house, options)
    data = {"result": "drained" if code == 0 else "left running", "happenings": told}
    return Answer(
        data,
        ("ended: everything was handed back" if code == 0 else "ended: something was left running",),
        session.command("status"),
        code,
    )
