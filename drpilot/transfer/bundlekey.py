"""The key that a cloud opens bundles with, asked of the cloud itself.

Eucalyptus from 4.0 on tells it by its bootstrap service (DescribeServiceCertificates, usage `image-bundling`), to whom
the policy allows `euserv:DescribeServiceCertificates`; 3.4 and AWS tell it by hand only.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, Site
from drpilot.formats import seal

__all__ = ["bundling_key"]


def bundling_key(target: Site) -> RSAPublicKey:
    """The key of the certificate for bundles, as the cloud tells it; raises `usage` where it tells none."""
    hint = f"--cloud-cert FILE; the bundling certificate of {target.name} (its administrator has it; in 3.4 it is"
    hint += " cloud-cert.pem of the credentials archive)"
    if "bootstrap" not in target.capabilities:
        raise DrpilotError("usage", what=f"{target.name} does not tell its bundling certificate", hint=hint)
    try:
        told = target.call("bootstrap", "DescribeServiceCertificates", {"Format": "pem"})
    except CloudError as error:
        what = f"{target.name} does not tell its bundling certificate: {error.code}: {error.message}"
        raise DrpilotError("usage", what=what, hint=hint) from error
    for one in told.get("ServiceCertificates") or []:
        if one.get("CertificateUsage") == "image-bundling" and one.get("Certificate"):
            return seal.certificate(str(one["Certificate"]).encode(), f"the certificate of {target.name}")
    raise DrpilotError("usage", what=f"{target.name} has no certificate for bundles", hint=hint)
