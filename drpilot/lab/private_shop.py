"""The sample shop on a Eucalyptus cloud, by that cloud's own means.

Bytes come in by ImportVolume, from parts in a bucket; an image is a snapshot of such a volume, registered. Where
there is no imaging service (3.4) the plan's `write` plays a person at a machine that has the volume attached.
Tags follow a creating call. Tiers are scaling groups with launch configurations behind a classic load balancer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

from drpilot.lab import disk
from drpilot.lab.dataset import expected, volume_blocks
from drpilot.lab.shop_name import put_name
from drpilot.lab.shop_plan import ANYWHERE, DEVICES, PORT, Clients, Plan, public_key, rules, tags, until

__all__ = ["BUCKET", "MOVER_IMAGE", "build", "image", "prepare", "snapshot"]

MOVER_IMAGE = "drpilot-mover"
"""Name and tag of the image that movers are launched from."""

BUCKET = "shop-imports"
"""Where the parts of an import lie while it is under way."""
_PART_BYTES = 10 * 1024 * 1024
_ROOT = "/dev/sda"


# -- network ----------------------------------------------------------------------------------------------


def _has_vpcs(ec2: Any, dialect: str) -> bool:
    """Whether the account has VPCs; 3.4 has none, nor the action to ask."""
    if dialect == "eucalyptus-3.4":
        return False
    found = ec2.describe_account_attributes(AttributeNames=["supported-platforms"])["AccountAttributes"]
    return any(value["AttributeValue"] == "VPC" for item in found for value in item["AttributeValues"])


def _mark(ec2: Any, resource_id: str, **given: str) -> str:
    """Tag what was just made."""
    ec2.create_tags(Resources=[resource_id], Tags=tags(**given))
    return resource_id


def _network(ec2: Any, block: str, dialect: str) -> dict[str, Any]:
    """VPC, a subnet in each of two clusters, a way out, and the three security groups; only the groups without
    VPCs.
    """
    zones = [zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]][:2]
    if not _has_vpcs(ec2, dialect):
        groups = _security_groups(ec2, None)
        return {"vpc": "", "zones": zones, "subnets": [], "security_groups": groups, "gateway": ""}
    vpc_id = _mark(ec2, ec2.create_vpc(CidrBlock=block)["Vpc"]["VpcId"], Name="shop")
    parts = list(ipaddress.ip_network(block).subnets(new_prefix=24))
    subnets = []
    for place, zone in enumerate(zones, 1):
        made = ec2.create_subnet(VpcId=vpc_id, CidrBlock=str(parts[place]), AvailabilityZone=zone)
        subnets.append(_mark(ec2, made["Subnet"]["SubnetId"], Name=f"shop-{place}"))
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    _mark(ec2, gateway, Name="shop")
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc_id)
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])["RouteTables"]
    ec2.create_route(RouteTableId=tables[0]["RouteTableId"], DestinationCidrBlock=ANYWHERE, GatewayId=gateway)
    groups = _security_groups(ec2, vpc_id)
    return {"vpc": vpc_id, "zones": zones, "subnets": subnets, "security_groups": groups, "gateway": gateway}


def _security_groups(ec2: Any, vpc_id: str | None) -> dict[str, str]:
    groups = {}
    where = {} if vpc_id is None else {"VpcId": vpc_id}
    for name, text in (("shop-web", "web tier"), ("shop-app", "app tier"), ("shop-db", "database tier")):
        made = ec2.create_security_group(GroupName=name, Description=f"sample shop, {text}", **where)
        groups[name] = _mark(ec2, made["GroupId"], Name=name, app="shop")
    for name, permissions in rules(groups).items():
        ec2.authorize_security_group_ingress(GroupId=groups[name], IpPermissions=permissions)
    return groups


# -- bytes ------------------------------------------------------------------------------------------------


def _volume(site: Clients, plan: Plan, name: str, blocks: Mapping[int, bytes]) -> str:
    """An available 1 GiB volume in the first cluster that holds these blocks."""
    ec2 = site("ec2")
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    if plan.write is not None:
        volume_id: str = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
        _until_state(ec2, plan, volume_id, "available")
        for place, data in sorted(blocks.items()):
            plan.write(volume_id, place * disk.BLOCK_BYTES, data)
        return volume_id
    image = bytearray((max(blocks) + 1) * disk.BLOCK_BYTES)
    for place, data in blocks.items():
        image[place * disk.BLOCK_BYTES : (place + 1) * disk.BLOCK_BYTES] = data
    url, keys = _upload(site("s3"), name, bytes(image))
    task = ec2.import_volume(
        AvailabilityZone=zone,
        Description=name,
        Image={"Format": "RAW", "Bytes": len(image), "ImportManifestUrl": url},
        Volume={"Size": 1},
    )["ConversionTask"]["ConversionTaskId"]

    def look() -> dict[str, Any]:
        return dict(ec2.describe_conversion_tasks(ConversionTaskIds=[task])["ConversionTasks"][0])

    until(plan, f"the import of {name}", lambda: look()["State"] != "active")
    ended = look()
    if ended["State"] != "completed":
        raise RuntimeError(f"the import of {name} ended {ended['State']}: {ended.get('StatusMessage')}")
    for key in keys:
        site("s3").delete_object(Bucket=BUCKET, Key=key)
    return str(ended["ImportVolume"]["Volume"]["Id"])


def _upload(s3: Any, name: str, image: bytes) -> tuple[str, list[str]]:
    """Put an image into the bucket in parts, with its import manifest; gives that one's URL and all keys."""
    entries, keys = [], []
    for index, start in enumerate(range(0, len(image), _PART_BYTES)):
        data, key = image[start : start + _PART_BYTES], f"{name}.part.{index}"
        s3.put_object(Bucket=BUCKET, Key=key, Body=data)
        keys.append(key)
        span = f'<byte-range start="{start}" end="{start + len(data) - 1}"/>'
        urls = "".join(
            f"<{kind}-url>{escape(_signed(s3, f'{kind}_object', key))}</{kind}-url>"
            for kind in ("head", "get", "delete")
        )
        entries.append(f'<part index="{index}">{span}<key>{escape(key)}</key>{urls}</part>')
    manifest = f"{name}.manifest.xml"
    text = (
        "<?xml version='1.0' encoding='UTF-8'?><manifest><version>2010-11-15</version><file-format>RAW</file-format>"
        "<importer><name>drpilot-lab</name><version>1</version><release>0</release></importer>"
        f"<self-destruct-url>{escape(_signed(s3, 'delete_object', manifest))}</self-destruct-url>"
        f"<import><size>{len(image)}</size><volume-size>1</volume-size>"
        f'<parts count="{len(entries)}">{"".join(entries)}</parts></import></manifest>'
    )
    s3.put_object(Bucket=BUCKET, Key=manifest, Body=text.encode())
    return _signed(s3, "get_object", manifest), [*keys, manifest]


