"""The table of gaps is about tests there are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.contract.grounds import GAPS, GROUNDS


def test_the_table_of_gaps_names_tests_that_exist() -> None:
    """A renamed test must not leave its gap behind."""
    texts = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")]
    known = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    for name in GROUNDS:
        assert set(GAPS[name]) <= known
