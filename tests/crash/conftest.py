"""One yard a worker: starting a lab and making the first point takes half a minute, putting it back a moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.yard import Yard


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """A lab with the shop protected (`protected`), replicated (`replicated`) and home dead (`dead`)."""
    made = Yard(tmp_path_factory.mktemp("yard"))
    try:
        made.open()
        said = made.run("replicate")
        assert said["ended"] == "finished succeeded", said
        made.save("replicated")
        made.lab.control("home", "break", fault="refuse")
        made.save("dead")
        yield made
    finally:
        made.close()
