"""The journal's tables, nothing else.

Times are whole microseconds since 1970 in UTC, states are text, bodies are JSON text (canonical). Rows are built by
this room only, from values already validated: SQLModel tables do not validate.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, MetaData, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

__all__ = ["SCHEMA", "metadata"]

SCHEMA = ("0001", "0002", "0003", "0004")  # every revision this program knows, oldest first

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def _body(default: str = "{}") -> str:
    return Field(default=default, sa_column=Column(Text, nullable=False, server_default=default))  # type: ignore[no-any-return]


class SiteRow(SQLModel, table=True):
    """What is known of a site: when it last showed life, when it was last looked at."""

    __tablename__ = "site"
    name: str = Field(primary_key=True)
    account: str = ""
    region: str = ""
    answers: bool | None = None
    detail: str = ""
    last_seen_at: int | None = Field(default=None, sa_type=BigInteger)
    last_looked_at: int | None = Field(default=None, sa_type=BigInteger)
    silent_since: int | None = Field(default=None, sa_type=BigInteger)
    refusal: str = ""


class GroupRow(SQLModel, table=True):
    """A protection group. `body` is the Group value, `document` the text of its file."""

    __tablename__ = "group"
    name: str = Field(primary_key=True)
    state: str
    came_from: str = ""
    active: str
    epoch: int = 1
    body: str = _body()
    document: str = Field(default="", sa_column=Column(Text, nullable=False, server_default=""))
    fences: str = _body()
    invalidated: str = _body("[]")
    conditions: str = _body()
    burst: str = _body()
    locked_by: str | None = None
    locked_reason: str | None = None
    locked_at: int | None = Field(default=None, sa_type=BigInteger)
    moved_at: int | None = Field(default=None, sa_type=BigInteger)
    acknowledged_at: int | None = Field(default=None, sa_type=BigInteger)
    created_at: int = Field(sa_type=BigInteger)
    changed_at: int = Field(sa_type=BigInteger)


class MemberRow(SQLModel, table=True):
    """One protected machine, scaling group or load balancer as last seen on the active side."""

    __tablename__ = "member"
    group: str = Field(primary_key=True, foreign_key="group.name")
    tier: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    site: str
    resource: str
    body: str = _body()
    seen_at: int = Field(sa_type=BigInteger)


class PointRow(SQLModel, table=True):
    """A recovery point; `site` is where it can be restored."""

    __tablename__ = "point"
    id: str = Field(primary_key=True)
    group: str = Field(foreign_key="group.name", index=True)
    source: str
    site: str
    state: str
    requested_at: int = Field(sa_type=BigInteger)
    captured_at: int | None = Field(default=None, sa_type=BigInteger)
    completed_at: int | None = Field(default=None, sa_type=BigInteger)
    proven_at: int | None = Field(default=None, sa_type=BigInteger)
    proven_by: str | None = None
    pinned_by: str | None = None
    facts: str = _body()


class ReplicaRow(SQLModel, table=True):
    """One snapshot or image of a point."""

    __tablename__ = "replica"
    point: str = Field(primary_key=True, foreign_key="point.id")
    kind: str = Field(primary_key=True)
    member: str = Field(primary_key=True)
    tier: str = ""
    site: str = ""
    state: str
    source_id: str = ""
    resource: str = ""
    size_gib: int = 0
    facts: str = _body()


class StandbyRow(SQLModel, table=True):
    """The standby of one tier on one site; `facts` hold the ids of what stands there."""

    __tablename__ = "standby"
    group: str = Field(primary_key=True, foreign_key="group.name")
    tier: str = Field(primary_key=True)
    site: str = Field(primary_key=True)
    state: str
    facts: str = _body()
    changed_at: int = Field(sa_type=BigInteger)


class RunRow(SQLModel, table=True):
    """One execution of a plan, frozen with it. `live` is 1 or NULL: one live run a group and lane."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("group", "number"),
        Index(
            "ix_run_lane_live",
            "group",
            "lane",
            unique=True,
            sqlite_where=text("live = 1"),
            postgresql_where=text("live = 1"),
        ),
    )
    id: str = Field(primary_key=True)
    group: str = Field(foreign_key="group.name", index=True)
    number: int
    mode: str
    lane: str
    state: str
    result: str | None = None
    live: int | None = None
    point: str = ""
    plan: str = _body()
    plan_digest: str
    proposal: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    by: str
    reason: str = ""
    facts: str = _body()
    holder: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    term: int = 0
    lease_until: int = Field(default=0, sa_type=BigInteger)
    created_at: int = Field(sa_type=BigInteger)
    started_at: int | None = Field(default=None, sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    expires_at: int | None = Field(default=None, sa_type=BigInteger)


class StepRow(SQLModel, table=True):
    """The present state of a step; what it is stands in the run's frozen plan."""

    __tablename__ = "step"
    run: str = Field(primary_key=True, foreign_key="run.id")
    path: str = Field(primary_key=True)
    position: int
    state: str
    round: int = 0
    tries: int = 0
    polls: int = 0
    looks: int = 0
    attempt: int = 0
    wake_at: int | None = Field(default=None, sa_type=BigInteger)
    looked_at: int | None = Field(default=None, sa_type=BigInteger)
    started_at: int | None = Field(default=None, sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    output: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    failure: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    undo: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    progress: float | None = None
    note: str = ""


class AttemptRow(SQLModel, table=True):
    """One try of a step. Its row is durable before its first call: the intent."""

    __tablename__ = "attempt"
    run: str = Field(primary_key=True, foreign_key="run.id")
    path: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    round: int
    kind: str
    token: str = Field(index=True)
    action: str
    given: str = _body()
    state: str
    term: int
    intended_at: int = Field(sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger)
    failure: str | None = Field(default=None, sa_column=Column(Text, nullable=True))
    checkpoint: str | None = Field(default=None, sa_column=Column(Text, nullable=True))


class ApprovalRow(SQLModel, table=True):
    """One person's consent, bound to a proposal's digest."""

    __tablename__ = "approval"
    id: int | None = Field(default=None, primary_key=True)
    run: str = Field(foreign_key="run.id", index=True)
    body: str = _body()


class RequestRow(SQLModel, table=True):
    """An order of a person, posted by an insert and read by the driver."""

    __tablename__ = "request"
    id: str = Field(primary_key=True)
    run: str = Field(foreign_key="run.id", index=True)
    kind: str
    by: str
    at: int = Field(sa_type=BigInteger)
    step: str | None = None
    comment: str = ""
    data: str = _body()
    settled_at: int | None = Field(default=None, sa_type=BigInteger)
    refused: str = ""


class ScheduleRow(SQLModel, table=True):
    """When a group's replication or drill is due next; claimed by compare-and-set."""

    __tablename__ = "schedule"
    group: str = Field(primary_key=True, foreign_key="group.name")
    kind: str = Field(primary_key=True)
    next_at: int = Field(sa_type=BigInteger)
    last_at: int | None = Field(default=None, sa_type=BigInteger)
    last_by: str = ""


class FindingRow(SQLModel, table=True):
    """Something a check found, until it no longer does."""

    __tablename__ = "finding"
    group: str = Field(primary_key=True)
    word: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    severity: str
    message: str
    hint: str = ""
    first_at: int = Field(sa_type=BigInteger)
    last_at: int = Field(sa_type=BigInteger)
    closed_at: int | None = Field(default=None, sa_type=BigInteger)


class EventRow(SQLModel, table=True):
    """What happened, append-only; `chain` is a run's id or `group:NAME`, each hash covers the one before."""

    __tablename__ = "event"
    __table_args__ = (UniqueConstraint("chain", "sequence"),)
    id: int | None = Field(default=None, primary_key=True)
    chain: str = Field(index=True)
    sequence: int
    group: str = Field(index=True)
    kind: str
    at: int = Field(sa_type=BigInteger)
    actor: str
    body: str = _body()
    hash: str


class ServiceRow(SQLModel, table=True):
    """A living `drpilot serve`: its holder and its last heartbeat."""

    __tablename__ = "service"
    id: str = Field(primary_key=True)
    holder: str = _body()
    started_at: int = Field(sa_type=BigInteger)
    heartbeat_at: int = Field(sa_type=BigInteger)


class BatchRow(SQLModel, table=True):
    """One committed write of a journal on a server: what tells a repeated transaction that it was committed before."""

    __tablename__ = "batch"
    id: str = Field(primary_key=True)
    at: int = Field(sa_type=BigInteger, index=True)


metadata: MetaData = SQLModel.metadata
