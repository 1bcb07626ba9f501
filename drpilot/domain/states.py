"""Every state word with a stable number and a sentence, and the only ways they may change.

The tables are the contract: (from, event, needed facts, forbidden facts, to). `domain/machine.py` runs them, the
docs page of lifecycles is drawn from them, and tests try every (state, event) pair. Words and numbers never change
once released, because stored journals and monitoring depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "Family", "State", "Transition"]

NEW = ""  # the source of a first transition: the thing does not exist yet


@dataclass(frozen=True, slots=True)
class State:
    """One state word; `number` is stable for ever, `live` says whether things still happen in it."""

    word: str
    number: int
    sentence: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Transition:
    """`event` leads from each of `sources` to `target` if all `needs` and none of `forbids` are true facts."""

    sources: tuple[str, ...]
    event: str
    target: str
    needs: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """One lifecycle: its states and its transitions."""

    name: str
    title: str
    states: tuple[State, ...]
    transitions: tuple[Transition, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The state words in the order of their numbers."""
        return tuple(state.word for state in self.states)

    @property
    def events(self) -> tuple[str, ...]:
        """The event words in the order of first use."""
        return tuple(dict.fromkeys(transition.event for transition in self.transitions))

    @property
    def final(self) -> frozenset[str]:
        """The words from which nothing leads on."""
        return frozenset(state.word for state in self.states if state.final)


def _t(sources: str, event: str, target: str, needs: str = "", forbids: str = "") -> Transition:
    names = tuple(word.strip() for word in sources.split(",")) if sources else (NEW,)
    return Transition(names, event, target, tuple(needs.split()), tuple(forbids.split()))


POINT = Family(
    "point",
    "Recovery point",
    (
        State("requested", 1, "asked for; nothing was captured yet"),
        State("capturing", 2, "snapshots of the members are being taken on the source"),
        State("copying", 3, "captured on the source; the copies are under way"),
        State("converting", 4, "the copies are being turned into the other cloud's form"),
        State("available", 5, "every replica was checked on the target; the point can be restored"),
        State("proven", 6, "a drill booted it and its checks passed"),
        State("failed", 7, "it could not be completed; never chosen"),
        State("quarantined", 8, "set aside by a person or a failed check; never chosen without an override"),
        State("expiring", 9, "its replicas are being deleted"),
        State("deleted", 10, "its replicas are gone by observation", final=True),
    ),
    (
        _t("", "request", "requested"),
        _t("requested", "capture", "capturing", "source_readable"),
        _t("capturing", "captured", "copying", "within_window"),
        _t("copying", "convert", "converting", "sites_differ"),
        _t("copying,converting", "complete", "available", "replicas_checked"),
        _t("available", "prove", "proven", "drill_passed"),
        _t("requested,capturing,copying,converting", "fail", "failed"),
        _t("available,proven", "quarantine", "quarantined", "reason_given"),
        _t(
            "available,proven,quarantined,failed",
            "expire",
            "expiring",
            "",
            "pinned last_available last_proven",
        ),
        _t("expiring", "deleted", "deleted", "unseen"),
        _t(
            "requested,capturing,copying,converting,available,proven,failed,quarantined,expiring",
            "group retired",
            "deleted",
            "unseen",
        ),
    ),
)

STANDBY = Family(
    "standby",
    "Standby",
    (
        State("absent", 1, "nothing stands ready on this site"),
        State("building", 2, "being made"),
        State("ready", 3, "observed with the right size, zone, image and addresses"),
        State("unhealthy", 4, "observed repeatedly as not as it should be"),
        State("promoting", 5, "being grown and given the data; no writer yet"),
        State("active", 6, "it is the writer"),
        State("demoting", 7, "being shrunk because the other side is active"),
        State("retired", 8, "given up and removed", final=True),
    ),
    (
        _t("absent", "build", "building", "mapping_complete"),
        _t("building", "built", "ready", "observed"),
        _t("ready", "degrade", "unhealthy", "hysteresis_over"),
        _t("unhealthy", "recover", "ready", "hysteresis_over"),
        _t("ready,unhealthy", "promote", "promoting", "fence_recorded"),
        _t("promoting", "verified", "active", "checked"),
        _t("promoting", "roll back", "ready", "", "past_no_return"),
        _t("promoting,active", "roll back with loss", "demoting", "loss_typed"),
        _t("active", "demote", "demoting", "superseded"),
        _t("demoting", "demoted", "ready", "observed"),
        _t("absent,building,ready,unhealthy,demoting", "retire", "retired", "", "live_move"),
    ),
)

_LIVE_GROUP = (
    "seeding,protected,degraded,switching_over,failing_over,rolling_back,awaiting_commit,active_unprotected,"
    "reprotecting,needs_decision"
)

