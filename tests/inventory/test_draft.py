"""Whatever a site's names are, the draft is strict YAML, and its only errors are the partners that it left open."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from drpilot.inventory.draft import draft
from drpilot.inventory.groupfile import read
from drpilot.inventory.survey import Survey, Surveyed
from tests.inventory.test_groupfile import APP, BALANCER, DB, PRIMARY, SECONDARY, SITES, WEB

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: text == text.strip()
)
LISTS = st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple)


def test_every_comment_is_set_off_by_a_space() -> None:
    """`}# ?` is no comment to YAML: a long line keeps its space too."""
    for tag in ("app=shop", None):
        for line in draft("shop", PRIMARY, SECONDARY, tag).splitlines():
            assert not re.search(r"[^\s#]#", line), line


@settings(max_examples=60, deadline=None)
@given(label=NAMES, key=NAMES, guards=LISTS, names=LISTS, why=NAMES, untagged=st.booleans())
def test_any_names_make_strict_yaml(
    label: str, key: str, guards: tuple[str, ...], names: tuple[str, ...], why: str, untagged: bool
) -> None:
    """Names with quotes, braces, colons, line ends or emoji come back as they are; only missing partners are errors."""
    database = replace(DB, key=key, security_groups=guards, key_pair=key, tags={"tier": label})
    web = replace(WEB, key=names[0], profile=key)
    tiers = {
        "" if untagged else label: Surveyed((database,), (APP,)),
        label + "2": Surveyed((), (web,), (replace(BALANCER, key=names[-1]),)),
    }
    primary = Survey(
        "milan", tiers if not untagged else {"": Surveyed((database,), (APP, web))}, subnets=PRIMARY.subnets
    )
    text = draft("shop", primary, replace(SECONDARY, security_groups=names, untold={"ec2:Any": why}))
    document = read(text, "shop.yaml", SITES)
    assert {one.message.split(": ")[-1] for one in document.findings if one.severity == "error"} <= {
        "has no partner yet; name what it becomes on the other site"
    }, text
    assert document.loaded.findings == document.findings
    if document.group is not None:
        assert set(document.group.map.security_groups) >= set(guards)


def test_more_tiers_than_a_group_may_have_are_named() -> None:
    """The first twenty are drafted, and the rest is said."""
    many = {f"tier-{number:02}": Surveyed((), (replace(APP, key=f"app-{number}"),)) for number in range(23)}
    text = draft("shop", Survey("milan", many), SECONDARY)
    assert len(re.findall(r"^  tier[a-z0-9-]*:", text, re.MULTILINE)) == 20
    assert "# ? left out, because a group has at most 20 tiers: tier-21, tier-22, tier-23" in text
