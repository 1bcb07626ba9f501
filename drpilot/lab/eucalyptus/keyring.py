"""The cloud's own key pair, for which bundles are encrypted (`ec2_encrypted_key`), and user certificates.

The pair lies in the site's directory, so that a reset keeps it, as the access keys are kept.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from drpilot.lab.cloud import Cloud

__all__ = ["certificate", "install", "new_pair", "private_key"]


def _folder(cloud: Cloud) -> Path:
    return Path(cloud.store.directory) / "keys"


def new_pair(cloud: Cloud, name: str, bits: int = 2048) -> tuple[bytes, bytes]:
    """A fresh RSA key (PKCS #8 PEM) and its self-signed certificate (PEM), valid for ten years."""
    key = rsa.generate_private_key(65537, bits)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    moment = cloud.timestamp()
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment)
        .not_valid_after(moment + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, made.public_bytes(serialization.Encoding.PEM)


def install(cloud: Cloud, key: bytes, pem: bytes) -> None:
    """Make this the cloud's pair: a private key in PEM or DER, a certificate in PEM."""
    loaded = _loaded(key)
    private = loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder = _folder(cloud)
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, data in (("cloud-pk.pem", private), ("cloud-cert.pem", pem)):
        draft = folder / f".{name}.draft"
        draft.touch(mode=0o600)
        draft.write_bytes(data)
        os.replace(draft, folder / name)


def _loaded(key: bytes) -> rsa.RSAPrivateKey:
    if key.startswith(b"-----"):
        found = serialization.load_pem_private_key(key, None)
    else:
        found = serialization.load_der_private_key(key, None)
    if not isinstance(found, rsa.RSAPrivateKey):
        raise TypeError("the key of a cloud is an RSA key")
    return found


def _ensure(cloud: Cloud) -> None:
    with cloud.lock:
        if not (_folder(cloud) / "cloud-cert.pem").exists():
            install(cloud, *new_pair(cloud, f"cloud {cloud.name}"))


def private_key(cloud: Cloud) -> rsa.RSAPrivateKey:
    """The cloud's private key, made at its first use."""
    _ensure(cloud)
    return _loaded((_folder(cloud) / "cloud-pk.pem").read_bytes())


def certificate(cloud: Cloud) -> bytes:
    """The cloud's certificate in PEM: what bundles for this cloud are encrypted with."""
    _ensure(cloud)
    return (_folder(cloud) / "cloud-cert.pem").read_bytes()
