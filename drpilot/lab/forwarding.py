"""How a lab load balancer works: it listens, asks its targets for their health and forwards HTTP to healthy
ones.

Each active balancer with a listener binds its own loopback address. Health checks are real requests from
that address to the target's, at the target group's interval in lab seconds; a request with no healthy
target is answered with 503 (user guide of Application Load Balancers, HTTP 503: no registered or no healthy
targets; the service's fail-open when *all* are unhealthy is left out, so that a wrong tier can't look
alive).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from drpilot.lab import machines, targets
from drpilot.lab.balancing import active
from drpilot.lab.cloud import Cloud
from drpilot.lab.loopback import Endpoint, Request, Service, fetch, knock, read_request, reset, respond
from drpilot.lab.runtime import Health, Runtime, contributor
from drpilot.lab.targets import BALANCERS, GROUPS, LISTENERS

__all__ = ["Check", "Pool", "balanced", "examine", "forward"]

_FORWARD_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One health check to make: from the balancer's address to a target's endpoint. Without a path the port only
    has to open.
    """

    key: tuple[str, str, int]
    source: str
    target: Endpoint
    path: str
    timeout_s: float
    codes: str
    healthy_after: int
    unhealthy_after: int


def _code_matches(codes: str, status: int) -> bool:
    for part in codes.split(","):
        low, _, high = part.partition("-")
        if int(low) <= status <= int(high or low):
            return True
    return False


def _passed(health: Health, check: Check) -> None:
    health.passes, health.failures = health.passes + 1, 0
    # A new target needs one passed check, one that failed needs the threshold (user guide, target health).
    if health.state == "initial" or health.passes >= check.healthy_after:
        health.state, health.reason, health.description = "healthy", "", ""


def _failed(health: Health, check: Check, reason: str, description: str) -> None:
    health.passes, health.failures = 0, health.failures + 1
    if health.failures >= check.unhealthy_after:
        health.state = "unhealthy"
    health.reason, health.description = reason, description


async def _knock(health: Health, check: Check) -> None:
    try:
        await knock(check.source, check.target, check.timeout_s)
        _passed(health, check)
    except (OSError, TimeoutError):
        _failed(health, check, "Target.Timeout", "The port does not open")
    finally:
        health.checking = False


async def examine(health: Health, check: Check) -> None:
    """Make one health check and note what it saw."""
    if not check.path:
        await _knock(health, check)
        return
    lines = (f"GET {check.path} HTTP/1.1", f"Host: {check.target[0]}", "User-Agent: ELB-HealthChecker/2.0")
    raw = "\r\n".join((*lines, "Connection: close", "", ""))
    try:
        response = await fetch(check.source, check.target, raw.encode(), check.timeout_s)
        if _code_matches(check.codes, response.status):
            _passed(health, check)
        else:
            description = f"Health checks failed with these codes: [{response.status}]"
            _failed(health, check, "Target.ResponseCodeMismatch", description)
    except TimeoutError:
        _failed(health, check, "Target.Timeout", "Request timed out")
    except (OSError, ValueError):
        _failed(health, check, "Target.FailedHealthChecks", "Health checks failed")
    finally:
        health.checking = False


def _target_address(cloud: Cloud, target_id: str) -> str | None:
    if target_id[:1].isdigit():
        return target_id
    machine = machines.machine(cloud, target_id)
    return machine.address if machine is not None and machine.state == "running" else None


