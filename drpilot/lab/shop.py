"""The sample shop: a three-tier application built on a lab cloud through unchanged EC2 calls.

A database instance with an elastic address and three data volumes of real pseudo-random bytes, an application and a
web tier as scaling groups, a load balancer, a name on the `edge`, and one batch machine that no tier protects. `build`
makes it on one site, `prepare` makes the empty landing place on the other, `group_file` writes the group
file that protects it (operator's manual, "The files people write") and `read_back` reads data volumes
straight from a lab directory. No back door: everything is made by the calls that a customer of the cloud
would make.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Any

from drpilot.lab import disk, private_shop
from drpilot.lab.dataset import Reading, expected, read_back, verified, volume_blocks
from drpilot.lab.shop_file import group_file
from drpilot.lab.shop_name import put_name
from drpilot.lab.shop_plan import ANYWHERE, DEVICES, PORT, Clients, Plan, public_key, rules, spec, tags, until

__all__ = [
    "Clients",
    "Plan",
    "Reading",
    "build",
    "expected",
    "group_file",
    "prepare",
    "read_back",
    "verified",
]

# -- network ----------------------------------------------------------------------------------------------


def _network(site: Clients, block: str) -> dict[str, Any]:
    """VPC, two subnets in two zones, a way out, and the three security groups."""
    ec2 = site("ec2")
    zones = [zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]][:2]
    vpc_id = ec2.create_vpc(CidrBlock=block, TagSpecifications=[spec("vpc", Name="shop")])["Vpc"]["VpcId"]
    parts = list(ipaddress.ip_network(block).subnets(new_prefix=24))
    subnets = []
    for place, zone in enumerate(zones, 1):
        made = ec2.create_subnet(
            VpcId=vpc_id,
            CidrBlock=str(parts[place]),
            AvailabilityZone=zone,
            TagSpecifications=[spec("subnet", Name=f"shop-{place}")],
        )
        subnets.append(made["Subnet"]["SubnetId"])
    gateway = ec2.create_internet_gateway(TagSpecifications=[spec("internet-gateway", Name="shop")])
    gateway_id = gateway["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway_id, VpcId=vpc_id)
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])["RouteTables"]
    ec2.create_route(
        RouteTableId=tables[0]["RouteTableId"], DestinationCidrBlock=ANYWHERE, GatewayId=gateway_id
    )
    groups = _security_groups(ec2, vpc_id)
    return {
        "vpc": vpc_id,
        "zones": zones,
        "subnets": subnets,
        "security_groups": groups,
        "gateway": gateway_id,
    }


def _security_groups(ec2: Any, vpc_id: str) -> dict[str, str]:
    """shop-web is open to all, shop-app to shop-web, shop-db to shop-app; the control path reaches each."""
    groups = {}
    for name, text in (("shop-web", "web tier"), ("shop-app", "app tier"), ("shop-db", "database tier")):
        made = ec2.create_security_group(
            GroupName=name,
            Description=f"sample shop, {text}",
            VpcId=vpc_id,
            TagSpecifications=[spec("security-group", Name=name, app="shop")],
        )
        groups[name] = made["GroupId"]
    for name, permissions in rules(groups).items():
        ec2.authorize_security_group_ingress(GroupId=groups[name], IpPermissions=permissions)
    return groups


def _key_pair(ec2: Any, plan: Plan) -> None:
    """The same public key on both sites."""
    ec2.import_key_pair(KeyName="shop-ops", PublicKeyMaterial=public_key(plan))


# -- disks ------------------------------------------------------------------------------------------------


def snapshot(site: Clients, plan: Plan, name: str, blocks: Mapping[int, bytes]) -> str:
    """A completed 1 GiB snapshot with these blocks, written by the EBS direct APIs."""
    ebs, ec2 = site("ebs"), site("ec2")
    begun = ebs.start_snapshot(VolumeSize=1, Description=name, Tags=tags(Name=name, app="shop"))
    snapshot_id: str = begun["SnapshotId"]
    for place, data in sorted(blocks.items()):
        ebs.put_snapshot_block(
            SnapshotId=snapshot_id,
            BlockIndex=place,
            BlockData=data,
            DataLength=len(data),
            Checksum=base64.b64encode(hashlib.sha256(data).digest()).decode(),
            ChecksumAlgorithm="SHA256",
        )
    ebs.complete_snapshot(SnapshotId=snapshot_id, ChangedBlocksCount=len(blocks))

    def complete() -> bool:
        return bool(ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"] == "completed")

    until(plan, f"snapshot {name}", complete)
    return snapshot_id


def image(site: Clients, plan: Plan, name: str, first: bytes) -> str:
    """An image whose root snapshot begins with `first`."""
    ec2 = site("ec2")
    blocks = {place: disk.sample_block(f"{plan.seed}/{name}", 9, place) for place in (2, 3, 700)}
    snapshot_id = snapshot(site, plan, f"{name}-root", {0: first, **blocks})
    made = ec2.register_image(
        Name=name,
        Description="sample shop",
        Architecture="x86_64",
        VirtualizationType="hvm",
        RootDeviceName="/dev/xvda",
        EnaSupport=True,
        BlockDeviceMappings=[
            {
                "DeviceName": "/dev/xvda",
                "Ebs": {"SnapshotId": snapshot_id, "VolumeType": "gp3", "DeleteOnTermination": True},
            }
        ],
    )
    image_id: str = made["ImageId"]
    ec2.create_tags(Resources=[image_id], Tags=tags(Name=name, app="shop"))

    def available() -> bool:
        return bool(ec2.describe_images(ImageIds=[image_id])["Images"][0]["State"] == "available")

    until(plan, f"image {name}", available)
    return image_id


# -- machines ---------------------------------------------------------------------------------------------


def _launch(site: Clients, plan: Plan, **request: Any) -> dict[str, Any]:
    ec2 = site("ec2")
    made = ec2.run_instances(MinCount=1, MaxCount=1, **request)["Instances"][0]

    def running() -> bool:
        shown = ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"][0]["Instances"][0]
        return bool(shown["State"]["Name"] == "running")

    until(plan, f"instance {made['InstanceId']}", running)
    found = ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"][0]["Instances"][0]
    return dict(found)


def _database(site: Clients, plan: Plan, network: Mapping[str, Any], image_id: str) -> dict[str, Any]:
    """The database instance, its data volumes created from snapshots and attached."""
    ec2 = site("ec2")
    volumes = []
    for number in range(plan.data_volumes):
        blocks = volume_blocks(plan.contents, number)
        snapshot_id = snapshot(site, plan, f"shop-seed-{number}", blocks)
        made = ec2.create_volume(
            AvailabilityZone=network["zones"][0],
            SnapshotId=snapshot_id,
            VolumeType="gp3",
            TagSpecifications=[spec("volume", Name=f"shop-db-data-{number}", app="shop", tier="db")],
        )
        volumes.append((made["VolumeId"], snapshot_id))
    instance = _launch(
        site,
        plan,
        ImageId=image_id,
        InstanceType=plan.database_type,
        KeyName="shop-ops",
        SubnetId=network["subnets"][0],
        SecurityGroupIds=[network["security_groups"]["shop-db"]],
        TagSpecifications=[
            spec("instance", Name="shop-db", app="shop", tier="db"),
            spec("volume", Name="shop-db-root", app="shop", tier="db"),
        ],
    )
    for (volume_id, snapshot_id), device in zip(volumes, DEVICES, strict=False):
        _attach(ec2, plan, volume_id, instance["InstanceId"], device)
        ec2.delete_snapshot(SnapshotId=snapshot_id)
    return {
        "instance": instance["InstanceId"],
        "volumes": [volume_id for volume_id, _ in volumes],
        "address": _address(ec2, instance["InstanceId"]),
    }


def _address(ec2: Any, instance_id: str) -> str:
    """An elastic address on the instance: what a partner of the shop has in its list of allowed addresses."""
    made = ec2.allocate_address(
        Domain="vpc", TagSpecifications=[spec("elastic-ip", Name="shop-db", app="shop", tier="db")]
    )
    ec2.associate_address(AllocationId=made["AllocationId"], InstanceId=instance_id)
    return str(made["PublicIp"])


def _attach(ec2: Any, plan: Plan, volume_id: str, instance_id: str, device: str) -> None:
    def state() -> str:
        return str(ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"])

    until(plan, f"volume {volume_id}", lambda: state() == "available")
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=device)
    until(plan, f"volume {volume_id}", lambda: state() == "in-use")


def _tier(site: Clients, plan: Plan, network: Mapping[str, Any], tier: Mapping[str, Any]) -> None:
    """A launch template and the scaling group that launches from it."""
    name = f"shop-{tier['name']}"
    user_data = base64.b64encode(f"#!/bin/sh\n# {name}\n".encode()).decode()
    data = {
        "ImageId": tier["image"],
        "InstanceType": plan.server_type,
        "KeyName": "shop-ops",
        "SecurityGroupIds": [network["security_groups"][name]],
        "UserData": user_data,
        "TagSpecifications": [spec("volume", app="shop", tier=tier["name"])],
    }
    site("ec2").create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData=data,
        TagSpecifications=[spec("launch-template", app="shop", tier=tier["name"])],
    )
    owner = {"ResourceId": name, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
    marks = tags(Name=name, app="shop", tier=tier["name"])
    site("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchTemplate={"LaunchTemplateName": name, "Version": "$Default"},
        MinSize=0,
        MaxSize=2 * tier["count"],
        DesiredCapacity=tier["count"],
        VPCZoneIdentifier=",".join(network["subnets"]),
        TargetGroupARNs=tier["target_groups"],
        HealthCheckType="EC2",
        HealthCheckGracePeriod=60,
        Tags=[{**owner, **tag} for tag in marks],
    )


def _balancer(site: Clients, network: Mapping[str, Any]) -> dict[str, Any]:
    """shop-lb, its target group and its listener."""
    elb = site("elbv2")
    group = elb.create_target_group(
        Name="shop-web",
        Protocol="HTTP",
        Port=PORT,
        VpcId=network["vpc"],
        TargetType="instance",
        HealthCheckPath="/healthz",
        HealthCheckIntervalSeconds=5,
        HealthCheckTimeoutSeconds=2,
        HealthyThresholdCount=2,
        UnhealthyThresholdCount=2,
        Tags=tags(app="shop", tier="web"),
    )["TargetGroups"][0]
    elb.modify_target_group_attributes(
        TargetGroupArn=group["TargetGroupArn"],
        Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "10"}],
    )
    made = elb.create_load_balancer(
        Name="shop-lb",
        Subnets=network["subnets"],
        SecurityGroups=[network["security_groups"]["shop-web"]],
        Tags=tags(app="shop", tier="web"),
    )["LoadBalancers"][0]
    elb.create_listener(
        LoadBalancerArn=made["LoadBalancerArn"],
        Protocol="HTTP",
        Port=PORT,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": group["TargetGroupArn"]}],
    )
    return {
        "load_balancer": made["LoadBalancerArn"],
        "dns": made["DNSName"],
        "target_group": group["TargetGroupArn"],
    }


def _until_healthy(site: Clients, plan: Plan, target_group: str) -> None:
    def healthy() -> bool:
        shown = site("elbv2").describe_target_health(TargetGroupArn=target_group)["TargetHealthDescriptions"]
        count = sum(item["TargetHealth"]["State"] == "healthy" for item in shown)
        return bool(count >= plan.web_count)

    until(plan, "healthy targets behind shop-lb", healthy)


def build(home: Clients, edge: Clients, plan: Plan | None = None) -> dict[str, Any]:
    """Build the shop on one site and its name on the edge; done once the load balancer's targets are healthy.

    Gives vpc, zones, subnets, security_groups, images, database {instance, volumes}, groups, load_balancer,
    dns, target_group, batch, hosted_zone and data (SHA-256 by volume index). TimeoutError names what did not come.
    """
    plan = plan or Plan()
    if plan.home != "aws":
        return private_shop.build(home, edge, plan)
    _key_pair(home("ec2"), plan)
    network = _network(home, plan.home_network)
    roots = {
        role: disk.root_block(role, plan.data_volumes if role == "db" else 0) for role in ("db", "app", "web")
    }
    roots["base"] = b"plain base image of the sample shop\n".ljust(disk.BLOCK_BYTES, b"\0")
    images = {role: image(home, plan, f"shop-{role}", first) for role, first in roots.items()}
    database = _database(home, plan, network, images["db"])
    balancer = _balancer(home, network)
    app = {"name": "app", "image": images["app"], "count": plan.app_count, "target_groups": []}
    web = {"name": "web", "image": images["web"], "count": plan.web_count}
    _tier(home, plan, network, app)
    _tier(home, plan, network, {**web, "target_groups": [balancer["target_group"]]})
    batch = _launch(
        home,
        plan,
        ImageId=images["base"],
        InstanceType=plan.small_type,
        SubnetId=network["subnets"][1],
        SecurityGroupIds=[network["security_groups"]["shop-app"]],
        TagSpecifications=[spec("instance", Name="shop-batch", app="shop")],
    )
    hosted_zone = put_name(edge, plan, balancer["dns"])
    _until_healthy(home, plan, balancer["target_group"])
    return {
        **network,
        **balancer,
        "images": images,
        "database": database,
        "groups": ["shop-app", "shop-web"],
        "batch": batch["InstanceId"],
        "hosted_zone": hosted_zone,
        "data": expected(plan.contents),
    }


def prepare(away: Clients, plan: Plan | None = None) -> dict[str, Any]:
    """The empty landing place on another site: network, security groups and key pair of equal names."""
    plan = plan or Plan()
    if plan.away != "aws":
        return private_shop.prepare(away, plan, plan.away_network)
    _key_pair(away("ec2"), plan)
    return _network(away, plan.away_network)
