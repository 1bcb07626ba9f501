"""drpilot.yaml: reading, refusing, and adding a site without disturbing the rest of the text."""

# ruff: noqa: E501 - tables of texts and what is said of them: one a line

from __future__ import annotations

import pwd
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drpilot.base.errors import DrpilotError
from drpilot.inventory.addition import add_site, site_line
from drpilot.inventory.configuration import (
    Credentials,
    SiteSettings,
    WitnessSettings,
    home,
    parse,
    read,
)

FULL = """\
drpilot: 1
journal: sqlite:////var/lib/drpilot/journal.db
witness: {site: frankfurt, bucket: example-drpilot-witness, prefix: shop/}
sites:
  ireland: {cloud: aws, profile: dr, region: eu-west-1, account: "210987654321"}
  frankfurt: {cloud: aws, profile: witness, region: eu-central-1, account: 310987654321}
  home:
    cloud: aws
    region: lab-home
    account: 000000000001
    endpoints: {ec2: "http://127.0.0.1:41001", default: "https://[::1]:8443/x"}
    credentials: {file: keys.json}
    ca_bundle: ca.pem
    at_once: {copy-snapshot: 5}
operators:
  oncall: {may: [operate, approve]}
  second: {may: [approve]}
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRPILOT_HOME", "DRPILOT_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_reads_everything(tmp_path: Path) -> None:
    """Sites, witness, operators and journal come as values; relative paths are taken from the file's folder."""
    configuration = parse(FULL, tmp_path)
    assert configuration.journal == "sqlite:////var/lib/drpilot/journal.db"
    assert configuration.witness == WitnessSettings("frankfurt", "example-drpilot-witness", "shop/")
    assert configuration.controller == ""
    assert parse(FULL + "controller: {site: frankfurt}\n", tmp_path).controller == "frankfurt"
    assert list(configuration.sites) == ["ireland", "frankfurt", "home"]
    assert configuration.site("ireland") == SiteSettings("ireland", "aws", "eu-west-1", "210987654321", "dr")
    assert configuration.site("frankfurt").account == "310987654321"
    assert configuration.site("home") == SiteSettings(
        "home",
        "aws",
        "lab-home",
        "000000000001",
        None,
        {"ec2": "http://127.0.0.1:41001", "default": "https://[::1]:8443/x"},
        Credentials("file", str(tmp_path / "keys.json")),
        str(tmp_path / "ca.pem"),
        at_once={"copy-snapshot": 5},
    )
    assert configuration.who_may("approve") == ("oncall", "second")
    with pytest.raises(DrpilotError) as caught:
        configuration.site("milan")
    assert caught.value.word == "unknown-site"


