"""Credentials of a Eucalyptus site by account, user and password.

The security token service takes HTTP Basic authentication, `base64(USER)@base64(ACCOUNT):PASSWORD`, for
GetAccessToken (4.0 and later) or GetSessionToken (3.x), as the management console does (eucaconsole,
`models/auth.py`). Only what it answers is kept, in a file nobody else may read, until it expires; the password is
not.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, SSLError
from botocore.httpsession import URLLib3Session

from drpilot.base.clock import Clock, RealClock, parse_time, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.base.log import Secret
from drpilot.clouds.credentials import CredentialsReference, Keys, parse_keys, read_text

__all__ = ["ACTIONS", "Login", "TokenService", "kept", "log_in", "login_credentials"]

ACTIONS: Mapping[str, str] = {"eucalyptus-3.4": "GetSessionToken"}
"""What each version asks for a token with; later ones have GetAccessToken."""

DURATION_S = 12 * 3600
_VERSION = "2011-06-15"  # of the token service's API
_TIMEOUT_S = 20
_AHEAD = timedelta(minutes=5)  # a token this close to its end is renewed where that needs nobody
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in and where the temporary keys are kept; `password` is a reference, None where a person is asked.

    `action` is one of the token service's.
    """

    account: str
    user: str
    file: Path
    password: CredentialsReference | None = None
    action: str = "GetAccessToken"

    @property
    def who(self) -> str:
        """`user@account`, for messages."""
        return f"{self.user}@{self.account}"


@dataclass(frozen=True, slots=True)
class TokenService:
    """Where a site's tokens come from: its URL, and the certificates to trust (True, False or a path)."""

    url: str
    verify: Any = True


def log_in(site: str, login: Login, password: Secret, service: TokenService) -> Keys:
    """Ask the token service for temporary keys and keep them in the login's file.

    Raises DrpilotError: `login-refused`, `password-expired`, `unreachable`, and `wrong-value` for a URL that would
    send the password in the clear. The password is in none of them.
    """
    keys = _asked(site, login, password, service)
    body = {
        "Version": 1,
        "AccessKeyId": keys.key_id,
        "SecretAccessKey": keys.secret.open(),
        "SessionToken": keys.token.open() if keys.token else "",
        "Expiration": keys.expires,
        "Login": login.who,
    }
    login.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = login.file.with_name(f".{login.file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(body, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(login.file)
    return keys


def _asked(site: str, login: Login, password: Secret, service: TokenService) -> Keys:
    url = service.url
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        what = f"site {site}: a password is sent over https only, not to {url}"
        raise DrpilotError("wrong-value", what=what, hint="give the endpoint as https://…")
    query = {"Action": login.action, "DurationSeconds": str(DURATION_S), "Version": _VERSION}
    names = "@".join(base64.b64encode(name.encode()).decode() for name in (login.user, login.account))
    basic = base64.b64encode(f"{names}:{password.open()}".encode()).decode()
    request = AWSRequest("GET", f"{url.rstrip('/')}/?{urlencode(query)}", {"Authorization": f"Basic {basic}"})
    session = URLLib3Session(verify=service.verify, timeout=_TIMEOUT_S)
    try:
        answer = session.send(request.prepare())
        text = answer.text
    except (BotoCoreError, SSLError) as error:
        why = " ".join(str(error).split())
        raise DrpilotError("unreachable", site=site, endpoint=url, why=why) from None
    finally:
        session.close()
    if answer.status_code == 401:
        raise DrpilotError("login-refused", site=site, who=login.who)
    if answer.status_code == 403:
        raise DrpilotError("password-expired", site=site, who=login.who)
    return _keys(site, url, answer.status_code, text)


def _keys(site: str, url: str, status: int, text: str) -> Keys:
    found: dict[str, str] = {}
    try:
        root = ET.fromstring(text)  # noqa: S314 - the cloud's own answer, as botocore reads it
    except ET.ParseError:
        root = ET.Element("none")
    for element in root.iter():
        found.setdefault(element.tag.rpartition("}")[2], (element.text or "").strip())
    if status != 200 or not all(
        found.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")
    ):
        said = found.get("Message") or found.get("Code") or "no keys in the answer"
        raise DrpilotError(
            "unreachable", site=site, endpoint=url, why=f"the token service says {status}: {said}"
        )
    token, expires = Secret(found["SessionToken"]), found.get("Expiration")
    return Keys(found["AccessKeyId"], Secret(found["SecretAccessKey"]), token, expires)


def kept(site: str, login: Login) -> tuple[Keys, datetime] | None:
    """The keys of the last login and when they end; None where nobody has logged in yet.

    Raises DrpilotError `no-credentials` for a file that is open to others or belongs to another login.
    """
    if not login.file.exists():
        return None
    text = read_text(site, CredentialsReference("file", str(login.file)), {})
    try:
        keys = parse_keys(text, site)
        who = json.loads(text).get("Login")
        ends = parse_time(str(keys.expires))
    except ValueError:
        raise DrpilotError("login-ended", site=site, what=f"{login.file} can't be read") from None
    if who != login.who:
        raise DrpilotError("login-ended", site=site, what=f"{login.file} belongs to the login {who}")
    return keys, ends


class _LoginCredentials(Credentials):
    """Temporary keys that are read again when they end: renewed by reference, or by a person meanwhile."""

    def __init__(self, renewed: Any, keys: Keys, ends: datetime, clock: Clock) -> None:
        token = keys.token.open() if keys.token else None
        super().__init__(keys.key_id, keys.secret.open(), token, method="drpilot-login")
        self._renewed, self._ends, self._clock = renewed, ends, clock

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The keys to sign with now; raises DrpilotError when they have ended and can't be renewed."""
        if self._ends - self._clock.now() < _AHEAD:
            keys, self._ends = self._renewed()
            self.access_key, self.secret_key = keys.key_id, keys.secret.open()
            self.token = keys.token.open() if keys.token else None
        return ReadOnlyCredentials(self.access_key, self.secret_key, self.token)


def login_credentials(
    site: str,
    login: Login,
    service: TokenService,
    environment: Mapping[str, str],
    clock: Clock | None = None,
) -> Credentials:
    """The login's keys as botocore wants them.

    Raises DrpilotError `login-ended` where nobody has logged in, or the keys have ended and no reference to a
    password is given.
    """
    time = clock or RealClock()

    def current() -> tuple[Keys, datetime]:
        found = kept(site, login)
        if found is not None and found[1] - time.now() >= _AHEAD:
            return found
        if login.password is not None:
            password = Secret(read_text(site, login.password, environment).strip("\r\n"))
            keys = log_in(site, login, password, service)
            return keys, parse_time(str(keys.expires))
        if found is not None and found[1] > time.now():
            return found
        what = f"it ended at {rfc3339(found[1])}" if found is not None else "nobody has logged in yet"
        raise DrpilotError("login-ended", site=site, what=what)

    keys, ends = current()
    return _LoginCredentials(current, keys, ends, time)
