"""What `explain` knows: the error catalogue, every state word, the exit codes, and the words of the field.

The words are those of the lifecycle page: one word a concept, in code, command line, files and documentation.
"""

from __future__ import annotations

import difflib
from typing import Any

from drpilot.base.errors import CATALOGUE, EXIT_CODES, DrpilotError
from drpilot.domain.states import FAMILIES

__all__ = ["TERMS", "explained", "lines", "listing", "near", "unknown"]

TERMS: dict[str, str] = {
    "site": "one EC2-compatible endpoint, region and account",
    "group": "what fails over together: the tiers of one application, in their order",
    "tier": "the members of a group that start together; tiers start from first to last and stop from last to first",
    "member": "one protected machine, volume, image, scaling group or load balancer of a group",
    "replica": "one image or snapshot copy on the other site",
    "point": "a recovery point: a consistent, restorable set of replicas at one instant",
    "standby": "a minimal instance, template or empty scaling group kept ready on the other site",
    "pilot light": "the strategy: data is replicated, machines are small or stopped until they are needed",
    "runbook": "the ordered YAML people write; it alone knows the order of a run",
    "plan": "a runbook compiled for one group: a fixed graph of steps with a digest",
    "proposal": "the one screen that decides: point, loss, fence, plan, time, what stops, who must approve",
    "run": "one execution of a plan, called GROUP/NUMBER; it is never tied to the terminal that began it",
    "lane": "one live run a group and lane: move, copy or practice; a move cancels the others and never waits for them",
    "step": "one part of a run, called by its path, such as tiers/db/volumes",
    "attempt": "one try of a step; its intent is durable before the first call",
    "gate": "a step that waits for a person: go, fence, traffic or commit",
    "approval": "one person's consent to a gate, bound to the facts of the proposal",
    "fence": "proof that the old side can't write",
    "unverified": "a fence on a site that can't be seen: it may still write, and a second person must accept that",
    "split": "both sides may be writable: two looks contradict what the journal holds; two people name the survivor",
    "survivor": "the side of a suspected split that the group goes on with; the other is fenced, seen, and invalidated",
    "epoch": "the number that says which side is active; raised once at each change of sides",
    "witness": "the object in a third place that holds the epoch, changed by a conditional write",
    "term": "the number of a controller's lease on a run; a lower term can't write",
    "lease": "the right to drive one run, kept alive by whoever drives it",
    "drill": "a failover tried in isolation and removed again; it proves a point and measures the time",
    "failover": "the unplanned move: the source is presumed lost",
    "switchover": "the planned move without loss; both sides must answer",
    "migration": "a planned move without loss, for good: home is the other side after its commit",
    "failback": "a switchover towards home",
    "commit": "the decision to keep the new side; it confirms the epoch and invalidates the old side",
    "rollback": "the way back to the old side; each step's undo in reverse order",
    "undo": "the call that reverses one step",
    "reprotect": "protecting the new active side by the old one, after the old side was fenced and invalidated",
    "invalidated": "the old side after a commit: it never becomes active again but by reprotect",
    "primary": "a site by configuration: home of the group",
    "secondary": "a site by configuration: where the group goes when home is lost",
    "source": "a role in one run: the side being left",
    "target": "a role in one run: the side being made active",
    "active": "a role at this moment: the side that is the writer",
    "rpo": "recovery point objective: how much written data may be lost, as a time",
    "rto": "recovery time objective: how long the way from the go to a checked service may take",
    "loss": "the source's last sign of life minus the point's instant, frozen in the proposal",
    "break glass": "acting alone where two people are asked for; kept in the evidence with its reason",
    "halt": "the kill switch: no run begins or is driven, no changing call of one leaves, until `unhalt`",
    "cooldown": "the pause after a move that keeps two sides from flapping",
    "orphan": "a resource with our tags that nothing in the journal accounts for",
    "burst": "extra machines of one tier on the side that stands by, for a share of the users; never the active side",
    "drift": "what runs differs from what is protected",
    "no way back": "the one step of a move after which only a rollback with typed loss is possible",
    "point of no return": "the step marked `no_way_back` of a move",
    "journal": "the only truth: runs, steps, points and events, each chain of events bound by hashes",
    "serve": "the service: begins what is due, drives what nobody drives, repeats an unverified fence",
    "lab": "simulated clouds on this machine, chosen by --lab; real sites are never touched by it",
    "check": "every live look",
}


