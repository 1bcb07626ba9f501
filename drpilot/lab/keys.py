"""Key pairs: imported, or made here (RSA 2048, PKCS #1 PEM, as EC2 answers by default)."""

from __future__ import annotations

import base64
import hashlib
import textwrap
from typing import Any

from drpilot.base.clock import Chance
from drpilot.lab.cloud import Cloud, action, kind
from drpilot.lab.filters import field, matching
from drpilot.lab.refusal import Refusal
from drpilot.lab.table import Row
from drpilot.lab.tags import tags_for

__all__ = ["check_key_name"]

kind("keys", "key-pair")


def _by_name(cloud: Cloud, name: str) -> Row | None:
    return next((row for row in cloud.table("keys").peek().values() if row["KeyName"] == name), None)


def check_key_name(cloud: Cloud, name: str | None) -> None:
    """Refuse a key pair that is not here."""
    if name is not None and _by_name(cloud, name) is None:
        raise Refusal("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")


def _new(cloud: Cloud, params: dict[str, Any], blob: bytes, key_type: str) -> Row:
    name, tags = params["KeyName"], tags_for(params, "key-pair")
    if not name or len(name) > 255:
        raise Refusal("InvalidParameterValue", "Invalid value for parameter KeyName")
    if _by_name(cloud, name) is not None:
        raise Refusal("InvalidKeyPair.Duplicate", f"The keypair already exists: {name}")
    if key_type == "rsa":
        digits = hashlib.md5(blob, usedforsecurity=False).hexdigest()
        fingerprint = ":".join(textwrap.wrap(digits, 2))
    else:
        fingerprint = base64.b64encode(hashlib.sha256(blob).digest()).decode()
    key_id = cloud.new_id("key")
    row = {
        "KeyPairId": key_id,
        "KeyName": name,
        "KeyType": key_type,
        "KeyFingerprint": fingerprint,
        "CreateTime": cloud.stamp(),
        "PublicKey": f"ssh-{key_type} {base64.b64encode(blob).decode()} {name}",
        "Tags": tags,
    }
    cloud.table("keys")[key_id] = row
    return row


@action("ec2", "ImportKeyPair")
def import_key_pair(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Take an OpenSSH public key (RSA or ED25519)."""
    parts = params["PublicKeyMaterial"].split()
    types = {b"ssh-rsa": "rsa", b"ssh-ed25519": "ed25519"}
    try:
        blob = base64.b64decode(parts[1], validate=True)
        length = int.from_bytes(blob[:4], "big")
        if parts[0] not in types or blob[4 : 4 + length] != parts[0]:
            raise ValueError(parts[0])
    except (IndexError, ValueError):
        raise Refusal("InvalidKey.Format", "Key is not in valid OpenSSH public key format") from None
    return _new(cloud, params, blob, types[parts[0]])


@action("ec2", "CreateKeyPair")
def create_key_pair(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Make a key pair and give its private half, once."""
    if params.get("KeyType", "rsa") != "rsa":
        raise Refusal("UnsupportedOperation", "The lab makes RSA key pairs only; import an ED25519 key.")
    blob, material = _make_rsa()
    return {**_new(cloud, params, blob, "rsa"), "KeyMaterial": material}


_FILTERS = {
    "key-name": field("KeyName"),
    "key-pair-id": field("KeyPairId"),
    "fingerprint": field("KeyFingerprint"),
}


@action("ec2", "DescribeKeyPairs")
def describe_key_pairs(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Key pairs by name, id or filter; the public half only where asked for."""
    rows = list(cloud.table("keys").peek().values())
    for member, own in (("KeyNames", "KeyName"), ("KeyPairIds", "KeyPairId")):
        for name in params.get(member) or []:
            if all(row[own] != name for row in rows):
                raise Refusal("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")
        if params.get(member):
            rows = [row for row in rows if row[own] in params[member]]
    shown = [
        {key: value for key, value in row.items() if key != "PublicKey" or params.get("IncludePublicKey")}
        for row in matching(rows, params.get("Filters"), _FILTERS)
    ]
    return {"KeyPairs": shown}


@action("ec2", "DeleteKeyPair")
def delete_key_pair(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """Remove a key pair; one that is not there is no error (EC2 API reference, DeleteKeyPair)."""
    for key, row in list(cloud.table("keys").peek().items()):
        if params.get("KeyName") == row["KeyName"] or params.get("KeyPairId") == key:
            del cloud.table("keys")[key]
            return {"Return": True, "KeyPairId": key}
    return {"Return": True}


# -- RSA --------------------------------------------------------------------------------------------------

_SMALL = [number for number in range(3, 2000, 2) if all(number % part for part in range(3, number, 2))]


def _is_prime(number: int, chance: Chance) -> bool:
    if any(number % part == 0 for part in _SMALL):
        return False
    odd, halvings = number - 1, 0
    while odd % 2 == 0:
        odd, halvings = odd // 2, halvings + 1
    for _ in range(8):
        value = pow(chance.bits(number.bit_length() - 2) + 2, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(halvings - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def _prime(bits: int, chance: Chance) -> int:
    while True:
        number = chance.bits(bits) | (3 << (bits - 2)) | 1
        if number % 65537 != 1 and _is_prime(number, chance):
            return number


def _der_integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + _der_length(len(data)) + data


def _der_length(length: int) -> bytes:
    if length < 128:
        return bytes([length])
    data = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(data)]) + data


def _make_rsa() -> tuple[bytes, str]:
    """The public key as an OpenSSH blob (RFC 4253, 6.6) and the private one as PKCS #1 PEM (RFC 8017)."""
    chance = Chance()
    first, second = _prime(1024, chance), _prime(1024, chance)
    modulus, exponent = first * second, 65537
    secret = pow(exponent, -1, (first - 1) * (second - 1))
    numbers = (0, modulus, exponent, secret, first, second, secret % (first - 1), secret % (second - 1))
    body = b"".join(map(_der_integer, (*numbers, pow(second, -1, first))))
    text = base64.b64encode(b"\x30" + _der_length(len(body)) + body).decode()
    lines = "\n".join(textwrap.wrap(text, 64))
    blob = b""
    for part in (b"ssh-rsa", _der_integer(exponent)[2:], modulus.to_bytes(257, "big")):
        blob += len(part).to_bytes(4, "big") + part
    return blob, f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----\n"