def _signed(s3: Any, call: str, key: str) -> str:
    return str(s3.generate_presigned_url(call, Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=86_400))


def _until_state(ec2: Any, plan: Plan, volume_id: str, state: str) -> None:
    def reached() -> bool:
        return bool(ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"] == state)

    until(plan, f"volume {volume_id}", reached)


def snapshot(
    site: Clients, plan: Plan, name: str, blocks: Mapping[int, bytes], marks: Mapping[str, str]
) -> str:
    """A complete snapshot of 1 GiB that holds these blocks."""
    ec2 = site("ec2")
    volume_id = _volume(site, plan, name.removesuffix("-root"), blocks)
    snapshot_id: str = ec2.create_snapshot(VolumeId=volume_id, Description=name)["SnapshotId"]
    _mark(ec2, snapshot_id, Name=name, **marks)

    def complete() -> bool:
        return bool(ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"] == "completed")

    until(plan, f"snapshot {name}", complete)
    ec2.delete_volume(VolumeId=volume_id)
    return snapshot_id


def image(site: Clients, plan: Plan, name: str, first: bytes, marks: Mapping[str, str]) -> str:
    """A block-storage image whose root begins with `first`."""
    ec2 = site("ec2")
    blocks = {place: disk.sample_block(f"{plan.seed}/{name}", 9, place) for place in (2, 3)}
    snapshot_id = snapshot(site, plan, f"{name}-root", {0: first, **blocks}, marks)
    image_id: str = ec2.register_image(
        Name=name,
        Description="sample shop" if marks else "reads volumes for replication",
        Architecture="x86_64",
        VirtualizationType="hvm",
        RootDeviceName=_ROOT,
        BlockDeviceMappings=[
            {"DeviceName": _ROOT, "Ebs": {"SnapshotId": snapshot_id, "DeleteOnTermination": True}}
        ],
    )["ImageId"]
    return _mark(ec2, image_id, Name=name, **marks)


def _mover_image(site: Clients, plan: Plan) -> str:
    """The image of a machine that reads volumes for replication; it is no part of the shop."""
    return image(site, plan, MOVER_IMAGE, disk.root_block("mover"), {})


@contextmanager
def _imports(site: Clients, plan: Plan) -> Iterator[None]:
    """With the bucket that images come in by, where they do."""
    if plan.write is None:
        site("s3").create_bucket(Bucket=BUCKET)
    yield
    if plan.write is None:
        site("s3").delete_bucket(Bucket=BUCKET)


# -- machines ---------------------------------------------------------------------------------------------


def _place(network: Mapping[str, Any], number: int, group: str) -> dict[str, Any]:
    """Where an instance goes: a subnet and a group, or a cluster and a group's name."""
    if not network["subnets"]:
        return {"Placement": {"AvailabilityZone": network["zones"][number]}, "SecurityGroups": [group]}
    groups = [network["security_groups"][group]]
    return {"SubnetId": network["subnets"][number], "SecurityGroupIds": groups}


def _launch(ec2: Any, plan: Plan, marks: Mapping[str, str], **request: Any) -> str:
    instance_id: str = ec2.run_instances(MinCount=1, MaxCount=1, **request)["Instances"][0]["InstanceId"]
    _mark(ec2, instance_id, **marks)

    def shown() -> dict[str, Any]:
        return dict(ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0])

    until(plan, f"instance {instance_id}", lambda: shown()["State"]["Name"] == "running")
    for item in shown()["BlockDeviceMappings"]:
        _mark(ec2, item["Ebs"]["VolumeId"], **{**marks, "Name": f"{marks['Name']}-root"})
    return instance_id


def _database(site: Clients, plan: Plan, network: Mapping[str, Any], image_id: str) -> dict[str, Any]:
    """The database instance with its data volumes attached."""
    ec2, volumes = site("ec2"), []
    for number in range(plan.data_volumes):
        name = f"shop-db-data-{number}"
        volume_id = _volume(site, plan, name, volume_blocks(plan.contents, number))
        volumes.append(_mark(ec2, volume_id, Name=name, app="shop", tier="db"))
    instance_id = _launch(
        ec2,
        plan,
        {"Name": "shop-db", "app": "shop", "tier": "db"},
        ImageId=image_id,
        InstanceType=plan.types(plan.home).database,
        KeyName="shop-ops",
        **_place(network, 0, "shop-db"),
    )
    for volume_id, device in zip(volumes, DEVICES, strict=False):
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=device)
        _until_state(ec2, plan, volume_id, "in-use")
    return {"instance": instance_id, "volumes": volumes}


