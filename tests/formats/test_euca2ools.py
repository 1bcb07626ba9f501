"""euca2ools' ini files: merging, looking up, selecting; each rule of the manual page and of its parser."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpilot.formats.euca2ools import Config, lookup, parse, select, truth

# The form of the talk's slides, and one where a star answers for every user and region.
DECK = """\
[user ops]
key-id = AKIDECK
secret-key = s3cr3t
account-id = 0001-2345-6789
private-key = ~/.euca/ops-pk.pem
certificate = ~/.euca/ops-cert.pem

[region cloud-1]
ec2-url = https://clc.example.org:8773/services/Eucalyptus
iam-url = https://clc.example.org:8773/services/Euare
s3-url = https://clc.example.org:8773/services/Walrus
user = ops
certificate = ~/.euca/cloud-cert.pem
"""
STAR = """\
[global]
default-region = cloud-1

[user *]
key-id = AKISTAR
secret-key = star

[region *]
verify-ssl = true
ec2-url = https://clc.example.org:8773/services/compute
s3-url = https://clc.example.org:8773/services/objectstorage
user = anybody
"""


def _config(*texts: str) -> Config:
    return parse((f"{number}.ini", text) for number, text in enumerate(texts))


# -- files -----------------------------------------------------------------------------------------------


def test_of_two_files_the_later_wins_by_option() -> None:
    """Sections merge: a key id from one file, the secret from the next, and the later of two values counts."""
    config = _config(
        "[user a]\nkey-id = one\n[region r]\nec2-url = http://old\n",
        "[user a]\nsecret-key = two\n[region r]\nec2-url = http://new\nuser = a\n",
    )
    chosen = select(config, "r")
    assert (chosen.key_id, chosen.secret_key, chosen.urls["ec2"]) == ("one", "two", "http://new")


def test_a_section_may_be_repeated_in_one_file() -> None:
    """What a second section of the same name gives is added."""
    config = _config("[user a]\nkey-id = one\n[user a]\nsecret-key = two\n")
    assert dict(config.users["a"]) == {"key-id": "one", "secret-key": "two"}


def test_names_of_options_do_not_care_for_case() -> None:
    """`Key-ID` and `key-id` are one option; values and section names keep their case."""
    config = _config("[user Ops]\nKEY-ID = AbC\nsecret-key: x\n")
    assert dict(config.users["Ops"]) == {"key-id": "AbC", "secret-key": "x"}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("a ; comment", "a"),
        ("a\t; comment", "a"),
        ("b;c", "b;c"),
        ("b;c ; d", "b;c ; d"),
        (";x", ";x"),
        ("a # not a comment", "a # not a comment"),
        ('""', ""),
        ("  spaced  ", "spaced"),
        ("50%% off", "50% off"),
    ],
)
def test_values_end_where_python_2_ended_them(written: str, read: str) -> None:
    """Only a first `;` after white space begins a comment; `%%` is a percent sign."""
    config = _config(f"[region r]\nname = {written}\n")
    found = lookup(config.regions, "r", "name")
    assert found is not None
    assert found.value == read


def test_lines_of_comment_are_left_out() -> None:
    """`#` and `;` begin a comment at the start of a line."""
    config = _config("# head\n[region r]\n; semicolon\n# hash\nec2-url = http://x\n")
    assert dict(config.regions["r"]) == {"ec2-url": "http://x"}


def test_default_leaks_into_every_section() -> None:
    """`[DEFAULT]` is the parser's own: its options stand in every section that has none of that name."""
    config = _config("[DEFAULT]\nuser = all\n[region a]\nec2-url = http://a\n[region b]\nuser = own\n")
    assert config.regions["a"]["user"] == "all"
    assert config.regions["b"]["user"] == "own"


def test_a_value_may_name_another_of_its_section() -> None:
    """`%(host)s` stands for the section's own `host`, and `[DEFAULT]` may give it."""
    config = _config("[DEFAULT]\nhost = clc\n[region r]\nec2-url = https://%(HOST)s:8773\n")
    found = lookup(config.regions, "r", "ec2-url")
    assert found is not None
    assert found.value == "https://clc:8773"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("100%", "a literal % is written %%"),
        ("%(nobody)s", "leads to no value"),
        ("%(ec2-url)s", "leads to no value"),
    ],
)
def test_a_lone_percent_sign_is_a_mistake(value: str, said: str) -> None:
    """Interpolation that leads nowhere, or in a circle, is named."""
    config = _config(f"[region r]\nec2-url = {value}\n")
    with pytest.raises(ValueError, match=said):
        lookup(config.regions, "r", "ec2-url")


