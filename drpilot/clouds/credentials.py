"""Where the credentials of an `endpoints` site come from: a reference to a variable, a file or a command.

The secret itself is never in drpilot.yaml. Each reference yields one text in one of three forms: INI lines
(`aws_access_key_id`, `aws_secret_access_key`, optionally `aws_session_token`), the JSON of a
`credential_process` (AWS SDKs reference, "Process credential provider"), or `KEY_ID:SECRET[:TOKEN]`.
"""

from __future__ import annotations

import configparser
import json
import shlex
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from botocore.credentials import Credentials, RefreshableCredentials

from drpilot.base.errors import DrpilotError
from drpilot.base.log import Secret, logger

__all__ = [
    "CredentialsReference",
    "Keys",
    "botocore_credentials",
    "fixed_credentials",
    "parse_keys",
    "read_keys",
    "read_text",
]

_COMMAND_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class CredentialsReference:
    """`kind` says how to read `value`: the name of a variable, a path, or a command line (no shell)."""

    kind: Literal["env", "file", "command"]
    value: str


@dataclass(frozen=True, slots=True)
class Keys:
    """An access key. The secret and the session token print as `***`; `expires` is RFC 3339 where known."""

    key_id: str
    secret: Secret
    token: Secret | None = None
    expires: str | None = None


def parse_keys(text: str, site: str) -> Keys:
    """Read one of the three forms; ValueError says what is missing and never quotes the text.

    INI with several sections holds the keys of several sites: the one named `site` counts, else `default`.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            body = json.loads(text)
        except ValueError:
            raise ValueError("it begins like JSON but is none") from None
        found = {
            name: body.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        }
        key_id, secret, token, expires = (str(value) if value else None for value in found.values())
    elif "=" in text:
        parser = configparser.RawConfigParser(default_section="drpilot-none")
        try:
            parser.read_string(text if text.startswith("[") else f"[default]\n{text}")
        except configparser.Error:
            raise ValueError(
                "it is not INI: write aws_access_key_id = … and aws_secret_access_key = …"
            ) from None
        sections = parser.sections()
        named = [name for name in (site, "default") if name in sections] or sections
        if len(named) != 1 and named == sections:
            raise ValueError(f"it has {len(sections)} sections and none is called {site}")
        section = parser[named[0]]
        key_id, secret = section.get("aws_access_key_id"), section.get("aws_secret_access_key")
        token, expires = section.get("aws_session_token"), None
    else:
        parts = text.split(":")
        key_id, secret, token = (*parts, None, None, None)[:3]
        expires = None
        if len(parts) > 3:
            raise ValueError("KEY_ID:SECRET[:TOKEN] has more than three parts")
    if not key_id or not secret:
        raise ValueError(f"it holds no {'secret access key' if key_id else 'access key id'}")
    return Keys(key_id, Secret(secret), Secret(token) if token else None, expires)


def read_keys(site: str, reference: CredentialsReference, environment: Mapping[str, str]) -> Keys:
    """Follow the reference; raises DrpilotError `no-credentials`, which never quotes the secret."""
    text = read_text(site, reference, environment)
    try:
        return parse_keys(text, site)
    except ValueError as error:
        what = f"{reference.kind} {_shown(reference)} can't be used: {error}"
        raise DrpilotError("no-credentials", site=site, what=what) from None


def read_text(site: str, reference: CredentialsReference, environment: Mapping[str, str]) -> str:
    """What the reference leads to, as it stands there; raises DrpilotError `no-credentials`."""
    return _READERS[reference.kind](site, reference.value, environment)


def fixed_credentials(keys: Keys) -> Credentials:
    """Keys as botocore wants them, for as long as the clients live."""
    token = keys.token.open() if keys.token else None
    return Credentials(keys.key_id, keys.secret.open(), token, method="drpilot")


def _shown(reference: CredentialsReference) -> str:
    return (
        reference.value.split()[0]
        if reference.kind == "command" and reference.value.split()
        else reference.value
    )


def _missing(site: str, what: str) -> DrpilotError:
    return DrpilotError("no-credentials", site=site, what=what)


def _from_variable(site: str, name: str, environment: Mapping[str, str]) -> str:
    if name.startswith(("AWS_", "EC2_")):
        raise _missing(
            site, f"variable {name} is not used, because every AWS tool reads it; choose another name"
        )
    if not environment.get(name):
        raise _missing(site, f"variable {name} is not set")
    return environment[name]


def _from_file(site: str, path: str, environment: Mapping[str, str]) -> str:
    file = Path(path).expanduser()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise _missing(site, f"{file} is open to everybody (mode {mode:04o}); chmod 600 {file}")
        if mode & (stat.S_IRGRP | stat.S_IWGRP):
            logger("clouds.credentials").warning(
                "credentials_open_to_group", file=str(file), mode=f"{mode:04o}"
            )
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise _missing(site, f"{file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise _missing(site, f"{file} is not text") from None


def _from_command(site: str, line: str, environment: Mapping[str, str]) -> str:
    words: list[str] = []
    try:
        words = shlex.split(line)
        if not words:
            raise _missing(site, "the command is empty")
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            env=dict(environment),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _missing(site, f"{words[0]} did not end within {_COMMAND_TIMEOUT_S:.0f} s") from None
    except (OSError, ValueError) as error:
        raise _missing(site, f"the command can't be run: {error}") from None
    if done.returncode != 0:
        raise _missing(site, f"{words[0]} ended with {done.returncode}")  # Its output may hold the secret.
    return done.stdout


_READERS = {"env": _from_variable, "file": _from_file, "command": _from_command}


def botocore_credentials(
    site: str, reference: CredentialsReference, environment: Mapping[str, str]
) -> Credentials:
    """The referenced keys as botocore wants them; keys of a command that expire are fetched again in time."""

    def fetch() -> dict[str, str | None]:
        keys = read_keys(site, reference, environment)
        return {
            "access_key": keys.key_id,
            "secret_key": keys.secret.open(),
            "token": keys.token.open() if keys.token else None,
            "expiry_time": keys.expires,
        }

    first = fetch()
    if first["expiry_time"] is not None:
        refreshed: Credentials = RefreshableCredentials.create_from_metadata(
            metadata=first, refresh_using=fetch, method="drpilot-command"
        )
        return refreshed
    return Credentials(first["access_key"] or "", first["secret_key"] or "", first["token"], method="drpilot")
