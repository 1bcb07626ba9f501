"""What is masked of an output and what is not: a page must fail when a fact changes, and only then."""

from __future__ import annotations

import pytest

from tests.docs.walk import followed, plain, rewritten, typed

PAGE = """# A page

```console
$ drpilot status --lab
old
# exit 3
$ drpilot lab down
```

```sh
$ drpilot not this one
```
"""


def test_commands_and_outputs_are_read() -> None:
    """A block may hold several commands; other fences hold none."""
    found = [(each.line, each.command, each.output) for each in typed(PAGE)]
    assert found == [
        (4, "drpilot status --lab", ("old", "# exit 3")),
        (7, "drpilot lab down", ()),
    ]


def test_a_page_is_rewritten_in_place() -> None:
    """Only outputs change, and a second time nothing does."""
    once = rewritten(PAGE, [["new", "newer"], ["stopped"]])
    assert once == PAGE.replace("old\n# exit 3", "new\nnewer").replace("lab down\n", "lab down\nstopped\n")
    assert rewritten(once, [["new", "newer"], ["stopped"]]) == once


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("shop  11:52:49  5s/15m  RTO ~5.7s (p75 of 3)", "shop  …         …/15m  RTO ~… (p75 of 3)"),
        ("moved 1h4s ago; free in 59m", "moved … ago; free in …"),
        ("looked: away 1m13s ago · serve: not running", "looked: … · serve: not running"),
        ("free in 1h", "free in …"),
        ("witness  epoch 2, active away   5s ago", "witness  epoch 2, active away"),
        ("RTO unknown  RPO ≤ 4.2s", "RTO unknown  RPO …"),
        ("no answer since 2m, looked 4m ago", "no answer since …, looked … ago"),
        ("at http://127.0.0.1:30466/", "at http://127.0.0.1:…/"),
        ("i-03a1ceb7c61ae0847 and 01m81hm41hwfhgycx58v", "i-… and 01…"),
        ("41 steps, plan 8d02b7", "41 steps, plan …"),
        ("67 events, head e4934306f832270a", "… events, head …"),
        ("objective 30m; RPO 15m; epoch 3; TTL 60 s", "objective 30m; RPO 15m; epoch 3; TTL 60 s"),
        ("0 of 3 ready: db is absent", "0 of 3 ready: db is absent"),
    ],
)
def test_volatile_parts_are_masked(line: str, shown: str) -> None:
    """Times, ages, ids and ports are; objectives, counts, epochs and states are not."""
    assert followed([line], elide=False) == (shown,)


def test_steps_are_ordered_and_shortened() -> None:
    """Steps that ran side by side are shown by number; one that did not go well is never hidden."""
    steps = [f"      {number:>2}/9 ✓ step  0.{number}s" for number in (2, 1, 4, 3, 5, 7, 6, 9, 8)]
    whole = followed(["begin", *steps, "end"], elide=False)
    assert [line.split("/")[0].strip() for line in whole] == ["begin", *"123456789", "end"]
    short = followed(steps, elide=True)
    assert plain(short) == ["1/9 ✓ step  …", "2/9 ✓ step  …", "⋮", "9/9 ✓ step  …"]
    steps[3] = "       3/9 ✗ step  failed  it broke"
    assert "3/9 ✗ step  failed  it broke" in plain(followed(steps, elide=True))
