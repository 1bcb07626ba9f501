"""The keys of a bundle: the AES key sealed for a cloud and for its owner, and the owner's signature.

Bundles use RSA with PKCS#1 v1.5 padding and SHA-1; the sealed text is not the key but its 32 hex digits. Validity dates
are never looked at: AWS's own certificate for bundles has 1024 bits and expired in 2006.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from drpilot.base.clock import Chance
from drpilot.base.errors import DrpilotError
from drpilot.formats.manifest import Sealed

__all__ = [
    "Secrets",
    "certificate",
    "fresh",
    "opened",
    "private_key",
    "sealed",
    "signature",
    "signer",
    "signs",
]

_KEY_TEXT = re.compile(rb"[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class Secrets:
    """The AES-128 key and IV of a bundle, 16 bytes each; never printed."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)


def fresh(chance: Chance) -> Secrets:
    """A new key and IV."""
    return Secrets(chance.bits(128).to_bytes(16), chance.bits(128).to_bytes(16))


def private_key(data: bytes, file: str) -> RSAPrivateKey:
    """An RSA private key from PEM or DER without a passphrase; raises `key-unreadable`."""
    load = serialization.load_pem_private_key if b"-----BEGIN" in data else serialization.load_der_private_key
    try:
        key = load(data, password=None)
    except TypeError as error:  # how the library says that a passphrase is needed
        raise _unreadable(
            file, "RSA private key", "it has a passphrase; write a copy without one for the time of need"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unreadable(file, "RSA private key", "neither PEM nor DER of a private key") from error
    if not isinstance(key, RSAPrivateKey):
        raise _unreadable(file, "RSA private key", "bundles know RSA only")
    return key


def certificate(data: bytes, file: str) -> RSAPublicKey:
    """The RSA public key of an X.509 certificate in PEM or DER, whatever its dates; raises `key-unreadable`."""
    load = x509.load_pem_x509_certificate if b"-----BEGIN" in data else x509.load_der_x509_certificate
    try:
        key = load(data).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _unreadable(file, "certificate", "neither PEM nor DER of an X.509 certificate") from error
    if not isinstance(key, RSAPublicKey):
        raise _unreadable(file, "certificate", "bundles know RSA only")
    return key


def _unreadable(file: str, kind: str, why: str) -> DrpilotError:
    return DrpilotError("key-unreadable", file=file, kind=kind, why=why)


def sealed(secrets: Secrets, public: RSAPublicKey) -> Sealed:
    """The secrets encrypted for the holder of the private half of `public`."""
    return Sealed(
        *(public.encrypt(one.hex().encode(), PKCS1v15()).hex() for one in (secrets.key, secrets.iv))
    )


def opened(box: Sealed, key: RSAPrivateKey) -> Secrets | None:
    """The secrets in `box`, None where `key` is not its key.

    A wrong key raises nothing: decryption then gives random bytes on purpose (implicit rejection, OpenSSL 3.2), so only
    32 hex digits count as a key.
    """
    found = [_decrypted(text, key) for text in (box.key, box.iv)]
    if any(text is None or _KEY_TEXT.fullmatch(text) is None for text in found):
        return None
    return Secrets(*(binascii.unhexlify(text) for text in found if text is not None))


def _decrypted(text: str, key: RSAPrivateKey) -> bytes | None:
    try:
        return key.decrypt(bytes.fromhex(text), PKCS1v15())
    except ValueError:  # of another length than the key's
        return None


def signature(data: bytes, key: RSAPrivateKey) -> str:
    """The signature over `data`, in hex."""
    return key.sign(data, PKCS1v15(), hashes.SHA1()).hex()  # noqa: S303 - the format's own


def signer(key: RSAPrivateKey | None) -> Callable[[bytes], str] | None:
    """What `manifest.write` signs with; None where nobody signs."""
    return None if key is None else lambda data: signature(data, key)


def signs(text: str, data: bytes, public: RSAPublicKey) -> bool:
    """Whether `text` (hex) is the signature over `data` by the private half of `public`."""
    try:
        public.verify(bytes.fromhex(text), data, PKCS1v15(), hashes.SHA1())  # noqa: S303 - the format's own
    except (InvalidSignature, ValueError):
        return False
    return True
