"""Adding a site to drpilot.yaml without disturbing the rest of its text."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from drpilot.base.document import load, read_text, refusal, require
from drpilot.base.errors import DrpilotError
from drpilot.inventory.configuration import FILE, ConfigurationModel, Credentials, SiteSettings, site_settings

__all__ = ["add_site", "site_line"]


def add_site(folder: Path, site: SiteSettings) -> Path:
    """Write `site` into drpilot.yaml, keeping every other character of it; creates the file where there is
    none.

    The new text is read back before it replaces the old one, in one rename. Already there and equal is done;
    there and different is DrpilotError `site-exists`.
    """
    path = folder / FILE
    old = read_text(path) if path.is_file() else ""
    text = _with_site(old, site) if old.strip() else f"drpilot: 1\nsites:\n  {site_line(site)}\n"
    before = _sites(old, folder) if old.strip() else {}
    if site.name in before:
        if before[site.name] == _settled(site, folder):
            return path
        raise DrpilotError("site-exists", site=site.name)
    after = _sites(text, folder)
    if {**before, site.name: _settled(site, folder)} != after:
        raise DrpilotError("site-not-written", site=site.name, line=site_line(site))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{FILE}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path


def _sites(text: str, folder: Path) -> dict[str, SiteSettings]:
    """The sites alone: a witness may name a site that is only about to be added."""
    model = require(ConfigurationModel, text, FILE)
    return {name: site_settings(name, site, folder) for name, site in model.sites.items()}


def _settled(site: SiteSettings, folder: Path) -> SiteSettings:
    """The settings as they read once written: paths taken from `folder`."""
    text = f"drpilot: 1\nsites: {{{site_line(site)}}}\n"
    return _sites(text, folder)[site.name]


def site_line(site: SiteSettings) -> str:
    """`ireland: {cloud: aws, profile: dr, …}`: one line of YAML."""
    parts = [f"cloud: {_quoted(site.cloud)}"]
    for key, value in (("profile", site.profile), ("euca2ools", site.euca2ools), ("region", site.region)):
        if value:
            parts.append(f"{key}: {_quoted(value)}")
    parts.append(f"account: {json.dumps(site.account)}")
    if site.endpoints:
        inner = ", ".join(f"{_quoted(service)}: {_quoted(url)}" for service, url in site.endpoints.items())
        parts.append(f"endpoints: {{{inner}}}")
    if site.credentials is not None:
        parts.append(f"credentials: {_reference(site.credentials)}")
    if site.login is not None:
        login = f"account: {_quoted(site.login.account)}, user: {_quoted(site.login.user)}"
        source = site.login.password
        parts.append(f"login: {{{login}{f', password_from: {_reference(source)}' if source else ''}}}")
    if site.ca_bundle is not None:
        parts.append(f"ca_bundle: {_quoted(site.ca_bundle)}")
    if site.verify is not None:
        parts.append(f"verify: {str(site.verify).lower()}")
    if site.at_once:
        parts.append(f"at_once: {json.dumps(dict(site.at_once))}")
    return f"{_quoted(site.name)}: {{{', '.join(parts)}}}"


def _reference(credentials: Credentials) -> str:
    return f"{{{credentials.kind}: {_quoted(credentials.value)}}}"


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./-]*", text) else json.dumps(text, ensure_ascii=False)


def _with_site(text: str, site: SiteSettings) -> str:
    """`text` with one more entry under `sites`, in the style the file has."""
    loaded = load(ConfigurationModel, text, FILE)
    if loaded.value is None:
        raise refusal(FILE, loaded.findings)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if ("sites",) not in loaded.spots:
        return "".join(lines) + f"sites:\n  {site_line(site)}\n"
    spot = loaded.spot(("sites",))
    if spot.flow:
        row, column = spot.end_line - 1, spot.end_column - 2  # at the closing brace
        comma = ", " if loaded.value.sites else ""
        lines[row] = lines[row][:column].rstrip() + f"{comma}{site_line(site)}" + lines[row][column:]
        return "".join(lines)
    indent = " " * (loaded.spot(("sites", next(iter(loaded.value.sites)))).column - 1)
    lines.insert(spot.end_line, f"{indent}{site_line(site)}\n")
    return "".join(lines)
