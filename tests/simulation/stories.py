"""What people want in a story, and how they take it on, whatever happens: each goal is one run of a mode to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drpilot.base.errors import DrpilotError
from drpilot.domain.run import MOVES, RunView
from drpilot.services.attend import attend
from drpilot.services.begin import Asking, Typed, begin, consent, propose
from drpilot.services.steer import Order, order
from tests.simulation.ground import GROUP, Life

__all__ = ["STORIES", "Story", "Will", "begun", "pursue", "refused_for_good"]


@dataclass(frozen=True, slots=True)
class Story:
    """`goals` are modes in order; `dead` says that the source of the first is lost, and comes back after it is over
    (or in the middle, as the seed draws). With `late` it is lost while the first goal is on its way.
    """

    name: str
    goals: tuple[str, ...]
    dead: bool = False
    late: bool = False


STORIES: dict[str, Story] = {
    story.name: story
    for story in (
        Story("failover", ("failover", "fence"), dead=True),
        Story("switchover", ("switchover",)),
        Story("replicate", ("replicate", "replicate")),
        Story("drill", ("drill",)),
        Story("reprotect", ("failover", "fence", "reprotect"), dead=True),
        Story("failback", ("switchover", "reprotect", "switchover", "reprotect")),
        Story("copy and move", ("replicate", "failover", "fence"), dead=True, late=True),
    )
}


@dataclass
class Will:
    """What persons do at a resting run; chance draws from what is possible. A settled will always takes it on."""

    draw: Callable[[], float]
    settled: bool = False

    def answer(self, mine: Life, theirs: Life, view: RunView) -> bool:
        """Give the order that takes the run on (or back); False when there is nothing to order."""
        comment = "a story"
        match view.state:
            case "waiting":
                if not self.settled and self.draw() < 0.06:
                    order(theirs.house, view.id, Order("decline", comment=comment))
                else:
                    asked = {one.person for one in view.approvals}
                    who = theirs if mine.house.person in asked else mine
                    order(who.house, view.id, Order("approve", data={"confirm": GROUP}))
            case "awaiting_commit":
                if not self.settled and self.draw() < 0.2:
                    self._back(mine, view)
                else:
                    # Where the fence is uncertain the second person commits.
                    who = mine if view.fences.get(view.plan.source) == "fenced" else theirs
                    order(who.house, view.id, Order("commit", comment=comment, data={"confirm": GROUP}))
            case "paused":
                self._unpause(mine, view)
            case "clean_failed":
                order(mine.house, view.id, Order("resume", comment=comment))
            case _:
                return False
        return True

    def _back(self, mine: Life, view: RunView) -> None:
        data = {"confirm": GROUP, "accepted_loss_s": 1e9}
        order(mine.house, view.id, Order("rollback", comment="taken back", data=data))

    def _unpause(self, mine: Life, view: RunView) -> None:
        lot = self.draw()
        if not self.settled and lot < 0.1 and view.mode in MOVES:
            self._back(mine, view)
        elif not self.settled and lot < 0.2 and view.mode not in MOVES:
            order(mine.house, view.id, Order("cancel", comment="not now"))
        else:
            order(mine.house, view.id, Order("resume", comment="again"))


def pursue(mode: str, mine: Life, theirs: Life, will: Will, done: set[str]) -> RunView | None:
    """Begin the run of a goal, or take the one on that lives, as far as one sitting goes; the run when it has ended.

    `done` are the runs that had ended before the goal. Raises whatever the services raise.
    """
    live = [run for run in mine.journal.runs(GROUP, live=True) if run.mode == mode]
    ended = [
        run for run in mine.journal.runs(GROUP) if run.mode == mode and run.id not in done and run not in live
    ]
    if ended and not live:
        return ended[0]
    view = live[0] if live else begun(mode, mine)
    for _ in range(12):
        view = attend(mine.house, view.id)
        if view.state == "finished":
            return view
        if not will.answer(mine, theirs, view):
            return None
    return None


def begun(mode: str, mine: Life) -> RunView:
    """Propose and begin a run, with everything typed that is asked for; raises what the services raise."""
    offer = propose(mine.house, mode, GROUP, Asking(reason="a story"))
    return begin(
        mine.house, offer, consent(mine.house, offer, Typed(GROUP, (offer.proposal.loss_s or 0.0) + 60))
    )


def refused_for_good(error: DrpilotError) -> bool:
    """Whether asking again changes nothing: the goal does not fit the state the story came to."""
    return error.word in ("wrong-state", "locked", "drill-not-fresh", "no-point", "site-refuses")