def test_a_percent_sign_elsewhere_does_no_harm() -> None:
    """Only the option that is looked up must be right."""
    config = _config("[region r]\nname = 100%\nec2-url = http://x\n")
    assert lookup(config.regions, "r", "ec2-url") is not None


def test_sections_nobody_knows_are_left_alone() -> None:
    """Other sections, and kinds to come, are ignored."""
    config = _config("[vpn x]\na = b\n[region]\nec2-url = http://none\n[user a]\nkey-id = k\n")
    assert (dict(config.regions), list(config.users)) == ({}, ["a"])


def test_the_second_word_names_the_section() -> None:
    """`[region a b]` is region a."""
    assert list(_config("[region a b]\nname = x\n").regions) == ["a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[region a@b]\n", "can't have @"),
        ("[user a@b]\n", "can't have @"),
        ("[region a::b]\n", "a part of the name is empty"),
        ("[region :b]\n", "a part of the name is empty"),
        ("key-id = x\n", r"0\.ini:1: the line stands before any section"),
        ("[region a]\nno option here\n", r"0\.ini: line 2 is neither"),
    ],
)
def test_what_can_not_be_read_is_named(text: str, said: str) -> None:
    """A wrong name or line is an error with its place."""
    with pytest.raises(ValueError, match=said):
        _config(text)


# -- one option ------------------------------------------------------------------------------------------


def test_wildcards_are_asked_from_the_most_specific() -> None:
    """`a:b`, `a:*`, `*:b`, `*:*`, and an option that one of them lacks is looked for in the next."""
    table = {
        "a:b": {"one": "a:b"},
        "a:*": {"one": "a:*", "two": "a:*"},
        "*:b": {"two": "*:b", "three": "*:b"},
        "*:*": {"three": "*:*", "four": "*:*"},
        "*": {"four": "*", "five": "*"},
    }
    found = {name: lookup(table, "a:b", name) for name in ("one", "two", "three", "four", "five", "six")}
    assert {name: one.value for name, one in found.items() if one} == {
        "one": "a:b",
        "two": "a:*",
        "three": "*:b",
        "four": "*:*",
        "five": "*",
    }
    assert found["six"] is None


def test_a_short_name_finds_the_longer_section() -> None:
    """`us-east-1` means `aws:us-east-1` where nothing is called so itself; the shortest that fits counts."""
    table = {"aws:us-east-1": {"ec2-url": "u"}, "old:aws:us-east-1": {"ec2-url": "v"}}
    found = lookup(table, "us-east-1", "ec2-url")
    assert found is not None
    assert (found.value, found.section) == ("u", "aws:us-east-1")


def test_a_part_of_a_word_is_no_name() -> None:
    """`east-1` does not find `aws:us-east-1`: whole parts are compared."""
    assert lookup({"aws:us-east-1": {"ec2-url": "u"}}, "east-1", "ec2-url") is None


def test_two_longer_sections_are_ambiguous() -> None:
    """Where two fit equally well a person must say which."""
    table = {"one:r": {"ec2-url": "u"}, "two:r": {"ec2-url": "v"}}
    with pytest.raises(ValueError, match=r"r is ambiguous: one:r or two:r"):
        lookup(table, "r", "ec2-url")


def test_a_longer_section_comes_before_the_star() -> None:
    """The bare star is the default of defaults: asked last, and asked for what a longer section lacks too."""
    table = {"aws:r": {"ec2-url": "u"}, "*": {"ec2-url": "star", "verify-ssl": "true"}}
    found = [lookup(table, "r", name) for name in ("ec2-url", "verify-ssl")]
    assert [(one.value, one.section) for one in found if one] == [("u", "aws:r"), ("true", "*")]


def test_use_goes_on_elsewhere() -> None:
    """`use OTHER` asks OTHER for the same option, `use OTHER OPTION` for another one."""
    table = {
        "a": {"ec2-url": "use b", "s3-url": "use b walrus-url"},
        "b": {"ec2-url": "u", "walrus-url": "w"},
    }
    found = [lookup(table, "a", name) for name in ("ec2-url", "s3-url")]
    assert [(one.value, one.section) for one in found if one] == [("u", "b"), ("w", "b")]


@pytest.mark.parametrize(
    "table",
    [
        {"a": {"x": "use a"}},
        {"a": {"x": "use b"}, "b": {"x": "use a"}},
        {"a": {"x": "use b y"}, "b": {"y": "use a z"}, "a:c": {}, "*": {"z": "use b y"}},
    ],
)
def test_use_in_a_circle_is_named(table: dict[str, dict[str, str]]) -> None:
    """A circle is an error with its way, not a hang."""
    with pytest.raises(ValueError, match="circle"):
        lookup(table, "a", "x")