GROUP = Family(
    "group",
    "Protection group",
    (
        State("seeding", 1, "protected by its file; the first point and standby are being made"),
        State("protected", 2, "one complete point within its objective and a standby ready"),
        State("degraded", 3, "the newest point is older than the objective, or a member is in error"),
        State("switching_over", 4, "a planned move without loss is under way"),
        State("failing_over", 5, "an unplanned move is under way; the source is presumed lost"),
        State(
            "awaiting_commit", 6, "the new side is writable and checked; a person must commit or roll back"
        ),
        State("rolling_back", 7, "the move is being undone"),
        State("active_unprotected", 8, "committed on the new side; nothing protects it yet"),
        State("reprotecting", 9, "the first reverse point is being made"),
        State("needs_decision", 10, "after a crash looking could not settle what happened; a person must"),
        State("split_suspected", 11, "both sides may be writable, or an old epoch accepts writes"),
        State("retired", 12, "standbys, points and tags were removed", final=True),
    ),
    (
        _t("", "protect", "seeding", "mapped"),
        _t("seeding", "point available", "protected", "point_complete standby_ready"),
        _t("protected", "degrade", "degraded", "hysteresis_over"),
        _t("degraded", "recover", "protected", "hysteresis_over"),
        _t(
            "protected,degraded",
            "switch over",
            "switching_over",
            "both_reachable epoch_claimed unlocked cooled lane_held",
        ),
        _t("protected,degraded", "fail over", "failing_over", "epoch_claimed unlocked cooled lane_held"),
        _t("switching_over,failing_over", "verified", "awaiting_commit", "checks_green"),
        _t("switching_over,failing_over", "roll back", "rolling_back", "", "past_no_return"),
        _t(
            "switching_over,failing_over,awaiting_commit",
            "roll back with loss",
            "rolling_back",
            "old_side_fenced loss_typed",
        ),
        _t("rolling_back", "rolled back", "protected", "old_side_active epoch_released"),
        _t("rolling_back", "rolled back unseen", "degraded", "nothing_promoted epoch_released"),
        _t("awaiting_commit", "commit", "active_unprotected", "fence_accepted epoch_confirmed"),
        _t("active_unprotected", "reprotect", "reprotecting", "old_side_fenced old_side_invalidated"),
        _t("reprotecting", "point available", "protected", "point_complete standby_ready"),
        _t("switching_over,failing_over,rolling_back,reprotecting", "undecidable", "needs_decision"),
        _t("needs_decision", "settle", "switching_over", "named_person from_switching_over"),
        _t("needs_decision", "settle", "failing_over", "named_person from_failing_over"),
        _t("needs_decision", "settle", "rolling_back", "named_person from_rolling_back"),
        _t("needs_decision", "settle", "reprotecting", "named_person from_reprotecting"),
        _t(_LIVE_GROUP, "split seen", "split_suspected"),
        _t("split_suspected", "survivor named", "active_unprotected", "two_persons fence_evidence"),
        _t("protected,degraded,seeding,active_unprotected", "retire", "retired", "name_typed", "live_run"),
    ),
)

RUN = Family(
    "run",
    "Run",
    (
        State("created", 1, "written to the journal; nothing was called yet"),
        State("running", 2, "steps are being executed"),
        State("waiting", 3, "a gate waits for a person"),
        State("paused", 4, "stopped by a person or a failed step; nothing new starts"),
        State("awaiting_commit", 5, "the forward path is done; a person must commit or roll back"),
        State("cancelling", 6, "letting running steps end; nothing new starts"),
        State("rolling_back", 7, "succeeded steps are being undone in reverse order"),
        State("cleaning", 8, "what the run made for itself is being removed"),
        State("clean_failed", 9, "something could not be removed"),
        State("finished", 10, "ended; the result says how", final=True),
    ),
    (
        _t("", "create", "created", "lane_held"),
        _t("created", "checks ok", "running"),
        _t("created", "refused", "finished"),
        _t("running", "gate reached", "waiting"),
        _t("waiting", "approved", "running"),
        _t("waiting", "declined", "finished"),
        _t("waiting", "expired", "finished"),
        _t("running,waiting", "pause", "paused"),
        _t("paused", "resume", "running"),
        _t("created,running,waiting,paused", "cancel", "cancelling"),
        _t("cancelling", "clean", "cleaning"),
        _t("cancelling", "cancelled", "finished"),
        _t("running,waiting,paused,awaiting_commit", "roll back", "rolling_back"),
        _t("rolling_back", "rolled back", "finished"),
        _t("rolling_back", "pause", "paused"),
        _t("paused", "resume undoing", "rolling_back"),
        _t("running", "commit reached", "awaiting_commit"),
        _t("awaiting_commit", "commit", "running"),
        _t("running,paused", "clean", "cleaning"),
        _t("cleaning", "cleaned", "finished"),
        _t("cleaning", "not empty", "clean_failed"),
        _t("clean_failed", "resume", "cleaning"),
        _t("clean_failed", "handed over", "finished"),
        _t("running", "finish", "finished"),
    ),
)

