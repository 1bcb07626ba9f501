"""Telling the version of a Eucalyptus by questions that only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.clouds.detection import detect
from tests.clouds.strict import Strict, opened
from tests.grounds import answering, free_port, refusal


@pytest.mark.parametrize("cloud", ["eucalyptus-3.4", "eucalyptus-4.4", "eucalyptus-5"])
def test_each_version_is_known_by_what_it_understands(cloud: str, tmp_path: Path) -> None:
    """A launch template is listed by 5 alone, GetCallerIdentity answered from 4.4 on; nothing else is asked."""
    script = Strict(cloud)
    with answering(script) as server:
        assert detect(lambda kind: opened(kind, server, tmp_path)) == cloud
    assert {action for action, _ in script.calls} <= {"DescribeLaunchTemplates", "GetCallerIdentity"}


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (refusal("AuthFailure", 401), "credentials"),
        (refusal("UnauthorizedOperation", 403), "usage"),
        (refusal("InternalError", 500), "usage"),
    ],
)
def test_what_tells_nothing_is_not_guessed(answer: bytes, word: str, tmp_path: Path) -> None:
    """A denial or a failure is no sign of a version: the person says it."""
    with answering(lambda heard, number: answer) as server, pytest.raises(DrpilotError) as caught:
        detect(lambda kind: opened(kind, server, tmp_path))
    assert caught.value.word == word
    assert word != "usage" or "--cloud" in caught.value.hint


def test_a_cloud_that_is_silent_is_unreachable(tmp_path: Path) -> None:
    """Nobody there is no old version."""

    class Nobody:
        url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(DrpilotError) as caught:
        detect(lambda kind: opened(kind, Nobody(), tmp_path))  # type: ignore[arg-type]
    assert caught.value.word == "unreachable"
