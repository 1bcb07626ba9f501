"""Logging in by account, user and password: what is sent, what is kept, and what is said when it fails."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from drpilot.base.clock import ManualClock, rfc3339
from drpilot.base.errors import DrpilotError
from drpilot.base.log import Secret
from drpilot.clouds.credentials import CredentialsReference
from drpilot.clouds.login import Login, TokenService, kept, log_in, login_credentials
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.clouds.site import BotoSite
from drpilot.domain.ports import CloudError, FailureClass
from tests.grounds import REGIONS, Heard, Script, answering, free_port, response

PASSWORD = "correct horse:battery@staple"


def _token(number: int, expires: str) -> bytes:
    return response(
        '<GetAccessTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetAccessTokenResult>'
        f"<Credentials><AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>secret-{number}</SecretAccessKey>"
        f"<SessionToken>session-{number}</SessionToken><Expiration>{expires}</Expiration></Credentials>"
        "</GetAccessTokenResult></GetAccessTokenResponse>"
    )


def _cloud(expires: str) -> Script:
    def script(heard: Heard, number: int) -> bytes:
        return _token(number, expires) if "/services/Tokens" in heard.path else REGIONS

    return script


@pytest.fixture
def login(tmp_path: Path) -> Login:
    """A login whose keys go below the test's folder."""
    return Login("acme", "ops", tmp_path / "logins" / "milan.json")


def test_account_and_user_are_encoded_and_the_password_is_not(login: Login) -> None:
    """The form of the console: base64 of the user, `@`, base64 of the account, `:`, the password as it is."""
    with answering(_cloud("2099-01-01T00:00:00Z")) as server:
        keys = log_in("milan", login, Secret(PASSWORD), TokenService(f"{server.url}/services/Tokens"))
        (heard,) = server.heard
    scheme, _, text = heard.headers["authorization"].partition(" ")
    names, _, password = base64.b64decode(text).decode().partition(":")
    assert (scheme, password, heard.method) == ("Basic", PASSWORD, "GET")
    assert [base64.b64decode(one).decode() for one in names.split("@")] == ["ops", "acme"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(heard.path).query).items()}
    assert asked == {"Action": "GetAccessToken", "DurationSeconds": "43200", "Version": "2011-06-15"}
    assert (keys.key_id, keys.expires) == ("ASIA1", "2099-01-01T00:00:00Z")


def test_only_the_temporary_keys_are_kept_and_only_for_their_owner(login: Login) -> None:
    """The file holds no password, in no form, and has mode 0600 in a folder of mode 0700; again replaces it."""
    with answering(_cloud("2099-01-01T00:00:00Z")) as server:
        for _ in range(2):
            log_in("milan", login, Secret(PASSWORD), TokenService(f"{server.url}/services/Tokens"))
    text = login.file.read_text()
    assert stat.S_IMODE(login.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(login.file.parent.stat().st_mode) == 0o700
    assert [path.name for path in login.file.parent.iterdir()] == ["milan.json"]
    assert json.loads(text)["AccessKeyId"] == "ASIA2"
    encoded = base64.b64encode(PASSWORD.encode()).decode().rstrip("=")
    assert PASSWORD not in text and encoded not in text


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (response("<Error/>", 401), "login-refused"),
        (response("<Error/>", 403), "password-expired"),
        (
            response("<ErrorResponse><Error><Message>busy</Message></Error></ErrorResponse>", 503),
            "unreachable",
        ),
        (response("<html>not it<br></html>"), "unreachable"),
        (response("<GetAccessTokenResponse/>"), "unreachable"),
    ],
)
def test_each_refusal_says_what_to_do(login: Login, answer: bytes, word: str) -> None:
    """401 is a wrong login, 403 an expired password; whatever is said, the password is not in it."""
    with answering(lambda heard, number: answer) as server, pytest.raises(DrpilotError) as caught:
        log_in("milan", login, Secret(PASSWORD), TokenService(server.url))
    error = caught.value
    assert error.word == word
    assert not login.file.exists()
    assert PASSWORD not in f"{error} {error.why} {error.hint} {error.as_json()}"
    if word != "unreachable":
        assert "ops@acme" in error.title and "drpilot site login milan" in error.hint


def test_a_password_is_never_sent_in_the_clear(login: Login) -> None:
    """Http is refused before anything is sent; the loopback of a test or a lab is the exception."""
    with pytest.raises(DrpilotError) as caught:
        log_in("milan", login, Secret(PASSWORD), TokenService("http://clc.example.org:8773/services/Tokens"))
    assert caught.value.word == "wrong-value"


def test_a_cloud_that_is_not_there(login: Login) -> None:
    """No answer is `unreachable` with the endpoint."""
    url = f"http://127.0.0.1:{free_port()}/services/Tokens"
    with pytest.raises(DrpilotError) as caught:
        log_in("milan", login, Secret(PASSWORD), TokenService(url))
    assert (caught.value.word, url in caught.value.title) == ("unreachable", True)


