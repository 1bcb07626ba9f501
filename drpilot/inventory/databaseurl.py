"""URLs of databases as files and variables give them: checked, and never with a password in a file.

What is said of a wrong one repeats none of it, since it may hold a password.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["journal_url", "of_a_journal", "of_a_witness"]

_POSTGRES = r"postgres(ql)?://[^\s?#]*/[^\s/?#]+(\?\S*)?"


def journal_url(text: str) -> str:
    """`text`, a journal wherever it was given, with a password or without; raises ValueError."""
    if re.fullmatch(r"sqlite:///\S+", text):
        return text
    if not re.fullmatch(_POSTGRES, text):
        raise ValueError("a journal is sqlite:////ABSOLUTE/PATH or postgresql://USER@HOST/DATABASE")
    return _readable(text)


def _readable(text: str) -> str:
    try:
        _ = urlsplit(text).port
    except ValueError:
        raise ValueError(
            "its host or port can't be read; write @, : and / in a password as %40, %3A and %2F"
        ) from None
    return text


def _has_password(text: str) -> bool:
    url = urlsplit(text)
    return url.password is not None or "password" in url.query.lower()


def of_a_journal(text: str) -> str:
    """`text`, the journal of drpilot.yaml; raises ValueError."""
    if _has_password(journal_url(text)):
        raise ValueError(
            "drpilot.yaml holds no secrets; leave the password to ~/.pgpass, or set DRPILOT_DATABASE_URL"
        )
    return text


def of_a_witness(text: str) -> str:
    """`text`, the witness's database of drpilot.yaml; raises ValueError."""
    if not re.fullmatch(_POSTGRES, text):
        raise ValueError("a witness's database is postgresql://USER@HOST/DATABASE")
    if _has_password(_readable(text)):
        raise ValueError("drpilot.yaml holds no secrets; leave the password to ~/.pgpass")
    return text
