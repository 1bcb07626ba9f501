"""Service models: botocore's, one service of Eucalyptus that no AWS model describes, and the wire a cloud speaks.

botocore talks to some services in a protocol younger than a compatible cloud (CloudWatch in JSON since 1.42.7);
a dialect says which one of a model's protocols its cloud has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import botocore.loaders

__all__ = ["LOADER", "loader_for"]

# One loader for all sites: half of a new client's cost is parsing the model's JSON.
LOADER = botocore.loaders.create_loader()
LOADER.search_paths.append(str(Path(__file__).with_name("models")))


class _Older:
    """The shared loader, with another protocol for some services."""

    def __init__(self, protocols: Mapping[str, str]) -> None:
        self._protocols = protocols

    def __getattr__(self, name: str) -> Any:
        return getattr(LOADER, name)

    def load_service_model(self, service: str, kind: str, api_version: str | None = None) -> Any:
        """The model of a service, as botocore's loader gives it."""
        model = LOADER.load_service_model(service, kind, api_version)
        protocol = self._protocols.get(service)
        if protocol is None or kind != "service-2":
            return model
        return {**model, "metadata": {**model["metadata"], "protocol": protocol, "protocols": [protocol]}}


def loader_for(protocols: Mapping[str, str]) -> Any:
    """A loader whose models speak these protocols (service → protocol) and else their own."""
    return _Older(protocols) if protocols else LOADER