# -- a site by login -------------------------------------------------------------------------------------


def _settings(url: str, login: Login) -> SiteSettings:
    return SiteSettings("milan", "eucalyptus-4.4", "eucalyptus", endpoints={"default": url}, login=login)


def test_the_site_signs_with_the_keys_of_the_login(login: Login) -> None:
    """Key id and session token go out; the calls themselves know nothing of the password."""
    with answering(_cloud("2099-01-01T00:00:00Z")) as server:
        clients = Clients(_settings(server.url, login), environment={})
        log_in("milan", login, Secret(PASSWORD), clients.token_service())
        BotoSite(clients).call("ec2", "DescribeRegions", {})
        heard = server.heard[-1]
    assert "Credential=ASIA1/" in heard.headers["authorization"]
    assert heard.headers["x-amz-security-token"] == "session-1"


def test_without_a_login_the_site_says_how(login: Login) -> None:
    """Nobody has logged in yet: a missing credential with the command that mends it, and nothing was sent."""
    with answering(_cloud("2099-01-01T00:00:00Z")) as server:
        site = BotoSite(Clients(_settings(server.url, login), environment={}))
        with pytest.raises(CloudError) as caught:
            site.call("ec2", "DescribeRegions", {})
        with pytest.raises(DrpilotError) as told:
            site.connect()
        assert server.heard == []
    assert (caught.value.kind, caught.value.happened) == (FailureClass.AUTH, "no")
    assert "nobody has logged in" in told.value.title


def test_keys_are_renewed_where_the_password_has_a_place(login: Login, tmp_path: Path) -> None:
    """With a reference a new token is fetched before the old one ends; a person is not needed at night."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    own = Login(login.account, login.user, login.file, CredentialsReference("file", str(secret)))
    clock = ManualClock()
    soon = rfc3339(clock.now() + timedelta(hours=1))
    with answering(_cloud(soon)) as server:
        service = TokenService(f"{server.url}/services/Tokens")
        found = login_credentials("milan", own, service, {}, clock)
        first = found.get_frozen_credentials()
        clock.sleep(3000.0)
        same = found.get_frozen_credentials()
        clock.sleep(400.0)
        second = found.get_frozen_credentials()
        sent = [
            base64.b64decode(one.headers["authorization"][6:]).decode().partition(":")[2]
            for one in server.heard
        ]
    assert (first.access_key, same.access_key, second.access_key) == ("ASIA1", "ASIA1", "ASIA2")
    assert sent == [PASSWORD, PASSWORD]


def test_a_renewal_by_a_person_is_taken_up(login: Login) -> None:
    """A service that runs goes on with the keys of a later login; without one it says that they ended."""
    clock = ManualClock()
    with answering(_cloud(rfc3339(clock.now() + timedelta(hours=1)))) as server:
        service = TokenService(f"{server.url}/services/Tokens")
        log_in("milan", login, Secret(PASSWORD), service)
    found = login_credentials("milan", login, service, {}, clock)
    clock.sleep(3700.0)
    with pytest.raises(DrpilotError) as caught:
        found.get_frozen_credentials()
    with answering(_cloud(rfc3339(clock.now() + timedelta(hours=1)))) as server:
        log_in("milan", login, Secret(PASSWORD), TokenService(f"{server.url}/services/Tokens"))
        log_in("milan", login, Secret(PASSWORD), TokenService(f"{server.url}/services/Tokens"))
    assert caught.value.word == "login-ended"
    assert found.get_frozen_credentials().access_key == "ASIA2"


def test_keys_of_another_login_are_not_used(login: Login) -> None:
    """A site whose user was changed in drpilot.yaml does not go on as the one before."""
    with answering(_cloud("2099-01-01T00:00:00Z")) as server:
        log_in("milan", login, Secret(PASSWORD), TokenService(server.url + "/services/Tokens"))
    with pytest.raises(DrpilotError) as caught:
        kept("milan", Login("acme", "somebody", login.file))
    assert "ops@acme" in caught.value.title
    login.file.chmod(0o644)
    with pytest.raises(DrpilotError, match="open to everybody"):
        kept("milan", login)
    login.file.chmod(0o600)
    login.file.write_text("{not json")
    with pytest.raises(DrpilotError, match="can't be read"):
        kept("milan", login)


def test_a_command_may_give_the_password(login: Login) -> None:
    """The first line of a password safe's answer, without its line end."""
    command = CredentialsReference("command", f"{sys.executable} -c \"print('from a safe')\"")
    own = Login(login.account, login.user, login.file, command)
    with answering(_cloud("2099-01-01T00:00:00Z")) as server:
        service = TokenService(server.url + "/services/Tokens")
        login_credentials("milan", own, service, dict(os.environ))
        heard = server.heard[0]
    assert base64.b64decode(heard.headers["authorization"][6:]).decode().endswith(":from a safe")