def test_the_journal_lies_beside_the_file_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable wins over the file, the file over the default."""
    assert parse("drpilot: 1\n", tmp_path).journal == f"sqlite:///{tmp_path}/journal.db"
    monkeypatch.setenv("DRPILOT_DATABASE_URL", "sqlite:////elsewhere.db")
    assert parse(FULL, tmp_path).journal == "sqlite:////elsewhere.db"


def test_the_lab_never_lies_in_the_journal_that_is_shared_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is exported for real work is nothing to the lab, which has a variable of its own."""
    (tmp_path / "drpilot.yaml").write_text("drpilot: 1\n")
    monkeypatch.setenv("DRPILOT_DATABASE_URL", "sqlite:////shared.db")
    assert read(tmp_path).journal == "sqlite:////shared.db"
    assert read(tmp_path, lab=True).journal == f"sqlite:///{tmp_path}/journal.db"
    monkeypatch.setenv("DRPILOT_LAB_DATABASE_URL", "sqlite:////practice.db")
    assert read(tmp_path, lab=True).journal == "sqlite:////practice.db"


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """DRPILOT_HOME, else the user's configuration folder; without a file there the error says what to type."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert home() == tmp_path / "drpilot"
    monkeypatch.setenv("DRPILOT_HOME", str(tmp_path / "x"))
    assert home() == tmp_path / "x"
    with pytest.raises(DrpilotError) as caught:
        read(home())
    assert (caught.value.word, caught.value.exit_code) == ("no-configuration", 6)
    assert "site add" in caught.value.hint


def account() -> str:
    """Who is logged in here, as drpilot sees it."""
    return parse("drpilot: 1\n", Path()).who().account


def test_who(tmp_path: Path) -> None:
    """A listed person has their rights; a stranger is refused; without a list everybody may do everything."""
    configuration = parse(FULL, tmp_path)
    second = configuration.who("second")
    assert (second.name, second.may, second.account) == ("second", {"approve"}, account())
    with pytest.raises(DrpilotError) as caught:
        configuration.who("secnd")
    assert (caught.value.word, caught.value.exit_code) == ("not-allowed", 5)
    assert "did you mean 'second'?" in caught.value.why
    free = parse("drpilot: 1\n", tmp_path)
    assert free.who().name == account()
    assert free.who("anna").may == {"operate", "approve"}


SITE = 'drpilot: 1\nsites:\n  a: {cloud: aws, region: r, account: "123456789012", '


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sites: {}", "1:1: key 'drpilot' is missing"),
        ("drpilot: 1\nsite: {}", "2:1: unknown key 'site' (did you mean 'sites'?)"),
        ("drpilot: 1\njournal: /var/journal.db", "2:10: journal: a journal is sqlite:////ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE"),
        ("drpilot: 1\njournal: postgresql://u@h", "2:10: journal: a journal is sqlite:////ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE"),
        ("drpilot: 1\njournal: postgresql://u:hunter2@h/d", "2:10: journal: drpilot.yaml holds no secrets; leave the password to ~/.pgpass, or set DRPILOT_DATABASE_URL"),
        ("drpilot: 1\njournal: postgresql://u@h/d?password=hunter2", "2:10: journal: drpilot.yaml holds no secrets; leave the password to ~/.pgpass, or set DRPILOT_DATABASE_URL"),
        ("drpilot: 1\njournal: postgresql://u:hunter/2@h/d", "2:10: journal: its host or port can't be read; write @, : and / in a password as %40, %3A and %2F"),
        ("drpilot: 1\nwitness: {site: x, bucket: b}", "2:11: witness: site 'x' is not under sites"),
        ("drpilot: 1\ncontroller: {site: x}", "2:14: controller: site 'x' is not under sites"),
        ("drpilot: 1\noperators: {x: {may: [approve, run]}}", "2:32: operators.x.may: must be 'operate' or 'approve', not 'run'"),
        ("drpilot: 1\noperators: {x: {may: []}}", "2:17: operators.x.may: needs at least 1 of them, not a list"),
        (SITE + "}", "3:3: sites.a: needs a profile, euca2ools, or endpoints with credentials or a login; one of them"),
        (SITE + "profile: p, credentials: {file: f}}", "3:3: sites.a: needs a profile, euca2ools, or endpoints with credentials or a login; one of them"),
        (SITE + "profile: p, endpoints: {}}", "3:3: sites.a: endpoints is empty; write SERVICE: URL, or leave it out"),
        (SITE + "profile: p, at_once: {copies: 3}}", "3:77: sites.a.at_once.copies: must be 'copy-snapshot', not 'copies'"),
        (SITE + "profile: p, at_once: {copy-snapshot: 0}}", "3:92: sites.a.at_once.copy-snapshot: must be at least 1, not '0'"),
        (SITE + "profile: p, regoin: r}", "3:67: unknown key 'regoin' (did you mean 'region'?)"),
        (SITE + "profile: p, secret_access_key: x}", "3:67: key 'secret_access_key': drpilot.yaml holds no secrets; refer to them by `profile` or by `credentials: {env|file|command: …}`"),
        (SITE + "credentials: {secret_key: x}}", "3:69: key 'secret_key': drpilot.yaml holds no secrets; refer to them by `profile` or by `credentials: {env|file|command: …}`"),
        (SITE + "credentials: {env: A, file: b}}", "3:55: sites.a.credentials: needs exactly one of env, file and command"),
        (SITE + "credentials: {env: AKIAIOSFODNN7EXAMPLE}}", "3:74: sites.a.credentials.env: this is not the name of a variable; drpilot.yaml holds no secrets; refer to them by `profile` or by `credentials: {env|file|command: …}`"),
        (SITE + "credentials: {env: AWS_KEYS}}", "3:74: sites.a.credentials.env: variable AWS_KEYS is read by every AWS tool; choose another name"),
        (SITE + "credentials: {command: 'echo \"x'}}", "3:78: sites.a.credentials.command: this is not a command line: No closing quotation"),
        (SITE + "credentials: {command: ' '}}", "3:78: sites.a.credentials.command: the command is empty"),
        (SITE + "credentials: {file: AKIAIOSFODNN7EXAMPLE}}", "3:75: sites.a.credentials.file: this looks like a key itself; drpilot.yaml holds no secrets; refer to them by `profile` or by `credentials: {env|file|command: …}`"),
        (SITE + "profile: p, endpoints: {ec2: 127.0.0.1}}", "3:84: sites.a.endpoints.ec2: '127.0.0.1' is no endpoint; write https://HOST[:PORT][/PATH], without user or password"),
        (SITE + "profile: p, endpoints: {ec2: 'https://u:p@h'}}", "3:84: sites.a.endpoints.ec2: 'https://u:p@h' is no endpoint; write https://HOST[:PORT][/PATH], without user or password"),
        (SITE + "profile: p, euca2ools: ops@x}", "3:3: sites.a: needs a profile, euca2ools, or endpoints with credentials or a login; one of them"),
        (SITE + "euca2ools: 'a b@x'}", "3:66: sites.a.euca2ools: 'a b@x' is not USER@REGION, USER@ or REGION of euca2ools' ini files"),
        (SITE + "login: {account: acme, user: ops, password: hunter2}}", "3:89: key 'password': drpilot.yaml holds no secrets; refer to them by `profile` or by `credentials: {env|file|command: …}`"),
        (SITE + "login: {account: acme, user: ops}}", "3:3: sites.a: needs endpoints; write default: https://HOST:PORT"),
        (SITE + "endpoints: {default: 'https://h'}, login: {account: acme, user: ops}}", "3:3: sites.a: a login by password is for eucalyptus; AWS gives keys"),
        (SITE + "profile: p, ca_bundle: a.pem, verify: false}", "3:3: sites.a: verify: false makes ca_bundle useless; leave one of them out"),
        (SITE + "profile: p, endpoints: {default: 'https://{user}.h'}}", "3:88: sites.a.endpoints.default: 'https://{user}.h' is no endpoint; write https://HOST[:PORT][/PATH], without user or password"),
        ("drpilot: 1\nsites: {a: {cloud: aws, account: '123456789012', profile: p}}", "2:9: sites.a: needs a region"),
        ("drpilot: 1\nsites: {a: {cloud: eucalyptus-5, account: '123456789012', credentials: {file: k}}}", "2:9: sites.a: needs endpoints; write default: https://HOST:PORT"),
        ("drpilot: 1\nwitness: {site: a, bucket: b}\nsites: {a: {cloud: eucalyptus-5, account: '123456789012', profile: p}}", "2:11: witness: eucalyptus-5 has no conditional writes, so two controllers could both win; take a site of aws"),
        ("drpilot: 1\nsites: {A: {cloud: aws, region: r, account: '123456789012', profile: p}}", "2:9: sites.A: 'A' does not have the form ^[a-z][a-z0-9-]*$"),
        ("drpilot: 1\nsites: {a: {cloud: eucalyptus, region: r, account: '123456789012', profile: p}}", "2:20: sites.a.cloud: must be 'aws', 'eucalyptus-3.4', 'eucalyptus-4.4' or 'eucalyptus-5', not 'eucalyptus'"),
        ("drpilot: 1\nsites: {a: {cloud: aws, region: r, account: 12, profile: p}}", "2:45: sites.a.account: '12' does not have the form ^\\d{12}$"),
    ],
)  # fmt: skip
def test_mistakes_have_their_place(text: str, wanted: str, tmp_path: Path) -> None:
    """Every mistake is named at file:line:column, exit code 6, and a secret is never repeated."""
    with pytest.raises(DrpilotError) as caught:
        parse(text, tmp_path)
    assert caught.value.exit_code == 6
    assert caught.value.why == f"drpilot.yaml:{wanted}"
    assert "hunter2" not in str(caught.value.as_json())


@pytest.mark.row(107)
def test_a_literal_key_is_not_repeated_in_the_message(tmp_path: Path) -> None:
    """What looks like a key does not reach a terminal or a log."""
    for text in (
        "credentials: {env: AKIAIOSFODNN7EXAMPLE}}",
        "profile: p, secret_access_key: wJalrXUtnFEMI}",
    ):
        with pytest.raises(DrpilotError) as caught:
            parse(SITE + text, tmp_path)
        said = str(caught.value.as_json())
        assert "AKIAIOSFODNN7EXAMPLE" not in said
        assert "wJalrXUtnFEMI" not in said


NEW = SiteSettings("paris", "aws", "eu-west-3", "410987654321", "dr")


def test_add_site_makes_the_file(tmp_path: Path) -> None:
    """The first site makes drpilot.yaml; the same again changes nothing; another of that name is refused."""
    folder = tmp_path / "new" / "home"
    path = add_site(folder, NEW)
    assert path.read_text() == (
        'drpilot: 1\nsites:\n  paris: {cloud: aws, profile: dr, region: eu-west-3, account: "410987654321"}\n'
    )
    before = path.read_bytes()
    assert add_site(folder, NEW).read_bytes() == before
    with pytest.raises(DrpilotError) as caught:
        add_site(folder, SiteSettings("paris", "aws", "eu-west-1", "410987654321", "dr"))
    assert caught.value.word == "site-exists"
    assert path.read_bytes() == before
    assert [file.name for file in folder.iterdir()] == ["drpilot.yaml"]


@pytest.mark.parametrize(
    ("old", "wanted"),
    [
        ("drpilot: 1 # v\n# tail", "drpilot: 1 # v\n# tail\nsites:\n  LINE\n"),
        ("drpilot: 1\nsites: {}  # none\noperators: {}\n", "drpilot: 1\nsites: {LINE}  # none\noperators: {}\n"),
        (
            'drpilot: 1\nsites: {a: {cloud: aws, profile: p, region: r, account: "123456789012"} }\n',
            'drpilot: 1\nsites: {a: {cloud: aws, profile: p, region: r, account: "123456789012"}, LINE}\n',
        ),
        (
            'drpilot: 1\nsites:\n    a:  # old\n        cloud: aws\n        profile: p\n        region: r\n        account: "123456789012"  # mine\n\n# people\noperators:\n  x: {may: [approve]}\n',
            'drpilot: 1\nsites:\n    a:  # old\n        cloud: aws\n        profile: p\n        region: r\n        account: "123456789012"  # mine\n    LINE\n\n# people\noperators:\n  x: {may: [approve]}\n',
        ),
        (
            'drpilot: 1\nsites:\n  a: {cloud: aws, profile: p,\n      region: r, account: "123456789012"}',
            'drpilot: 1\nsites:\n  a: {cloud: aws, profile: p,\n      region: r, account: "123456789012"}\n  LINE\n',
        ),
    ],
)  # fmt: skip
def test_add_site_keeps_the_rest_of_the_text(old: str, wanted: str, tmp_path: Path) -> None:
    """Comments, order, indentation and style of the file stay; one entry is new."""
    (tmp_path / "drpilot.yaml").write_text(old)
    path = add_site(tmp_path, NEW)
    assert path.read_text() == wanted.replace("LINE", site_line(NEW))
    assert read(tmp_path).site("paris") == NEW


def test_add_site_refuses_a_wrong_file_and_leaves_it(tmp_path: Path) -> None:
    """A file with findings is not touched."""
    (tmp_path / "drpilot.yaml").write_text("drpilot: 1\nsitse: {}\n")
    with pytest.raises(DrpilotError) as caught:
        add_site(tmp_path, NEW)
    assert caught.value.word == "document"
    assert (tmp_path / "drpilot.yaml").read_text() == "drpilot: 1\nsitse: {}\n"


def test_add_site_refuses_a_layout_it_can_not_extend(tmp_path: Path) -> None:
    """Where the new text would not mean the same, the old one stays and the line to add is said."""
    old = "{drpilot: 1}\n"
    (tmp_path / "drpilot.yaml").write_text(old)
    with pytest.raises(DrpilotError) as caught:
        add_site(tmp_path, NEW)
    assert (tmp_path / "drpilot.yaml").read_text() == old
    assert caught.value.word in ("site-not-written", "document")
    assert "paris: {cloud: aws" in caught.value.hint or caught.value.word == "document"


@pytest.mark.parametrize(
    "credentials", [Credentials("env", "PARIS_KEYS"), Credentials("file", "/keys/paris.json"), Credentials("command", "pass show 'paris keys'")]
)  # fmt: skip
def test_references_and_endpoints_read_back(credentials: Credentials, tmp_path: Path) -> None:
    """Each way to refer to credentials, endpoints and a CA bundle survive the file."""
    site = SiteSettings(
        "paris",
        "aws",
        "eu-west-3",
        "410987654321",
        None,
        {"ec2": "https://ec2.example.org:8773/x"},
        credentials,
        "/etc/ca.pem",
    )
    add_site(tmp_path, site)
    assert read(tmp_path).site("paris") == site


def test_a_site_may_be_added_that_the_witness_waits_for(tmp_path: Path) -> None:
    """The witness is written first, its site added after: in between every other command says what is missing."""
    (tmp_path / "drpilot.yaml").write_text("drpilot: 1\nwitness: {site: paris, bucket: b}\n")
    with pytest.raises(DrpilotError) as caught:
        read(tmp_path)
    assert caught.value.where == "drpilot.yaml:2:11"
    add_site(tmp_path, NEW)
    configuration = read(tmp_path)
    assert configuration.witness is not None
    assert configuration.site(configuration.witness.site) == NEW


@pytest.mark.row(32)
def test_no_variable_makes_a_second_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LOGNAME and USER are anybody's to set; the kernel knows who logged in."""
    account = parse("drpilot: 1\n", tmp_path).who().account
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "second")
    assert parse("drpilot: 1\n", tmp_path).who().account == account