STEP = Family(
    "step",
    "Step",
    (
        State("pending", 1, "a need has not ended yet"),
        State("ready", 2, "may start as soon as there is room"),
        State("running", 3, "its intent is durable and its call is under way"),
        State("waiting", 4, "waits for a person, a timer or the cloud; holds no thread"),
        State("unknown", 5, "a reply or a driver was lost; looking will settle it"),
        State("succeeded", 6, "observed as wanted", final=True),
        State("warned", 7, "done, but an optional member failed", final=True),
        State("failed", 8, "failed for certain, and its tries are used up"),
        State("skipped", 9, "left out by its condition, or because a need failed", final=True),
        State("ignored", 10, "failed, and a person or its policy goes on without it", final=True),
        State("cancelled", 11, "the run ended before it began", final=True),
        State("undoing", 12, "the call that reverses it is under way"),
        State("undone", 13, "reversed", final=True),
        State("undo_failed", 14, "could not be reversed; a person must look"),
    ),
    (
        _t("pending", "needs met", "ready"),
        _t("pending,ready", "left out", "skipped"),
        _t("pending,ready,waiting", "cancelled", "cancelled"),
        _t("ready", "attempt started", "running"),
        _t("ready", "gate opened", "waiting"),
        _t("running", "waits", "waiting"),
        _t("waiting", "still waits", "waiting"),
        _t("waiting", "attempt due", "ready"),
        _t("running,waiting,unknown", "as wanted", "succeeded"),
        _t("running,waiting,unknown", "as wanted, with a warning", "warned"),
        _t("running,waiting,unknown", "transient failure", "waiting"),
        _t("running,waiting,unknown", "failed", "failed"),
        _t("running,waiting", "reply lost", "unknown"),
        _t("unknown", "there, not yet", "waiting"),
        _t("unknown", "not there", "ready"),
        _t("unknown", "can't tell", "unknown"),
        _t("unknown", "settled: happened", "succeeded"),
        _t("unknown", "settled: did not happen", "ready"),
        _t("failed", "retry", "ready"),
        _t("failed", "skip", "skipped"),
        _t("failed", "ignore", "ignored"),
        _t("succeeded,warned,unknown,failed", "undo", "undoing"),
        _t("undoing", "undo waits", "undoing"),
        _t("undoing", "undone", "undone"),
        _t("undoing", "undo failed", "undo_failed"),
        _t("undo_failed", "undo", "undoing"),
        _t("undo_failed", "skip", "ignored"),
    ),
)

FENCE = Family(
    "fence",
    "Fence",
    (
        State("none", 1, "nothing was asked"),
        State("requested", 2, "asked for"),
        State("applying", 3, "rungs of the ladder are being applied"),
        State("fenced", 4, "at least one write-blocking rung was verified by looking"),
        State("partial", 5, "rungs were applied, none of the write-blocking ones is verified (any more)"),
        State("unverified", 6, "the site can't be seen; it may still write"),
        State("released", 7, "taken away because that side is a verified standby or active again"),
    ),
    (
        _t("none,released,unverified,partial,fenced", "request", "requested"),
        _t("requested", "apply", "applying"),
        _t("applying", "verified", "fenced", "write_blocked_observed"),
        _t("applying", "partly", "partial"),
        _t("applying", "unseen", "unverified"),
        _t("fenced", "writers seen", "partial", "writers_observed"),
        _t(
            "fenced,partial,unverified,requested,applying", "release", "released", "side_is_standby_or_active"
        ),
    ),
)

BURST = Family(
    "burst",
    "Burst",
    (
        State("none", 1, "nothing extra runs on the side that stands by"),
        State("scaling_out", 2, "the extra machines are being made; no user is sent to them yet"),
        State("serving", 3, "the extra machines are healthy and take their share of the users"),
        State("draining", 4, "no new user is sent to the extra machines; they are being removed"),
    ),
    (
        _t("none", "begin", "scaling_out", "lane_held point_usable"),
        _t("scaling_out", "serve", "serving", "healthy"),
        _t("scaling_out,serving", "drain", "draining", "lane_held"),
        _t("draining", "removed", "none", "unseen"),
    ),
)

FAMILIES: dict[str, Family] = {
    family.name: family for family in (POINT, STANDBY, GROUP, RUN, STEP, FENCE, BURST)
}
