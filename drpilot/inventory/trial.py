"""A site that is about to be added: what is wrong with it, before anything is asked of it."""

from __future__ import annotations

from dataclasses import replace

from drpilot.base.document import load
from drpilot.base.errors import DrpilotError
from drpilot.inventory.addition import site_line
from drpilot.inventory.configuration import FILE, ConfigurationModel, SiteSettings

__all__ = ["refuse_wrong"]

_ANY_ACCOUNT = "0" * 12  # it is pinned as the site answers


def refuse_wrong(site: SiteSettings) -> None:
    """Judge a site by the rules of drpilot.yaml; DrpilotError `usage` with the first thing that is wrong."""
    text = f"drpilot: 1\nsites: {{{site_line(replace(site, account=site.account or _ANY_ACCOUNT))}}}\n"
    loaded = load(ConfigurationModel, text, FILE)
    if loaded.value is None:
        raise DrpilotError("usage", what=loaded.findings[0].message, hint="drpilot site add --help")
