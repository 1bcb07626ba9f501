"""The sample shop's name in the DNS of the lab's edge."""

from __future__ import annotations

from drpilot.lab.shop_plan import Clients, Plan, until

__all__ = ["put_name"]


def put_name(edge: Clients, plan: Plan, target: str) -> str:
    """The hosted zone with the shop's name, in sync when this returns."""
    route53 = edge("route53")
    reference = f"{plan.seed}-{plan.zone_name}"
    made = route53.create_hosted_zone(Name=plan.zone_name, CallerReference=reference)
    zone_id: str = made["HostedZone"]["Id"].rsplit("/", 1)[-1]
    record = {
        "Name": plan.record_name,
        "Type": "CNAME",
        "TTL": plan.ttl_s,
        "ResourceRecords": [{"Value": target}],
    }
    change = route53.change_resource_record_sets(
        HostedZoneId=zone_id,
        ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]},
    )["ChangeInfo"]
    until(
        plan,
        f"the name {plan.record_name}",
        lambda: bool(route53.get_change(Id=change["Id"])["ChangeInfo"]["Status"] == "INSYNC"),
    )
    return zone_id
