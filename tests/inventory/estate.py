"""An estate of real calls: a database, two machines of one name, a web tier, and what belongs to nobody."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from drpilot.domain.plain import Json
from drpilot.domain.ports import Site
from tests.contract.grounds import Ground

__all__ = ["USER_DATA", "WEB_DATA", "Estate", "build"]

USER_DATA = base64.b64encode(b"#!/bin/sh\necho database\n").decode()
WEB_DATA = base64.b64encode(b"#!/bin/sh\necho web\n").decode()
PROFILE = "arn:aws:iam::{account}:instance-profile/teams/shop-db"


@dataclass
class Estate:
    """What was built, and where."""

    ground: Ground
    database: str
    twins: tuple[str, str]
    batch: str
    key: str

    @property
    def site(self) -> Site:
        return self.ground.site


def _tags(kind: str, **tags: str) -> list[Json]:
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]


def _database(ground: Ground, words: Json, key: str) -> str:
    profile = PROFILE.format(account=ground.site.account)
    if ground.name == "moto":  # The lab takes any profile by its name; moto wants it made first.
        ground.call("CreateInstanceProfile", service="iam", InstanceProfileName="shop-db", Path="/teams/")
    instance = ground.instance(
        **words,
        UserData=USER_DATA,
        PrivateIpAddress="10.9.1.20",
        MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        IamInstanceProfile={"Arn": profile},
        TagSpecifications=_tags(
            "instance", Name="shop-db", app="shop", tier="db", **{"drpilot:run": "shop/1"}
        ),
    )
    ground.call("ModifyInstanceAttribute", InstanceId=instance, DisableApiTermination={"Value": True})
    fast = ground.volume(10, Iops=4000, Throughput=250)
    secret = ground.volume(1, Encrypted=True, KmsKeyId=key)
    for volume, device in ((fast, "/dev/sdg"), (secret, "/dev/sdf")):
        ground.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device=device)
        ground.until(
            lambda volume=volume: (
                ground.states("DescribeVolumes", "Volumes", VolumeIds=[volume]) == ["in-use"]
            )
        )
    return instance


def _web(ground: Ground, network: dict[str, str]) -> None:
    other = {
        "VpcId": network["vpc"],
        "CidrBlock": "10.9.2.0/24",
        "AvailabilityZone": f"{ground.site.region}b",
    }
    network["second"] = ground.call("CreateSubnet", **other)["Subnet"]["SubnetId"]
    target = ground.call(
        "CreateTargetGroup",
        service="elbv2",
        Name="shop-web",
        Protocol="HTTP",
        Port=8080,
        VpcId=network["vpc"],
        TargetType="instance",
        HealthCheckPath="/healthz",
        HealthCheckIntervalSeconds=7,
    )["TargetGroups"][0]["TargetGroupArn"]
    balancer = ground.call(
        "CreateLoadBalancer",
        service="elbv2",
        Name="shop-lb",
        Subnets=[network["subnet"], network["second"]],
        SecurityGroups=[network["group"]],
        Tags=[{"Key": "app", "Value": "shop"}, {"Key": "tier", "Value": "web"}],
    )["LoadBalancers"][0]["LoadBalancerArn"]
    for port in (80, 8443):
        ground.call(
            "CreateListener",
            service="elbv2",
            LoadBalancerArn=balancer,
            Protocol="HTTP",
            Port=port,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": target}],
        )
    data = {"ImageId": ground.image(), "InstanceType": "t3.small", "KeyName": "ops", "UserData": WEB_DATA}
    data |= {"SecurityGroupIds": [network["group"]], "MetadataOptions": {"HttpTokens": "required"}}
    first = data if ground.name == "moto" else {**data, "InstanceType": "t3.nano"}
    ground.call("CreateLaunchTemplate", LaunchTemplateName="shop-web", LaunchTemplateData=first)
    if ground.name != "moto":  # moto fails with a second version that has user data
        ground.call("CreateLaunchTemplateVersion", LaunchTemplateName="shop-web", LaunchTemplateData=data)
    owner = {"ResourceId": "shop-web", "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
    ground.call(
        "CreateAutoScalingGroup",
        service="autoscaling",
        AutoScalingGroupName="shop-web",
        LaunchTemplate={"LaunchTemplateName": "shop-web", "Version": "$Latest"},
        MinSize=1,
        MaxSize=4,
        DesiredCapacity=2,
        VPCZoneIdentifier=f"{network['subnet']},{network['second']}",
        TargetGroupARNs=[target],
        HealthCheckType="ELB",
        HealthCheckGracePeriod=90,
        Tags=[{**owner, "Key": key, "Value": value} for key, value in (("app", "shop"), ("tier", "web"))],
    )


def _running_of_group(ground: Ground) -> int:
    filters = [{"Name": "tag:aws:autoscaling:groupName", "Values": ["shop-web"]}]
    pages = ground.site.pages("ec2", "DescribeInstances", {"Filters": filters})
    found = [one for page in pages for rows in page["Reservations"] for one in rows["Instances"]]
    return sum(one["State"]["Name"] == "running" for one in found)


def build(ground: Ground) -> Estate:
    """Everything, running."""
    network = ground.network()
    blob = base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 " + bytes(range(32)))
    ground.call("ImportKeyPair", KeyName="ops", PublicKeyMaterial=b"ssh-ed25519 " + blob + b" ops")
    ground.site.connect()
    key = ground.call("CreateKey", service="kms")["KeyMetadata"]["Arn"]
    database = _database(ground, {"KeyName": "ops"}, key)
    twins = tuple(
        ground.instance(TagSpecifications=_tags("instance", Name="shop-app", app="shop", tier="app"))
        for _ in range(2)
    )
    batch = ground.instance(TagSpecifications=_tags("instance", Name="shop-batch", app="shop"))
    ground.instance(
        TagSpecifications=_tags(
            "instance", Name="shop-db", app="shop", tier="db", **{"drpilot:drill": "shop/9"}
        )
    )
    gone = ground.instance(TagSpecifications=_tags("instance", Name="shop-db", app="shop", tier="db"))
    ground.call("TerminateInstances", InstanceIds=[gone])
    ground.instance(TagSpecifications=_tags("instance", Name="other", app="sh*", tier="d?"))
    _web(ground, network)
    ground.until(lambda: _running_of_group(ground) == 2)
    ground.until(lambda: ground.instances(gone)[0]["State"]["Name"] == "terminated")
    return Estate(ground, database, (twins[0], twins[1]), batch, key)
