"""The group file that protects the sample shop, for any pair of clouds."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from drpilot.lab.shop_plan import PORT, Plan

__all__ = ["group_file"]


def _flow(pairs: Iterable[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{left}: {right}" for left, right in pairs) + "}"


def _freeze(plan: Plan) -> str:
    """Beside a Eucalyptus cloud, which takes the volumes of a machine one after the other: the programs that make them
    one instant.
    """
    if not plan.unlike:
        return ""
    program = f"{shlex.quote(sys.executable)} -m drpilot lab"
    commands = ", ".join(json.dumps(f"{program} {verb}") for verb in ("freeze", "thaw"))
    return f"    freeze: [{commands}]\n"


def group_file(built: Mapping[str, Any], prepared: Mapping[str, Any], plan: Plan | None = None) -> str:
    """The group file of this shop, YAML text, from what `build` and `prepare` returned."""
    plan = plan or Plan()
    zones = _flow(zip(built["zones"], prepared["zones"], strict=True))
    # Where a cloud without VPCs is home its zones stand for subnets; where it is away the zones' partners are enough.
    here = built["subnets"] or built["zones"]
    subnets = _flow(zip(here, prepared["subnets"], strict=bool(prepared["subnets"])))
    here, there = plan.types(plan.home), plan.types(plan.away)
    types = _flow(((here.database, there.database), (here.server, there.server)))
    groups = _flow((name, name) for name in ("shop-db", "shop-app", "shop-web"))
    check = f'{{http: "http://{{address}}:{PORT}/healthz", contains: ok}}'
    record = plan.record_name.rstrip(".")
    # Nothing keeps a machine from speaking out there: whoever drills there has to accept it.
    outbound = "" if built["subnets"] and prepared["subnets"] else ", outbound: open"
    return f"""\
drpilot: 1
group: shop
primary: home
secondary: away
objectives: {{rpo: 15m, rto: 30m}}
replicate: {{every: 10m, keep: {{last: 6, hourly: 24, daily: 14}}}}
drill: {{cron: "0 3 * * sun", timezone: Europe/Rome, expires: 2h{outbound}}}
approvals: {{failover: 2, switchover: 1, commit: 1}}
map:                                 # home: away; read from right to left for the way back
  zones: {zones}
  subnets: {subnets}
  types: {types}
  keys: {{shop-ops: shop-ops}}
  security_groups: {groups}
tiers:                               # started from top to bottom, stopped from bottom to top
  db:
    instances: {{tag: tier=db}}        # with their volumes and image
    standby: {{size: {there.small}, grow: {there.database}, otherwise: [{", ".join(there.otherwise)}]}}
    check: {{tcp: 5432}}
{_freeze(plan)}\
  app:
    scaling_group: shop-app
    standby: {{count: 0, grow: {plan.app_count}}}
    check: {check}
  web:
    scaling_group: shop-web
    standby: {{count: 0, grow: {plan.web_count}}}
    load_balancer: shop-lb
    check: {check}
traffic: {{name: {record}, zone: {built["hosted_zone"]}, site: edge, ttl: {plan.ttl_s}}}
"""