def test_use_needs_a_word() -> None:
    """`use` alone says nothing."""
    with pytest.raises(ValueError, match="something must follow"):
        lookup({"a": {"x": "use "}}, "a", "x")


_WORD = st.sampled_from(["a", "b", "c", "*"])
_NAME = st.lists(_WORD, min_size=1, max_size=3).map(":".join)
_VALUE = st.one_of(
    st.just("v"),
    _NAME.map(lambda name: f"use {name}"),
    st.tuples(_NAME, st.sampled_from(["x", "y"])).map(lambda two: f"use {two[0]} {two[1]}"),
)


@given(
    st.dictionaries(_NAME, st.dictionaries(st.sampled_from(["x", "y"]), _VALUE), max_size=6),
    _NAME,
    st.sampled_from(["x", "y"]),
)
def test_every_look_up_ends(table: dict[str, dict[str, str]], section: str, option: str) -> None:
    """Whatever the sections say: a value that is no `use`, nothing, or an error with a reason."""
    said, found = "", None
    try:
        found = lookup(table, section, option)
    except ValueError as error:
        said = str(error)
    if said:
        assert any(word in said for word in ("circle", "ambiguous"))
    else:
        assert found is None or (found.value == "v" and found.section in table)


# -- user@region -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ops@cloud-1", "cloud-1"])
def test_the_form_of_the_slides(text: str) -> None:
    """User and region sections as the talk shows them; the region's `user` where none is named."""
    chosen = select(_config(DECK), text)
    assert (chosen.user, chosen.region, chosen.key_id) == ("ops", "cloud-1", "AKIDECK")
    assert chosen.account_id == "000123456789"
    assert chosen.urls["s3"].endswith("/services/Walrus")
    assert chosen.signing == {"ec2": "cloud-1", "iam": "cloud-1", "s3": "cloud-1"}
    assert (chosen.cloud_certificate, chosen.private_key) == ("~/.euca/cloud-cert.pem", "~/.euca/ops-pk.pem")
    assert not chosen.verify_ssl
    assert "s3cr3t" not in repr(chosen)


@pytest.mark.parametrize(
    ("text", "user", "region"),
    [
        ("ops@cloud-1", "ops", "cloud-1"),
        ("ops@", "ops", "cloud-1"),
        ("cloud-2", "anybody", "cloud-2"),
        ("@cloud-2", "anybody", "cloud-2"),
    ],
)
def test_a_star_answers_for_everybody(text: str, user: str, region: str) -> None:
    """`[region *]` and `[user *]` are the default of every name; what is left out comes from [global]."""
    chosen = select(_config(STAR), text)
    assert (chosen.user, chosen.region, chosen.key_id, chosen.verify_ssl) == (user, region, "AKISTAR", True)
    assert chosen.signing["ec2"] == region


def test_a_region_signs_for_where_its_endpoint_stands() -> None:
    """`name` of that section, else the last part of its name; a wildcard signs for what was asked."""
    config = _config(
        "[user u]\nkey-id=k\nsecret-key=s\n"
        "[region aws:us-east-1]\nec2-url=http://e\n"
        "[region aws:*]\nuser=u\niam-url=http://i\n"
        "[region mine]\nec2-url=use us-east-1\ns3-url=http://s\nname=home\nuser=u\n"
    )
    assert select(config, "mine").signing == {"ec2": "us-east-1", "s3": "home"}
    assert select(config, "us-east-1").signing == {"ec2": "us-east-1", "iam": "us-east-1"}


@pytest.mark.parametrize(
    ("text", "asked", "said"),
    [
        (DECK, "ops@", "no region is named"),
        ("[user u]\nkey-id=k\nsecret-key=s\n[region r]\nec2-url=h\n", "r", "no user is named"),
        ("[user u]\nkey-id=k\nsecret-key=s\n", "u@r", "region r has no endpoint"),
        ("[user u]\nkey-id=k\n[region r]\nec2-url=h\n", "u@r", "user u has no secret-key"),
        ("[user u]\nsecret-key=k\n[region r]\nec2-url=h\n", "u@r", "user u has no key-id"),
        (DECK + "verify-ssl = perhaps\n", "cloud-1", "neither true nor false"),
    ],
)
def test_what_is_missing_is_named(text: str, asked: str, said: str) -> None:
    """A selection is whole or an error."""
    with pytest.raises(ValueError, match=said):
        select(_config(text), asked)


def test_truth_values_are_those_of_euca2ools() -> None:
    """true, 1, yes, on and their opposites, in any case; absent is the default."""
    assert all(truth(word) for word in ("true", "1", "YES", "On"))
    assert not any(truth(word) for word in ("false", "0", "No", "OFF"))
    assert truth(None, default=True)