def _tier(site: Clients, plan: Plan, network: Mapping[str, Any], tier: Mapping[str, Any]) -> None:
    """A launch configuration and the scaling group that launches from it."""
    name, scaling = f"shop-{tier['name']}", site("autoscaling")
    where: dict[str, Any] = {"AvailabilityZones": network["zones"]}
    group = name
    if network["subnets"]:
        where, group = {"VPCZoneIdentifier": ",".join(network["subnets"])}, network["security_groups"][name]
    scaling.create_launch_configuration(
        LaunchConfigurationName=name,
        ImageId=tier["image"],
        InstanceType=plan.types(plan.home).server,
        KeyName="shop-ops",
        SecurityGroups=[group],
        UserData=f"#!/bin/sh\n# {name}\n",
    )
    owner = {"ResourceId": name, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchConfigurationName=name,
        MinSize=0,
        MaxSize=2 * tier["count"],
        DesiredCapacity=tier["count"],
        HealthCheckType="EC2",
        HealthCheckGracePeriod=60,
        Tags=[{**owner, **tag} for tag in tags(Name=name, app="shop", tier=tier["name"])],
        **where,
        **tier["behind"],
    )


def _balancer(site: Clients, network: Mapping[str, Any]) -> dict[str, Any]:
    """shop-lb, its listener and its health check."""
    elb = site("elb")
    listener = {
        "Protocol": "HTTP",
        "LoadBalancerPort": PORT,
        "InstanceProtocol": "HTTP",
        "InstancePort": PORT,
    }
    where: dict[str, Any] = {"AvailabilityZones": network["zones"]}
    if network["subnets"]:
        where = {"Subnets": network["subnets"], "SecurityGroups": [network["security_groups"]["shop-web"]]}
        where["Tags"] = tags(app="shop", tier="web")
    made = elb.create_load_balancer(LoadBalancerName="shop-lb", Listeners=[listener], **where)
    check = {"Target": f"HTTP:{PORT}/healthz", "Interval": 5, "Timeout": 2}
    elb.configure_health_check(
        LoadBalancerName="shop-lb", HealthCheck={**check, "UnhealthyThreshold": 2, "HealthyThreshold": 2}
    )
    return {"load_balancer": "shop-lb", "dns": made["DNSName"], "target_group": ""}


