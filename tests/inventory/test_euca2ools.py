"""euca2ools' files on this machine: where they are looked for, and what a site gets from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.inventory.euca2ools import files, load, resolve

KEYS = "[user ops]\nkey-id = AKIOPS\nsecret-key = secret\naccount-id = 000123456789\n"


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_path_is_a_list_of_patterns_each_sorted(tmp_path: Path) -> None:
    """EUCA_CONFIG_PATH replaces the default; `$NAME` and `~` are opened, files come in the order of the patterns."""
    for name in ("a/2.ini", "a/1.ini", "b/x.ini", "b/ignored.txt"):
        _write(tmp_path, name, "")
    environment = {
        "EUCA_CONFIG_PATH": f"$WHERE/b/x.ini:${{WHERE}}/a/*.ini:{tmp_path}/none/*.ini:",
        "WHERE": str(tmp_path),
    }
    assert [str(path.relative_to(tmp_path)) for path in files(environment)] == [
        "b/x.ini",
        "a/1.ini",
        "a/2.ini",
    ]


def test_the_default_is_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without EUCA_CONFIG_PATH `~/.euca/*.ini` is read (after /etc/euca2ools)."""
    monkeypatch.setenv("HOME", str(tmp_path))
    own = _write(tmp_path, ".euca/mine.ini", KEYS)
    assert files({})[-1] == own


def test_a_later_file_wins(tmp_path: Path) -> None:
    """The order of the files is the order of their names."""
    _write(tmp_path, "1.ini", KEYS + "[region milan]\nec2-url = https://old:8773/services/compute\n")
    _write(tmp_path, "2.ini", "[region milan]\nec2-url = https://new:8773/services/compute\n")
    found = resolve("ops@milan", {"EUCA_CONFIG_PATH": f"{tmp_path}/*.ini"})
    assert found.endpoints["ec2"] == "https://new:8773/services/compute"


def test_keys_and_endpoints_of_the_environment_are_not_looked_at(tmp_path: Path) -> None:
    """euca2ools itself would take EC2_URL and AWS_ACCESS_KEY_ID before the files; a named site takes neither."""
    _write(
        tmp_path, "1.ini", KEYS + "[region milan]\nec2-url = https://clc:8773/services/compute\nuser = ops\n"
    )
    environment = {
        "EUCA_CONFIG_PATH": f"{tmp_path}/*.ini",
        "EC2_URL": "https://poison",
        "S3_URL": "https://poison",
        "AWS_ACCESS_KEY_ID": "AKIPOISON",
        "AWS_SECRET_ACCESS_KEY": "poison",
        "EUCA_DEFAULT_REGION": "poison",
        "AWS_DEFAULT_REGION": "poison",
        "EUCA_REGION": "poison",
    }
    found = resolve("milan", environment)
    assert "poison" not in f"{found.endpoints} {found.key_id} {found.secret} {found.region_name}"
    assert (found.key_id, found.secret, found.region_name) == ("AKIOPS", "secret", "milan")
    assert "'secret'" not in repr(found)


@pytest.mark.parametrize(
    ("ec2", "default"),
    [
        ("https://clc:8773/services/compute", "https://clc:8773"),
        ("https://clc:8773/services/Eucalyptus/", "https://clc:8773"),
        ("https://ec2.cloud.example.org:8773", "https://{service}.cloud.example.org:8773"),
        ("https://compute.cloud.example.org:8773/", "https://{service}.cloud.example.org:8773"),
        ("https://front.example.org", "https://front.example.org"),
    ],
)
def test_what_the_file_leaves_out_belongs_to_the_same_front_end(
    ec2: str, default: str, tmp_path: Path
) -> None:
    """A file that gives EC2's endpoint alone still leads to the token service of the same cloud."""
    _write(
        tmp_path,
        "1.ini",
        KEYS + f"[region milan]\nec2-url = {ec2}\nmonitoring-url = https://cw\nuser = ops\n",
    )
    found = resolve("milan", {"EUCA_CONFIG_PATH": f"{tmp_path}/1.ini"})
    assert found.endpoints == {"ec2": ec2, "cloudwatch": "https://cw", "default": default}
    assert not found.is_aws


def test_aws_regions_keep_their_own_endpoints(tmp_path: Path) -> None:
    """The file euca2ools ships for AWS names some services only; AWS itself is known."""
    text = KEYS + (
        "[region aws:*]\nuser = ops\niam-url = https://iam.amazonaws.com/\n"
        "[region aws:eu-west-1]\nec2-url = https://ec2.eu-west-1.amazonaws.com/\n"
    )
    _write(tmp_path, "aws.ini", text)
    found = resolve("eu-west-1", {"EUCA_CONFIG_PATH": f"{tmp_path}/aws.ini"})
    assert (found.is_aws, dict(found.endpoints), found.region_name) == (True, {}, "eu-west-1")


@pytest.mark.parametrize(
    ("text", "asked", "said"),
    [
        (None, "ops@milan", "no ini file in"),
        ("key-id = x\n", "ops@milan", "1.ini:1"),
        (KEYS, "ops@milan", "region milan has no endpoint"),
        (KEYS + "[region milan]\nec2-url = https://x\n", "nobody@milan", "user nobody has no key-id"),
    ],
)
def test_what_leads_nowhere_is_one_clear_error(
    text: str | None, asked: str, said: str, tmp_path: Path
) -> None:
    """Exit code 7 with the file, the region or the user."""
    if text is not None:
        _write(tmp_path, "1.ini", text)
    with pytest.raises(DrpilotError) as caught:
        resolve(asked, {"EUCA_CONFIG_PATH": f"{tmp_path}/*.ini"})
    assert (caught.value.word, caught.value.exit_code) == ("euca-ini", 7)
    assert said in caught.value.title


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    """Bytes that are no text, and a file of a strange size."""
    (tmp_path / "1.ini").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DrpilotError, match="not text"):
        load({"EUCA_CONFIG_PATH": f"{tmp_path}/1.ini"})
    (tmp_path / "1.ini").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(DrpilotError, match="larger than 1 MiB"):
        load({"EUCA_CONFIG_PATH": f"{tmp_path}/1.ini"})