def _checks(cloud: Cloud, beside: Runtime) -> None:
    """Begin every health check that is due, and forget the health of what can't be checked any more."""
    alive = set()
    for arn, row in cloud.table(GROUPS).peek().items():
        sources = [cloud.table(BALANCERS).peek()[one] for one in targets.balancers_of(cloud, arn)]
        sources = [source for source in sources if active(cloud, source)]
        if not sources:
            continue
        for target in row["targets"].values():
            address = _target_address(cloud, target["id"])
            key = (arn, target["id"], target["port"])
            if address is None or target["draining_until_s"] is not None:
                continue
            alive.add(key)
            health = beside.health.get(key)
            if health is None or health.since_s != target["since_s"]:
                health = beside.health[key] = Health(since_s=target["since_s"])
            if health.checking or cloud.now() < health.due_s:
                continue
            health.checking = True
            health.due_s = cloud.now() + row["HealthCheckIntervalSeconds"]
            port = target["port"] if row["HealthCheckPort"] == "traffic-port" else int(row["HealthCheckPort"])
            check = Check(
                key=key,
                source=sources[0]["address"],
                target=(address, port),
                path=row["HealthCheckPath"],
                timeout_s=float(row["HealthCheckTimeoutSeconds"]),
                codes=row["Matcher"]["HttpCode"],
                healthy_after=row["HealthyThresholdCount"],
                unhealthy_after=row["UnhealthyThresholdCount"],
            )
            beside.attend(examine(health, check))
    for key in [key for key in beside.health if key not in alive and key[0].startswith("arn:")]:
        del beside.health[key]


Pool = tuple[tuple[tuple[str, str, int], Endpoint], ...]
"""Health key and endpoint of every registered target behind a listener."""


def _pool(cloud: Cloud, listener: dict[str, Any]) -> Pool:
    found = []
    for step in listener["DefaultActions"]:
        for weighted in step["ForwardConfig"]["TargetGroups"]:
            arn = weighted["TargetGroupArn"]
            row = cloud.table(GROUPS).peek().get(arn)
            for target in (row["targets"] if row is not None and weighted["Weight"] else {}).values():
                address = _target_address(cloud, target["id"])
                if address is not None and target["draining_until_s"] is None:
                    found.append(((arn, target["id"], target["port"]), (address, target["port"])))
    return tuple(found)


async def forward(
    beside: Runtime, source: str, pool: Pool, client: str, request: Request
) -> tuple[int, bytes]:
    """Send a request to a healthy target of the pool: status and raw answer (empty when there is none)."""
    healthy = [endpoint for key, endpoint in pool if _is_healthy(beside, key)]
    if not healthy:
        return 503, b""
    beside.turn += 1
    endpoint = healthy[beside.turn % len(healthy)]
    head, _, body = request.raw.partition(b"\r\n\r\n")
    lines = [
        line
        for line in head.split(b"\r\n")
        if not line.lower().startswith((b"connection:", b"x-forwarded-for:"))
    ]
    lines += [b"X-Forwarded-For: " + client.encode(), b"Connection: close"]
    try:
        response = await fetch(source, endpoint, b"\r\n".join(lines) + b"\r\n\r\n" + body, _FORWARD_TIMEOUT_S)
    except TimeoutError:
        return 504, b""
    except (OSError, ValueError):
        return 502, b""
    return response.status, response.raw


def _is_healthy(beside: Runtime, key: tuple[str, str, int]) -> bool:
    health = beside.health.get(key)
    return health is not None and health.state == "healthy"


def balanced(beside: Runtime, balancer: dict[str, Any], port: int, pool: Pool) -> Service:
    """What a balancer's listener does with a connection: admit it, read a request and forward that. A balancer
    without security groups admits everybody.
    """
    source, groups = str(balancer["address"]), tuple(balancer["SecurityGroups"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = str(writer.get_extra_info("peername")[0])
        if groups and not beside.world.admits(groups, client, port):
            reset(writer)
            return
        request = await read_request(reader)
        status, raw = await forward(beside, source, pool, client, request)
        if raw:
            writer.write(raw)
            await writer.drain()
        else:
            await respond(writer, status, f"{status} no healthy target\n")

    return serve


@contributor
def balancers(cloud: Cloud, beside: Runtime) -> dict[Endpoint, Service]:
    """The endpoints of all active load balancers; health checks that are due begin here."""
    targets.drop_drained(cloud)
    _checks(cloud, beside)
    found: dict[Endpoint, Service] = {}
    for listener in cloud.table(LISTENERS).peek().values():
        balancer = cloud.table(BALANCERS).peek().get(listener["LoadBalancerArn"])
        if balancer is None or not active(cloud, balancer):
            continue
        port = int(listener["Port"])
        if beside.fresh_world().open_to_anyone(balancer["SecurityGroups"], port):
            found[balancer["address"], port] = balanced(beside, balancer, port, _pool(cloud, listener))
    return found
