"""The ini files of euca2ools: how they are merged, and how an option is looked up for `user@region`.

Pure: texts go in, a selection comes out; reading the files is the edge's. The rules are those of the manual page
euca2ools.ini(5) and of requestbuilder 0.7 (config.py, service.py), which euca2ools 3.4 uses; where that crashes
(a `[region *]` or `[user *]` that should answer for everything) the documented behaviour stands. Two differences
from a plain ini file follow from Python 2's parser: a value ends at its first `;` if white space stands before
it, and `%` begins an interpolation, so that a literal one is written `%%`.
"""

from __future__ import annotations

import configparser
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Config", "Found", "Selection", "parse", "select", "truth"]

_INTERPOLATION = re.compile(r"%(?:(%)|\(([^)]*)\)s|)")
_DEPTH = 10
_SERVICE_URL = re.compile(r"^([a-z][a-z0-9]*)-url$")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")

_Sections = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Config:
    """All files merged: options by region, by user, and the global ones. Values are raw, `%` not yet opened."""

    regions: _Sections = field(default_factory=dict)
    users: _Sections = field(default_factory=dict)
    globals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """A value and the section it stands in, which names the region a request is signed for."""

    value: str
    section: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What `user@region` leads to.

    `urls` maps euca2ools' service names (`ec2`, `s3`, `monitoring` …) to endpoints, `signing` the same names to
    region names. `certificate` and `private_key` are the user's, `cloud_certificate` the region's; all are paths
    as written. `secret_key` never prints.
    """

    user: str
    region: str
    urls: Mapping[str, str]
    signing: Mapping[str, str]
    key_id: str = ""
    secret_key: str = field(default="", repr=False)
    account_id: str = ""
    certificate: str = ""
    private_key: str = ""
    cloud_certificate: str = ""
    verify_ssl: bool = False
    s3_sigv4: bool = False
    location_constraint: str = ""


def parse(texts: Iterable[tuple[str, str]]) -> Config:
    """Merge files, given as (name, text) in the order they are read; of two values the later one counts.

    Raises ValueError with file and line for what is no ini file, and for a section name with `@` or an empty part.
    """
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#", ";"))
    for name, text in texts:
        try:
            parser.read_string(text, name)
        except configparser.MissingSectionHeaderError as error:
            raise ValueError(f"{name}:{error.lineno}: the line stands before any section") from None
        except configparser.ParsingError as error:
            lines = ", ".join(str(line) for line, _ in error.errors)
            raise ValueError(f"{name}: line {lines} is neither a section, an option nor a comment") from None
    regions: dict[str, Mapping[str, str]] = {}
    users: dict[str, Mapping[str, str]] = {}
    common: Mapping[str, str] = {}
    for section in parser.sections():
        words = section.split()
        options = {key: _uncommented(value) for key, value in parser.items(section)}
        if section == "global":
            common = options
        elif len(words) > 1 and words[0] in ("region", "user"):
            table = regions if words[0] == "region" else users
            table[_named(words[0], words[1])] = options
    return Config(regions, users, common)


def _named(kind: str, name: str) -> str:
    if "@" in name:
        raise ValueError(f"[{kind} {name}]: a {kind} can't have @ in its name")
    if not all(name.split(":")):
        raise ValueError(f"[{kind} {name}]: a part of the name is empty")
    return name


def _uncommented(value: str | None) -> str:
    first, newline, rest = (value or "").partition("\n")
    place = first.find(";")
    if place > 0 and first[place - 1].isspace():
        first = first[:place]
    first = first.strip()
    return ("" if first == '""' else first) + newline + rest


def truth(value: str | None, *, default: bool = False) -> bool:
    """A truth value as euca2ools writes it; ValueError for anything else."""
    if value is None:
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise ValueError(f"{value!r} is neither true nor false")


# -- one option ------------------------------------------------------------------------------------------


def lookup(sections: _Sections, section: str, option: str) -> Found | None:
    """The value of `option` for `section`, or None.

    First the section itself and its wildcards (`a:b`, `a:*`, `*:b`, `*:*`), then the one longer section that ends
    in its name, then `*`. A value `use OTHER [OPTION]` goes on there. ValueError where that runs in a circle, where
    two longer sections fit equally well, and for a `%` that begins nothing.
    """
    return _lookup(sections, section, option, ())


def _lookup(
    sections: _Sections, section: str, option: str, seen: tuple[tuple[str, str], ...]
) -> Found | None:
    if (section, option) in seen:
        way = " → ".join(f"{name}: {key}" for name, key in (*seen, (section, option)))
        raise ValueError(f"{option} runs in a circle: {way}")
    seen = (*seen, (section, option))
    for name in _alike(section):
        if option in sections.get(name, {}):
            return _value(sections, name, option, seen)
    longer = _ending_in(sections, section)
    if longer is not None:
        return _lookup(sections, longer, option, seen)
    if option in sections.get("*", {}):
        return _value(sections, "*", option, seen)
    return None


def _alike(section: str) -> list[str]:
    """The section and its wildcards, the most specific first; the bare `*` comes last of all, elsewhere."""
    parts = section.split(":")
    choices = itertools.product((True, False), repeat=len(parts))
    names = [
        ":".join(part if kept else "*" for part, kept in zip(parts, choice, strict=True))
        for choice in choices
    ]
    return [name for name in names if name != "*"]


def _ending_in(sections: _Sections, section: str) -> str | None:
    parts = section.split(":")
    longer = [
        name
        for name in sections
        if len(name.split(":")) > len(parts) and name.split(":")[-len(parts) :] == parts
    ]
    if not longer:
        return None
    shortest = min(len(name.split(":")) for name in longer)
    closest = [name for name in longer if len(name.split(":")) == shortest]
    if len(closest) > 1:
        raise ValueError(f"{section} is ambiguous: {' or '.join(closest)}")
    return closest[0]


def _value(sections: _Sections, section: str, option: str, seen: tuple[tuple[str, str], ...]) -> Found | None:
    value = _opened(sections[section], option)
    if not value.startswith("use ") and value != "use":
        return Found(value, section)
    words = value.split()
    if len(words) == 1:
        raise ValueError(f"[{section}] {option}: something must follow `use`")
    return _lookup(sections, words[1], words[2] if len(words) > 2 else option, seen)


def _opened(options: Mapping[str, str], option: str, depth: int = 0) -> str:
    """The value with `%%` and `%(name)s` replaced."""

    def part(match: re.Match[str]) -> str:
        if match[1]:
            return "%"
        name = (match[2] or "").lower()
        if match[2] is None:
            raise ValueError(f"{option}: a literal % is written %%")
        if name not in options or depth >= _DEPTH:
            raise ValueError(f"{option}: %({name})s leads to no value")
        return _opened(options, name, depth + 1)

    return _INTERPOLATION.sub(part, options[option])


# -- user@region -----------------------------------------------------------------------------------------


def select(config: Config, text: str) -> Selection:
    """What `user@region`, `user@` or `region` leads to.

    What is left out comes from `[global] default-region` and from the region's option `user`. ValueError where no
    region or no user is found, where the region has no endpoint, or the user only half a key.
    """
    user, at, region = text.partition("@")
    if not at:
        user, region = "", text
    region = region or config.globals.get("default-region", "")
    if not region:
        raise ValueError(f"{text}: no region is named, and [global] has no default-region")
    if not user:
        default = lookup(config.regions, region, "user")
        user = default.value if default is not None else ""
    if not user:
        raise ValueError(f"{text}: no user is named, and region {region} has no `user`")
    urls, signing = _endpoints(config.regions, region)
    if not urls:
        raise ValueError(f"region {region} has no endpoint (ec2-url and others)")

    def of_region(option: str) -> str | None:
        found = lookup(config.regions, region, option)
        return found.value if found is not None else None

    def of_user(option: str) -> str:
        found = lookup(config.users, user, option)
        return found.value if found is not None else ""

    key_id, secret = of_user("key-id"), of_user("secret-key")
    if not (key_id and secret):
        lacking = "secret-key" if key_id else "key-id"
        raise ValueError(f"user {user} has no {lacking}")
    return Selection(
        user=user,
        region=region,
        urls=urls,
        signing=signing,
        key_id=key_id,
        secret_key=secret,
        account_id=of_user("account-id").replace("-", ""),
        certificate=of_user("certificate"),
        private_key=of_user("private-key"),
        cloud_certificate=of_region("certificate") or "",
        verify_ssl=truth(of_region("verify-ssl")),
        s3_sigv4=truth(of_region("s3-force-sigv4")),
        location_constraint=of_region("s3-location-constraint") or "",
    )


def _endpoints(regions: _Sections, region: str) -> tuple[dict[str, str], dict[str, str]]:
    """Endpoints and signing regions by service: every `NAME-url` any section has is looked up for `region`."""
    names = {
        match[1]
        for options in regions.values()
        for option in options
        if (match := _SERVICE_URL.match(option))
    }
    urls, signing = {}, {}
    for name in sorted(names):
        found = lookup(regions, region, f"{name}-url")
        if found is not None and found.value:
            urls[name] = found.value
            own = regions[found.section].get("name") if found.section in regions else None
            signing[name] = own or _last(found.section, region)
    return urls, signing


def _last(section: str, region: str) -> str:
    """The last part of a section's name; a wildcard's stands for the region that was asked for."""
    last = section.rsplit(":", 1)[-1]
    return region.rsplit(":", 1)[-1] if last == "*" else last
