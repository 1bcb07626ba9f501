"""drpilot.yaml: the journal, the witness, the sites and the operators of one installation.

Nothing secret stands in it: a site refers to a profile, or to credentials in a variable, a file or the
answer of a command. This is the module that reads drpilot's own variables, DRPILOT_HOME,
DRPILOT_DATABASE_URL and their like for the lab; AWS_* variables are none of its business, so they reach no named site.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import platformdirs
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from drpilot.base.document import (
    DocumentModel,
    Integer,
    Loaded,
    Version,
    closest,
    load,
    read_text,
    refusal,
)
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.plan import Slot
from drpilot.inventory import databaseurl

__all__ = [
    "CLOUDS",
    "FILE",
    "Configuration",
    "Credentials",
    "Login",
    "Operator",
    "SiteSettings",
    "WitnessSettings",
    "home",
    "parse",
    "read",
    "site_settings",
]

FILE = "drpilot.yaml"
CLOUDS = ("aws", "eucalyptus-3.4", "eucalyptus-4.4", "eucalyptus-5")
"""The kinds of cloud, as `cloud` names them."""
COMMAND_TIMEOUT_S = 30.0
EUCALYPTUS_REGION = "eucalyptus"
"""What a Eucalyptus site signs for where nobody says otherwise; the cloud does not care."""

Right = Literal["operate", "approve"]

_SECRET = (
    "drpilot.yaml holds no secrets; refer to them by `profile` or by `credentials: {env|file|command: …}`"
)
_SECRET_KEYS = (
    "access_key",
    "access_key_id",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "password",
    "secret",
    "secret_access_key",
    "secret_key",
    "session_token",
    "token",
)
_NO_SECRETS: Mapping[str, str] = dict.fromkeys(_SECRET_KEYS, _SECRET)
# AWS access key ids begin with AKIA or ASIA (IAM user guide, "IAM identifiers", unique identifiers).
_KEY_ID = re.compile(r"(AKIA|ASIA|AKI)[A-Z0-9]{13,}")


# -- values ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where a site's keys are: the name of a variable (`env`), a path (`file`) or a command line without
    a shell.
    """

    kind: Literal["env", "file", "command"]
    value: str


@dataclass(frozen=True, slots=True)
class Login:
    """A login by password: `user` of `account`, `file` for the temporary keys, `password` where it comes from
    (None: a person types it).
    """

    account: str
    user: str
    file: str
    password: Credentials | None = None


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site as configured; `account` is checked.

    `profile`, or `euca2ools` (user@region of its ini files), or `endpoints` (service to URL) with `credentials` or
    a `login`. `region` is empty where the ini file names it; `verify` is None where nothing is said of it.
    `at_once` is how much long work of a kind the cloud does at once, where it differs from its kind.
    """

    name: str
    cloud: str
    region: str
    account: str
    profile: str | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    credentials: Credentials | None = None
    ca_bundle: str | None = None
    euca2ools: str | None = None
    login: Login | None = None
    verify: bool | None = None
    at_once: Mapping[Slot, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """The third place that says which side of a group is active: a bucket or a DynamoDB table on a site, or a
    PostgreSQL `database` by its URL. One of the three is not empty; `site` is empty with a database.
    """

    site: str = ""
    bucket: str = ""
    prefix: str = ""
    table: str = ""
    database: str = ""


@dataclass(frozen=True, slots=True)
class Operator:
    """A person and what they may do. `account` is the login of this machine, whoever they say they are."""

    name: str
    may: frozenset[str]
    account: str = ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One installation: where its journal is, its witness, its sites and operators.

    `controller` is the site at which it runs, empty where nobody said so.
    """

    home: Path
    journal: str
    witness: WitnessSettings | None
    sites: Mapping[str, SiteSettings]
    operators: Mapping[str, Operator]
    controller: str = ""

    def site(self, name: str) -> SiteSettings:
        """The settings of a site; DrpilotError `unknown-site`."""
        if name not in self.sites:
            raise DrpilotError("unknown-site", site=name, why=f"there are: {', '.join(self.sites) or 'none'}")
        return self.sites[name]

    def who(self, as_name: str | None = None) -> Operator:
        """Who is acting: `as_name`, else the login. Where no operators are listed everybody may do
        everything.

        Raises DrpilotError `not-allowed` for a person who is not on the list, and for one who is but asks to be
        another.
        """
        account = _login()
        name = as_name or account
        if not self.operators:
            return Operator(name, frozenset({"operate", "approve"}), account)
        if account in self.operators and name != account:
            why = f"{account} is an operator of its own; --as is for accounts that several people share"
            raise DrpilotError("not-allowed", why=why, person=account, what=f"act as {name}", others=name)
        if name not in self.operators:
            why = f"{FILE} lists no operator {name!r}{closest(name, self.operators)}"
            others = ", ".join(self.operators)
            raise DrpilotError("not-allowed", why=why, person=name, what="act here", others=others)
        return Operator(name, self.operators[name].may, account)

    def who_may(self, right: str) -> tuple[str, ...]:
        """The operators with a right, in the order of the file."""
        return tuple(name for name, operator in self.operators.items() if right in operator.may)


