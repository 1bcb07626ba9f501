"""From settings to clients: whose keys, which endpoint, and nothing of the environment."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.clock import Chance, ManualClock
from drpilot.base.errors import DrpilotError
from drpilot.clouds.credentials import CredentialsReference, parse_keys, read_keys
from drpilot.clouds.session import Clients, SiteSettings
from drpilot.clouds.site import BotoSite, Ways
from drpilot.domain.ports import CloudError, FailureClass
from tests.grounds import IDENTITY, REGIONS, Answering, Door, Heard, answering, key_file, response

ASSUMED = (
    "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAASSUMED</AccessKeyId>"
    "<SecretAccessKey>assumed</SecretAccessKey><SessionToken>session</SessionToken>"
    "<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
)


def _aws(heard: Heard, _: int) -> bytes:
    if b"AssumeRole" in heard.body:
        return response(ASSUMED)
    return response(IDENTITY) if b"GetCallerIdentity" in heard.body else REGIONS


@pytest.fixture
def cloud() -> Iterator[Answering]:
    """A server that knows who calls and which regions there are."""
    with answering(_aws) as server:
        yield server


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Answering]:
    """An environment full of variables that all lead to a server where nobody must ever call."""
    with answering(_aws) as server:
        trap = tmp_path / "trap"
        trap.mkdir()
        (trap / "boto.cfg").write_text(
            "[Credentials]\naws_access_key_id = AKIAPOISON\naws_secret_access_key = p\n"
        )
        (trap / "models").mkdir()
        for name in list(os.environ):
            if name.startswith(("AWS_", "EC2_", "BOTO")):
                monkeypatch.delenv(name)
        poisoned = {
            **{f"AWS_ENDPOINT_URL{part}": server.url for part in ("", "_EC2", "_STS", "_S3", "_EBS")},
            **dict.fromkeys(("EC2_URL", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), server.url),
            **{name: str(trap / "none.pem") for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")},
            **dict.fromkeys(("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"), "poisoned"),
            **dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), "ap-poison-1"),
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "EC2_ACCESS_KEY", "AWS_ACCOUNT_ID"), "AKIAPOISON"),
            **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "EC2_SECRET_KEY", "AWS_SECURITY_TOKEN"), "poison"),
            **dict.fromkeys(("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"), "true"),
            "AWS_MAX_ATTEMPTS": "9",
            "AWS_RETRY_MODE": "adaptive",
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
            "AWS_STS_REGIONAL_ENDPOINTS": "legacy",
            "AWS_DEFAULTS_MODE": "auto",
            "AWS_DATA_PATH": str(trap / "models"),
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/creds",
            "AWS_ROLE_ARN": "arn:aws:iam::999999999999:role/poison",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(trap / "boto.cfg"),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url,
            "AWS_CREDENTIAL_FILE": str(trap / "boto.cfg"),
            "BOTO_CONFIG": str(trap / "boto.cfg"),
        }
        for name, value in poisoned.items():
            monkeypatch.setenv(name, value)
        yield server


def _site(settings: SiteSettings) -> BotoSite:
    return BotoSite(Clients(settings), Ways(clock=ManualClock(), chance=Chance(1)))


def _scope(heard: Heard) -> tuple[str, str, str]:
    credential = heard.headers["authorization"].split("Credential=")[1].split(",")[0].split("/")
    return credential[0], credential[2], credential[3]


def test_poisoned_variables_do_not_reach_a_site_with_endpoints(
    poison: Answering, cloud: Answering, door: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Endpoint, key, region, certificates, proxy and retries come from the settings, not from [default]."""
    config = tmp_path / "config"
    config.write_text(
        f"[default]\nendpoint_url = {poison.url}\nregion = ap-poison-1\n"
        "ca_bundle = /none.pem\ndefaults_mode = nonsense\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    door.url, door.account = cloud.url, "111122223333"
    site = _site(door.settings())
    site.call("ec2", "DescribeRegions", {})
    assert site.connect().account == "111122223333"
    assert [_scope(one) for one in cloud.heard] == [
        ("AKIAEXAMPLE", "eu-west-1", "sts"),
        ("AKIAEXAMPLE", "eu-west-1", "ec2"),
    ]
    assert all("x-amz-security-token" not in one.headers for one in cloud.heard)
    assert poison.heard == []


def test_poisoned_variables_do_not_reach_a_site_with_a_profile(
    poison: Answering, cloud: Answering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A named profile keeps its own endpoint and its own key; only its files are found by AWS_*."""
    config, shared = tmp_path / "config", tmp_path / "credentials"
    config.write_text(
        "[profile dr]\nregion = eu-north-1\nservices = mine\n[services mine]\n"
        f"ec2 =\n  endpoint_url = {cloud.url}\n"
        f"sts =\n  endpoint_url = {cloud.url}\n"
    )
    shared.write_text("[dr]\naws_access_key_id = AKIADR\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    site = _site(SiteSettings("ireland", "aws", "eu-west-1", account="111122223333", profile="dr"))
    site.call("ec2", "DescribeRegions", {})
    assert [_scope(one)[:2] for one in cloud.heard] == [("AKIADR", "eu-west-1")] * 2
    assert poison.heard == []


def test_poisoned_variables_do_not_reach_the_role_of_a_profile(
    poison: Answering, cloud: Answering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client botocore makes by itself to assume a role obeys the profile too."""
    config, shared = tmp_path / "config", tmp_path / "credentials"
    config.write_text(
        f"[profile dr]\nrole_arn = arn:aws:iam::111122223333:role/drpilot\nsource_profile = base\n"
        f"endpoint_url = {cloud.url}\n"
    )
    shared.write_text("[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    _site(SiteSettings("ireland", "aws", "eu-west-1", profile="dr")).call("ec2", "DescribeRegions", {})
    assert [_scope(one) for one in cloud.heard] == [
        ("AKIABASE", "eu-west-1", "sts"),
        ("ASIAASSUMED", "eu-west-1", "ec2"),
    ]
    assert poison.heard == []


@pytest.mark.parametrize("source", ["Environment", "EcsContainer"])
def test_a_profile_that_takes_its_keys_from_the_environment_is_refused(
    poison: Answering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """credential_source would let AWS_* variables in by the back door."""
    config = tmp_path / "config"
    config.write_text(f"[profile dr]\nrole_arn = arn:aws:iam::1:role/x\ncredential_source = {source}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(DrpilotError) as caught:
        _site(SiteSettings("ireland", "aws", "eu-west-1", profile="dr")).connect()
    assert caught.value.word == "no-credentials"
    assert source in caught.value.title
    assert poison.heard == []


def test_a_profile_without_keys_does_not_fall_back_to_the_machine(
    poison: Answering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither variables, container nor instance role stand in for a profile that has no key."""
    config = tmp_path / "config"
    config.write_text("[profile empty]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DrpilotError) as caught:
        _site(SiteSettings("ireland", "aws", "eu-west-1", profile="empty")).connect()
    assert caught.value.word == "no-credentials"
    assert poison.heard == []


def test_an_unknown_profile_is_named(tmp_path: Path) -> None:
    """A misspelt profile is a missing credential with its name, not a traceback."""
    environment = {
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    settings = SiteSettings("ireland", "aws", "eu-west-1", profile="misspelt")
    with pytest.raises(DrpilotError) as caught:
        BotoSite(Clients(settings, environment=environment)).connect()
    assert caught.value.word == "no-credentials"
    assert "misspelt" in caught.value.title


def test_a_site_with_endpoints_never_calls_another_endpoint(door: Door) -> None:
    """A service without endpoint is an error of the configuration, not a call to a public cloud."""
    settings = SiteSettings(
        "home",
        "aws",
        "eu-west-1",
        endpoints={"ec2": "http://127.0.0.1:9"},
        credentials=door.settings().credentials,
    )
    with pytest.raises(CloudError) as caught:
        BotoSite(Clients(settings, environment={})).call("s3", "ListBuckets", {})
    assert (caught.value.kind, caught.value.code) == (FailureClass.INVALID, "NoEndpoint")


def test_an_unknown_kind_of_cloud_is_refused() -> None:
    """`cloud` must name a dialect; the error lists them."""
    with pytest.raises(DrpilotError) as caught:
        Clients(SiteSettings("home", "awz", "eu-west-1", profile="x"))
    assert caught.value.word == "wrong-value"
    assert "aws" in caught.value.hint


def test_clients_are_made_once_for_all_threads(door: Door, cloud: Answering) -> None:
    """Many threads share one client a service."""
    door.url = cloud.url
    clients = Clients(door.settings(), environment={})
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(clients.client("sts"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len({id(one) for one in found}) == 1


# -- credentials by reference ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "aws_access_key_id = AKIAX\naws_secret_access_key = s=1\naws_session_token = t\n",
        "[anything]\naws_access_key_id=AKIAX\naws_secret_access_key=s=1\naws_session_token=t\n",
        json.dumps({"Version": 1, "AccessKeyId": "AKIAX", "SecretAccessKey": "s=1", "SessionToken": "t"}),
        "AKIAX:s:t",
    ],
)
def test_keys_are_read_from_each_form(text: str) -> None:
    """INI lines, an INI section, the JSON of a credential process, and the short form."""
    keys = parse_keys(text, "home")
    assert keys.key_id == "AKIAX"
    assert keys.secret.open().startswith("s")
    assert keys.token is not None
    assert keys.token.open() == "t"
    assert "s=1" not in repr(keys)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AKIAX",
        "{not json",
        "a:b:c:d",
        "[a]\nx=1\n[b]\ny=2\n",
        '{"AccessKeyId": "AKIAX"}',
        "aws_access_key_id=A",
    ],
)
def test_unusable_keys_are_refused_without_quoting_them(text: str) -> None:
    """What is missing is said; the text, which may hold half a secret, is not."""
    with pytest.raises(ValueError, match=r"it|three") as caught:
        parse_keys(text, "home")
    assert not text or text not in str(caught.value)


def test_a_file_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    """A world-readable credentials file is an error that says what to type."""
    path = key_file(tmp_path)
    path.chmod(0o644)
    with pytest.raises(DrpilotError) as caught:
        read_keys("home", CredentialsReference("file", str(path)), {})
    assert f"chmod 600 {path}" in caught.value.title


def test_a_file_open_to_the_group_is_used_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group-readable file may be shared by a team: it works, and the log says so, without the secret."""
    path = key_file(tmp_path)
    path.chmod(0o640)
    keys = read_keys("home", CredentialsReference("file", str(path)), {})
    assert keys.key_id == "AKIAEXAMPLE"
    said = "".join(capsys.readouterr())
    assert "credentials_open_to_group" in said
    assert "example-secret" not in said


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (CredentialsReference("file", "/nowhere/keys.ini"), "/nowhere/keys.ini"),
        (CredentialsReference("env", "SHOP_KEYS"), "SHOP_KEYS is not set"),
        (CredentialsReference("env", "AWS_SECRET_ACCESS_KEY"), "is not used"),
        (CredentialsReference("command", "/nowhere/vault read"), "can't be run"),
        (
            CredentialsReference("command", f"{sys.executable} -c 'print(1); raise SystemExit(3)'"),
            "ended with 3",
        ),
        (CredentialsReference("command", " "), "empty"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(reference: CredentialsReference, said: str) -> None:
    """Each broken reference is the same catalogue error with its own reason."""
    with pytest.raises(DrpilotError) as caught:
        read_keys("home", reference, {"AWS_SECRET_ACCESS_KEY": "x"})
    assert caught.value.word == "no-credentials"
    assert said in caught.value.title


def test_a_command_is_run_without_a_shell(tmp_path: Path) -> None:
    """The command's words are its arguments: `;` and `$` mean nothing."""
    line = f"{sys.executable} -c \"print('AKIACMD:secret')\" ; touch {tmp_path / 'harm'}"
    keys = read_keys("home", CredentialsReference("command", line), dict(os.environ))
    assert keys.key_id == "AKIACMD"
    assert not (tmp_path / "harm").exists()


def test_expiring_keys_of_a_command_are_fetched_again(tmp_path: Path, cloud: Answering) -> None:
    """Keys that are about to expire are asked for anew before the next call is signed."""
    script = tmp_path / "keys.py"
    script.write_text(
        "import json, pathlib\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "number = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(number))\n"
        "end = '2020-01-01T00:00:00Z' if number == 1 else '2099-01-01T00:00:00Z'\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'AKIA{number}', 'SecretAccessKey': 's',\n"
        "                  'SessionToken': 't', 'Expiration': end}))\n"
    )
    settings = SiteSettings(
        "home",
        "aws",
        "eu-west-1",
        endpoints={"default": cloud.url},
        credentials=CredentialsReference("command", f"{sys.executable} {script}"),
    )
    BotoSite(Clients(settings)).call("ec2", "DescribeRegions", {})
    assert _scope(cloud.heard[0])[0] == "AKIA2"


def test_a_site_without_any_credentials_says_so() -> None:
    """Neither profile nor reference: nothing is guessed."""
    with pytest.raises(DrpilotError) as caught:
        BotoSite(Clients(SiteSettings("home", "aws", "eu-west-1"), environment={})).connect()
    assert caught.value.word == "no-credentials"


def test_a_file_of_several_sites_gives_each_its_own_keys() -> None:
    """Sections are picked by the site's name, then `default`; without either nothing is guessed."""
    text = "[home]\naws_access_key_id=AKIAH\naws_secret_access_key=h\n[away]\naws_access_key_id=AKIAA\n"
    text += "aws_secret_access_key=a\n"
    assert parse_keys(text, "away").key_id == "AKIAA"
    assert parse_keys(text.replace("[home]", "[default]"), "third").key_id == "AKIAH"
    with pytest.raises(ValueError, match="none is called third"):
        parse_keys(text, "third")


def test_public_endpoints_follow_the_region_of_the_settings(
    poison: Answering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without endpoints a profile's site is the public cloud in its region, with no variant a variable asks
    for.
    """
    shared = tmp_path / "credentials"
    shared.write_text("[dr]\naws_access_key_id = AKIADR\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    clients = Clients(SiteSettings("ireland", "aws", "eu-west-1", profile="dr"))
    assert clients.endpoint("ec2") == "https://ec2.eu-west-1.amazonaws.com"
    assert clients.endpoint("sts") == "https://sts.eu-west-1.amazonaws.com"
    assert clients.endpoint("ebs") == "https://ebs.eu-west-1.amazonaws.com"
    assert poison.heard == []