def _until_healthy(site: Clients, plan: Plan) -> None:
    def healthy() -> bool:
        shown = site("elb").describe_instance_health(LoadBalancerName="shop-lb")["InstanceStates"]
        return bool(sum(item["State"] == "InService" for item in shown) >= plan.web_count)

    until(plan, "healthy instances behind shop-lb", healthy)


def build(home: Clients, edge: Clients, plan: Plan) -> dict[str, Any]:
    """Build the shop; done once the load balancer's instances are healthy. Gives what `shop.build` gives."""
    ec2 = home("ec2")
    ec2.import_key_pair(KeyName="shop-ops", PublicKeyMaterial=public_key(plan))
    network = _network(ec2, plan.home_network, plan.home)
    roots = {
        role: disk.root_block(role, plan.data_volumes if role == "db" else 0) for role in ("db", "app", "web")
    }
    roots["base"] = b"plain base image of the sample shop\n".ljust(disk.BLOCK_BYTES, b"\0")
    with _imports(home, plan):
        images = {
            role: image(home, plan, f"shop-{role}", first, {"app": "shop"}) for role, first in roots.items()
        }
        mover_image = _mover_image(home, plan)
        database = _database(home, plan, network, images["db"])
    balancer = _balancer(home, network)
    app = {"name": "app", "image": images["app"], "count": plan.app_count, "behind": {}}
    behind = {"LoadBalancerNames": ["shop-lb"]}
    web = {"name": "web", "image": images["web"], "count": plan.web_count, "behind": behind}
    for tier in (app, web):
        _tier(home, plan, network, tier)
    batch = _launch(
        ec2,
        plan,
        {"Name": "shop-batch", "app": "shop"},
        ImageId=images["base"],
        InstanceType=plan.types(plan.home).small,
        **_place(network, 1, "shop-app"),
    )
    hosted_zone = put_name(edge, plan, balancer["dns"])
    _until_healthy(home, plan)
    return {
        **network,
        **balancer,
        "images": images,
        "mover_image": mover_image,
        "database": database,
        "groups": ["shop-app", "shop-web"],
        "batch": batch,
        "hosted_zone": hosted_zone,
        "data": expected(plan.contents),
    }


def prepare(away: Clients, plan: Plan, block: str) -> dict[str, Any]:
    """The empty landing place: network, security groups and key pair of equal names, and the image of movers."""
    ec2 = away("ec2")
    ec2.import_key_pair(KeyName="shop-ops", PublicKeyMaterial=public_key(plan))
    network = _network(ec2, block, plan.away)
    with _imports(away, plan):
        return {**network, "mover_image": _mover_image(away, plan)}