# -- the keys of the file --------------------------------------------------------------------------


def _reference(text: str) -> str:
    if _KEY_ID.search(text):
        raise ValueError(f"this looks like a key itself; {_SECRET}")
    return text


def _variable(text: str) -> str:
    if _KEY_ID.search(text) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", text):
        raise ValueError(f"this is not the name of a variable; {_SECRET}")
    if text.startswith(("AWS_", "EC2_")):
        raise ValueError(f"variable {text} is read by every AWS tool; choose another name")
    return text


def _command(text: str) -> str:
    try:
        words = shlex.split(_reference(text))
    except ValueError as error:
        raise ValueError(f"this is not a command line: {error}") from None
    if not words:
        raise ValueError("the command is empty")
    return text


def _url(text: str) -> str:
    plain = text.replace("://{service}.", "://service.", 1)
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-_\[\]:]+(:\d{1,5})?(/[^\s?#]*)?", plain) or "@" in text:
        raise ValueError(
            f"{text[:60]!r} is no endpoint; write https://HOST[:PORT][/PATH], without user or password"
        )
    return text


def _euca2ools(text: str) -> str:
    if not re.fullmatch(r"[^\s@]*@?[^\s@]+|[^\s@]+@", text):
        raise ValueError(f"{text[:60]!r} is not USER@REGION, USER@ or REGION of euca2ools' ini files")
    return text


def _region(text: str) -> str:
    """A region goes into host names (botocore's own rule: one DNS label)."""
    if not re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", text):
        raise ValueError(f"{text[:60]!r} is no region; write one such as eu-west-1")
    return text


def _given_url(variable: str) -> str | None:
    """The journal that the environment names, if it does; raises `wrong-value`."""
    given = os.environ.get(variable)
    if not given:
        return None
    try:
        return databaseurl.journal_url(given)
    except ValueError as error:
        raise DrpilotError("wrong-value", what=f"{variable}: {error}", hint="mend it or unset it") from None


SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=32)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_reference)]
Account = Annotated[str, StringConstraints(pattern=r"^\d{12}$")]
Variable = Annotated[str, AfterValidator(_variable)]
Command = Annotated[str, AfterValidator(_command)]
Url = Annotated[str, AfterValidator(_url)]
Euca2ools = Annotated[str, StringConstraints(max_length=200), AfterValidator(_euca2ools)]
Region = Annotated[str, AfterValidator(_region)]


class CredentialsModel(DocumentModel):
    """`env: VARIABLE`, `file: PATH` or `command: LINE`; what they hold is opened when a client is built."""

    env: Variable | None = None
    file: Word | None = None
    command: Command | None = None
    refused_keys: ClassVar = _NO_SECRETS

    @model_validator(mode="after")
    def _one(self) -> CredentialsModel:
        if sum(bool(part) for part in (self.env, self.file, self.command)) != 1:
            raise ValueError("needs exactly one of env, file and command")
        return self


