"""drpilot.yaml: the journal, the witness, the sites and the operators of one installation.

Nothing secret stands in it: a site refers to a profile, or to credentials in a variable, a file or the
answer of a command. This is the module that reads drpilot's own variables, DRPILOT_HOME and
DRPILOT_DATABASE_URL; AWS_* variables are none of its business, so they reach no named site.
"""

from __future__ import annotations

import json
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
    require,
)
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.plan import Slot

__all__ = [
    "FILE",
    "Configuration",
    "Credentials",
    "Operator",
    "SiteSettings",
    "WitnessSettings",
    "add_site",
    "home",
    "parse",
    "read",
    "site_line",
]

FILE = "drpilot.yaml"
COMMAND_TIMEOUT_S = 30.0

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
class SiteSettings:
    """One site as configured. `profile`, or `endpoints` (service to URL) with `credentials`; `account` is
    checked. `at_once` is how much long work of a kind the cloud does at once, where it differs from its kind.
    """

    name: str
    cloud: str
    region: str
    account: str
    profile: str | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    credentials: Credentials | None = None
    ca_bundle: str | None = None
    at_once: Mapping[Slot, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WitnessSettings:
    """The bucket on a third site that says which side of a group is active."""

    site: str
    bucket: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Operator:
    """A person and what they may do. `account` is the login of this machine, whoever they say they are."""

    name: str
    may: frozenset[str]
    account: str = ""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One installation: where its journal is, its witness, its sites and operators."""

    home: Path
    journal: str
    witness: WitnessSettings | None
    sites: Mapping[str, SiteSettings]
    operators: Mapping[str, Operator]

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
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-_\[\]:]+(:\d{1,5})?(/[^\s?#]*)?", text) or "@" in text:
        raise ValueError(
            f"{text[:60]!r} is no endpoint; write https://HOST[:PORT][/PATH], without user or password"
        )
    return text


def _journal_url(text: str) -> str:
    if not re.fullmatch(r"sqlite:///\S+", text):
        raise ValueError("a journal is sqlite:////ABSOLUTE/PATH; other databases are not supported yet")
    return text


def _given_url() -> str | None:
    """The journal that DRPILOT_DATABASE_URL names, if it is set; raises `wrong-value`."""
    given = os.environ.get("DRPILOT_DATABASE_URL")
    if not given:
        return None
    try:
        return _journal_url(given)
    except ValueError as error:
        raise DrpilotError(
            "wrong-value", what=f"DRPILOT_DATABASE_URL: {error}", hint="mend it or unset it"
        ) from None


SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=32)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_reference)]
Account = Annotated[str, StringConstraints(pattern=r"^\d{12}$")]
Variable = Annotated[str, AfterValidator(_variable)]
Command = Annotated[str, AfterValidator(_command)]
Url = Annotated[str, AfterValidator(_url)]


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


class SiteModel(DocumentModel):
    """One entry under `sites`."""

    cloud: Literal["aws"]
    region: Word
    account: Account
    profile: Word | None = None
    endpoints: dict[str, Url] | None = None
    credentials: CredentialsModel | None = None
    ca_bundle: Word | None = None
    at_once: dict[Slot, Annotated[Integer, Field(ge=1, le=10_000)]] = Field(default_factory=dict)
    refused_keys: ClassVar = {**_NO_SECRETS, "euca2ools": "clouds other than aws come with a later version"}

    @model_validator(mode="after")
    def _identity(self) -> SiteModel:
        if (self.profile is None) == (self.credentials is None):
            raise ValueError("needs a profile, or endpoints with credentials; one of both")
        if self.endpoints is not None and not self.endpoints:
            raise ValueError("endpoints is empty; write SERVICE: URL, or leave it out")
        return self


class WitnessModel(DocumentModel):
    """The place of the witness."""

    site: SiteName
    bucket: Word
    prefix: str = ""


class OperatorModel(DocumentModel):
    """One entry under `operators`."""

    may: Annotated[tuple[Right, ...], Field(min_length=1)]


class ConfigurationModel(DocumentModel):
    """The whole of drpilot.yaml."""

    drpilot: Version
    journal: Annotated[str, AfterValidator(_journal_url)] | None = None
    witness: WitnessModel | None = None
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


def read(folder: Path) -> Configuration:
    """The configuration in `folder`. DrpilotError `no-configuration`, or `document` with all findings."""
    path = folder / FILE
    if not path.is_file():
        raise DrpilotError("no-configuration", home=str(folder))
    return parse(read_text(path), folder)


def parse(text: str, folder: Path) -> Configuration:
    """The configuration in `text`, as if it lay in `folder`; DRPILOT_DATABASE_URL overrides `journal`."""
    loaded = load(ConfigurationModel, text, FILE)
    findings = loaded.findings or tuple(_unknown_sites(loaded))
    if loaded.value is None or findings:
        raise refusal(FILE, findings)
    model = loaded.value
    default = f"sqlite:///{folder / 'journal.db'}"
    return Configuration(
        home=folder,
        journal=_given_url() or model.journal or default,
        witness=WitnessSettings(**model.witness.model_dump()) if model.witness else None,
        sites={name: _settings(name, site, folder) for name, site in model.sites.items()},
        operators={name: Operator(name, frozenset(each.may)) for name, each in model.operators.items()},
    )


def _unknown_sites(loaded: Loaded[ConfigurationModel]) -> list[Finding]:
    model = loaded.value
    if model is None or model.witness is None or model.witness.site in model.sites:
        return []
    what = (
        f"witness: site {model.witness.site!r} is not under sites{closest(model.witness.site, model.sites)}"
    )
    return [loaded.finding("unknown-site", ("witness", "site"), what)]


def _settings(name: str, site: SiteModel, folder: Path) -> SiteSettings:
    given = site.credentials
    credentials = None
    if given is not None and given.env:
        credentials = Credentials("env", given.env)
    elif given is not None and given.file:
        credentials = Credentials("file", str(folder / Path(given.file).expanduser()))
    elif given is not None and given.command:
        credentials = Credentials("command", given.command)
    bundle = str(folder / Path(site.ca_bundle).expanduser()) if site.ca_bundle else None
    endpoints = dict(site.endpoints or {})
    return SiteSettings(
        name,
        site.cloud,
        site.region,
        site.account,
        site.profile,
        endpoints,
        credentials,
        bundle,
        site.at_once,
    )


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


# -- writing ---------------------------------------------------------------------------------------


def add_site(folder: Path, site: SiteSettings) -> Path:
    """Write `site` into drpilot.yaml, keeping every other character of it; creates the file where there is
    none.

    The new text is read back before it replaces the old one, in one rename. Already there and equal is done;
    there and different is DrpilotError `site-exists`.
    """
    path = folder / FILE
    old = read_text(path) if path.is_file() else ""
    text = _with_site(old, site) if old.strip() else f"drpilot: 1\nsites:\n  {site_line(site)}\n"
    before = _sites(old, folder) if old.strip() else {}
    if site.name in before:
        if before[site.name] == _settled(site, folder):
            return path
        raise DrpilotError("site-exists", site=site.name)
    after = _sites(text, folder)
    if {**before, site.name: _settled(site, folder)} != after:
        raise DrpilotError("site-not-written", site=site.name, line=site_line(site))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{FILE}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path


def _sites(text: str, folder: Path) -> dict[str, SiteSettings]:
    """The sites alone: a witness may name a site that is only about to be added."""
    model = require(ConfigurationModel, text, FILE)
    return {name: _settings(name, site, folder) for name, site in model.sites.items()}


def _settled(site: SiteSettings, folder: Path) -> SiteSettings:
    """The settings as they read once written: paths taken from `folder`."""
    text = f"drpilot: 1\nsites: {{{site_line(site)}}}\n"
    return _sites(text, folder)[site.name]


def site_line(site: SiteSettings) -> str:
    """`ireland: {cloud: aws, profile: dr, …}`: one line of YAML."""
    parts = [f"cloud: {_quoted(site.cloud)}"]
    if site.profile is not None:
        parts.append(f"profile: {_quoted(site.profile)}")
    parts += [f"region: {_quoted(site.region)}", f"account: {json.dumps(site.account)}"]
    if site.endpoints:
        inner = ", ".join(f"{_quoted(service)}: {_quoted(url)}" for service, url in site.endpoints.items())
        parts.append(f"endpoints: {{{inner}}}")
    if site.credentials is not None:
        parts.append(f"credentials: {{{site.credentials.kind}: {_quoted(site.credentials.value)}}}")
    if site.ca_bundle is not None:
        parts.append(f"ca_bundle: {_quoted(site.ca_bundle)}")
    if site.at_once:
        parts.append(f"at_once: {json.dumps(dict(site.at_once))}")
    return f"{_quoted(site.name)}: {{{', '.join(parts)}}}"


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./-]*", text) else json.dumps(text, ensure_ascii=False)


def _with_site(text: str, site: SiteSettings) -> str:
    """`text` with one more entry under `sites`, in the style the file has."""
    loaded = load(ConfigurationModel, text, FILE)
    if loaded.value is None:
        raise refusal(FILE, loaded.findings)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if ("sites",) not in loaded.spots:
        return "".join(lines) + f"sites:\n  {site_line(site)}\n"
    spot = loaded.spot(("sites",))
    if spot.flow:
        row, column = spot.end_line - 1, spot.end_column - 2  # at the closing brace
        comma = ", " if loaded.value.sites else ""
        lines[row] = lines[row][:column].rstrip() + f"{comma}{site_line(site)}" + lines[row][column:]
        return "".join(lines)
    indent = " " * (loaded.spot(("sites", next(iter(loaded.value.sites)))).column - 1)
    lines.insert(spot.end_line, f"{indent}{site_line(site)}\n")
    return "".join(lines)
