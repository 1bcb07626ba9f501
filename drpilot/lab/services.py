"""The list of modules that make up a cloud; importing one registers what it answers."""

from __future__ import annotations

from functools import cache
from importlib import import_module

__all__ = ["load"]

_MODULES = (
    "identity",
    "groups",
    "routing",
    "network",
    "interfaces",
    "keys",
    "tags",
    "volumes",
    "snapshots",
    "copies",
    "ebs",
    "images",
    "templates",
    "flavors",
    "launch",
    "compute",
    "profiles",
    "autoscaling",
    "balancing",
    "classic_balancing",
    "classic_attributes",
    "launch_configurations",
    "metrics",
    "alarms",
    "names",
    "objects",
    "guest",
    "eucalyptus.ec2",
    "eucalyptus.classic",
    "eucalyptus.objectstore",
    "eucalyptus.euare",
    "eucalyptus.empyrean",
    "eucalyptus.registration",
    "eucalyptus.conversion",
)


@cache
def load() -> None:
    """Import every service of the lab, once."""
    for name in _MODULES:
        import_module(f"drpilot.lab.{name}")