class LoginModel(DocumentModel):
    """A login by password; without `password_from` a person types it: `drpilot site login NAME`."""

    account: Word
    user: Word
    password_from: CredentialsModel | None = None
    refused_keys: ClassVar = _NO_SECRETS


class SiteModel(DocumentModel):
    """One entry under `sites`."""

    cloud: Literal["aws", "eucalyptus-3.4", "eucalyptus-4.4", "eucalyptus-5"]
    region: Region | None = None
    account: Account
    profile: Word | None = None
    euca2ools: Euca2ools | None = None
    endpoints: dict[str, Url] | None = None
    credentials: CredentialsModel | None = None
    login: LoginModel | None = None
    ca_bundle: Word | None = None
    verify: bool | None = None
    at_once: dict[Slot, Annotated[Integer, Field(ge=1, le=10_000)]] = Field(default_factory=dict)
    refused_keys: ClassVar = _NO_SECRETS

    @model_validator(mode="after")
    def _identity(self) -> SiteModel:
        ways = (self.profile, self.euca2ools, self.credentials, self.login)
        if sum(way is not None for way in ways) != 1:
            raise ValueError(
                "needs a profile, euca2ools, or endpoints with credentials or a login; one of them"
            )
        if self.region is None and self.cloud == "aws" and self.euca2ools is None:
            raise ValueError("needs a region")
        if self.endpoints is not None and not self.endpoints:
            raise ValueError("endpoints is empty; write SERVICE: URL, or leave it out")
        if self.endpoints is None and (self.login or (self.credentials and self.cloud != "aws")):
            raise ValueError("needs endpoints; write default: https://HOST:PORT")
        if self.login is not None and self.cloud == "aws":
            raise ValueError("a login by password is for eucalyptus; AWS gives keys")
        if self.ca_bundle is not None and self.verify is False:
            raise ValueError("verify: false makes ca_bundle useless; leave one of them out")
        return self


class WitnessModel(DocumentModel):
    """The place of the witness: `site` with a `bucket` (and a `prefix`) or a `table`, or a `database`."""

    site: SiteName | None = None
    bucket: Word | None = None
    prefix: str = ""
    table: Word | None = None
    database: Annotated[str, AfterValidator(databaseurl.of_a_witness)] | None = None

    @model_validator(mode="after")
    def _one_place(self) -> WitnessModel:
        if sum(one is not None for one in (self.bucket, self.table, self.database)) != 1:
            raise ValueError("needs a bucket or a table on a site, or a database; one of them")
        if (self.site is None) != (self.database is not None):
            raise ValueError("a bucket or a table needs a site, a database has none")
        if self.prefix and self.bucket is None:
            raise ValueError("only a bucket has a prefix")
        return self


class ControllerModel(DocumentModel):
    """Where drpilot itself runs, and with it the journal: the site whose loss would be its loss too."""

    site: SiteName


class OperatorModel(DocumentModel):
    """One entry under `operators`."""

    may: Annotated[tuple[Right, ...], Field(min_length=1)]


class ConfigurationModel(DocumentModel):
    """The whole of drpilot.yaml."""

    drpilot: Version
    journal: Annotated[str, AfterValidator(databaseurl.of_a_journal)] | None = None
    witness: WitnessModel | None = None
    controller: ControllerModel | None = None
    sites: dict[SiteName, SiteModel] = Field(default_factory=dict)
    operators: dict[Word, OperatorModel] = Field(default_factory=dict)
    refused_keys: ClassVar = _NO_SECRETS


# -- reading ---------------------------------------------------------------------------------------


def home() -> Path:
    """The folder of drpilot.yaml: DRPILOT_HOME, else the user's configuration folder (XDG)."""
    given = os.environ.get("DRPILOT_HOME")
    return Path(given).expanduser() if given else platformdirs.user_config_path("drpilot")


def lab_home() -> Path:
    """The folder of the lab: DRPILOT_LAB_HOME, else below the user's state folder (XDG)."""
    given = os.environ.get("DRPILOT_LAB_HOME")
    return Path(given).expanduser() if given else platformdirs.user_state_path("drpilot") / "lab"


