"""Which dialect an endpoint speaks, by calls that only read and that one version knows and the one before does not.

Never by an operation that might be a stub: a stub answers success. What an answer leaves open is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable

from drpilot.base.errors import DrpilotError
from drpilot.clouds.failures import as_drpilot_error
from drpilot.clouds.site import BotoSite
from drpilot.domain.ports import CloudError, FailureClass

__all__ = ["detect"]

_KNOWS_NOT = (FailureClass.INVALID, FailureClass.NOT_FOUND, FailureClass.REJECTED)
_QUESTIONS = (
    ("eucalyptus-5", "ec2", "DescribeLaunchTemplates"),
    ("eucalyptus-4.4", "sts", "GetCallerIdentity"),
)


def detect(opened: Callable[[str], BotoSite]) -> str:
    """The dialect of a Eucalyptus site; `opened` gives the site as if it spoke the dialect of that name.

    Raises DrpilotError: what stands in the way of asking, or `usage` where the answers tell nothing.
    """
    for name, service, operation in _QUESTIONS:
        site = opened(name)
        try:
            site.call(service, operation, {})
        except CloudError as error:
            if error.kind not in _KNOWS_NOT or error.code in ("NoEndpoint", "Unsupported"):
                raise _unclear(error, site) from error
        else:
            return name
        finally:
            site.close()
    return "eucalyptus-3.4"


def _unclear(error: CloudError, site: BotoSite) -> DrpilotError:
    plain = as_drpilot_error(error, endpoint=site.endpoint("ec2"))
    if plain.word not in ("cloud-failure", "cloud-unknown", "denied"):
        return plain
    what = f"the version can't be told: {error.operation} answers {error.code}"
    return DrpilotError("usage", what=what, hint="--cloud eucalyptus-4.4 (or -3.4, or -5)")
