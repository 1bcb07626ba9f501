"""What a machine's root file system holds that belongs to this one machine, and stays out of an image of it.

A rule is a pattern of an absolute path and what becomes of it. `*` matches within one name; a rule of a directory holds
for everything below it. What must exist for the machine to start stays as an empty directory or file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from drpilot.base.errors import DrpilotError

__all__ = ["RULES", "Fate", "Filter", "Rule"]

Fate = Literal["gone", "emptied", "blank"]
"""`gone`: not in the image. `emptied`: directories stay, what else lies in them does not. `blank`: an empty file."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern, what becomes of it, and why: what it is, in a word or two."""

    pattern: str
    fate: Fate
    why: str


def _rules(fate: Fate, why: str, *patterns: str) -> tuple[Rule, ...]:
    """Rules for patterns; `~` stands for the homes of root and of everybody else."""
    opened = (
        home + text.removeprefix("~")
        for text in patterns
        for home in (("/root", "/home/*") if text.startswith("~") else ("",))
    )
    return tuple(Rule(text, fate, why) for text in opened)


RULES: tuple[Rule, ...] = (
    # systemd takes an empty machine-id for a machine that is new (machine-id(5), "First Boot Semantics").
    *_rules("blank", "machine id", "/etc/machine-id"),
    *_rules("gone", "machine id", "/var/lib/dbus/machine-id"),
    *_rules(
        "gone",
        "host keys",
        "/etc/ssh/ssh_host_*_key",
        "/etc/ssh/ssh_host_*_key.pub",
        "/etc/dropbear/*_host_key",
    ),
    *_rules("gone", "who may log in by key", "~/.ssh/authorized_keys", "~/.ssh/authorized_keys2"),
    *_rules(
        "gone", "credentials", "~/.ssh/id_*", "~/.aws", "~/.boto", "~/.s3cfg", "~/.passwd-s3fs", "~/.euca"
    ),
    *_rules(
        "gone", "credentials", "~/.eucarc", "~/.config/gcloud", "~/.azure", "~/.kube", "~/.docker/config.json"
    ),
    *_rules("gone", "credentials", "~/.netrc", "~/.pgpass", "~/.my.cnf", "~/.git-credentials", "~/.gnupg"),
    *_rules("gone", "credentials", "~/.vault-token", "/etc/boto.cfg", "/etc/euca2ools/conf.d/*.ini"),
    *_rules("gone", "drpilot's own", "~/.config/drpilot", "~/.local/share/drpilot", "~/.local/state/drpilot"),
    *_rules(
        "gone", "drpilot's own", "~/.cache/drpilot", "/etc/drpilot", "/var/lib/drpilot", "/.drpilot-image"
    ),
    *_rules("gone", "histories", "~/.*_history", "~/.lesshst", "~/.viminfo", "~/.wget-hsts"),
    *_rules("gone", "random seeds", "/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret"),
    *_rules("gone", "random seeds", "/var/lib/urandom/random-seed", "/var/lib/random-seed"),
    *_rules("emptied", "logs", "/var/log"),
    *_rules("emptied", "crashes", "/var/crash", "/var/lib/systemd/coredump"),
    *_rules("gone", "mail", "/var/mail/*", "/var/spool/mail/*"),
    *_rules("gone", "what cloud-init knows of this machine", "/var/lib/cloud/*"),
    *_rules("gone", "addresses and leases", "/var/lib/dhcp/*", "/var/lib/dhclient/*", "/var/lib/dhcpcd/*"),
    *_rules(
        "gone",
        "addresses and leases",
        "/var/lib/NetworkManager/*",
        "/etc/udev/rules.d/70-persistent-net.rules",
    ),
    *_rules(
        "gone", "temporary", "/tmp/*", "/var/tmp/*", "/run/*", "/var/run/*", "/var/lock/*", "/lost+found"
    ),
    *_rules("gone", "swap", "/swapfile", "/swap.img", "/var/swap"),
    *_rules("gone", "pseudo file systems", "/proc/*", "/sys/*", "/dev/*"),
    *_rules("gone", "mounted media", "/media/*", "/mnt/*"),
)


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    """A pattern as an expression that also matches what lies below; `*` and `?` stay within one name."""
    parts = (re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") for part in pattern.split("/"))
    return re.compile("/".join(parts) + "(/.*)?", re.DOTALL)


def _checked(pattern: str, option: str) -> str:
    """A pattern without a slash at its end; raises `usage` for one that is not absolute."""
    cut = pattern.rstrip("/")
    if not cut.startswith("/") or "/../" in f"{cut}/":
        raise DrpilotError(
            "usage", what=f"{option} {pattern}: not an absolute path in the image", hint=f"{option} /srv/data"
        )
    return cut


class Filter:
    """Says what becomes of a path: the rules and `exclude`, but for what `include` takes back. Raises `usage`."""

    def __init__(self, exclude: Iterable[str] = (), include: Iterable[str] = ()) -> None:
        added = (Rule(_checked(one, "--exclude"), "gone", "--exclude") for one in exclude)
        self.rules = (*RULES, *added)
        self._include = tuple(_checked(one, "--include") for one in include)

    def rule(self, path: str) -> Rule | None:
        """The rule for an absolute path in the image; None where it is carried."""
        if any(_expression(one).fullmatch(path) for one in self._include):
            return None
        return next((rule for rule in self.rules if _expression(rule.pattern).fullmatch(path)), None)

    def leads_to_included(self, path: str) -> bool:
        """Whether a directory may hold something that was taken back, so that it must be gone through."""
        depth = path.count("/")
        return any(
            one.count("/") > depth and _expression("/".join(one.split("/")[: depth + 1])).fullmatch(path)
            for one in self._include
        )
