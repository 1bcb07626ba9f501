"""The demo as a newcomer runs it: separate processes, one document, everything counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.row(4, 61, 65, 70, 73, 75, 108, 109)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", ["", "aws-euca", "aws-aws"])
def test_the_story_ends_well_and_says_so_in_one_document(tmp_path: Path, pair: str) -> None:
    """Each phase, times from the journal, data verified, nothing twice, nothing left over, a report beside its JSON; on
    Eucalyptus and AWS unless told otherwise, and between these a second replication that moves only what changed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "drpilot", "demo", "--output", "json", *(["--pair", pair] if pair else [])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert [phase["name"] for phase in said["phases"]] == [
        "protect",
        "replicate",
        *(["replicate again"] if pair != "aws-aws" else []),
        "drill",
        "home dies",
        "failover",
        "data",
        "commit",
        "home back",
        "reprotect",
        "failback",
    ]
    assert all(phase["result"] in ("ok", "-") and phase["seconds"] >= 0 for phase in said["phases"])
    assert said["pair"] == (pair or "euca-aws")
    if pair != "aws-aws":
        again = said["second_replication"]
        assert 0 < again["changed"] < again["blocks"] / 4
    assert said["data_verified"] is True
    assert (said["duplicates"], said["leftovers"]) == (0, 0)
    assert 0 < said["rto_seconds"] < said["rto_objective_seconds"]
    assert 0 < said["rpo_seconds"] < said["rpo_objective_seconds"]
    page = Path(said["report"])
    assert page.suffix == ".html"
    assert "failover" in page.read_text()
    beside = json.loads(page.with_suffix(".json").read_text())
    assert beside["phases"] == said["phases"]
    text = done.stdout + page.read_text() + page.with_suffix(".json").read_text()
    for keys in (page.parent).glob("*.keys"):
        secret = keys.read_text().split("aws_secret_access_key = ")[1].strip()
        assert secret not in text