def read(folder: Path, *, lab: bool = False) -> Configuration:
    """The configuration in `folder`. DrpilotError `no-configuration`, or `document` with all findings.

    A `lab` has a variable of its own: what is practised must never land in the journal that is shared at work.
    """
    path = folder / FILE
    if not path.is_file():
        raise DrpilotError("no-configuration", home=str(folder))
    return parse(read_text(path), folder, "DRPILOT_LAB_DATABASE_URL" if lab else "DRPILOT_DATABASE_URL")


def parse(text: str, folder: Path, variable: str = "DRPILOT_DATABASE_URL") -> Configuration:
    """The configuration in `text`, as if it lay in `folder`; the environment's `variable` overrides `journal`."""
    loaded = load(ConfigurationModel, text, FILE)
    findings = loaded.findings or (*_witness_findings(loaded), *_controller_findings(loaded))
    if loaded.value is None or findings:
        raise refusal(FILE, findings)
    model = loaded.value
    default = f"sqlite:///{folder / 'journal.db'}"
    return Configuration(
        home=folder,
        journal=_given_url(variable) or model.journal or default,
        witness=_witness(model.witness),
        sites={name: site_settings(name, site, folder) for name, site in model.sites.items()},
        operators={name: Operator(name, frozenset(each.may)) for name, each in model.operators.items()},
        controller=model.controller.site if model.controller else "",
    )


def _controller_findings(loaded: Loaded[ConfigurationModel]) -> list[Finding]:
    model = loaded.value
    if model is None or model.controller is None or model.controller.site in model.sites:
        return []
    name = model.controller.site
    what = f"controller: site {name!r} is not under sites{closest(name, model.sites)}"
    return [loaded.finding("unknown-site", ("controller", "site"), what)]


def _witness(given: WitnessModel | None) -> WitnessSettings | None:
    return WitnessSettings(**given.model_dump(exclude_none=True)) if given is not None else None


def _witness_findings(loaded: Loaded[ConfigurationModel]) -> list[Finding]:
    model = loaded.value
    if model is None or model.witness is None or model.witness.site is None:
        return []
    if model.witness.site in model.sites:
        cloud = model.sites[model.witness.site].cloud
        if cloud == "aws":
            return []
        why = "has no conditional writes, so two controllers could both win; take a site of aws"
        return [loaded.finding("wrong-value", ("witness", "site"), f"witness: {cloud} {why}")]
    what = (
        f"witness: site {model.witness.site!r} is not under sites{closest(model.witness.site, model.sites)}"
    )
    return [loaded.finding("unknown-site", ("witness", "site"), what)]


def site_settings(name: str, site: SiteModel, folder: Path) -> SiteSettings:
    """The values of one entry, as if its file lay in `folder`."""
    login = None
    if site.login is not None:
        kept = str(folder / "logins" / f"{name}.json")
        login = Login(
            site.login.account, site.login.user, kept, _credentials(site.login.password_from, folder)
        )
    default = "" if site.euca2ools is not None else EUCALYPTUS_REGION
    return SiteSettings(
        name,
        site.cloud,
        site.region or default,
        site.account,
        site.profile,
        dict(site.endpoints or {}),
        _credentials(site.credentials, folder),
        str(folder / Path(site.ca_bundle).expanduser()) if site.ca_bundle else None,
        site.euca2ools,
        login,
        site.verify,
        site.at_once,
    )


def _credentials(given: CredentialsModel | None, folder: Path) -> Credentials | None:
    if given is None:
        return None
    if given.env:
        return Credentials("env", given.env)
    if given.file:
        return Credentials("file", str(folder / Path(given.file).expanduser()))
    return Credentials("command", given.command or "")


def _login() -> str:
    """The account that logged in, by the kernel's word: variables such as LOGNAME could make one person two.

    The audit login id survives sudo and su (proc(5), /proc/pid/loginuid); where it is unset the user id counts.
    """
    unset = 2**32 - 1
    try:
        audited = int(Path("/proc/self/loginuid").read_text())
    except (OSError, ValueError):
        audited = unset
    uid = os.getuid() if audited == unset else audited
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