def _key(text: str) -> str:
    return text.strip().lower().replace("_", " ").replace("-", " ")


def _errors(key: str) -> list[dict[str, Any]]:
    rows = [
        row
        for row in CATALOGUE.values()
        if key in (_key(row.code), _key(row.word), _key(row.code).removeprefix("drp "))
    ]
    return [
        {
            "kind": "error",
            "word": row.word,
            "code": row.code,
            "exit_code": row.exit_code,
            "message": row.title,
            "meaning": row.cause,
            "hint": row.hint,
        }
        for row in rows
    ]


def _states(key: str) -> list[dict[str, Any]]:
    return [
        {
            "kind": "state",
            "word": state.word,
            "family": family.name,
            "number": state.number,
            "meaning": state.sentence,
            "final": state.final,
            "leads_to": [
                {
                    "event": each.event,
                    "to": each.target,
                    "needs": list(each.needs),
                    "unless": list(each.forbids),
                }
                for each in family.transitions
                if state.word in each.sources
            ],
        }
        for family in FAMILIES.values()
        for state in family.states
        if _key(state.word) == key
    ]


def _exit_codes(key: str) -> list[dict[str, Any]]:
    number = key.removeprefix("exit ").removeprefix("code ")
    return [
        {"kind": "exit code", "word": str(code), "exit_code": code, "meaning": text}
        for code, text in EXIT_CODES.items()
        if number == str(code)
    ]


def _terms(key: str) -> list[dict[str, Any]]:
    return [
        {"kind": "word", "word": word, "meaning": text} for word, text in TERMS.items() if _key(word) == key
    ]


def explained(word: str) -> list[dict[str, Any]]:
    """Everything `word` means: a code or an error's word, a state, an exit code, a word of the field."""
    key = _key(word)
    return [*_errors(key), *_terms(key), *_states(key), *_exit_codes(key)]


def listing() -> list[dict[str, str]]:
    """Every word that can be explained, with its kind and meaning in one line."""
    rows = [
        {"word": row.code, "kind": "error", "meaning": f"{row.word}: {row.title}"}
        for row in CATALOGUE.values()
    ]
    rows += [
        {"word": state.word, "kind": f"{family.name} state", "meaning": state.sentence}
        for family in FAMILIES.values()
        for state in family.states
    ]
    rows += [{"word": word, "kind": "word", "meaning": text} for word, text in TERMS.items()]
    rows += [{"word": str(code), "kind": "exit code", "meaning": text} for code, text in EXIT_CODES.items()]
    return rows


def near(word: str) -> str:
    """Words that look like `word`, as a sentence; empty where there is none."""
    known = {_key(row["word"]): row["word"] for row in listing()} | {
        _key(row.word): row.word for row in CATALOGUE.values()
    }
    close = difflib.get_close_matches(_key(word), known, n=3)
    return f"did you mean {' or '.join(known[one] for one in close)}?" if close else ""


def unknown(word: str) -> DrpilotError:
    """The refusal of a word nobody knows."""
    error = DrpilotError("unknown-word", why=near(word))
    error.title = (
        f"{word!r} is no error, state or word of drpilot"  # the fact is called like the error's own `word`
    )
    return error


def lines(meaning: dict[str, Any]) -> list[str]:
    """One meaning as people read it."""
    match meaning["kind"]:
        case "error":
            return [
                f"{meaning['code']}  {meaning['word']}   exit code {meaning['exit_code']}",
                f"  says:  {meaning['message']}",
                f"  why:   {meaning['meaning']}",
                f"  hint:  {meaning['hint']}",
            ]
        case "state":
            ways = [
                f"  {one['event']} → {one['to']}"
                + (f"   needs {', '.join(one['needs'])}" if one["needs"] else "")
                + (f"   not when {', '.join(one['unless'])}" if one["unless"] else "")
                for one in meaning["leads_to"]
            ]
            return [
                f"{meaning['word']}  state {meaning['number']} of a {meaning['family']}: {meaning['meaning']}",
                *ways,
            ]
        case "exit code":
            return [f"exit code {meaning['word']}: {meaning['meaning']}"]
        case _:
            return [f"{meaning['word']}: {meaning['meaning']}"]
