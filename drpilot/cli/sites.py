"""The sites of drpilot.yaml: adding one in each of the ways a cloud is known, listing, checking, logging in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.cli.render import Answer, Table, moment
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from drpilot.inventory.configuration import Credentials, SiteSettings

__all__ = ["site_add", "site_check", "site_list", "site_login"]

SiteName = Annotated[str, typer.Argument(metavar="SITE", help="a site's name", show_default=False)]
_REFERENCE = "env:VAR|file:PATH|command:LINE"
_KINDS = "aws, eucalyptus-3.4, eucalyptus-4.4 or eucalyptus-5; left out: asked of a euca2ools site, else aws"


def _text(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text)


Region = Annotated[str | None, _text("--region", "REGION", "the region; left out: as the profile says")]
Profile = Annotated[str | None, _text("--profile", "PROFILE", "a profile of the AWS configuration files")]
Euca2ools = Annotated[
    str | None, _text("--euca2ools", "USER@REGION", "a user and region of euca2ools' ini files")
]
Cloud = Annotated[str | None, _text("--cloud", "KIND", _KINDS)]
Endpoint = Annotated[
    list[str] | None, _text("--endpoint", "SERVICE=URL", "an endpoint; several may be given")
]
Reference = Annotated[
    str | None, _text("--credentials", _REFERENCE, "where the keys are; never the keys themselves")
]
Who = Annotated[
    str | None, _text("--login", "USER@ACCOUNT", "log in by password; only temporary keys are kept")
]
PasswordFrom = Annotated[
    str | None, _text("--password-from", _REFERENCE, "where the password is; left out: it is asked for")
]
Bundle = Annotated[str | None, _text("--ca-bundle", "FILE", "certificates to trust for this site")]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="trust any certificate; the check of the site warns of it")
]
Account = Annotated[
    str | None, _text("--account", "ID", "the account it must be; left out: pinned as it answers")
]


# -- add ------------------------------------------------------------------------------------------------------------


def site_add(  # one option a way to reach a site
    session: Session,
    name: SiteName,
    region: Region = None,
    profile: Profile = None,
    euca2ools: Euca2ools = None,
    cloud: Cloud = None,
    endpoint: Endpoint = None,
    credentials: Reference = None,
    login: Who = None,
    password_from: PasswordFrom = None,
    ca_bundle: Bundle = None,
    no_verify: NoVerify = False,
    account: Account = None,
) -> Answer:
    """Connect to a site, pin its account and write it into drpilot.yaml; no secret is stored."""
    from drpilot import wiring
    from drpilot.inventory.configuration import SiteSettings
    from drpilot.inventory.trial import refuse_wrong

    session.quiet()
    folder = wiring.home_of(lab=session.common.lab)
    _one_way(profile, euca2ools, credentials, login)
    wanted = SiteSettings(
        name=name,
        cloud=_known(cloud) or "aws",
        region=region or "",
        account=account or "",
        profile=profile,
        endpoints=_endpoints(endpoint),
        credentials=_reference("--credentials", credentials) if credentials is not None else None,
        ca_bundle=str(Path(ca_bundle).expanduser().absolute()) if ca_bundle else None,
        euca2ools=euca2ools,
        login=_login(folder, name, login, password_from) if login is not None else None,
        verify=False if no_verify else None,
    )
    wanted = _placed(wanted)
    refuse_wrong(wanted)
    if cloud is None and euca2ools is not None:
        session.say(f"asking {name} what it is …")
        wanted = replace(wanted, cloud=wiring.kind_of(wanted))
    return _added(session, folder, wanted)


def _added(session: Session, folder: Path, wanted: SiteSettings) -> Answer:
    from drpilot import wiring
    from drpilot.base.clock import RealClock
    from drpilot.inventory.addition import add_site
    from drpilot.inventory.configuration import Configuration
    from drpilot.services.abilities import abilities

    if wanted.login is not None:
        wiring.login_by_password(wanted, _password(session, wanted))
    session.say(f"asking {wanted.name} who it is …")
    trial = Configuration(folder, "", None, {wanted.name: wanted}, {})
    site = wiring.Sites(trial, RealClock()).site(wanted.name)
    identity = site.connect()
    site.probe()
    settings = replace(wanted, account=identity.account, region=site.region)
    path = add_site(folder, settings)
    can, cannot = abilities(site.capabilities)
    where = f" at {site.endpoint('ec2')}" if settings.cloud != "aws" else f" {settings.region}"
    lines = [
        f"{settings.name}: {settings.cloud}{where}, account {identity.account}, as {identity.arn}",
        f"  can     {', '.join(can)}",
        f"  can't   {', '.join(cannot) or 'nothing is missing'}",
        *(("  any certificate is trusted: `verify` is off",) if not site.settings.verify else ()),
        f"written to {path}",
    ]
    data = {
        "site": settings.name,
        "cloud": settings.cloud,
        "region": settings.region,
        "account": identity.account,
        "identity": identity.arn,
        "capabilities": sorted(site.capabilities),
        "verify": site.settings.verify,
        "file": str(path),
    }
    return Answer(data, tuple(lines), session.command(f"site check {settings.name}"))


def _one_way(*ways: str | None) -> None:
    given = [way for way in ways if way is not None]
    if not given:
        what = "a site needs --profile, --euca2ools, --credentials or --login"
        raise DrpilotError("usage", what=what, hint="--profile PROFILE")
    if len(given) > 1:
        what = "--profile, --euca2ools, --credentials and --login exclude each other"
        raise DrpilotError("usage", what=what, hint="give one of them")


def _known(cloud: str | None) -> str | None:
    from drpilot.inventory.configuration import CLOUDS

    if cloud is not None and cloud not in CLOUDS:
        what = f"--cloud {cloud}: no such kind of cloud"
        raise DrpilotError("usage", what=what, hint=f"known: {', '.join(CLOUDS)}")
    return cloud


def _placed(wanted: SiteSettings) -> SiteSettings:
    """The settings with what is needed to find the site; `usage` where it is missing."""
    from drpilot import wiring
    from drpilot.inventory.configuration import EUCALYPTUS_REGION

    if wanted.euca2ools is not None:
        return wanted
    if wanted.cloud == "aws":
        if wanted.login is not None:
            raise DrpilotError("usage", what="--login is for eucalyptus", hint="--cloud eucalyptus-4.4")
        if wanted.region:
            return wanted
        if wanted.profile is None:
            raise DrpilotError("usage", what="a site of aws needs --region", hint="--region eu-west-1")
        return replace(wanted, region=wiring.region_of(wanted.name, wanted.profile))
    if not wanted.endpoints and wanted.profile is None:
        what = f"a site of {wanted.cloud} needs --endpoint"
        raise DrpilotError("usage", what=what, hint="--endpoint default=https://HOST:8773")
    return replace(wanted, region=wanted.region or EUCALYPTUS_REGION)


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


def _reference(option: str, text: str) -> Credentials:
    from drpilot.inventory.configuration import Credentials

    kind, _, value = text.partition(":")
    if kind == "env" and value:
        return Credentials("env", value)
    if kind == "file" and value:
        return Credentials("file", str(Path(value).expanduser().absolute()))
    if kind == "command" and value:
        return Credentials("command", value)
    what = f"{option} is not env:VAR, file:PATH or command:LINE"
    raise DrpilotError("usage", what=what, hint=f"{option} file:PATH")


# -- login ----------------------------------------------------------------------------------------------------------


def _login(folder: Path, name: str, who: str, password_from: str | None) -> Any:
    from drpilot.inventory.configuration import Login

    user, at, account = who.rpartition("@")
    if not (user and at and account):
        raise DrpilotError("usage", what=f"--login {who}: not USER@ACCOUNT", hint="--login ops@acme")
    source = _reference("--password-from", password_from) if password_from is not None else None
    return Login(account, user, str(folder / "logins" / f"{name}.json"), source)


def _password(session: Session, site: SiteSettings) -> str | None:
    """What a person types; None where the site says itself where the password is."""
    if site.login is None or site.login.password is not None:
        return None
    who = f"{site.login.user}@{site.login.account}"
    typed = session.terminal.ask_secret(f"password of {who} on {site.name}: ")
    if not typed:
        what = f"the password of {who} is typed by a person, and nobody can be asked here"
        raise DrpilotError("usage", what=what, hint=f"--password-from {_REFERENCE}, or at a terminal")
    return typed


def site_login(session: Session, name: SiteName) -> Answer:
    """Log in to a site by password: temporary keys until they expire; the password is not kept."""
    from drpilot import wiring
    from drpilot.inventory import configuration

    session.quiet()
    settings = configuration.read(wiring.home_of(lab=session.common.lab), lab=session.common.lab).site(name)
    if settings.login is None:
        what = f"site {name} has no login by password"
        raise DrpilotError("usage", what=what, hint=session.command(f"site check {name}"))
    ends = wiring.login_by_password(settings, _password(session, settings))
    who = f"{settings.login.user}@{settings.login.account}"
    data = {"site": name, "login": who, "expires_at": ends, "file": settings.login.file}
    lines = (f"{name}: logged in as {who} until {ends}", f"temporary keys: {settings.login.file}")
    return Answer(data, lines, session.command(f"site check {name}"))


# -- look -----------------------------------------------------------------------------------------------------------


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
    own: dict[str, Any] = {"profile": site.profile, "euca2ools": site.euca2ools, "verify": site.verify}
    if site.credentials is not None:
        own["credentials"] = {site.credentials.kind: site.credentials.value}
    if site.login is not None:
        own["login"] = {"account": site.login.account, "user": site.login.user}
    return {
        "site": site.name,
        "cloud": site.cloud,
        "region": site.region,
        "account": site.account,
        "endpoints": dict(site.endpoints),
        **{key: value for key, value in own.items() if value is not None},
    }


def site_check(session: Session, name: SiteName) -> Answer:
    """Look at one site: identity, permissions, clock, capabilities, quotas; exit code 3 on findings."""
    from drpilot.cli.checking import site_answer

    return site_answer(session, name)