def test_an_operator_can_not_act_as_another(tmp_path: Path) -> None:
    """A name of one's own means rights of one's own."""
    account = parse("drpilot: 1\n", tmp_path).who().account
    listed = parse(
        f"drpilot: 1\noperators: {{{account}: {{may: [approve]}}, lead: {{may: [operate]}}}}\n", tmp_path
    )
    assert listed.who().may == {"approve"}
    with pytest.raises(DrpilotError) as refused:
        listed.who("lead")
    assert refused.value.word == "not-allowed"


def test_a_login_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a container without a passwd entry the person is the user's number."""

    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert parse("drpilot: 1\n", tmp_path).who().name.startswith("uid-")


labels = st.from_regex(r"[A-Za-z0-9](-?[A-Za-z0-9]){0,20}", fullmatch=True)
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs"), exclude_characters="\ufeff\ufffe\uffff\x85"), min_size=1, max_size=12).filter(lambda text: "AKI" not in text and "ASI" not in text)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(region=labels, profile=words, name=st.sampled_from(["aws", "x"]))
def test_any_site_reads_back_as_written(region: str, profile: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:  # fmt: skip
    """Names with quotes, braces, colons or accents survive the way into the file and out of it."""
    folder = tmp_path_factory.mktemp("home")
    add_site(folder, NEW)
    site = SiteSettings(name, "aws", region, "123456789012", profile)
    add_site(folder, site)
    assert read(folder).sites == {"paris": NEW, name: site}


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        ("{site: frankfurt, table: claims}", WitnessSettings("frankfurt", table="claims")),
        (
            "{database: 'postgresql://dr@db.example.org/witness'}",
            WitnessSettings(database="postgresql://dr@db.example.org/witness"),
        ),
    ],
)
def test_a_witness_may_be_a_table_or_a_database(tmp_path: Path, keys: str, settings: WitnessSettings) -> None:
    """A DynamoDB table on a site, or a PostgreSQL database that belongs to none."""
    text = FULL.replace(
        next(line for line in FULL.splitlines() if line.startswith("witness:")), f"witness: {keys}"
    )
    assert parse(text, tmp_path).witness == settings


@pytest.mark.parametrize(
    "keys",
    [
        "{site: frankfurt}",
        "{site: frankfurt, bucket: b, table: t}",
        "{bucket: b}",
        "{site: frankfurt, database: 'postgresql://dr@db.example.org/witness'}",
        "{database: 'postgresql://dr:geheim@db.example.org/witness'}",
        "{database: 'sqlite:////tmp/witness.db'}",
        "{site: frankfurt, table: t, prefix: p}",
    ],
)
def test_a_witness_is_in_one_place(tmp_path: Path, keys: str) -> None:
    """Two places, none, half of one, or a secret are refused, and the secret is not repeated."""
    text = FULL.replace(
        next(line for line in FULL.splitlines() if line.startswith("witness:")), f"witness: {keys}"
    )
    with pytest.raises(DrpilotError) as caught:
        parse(text, tmp_path)
    assert caught.value.exit_code == 6
    assert "geheim" not in f"{caught.value} {caught.value.why} {caught.value.data}"
