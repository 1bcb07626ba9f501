"""Identity and tokens of a Eucalyptus cloud: signing certificates, and temporary keys for a password.

Sources: the messages of the Euare and Tokens services, which follow IAM and STS; `GetAccessToken` is their own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cryptography import x509

from drpilot.base.clock import rfc3339
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.eucalyptus import keyring
from drpilot.lab.eucalyptus.signing import SESSIONS

__all__ = ["signing_certificates"]

_CERTIFICATES = "signing_certificates"
_LONGEST_S = 43_200
kind(_CERTIFICATES, "signing-certificate")


def _user(cloud: Cloud) -> str:
    return cloud.settings.login[1] if cloud.settings.login else f"{cloud.name}-operator"


def _missing(what: str) -> Refusal:
    return Refusal(
        "NoSuchEntity",
        f"The request was rejected because it referenced an entity that does not exist: {what}",
        404,
    )


def signing_certificates(cloud: Cloud) -> list[bytes]:
    """The account's active signing certificates in PEM."""
    rows = cloud.table(_CERTIFICATES).peek().values()
    return [row["CertificateBody"].encode() for row in rows if row["Status"] == "Active"]


def _keep(cloud: Cloud, body: str) -> dict[str, Any]:
    row = {
        "UserName": _user(cloud),
        "CertificateId": cloud.new_hex(32).upper(),
        "CertificateBody": body,
        "Status": "Active",
        "UploadDate": cloud.stamp(),
    }
    cloud.table(_CERTIFICATES)[row["CertificateId"]] = row
    return row


@action("iam", "UploadSigningCertificate", family="eucalyptus")
def upload_signing_certificate(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Take a certificate in PEM; the same one twice is refused."""
    body = params["CertificateBody"].strip()
    try:
        x509.load_pem_x509_certificate(body.encode())
    except ValueError:
        raise Refusal("MalformedCertificate", "Error in uploaded certificate") from None
    if any(row["CertificateBody"] == body for row in cloud.table(_CERTIFICATES).peek().values()):
        raise Refusal("DuplicateCertificate", "User already has this certificate", 409)
    return {"Certificate": _keep(cloud, body)}


@action("iam", "CreateSigningCertificate", family="eucalyptus")
def create_signing_certificate(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """A certificate made by the cloud; its private key is shown this once."""
    private, pem = keyring.new_pair(cloud, _user(cloud))
    return {"Certificate": {**_keep(cloud, pem.decode().strip()), "PrivateKey": private.decode()}}


@action("iam", "ListSigningCertificates", family="eucalyptus")
def list_signing_certificates(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The user's certificates."""
    return {"Certificates": list(cloud.table(_CERTIFICATES).peek().values()), "IsTruncated": False}


@action("iam", "UpdateSigningCertificate", family="eucalyptus")
def update_signing_certificate(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Make a certificate active or inactive."""
    row = cloud.table(_CERTIFICATES).get(params["CertificateId"])
    if row is None:
        raise _missing(params["CertificateId"])
    row["Status"] = params["Status"]
    return {}


@action("iam", "DeleteSigningCertificate", family="eucalyptus")
def delete_signing_certificate(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove a certificate."""
    if cloud.table(_CERTIFICATES).pop(params["CertificateId"], None) is None:
        raise _missing(params["CertificateId"])
    return {}


@action("iam", "GetUser", family="eucalyptus")
def get_user(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The caller."""
    name = _user(cloud)
    if params.get("UserName") not in (None, name):
        raise _missing(params["UserName"])
    arn = f"arn:aws:iam::{cloud.account}:user/{name}"
    return {
        "User": {
            "UserName": name,
            "UserId": f"AID{cloud.account}LAB",
            "Path": "/",
            "Arn": arn,
            "CreateDate": cloud.stamp(),
        }
    }


@action("iam", "ListAccountAliases", family="eucalyptus")
def list_account_aliases(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """The account's name."""
    return {"AccountAliases": list(cloud.settings.login[:1]), "IsTruncated": False}


# -- tokens -----------------------------------------------------------------------------------------------


def _session(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    seconds = int(params.get("DurationSeconds") or _LONGEST_S)
    if not 900 <= seconds <= _LONGEST_S:
        raise Refusal("ValidationError", "Invalid duration requested")
    ends = cloud.timestamp() + timedelta(seconds=seconds)
    key = f"AKI{cloud.new_hex(17).upper()}"
    row = {"secret": cloud.new_hex(40), "token": cloud.new_hex(64), "expires": rfc3339(ends)}
    cloud.table(SESSIONS)[key] = row
    return {
        "Credentials": {
            "AccessKeyId": key,
            "SecretAccessKey": row["secret"],
            "SessionToken": row["token"],
            "Expiration": ends,
        }
    }


@action("sts", "GetAccessToken", family="eucalyptus")
def get_access_token(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Temporary keys for account, user and password."""
    return _session(cloud, params)


@action("sts", "GetSessionToken", family="eucalyptus")
def get_session_token(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Temporary keys for lasting ones, and for a password as long ago."""
    return _session(cloud, params)
