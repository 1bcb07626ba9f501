"""Classic load balancers and launch configurations: on the Eucalyptus twin with and without VPCs, and on AWS."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.lab import disk
from tests.lab.core_world import Pair, base_image
from tests.lab.delivery_world import block
from tests.lab.euca_world import Twin, refused

_LISTENER = {"Protocol": "HTTP", "LoadBalancerPort": 80, "InstanceProtocol": "HTTP", "InstancePort": 8080}
_CHECK = {"Target": "HTTP:8080/", "Interval": 5, "Timeout": 2, "UnhealthyThreshold": 2, "HealthyThreshold": 2}


class Ground:
    """A network, an image whose guest answers on 8080, and clients of one site."""

    def __init__(self, client: Callable[[str], Any], wait: Callable[[float], None]) -> None:
        self.client, self.wait = client, wait
        self.subnets: list[str] = []
        self.group = ""
        self.image = ""
        self.small, self.large = "m1.small", "m1.large"

    def balancer(self, name: str = "shop-lb", port: int = 8080) -> str:
        """A balancer over both zones, with a quick check; gives its address."""
        elb = self.client("elb")
        where: dict[str, Any] = {"AvailabilityZones": ["cluster01", "cluster02"]}
        if self.subnets:
            where = {"Subnets": self.subnets, "SecurityGroups": [self.group]}
        listeners = [{**_LISTENER, "LoadBalancerPort": port}]
        dns = elb.create_load_balancer(LoadBalancerName=name, Listeners=listeners, **where)["DNSName"]
        elb.configure_health_check(LoadBalancerName=name, HealthCheck=_CHECK)
        self.wait(4)
        return ".".join(dns.removeprefix(f"{name}-").split(".")[0].split("-"))

    def states(self, name: str = "shop-lb") -> list[str]:
        shown = self.client("elb").describe_instance_health(LoadBalancerName=name)["InstanceStates"]
        return sorted(item["State"] for item in shown)

    def configuration(self, name: str, **more: Any) -> None:
        self.client("autoscaling").create_launch_configuration(
            LaunchConfigurationName=name,
            ImageId=self.image,
            InstanceType=self.small,
            SecurityGroups=[self.group],
            UserData=f"# {name}",
            **more,
        )

    def scaling_group(self, name: str, **more: Any) -> None:
        where = {"VPCZoneIdentifier": ",".join(self.subnets)} if self.subnets else {
            "AvailabilityZones": ["cluster01", "cluster02"]
        }  # fmt: skip
        self.client("autoscaling").create_auto_scaling_group(
            AutoScalingGroupName=name, MinSize=0, MaxSize=4, **where, **more
        )

    def shown(self, name: str) -> dict[str, Any]:
        groups = self.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        return dict(groups["AutoScalingGroups"][0])


def _on_twin(twin: Twin) -> Ground:
    ground, ec2 = Ground(twin.client, twin.wait), twin.client()
    rule = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65535, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    if twin.cloud.classic:
        twin.cloud.tune(classic_network=block(5))
        ground.group = ec2.create_security_group(GroupName="open", Description="open")["GroupId"]
    else:
        cidr = block(4)
        vpc = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
        for number in (1, 2):
            part = cidr.replace(".0.0/16", f".{number}.0/24")
            made = ec2.create_subnet(VpcId=vpc, CidrBlock=part, AvailabilityZone=f"cluster0{number}")
            ground.subnets.append(made["Subnet"]["SubnetId"])
        ground.group = ec2.create_security_group(GroupName="open", Description="open", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=ground.group, IpPermissions=[rule])
    volume = ec2.create_volume(Size=1, AvailabilityZone="cluster01")["VolumeId"]
    twin.wait(2)
    twin.cloud.store.write_volume(volume, 0, disk.root_block("app"))
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    twin.wait(4)
    mapping = [{"DeviceName": "/dev/sda", "Ebs": {"SnapshotId": snapshot}}]
    ground.image = ec2.register_image(
        Name="app", Architecture="x86_64", RootDeviceName="/dev/sda", BlockDeviceMappings=mapping
    )["ImageId"]
    return ground


def _on_aws(pair: Pair) -> Ground:
    ground, ec2 = Ground(pair.client, pair.wait), pair.client()
    ground.small, ground.large = "t3.small", "m5.large"
    cidr = block(4)
    vpc = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
    for number, zone in ((1, "eu-south-1a"), (2, "eu-south-1b")):
        part = cidr.replace(".0.0/16", f".{number}.0/24")
        made = ec2.create_subnet(VpcId=vpc, CidrBlock=part, AvailabilityZone=zone)
        ground.subnets.append(made["Subnet"]["SubnetId"])
    ground.group = ec2.create_security_group(GroupName="open", Description="open", VpcId=vpc)["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65535, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=ground.group, IpPermissions=[rule])
    ground.image = base_image(ec2, pair.client("ebs"), pair.wait, "app", {0: disk.root_block("app")})
    return ground


@pytest.fixture(params=["3.4", "4.4", "4.4 classic", "aws"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    if request.param == "aws":
        pair = Pair(tmp_path)
        yield _on_aws(pair)
        pair.close()
        return
    version, _, mode = str(request.param).partition(" ")
    twin = Twin(tmp_path, version, "EC2" if mode else "")
    yield _on_twin(twin)
    twin.close()


def _ask(address: str, port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/")
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def test_a_group_launches_from_its_configuration_and_joins_its_balancer(ground: Ground) -> None:
    """Instances appear from the launch configuration, register with the classic balancer, become healthy by real
    requests after the whole threshold, and are asked in turn; one that ends is replaced.
    """
    address = ground.balancer()
    ground.configuration("web-1")
    ground.scaling_group(
        "web", LaunchConfigurationName="web-1", LoadBalancerNames=["shop-lb"], DesiredCapacity=2
    )
    ground.wait(6)
    assert ground.states() == ["OutOfService", "OutOfService"]
    ground.wait(14)
    assert ground.states() == ["InService", "InService"]
    shown = ground.shown("web")
    assert shown["LaunchConfigurationName"] == "web-1"
    assert shown["LoadBalancerNames"] == ["shop-lb"]
    assert {item["LaunchConfigurationName"] for item in shown["Instances"]} == {"web-1"}
    answers = {_ask(address, 8080) for _ in range(4)}
    assert {status for status, _ in answers} == {200}
    assert len(answers) == 2
    ids = sorted(item["InstanceId"] for item in shown["Instances"])
    ground.client("ec2").terminate_instances(InstanceIds=ids[:1])
    ground.wait(25)
    after = sorted(item["InstanceId"] for item in ground.shown("web")["Instances"])
    assert len(after) == 2
    assert ids[0] not in after
    assert ground.states() == ["InService", "InService"]
    described = ground.client("elb").describe_load_balancers()["LoadBalancerDescriptions"][0]
    assert sorted(item["InstanceId"] for item in described["Instances"]) == after


def test_another_configuration_changes_what_comes_next(ground: Ground) -> None:
    """A configuration can't be changed or deleted in use; the group is given another one."""
    ground.configuration("app-1")
    ground.scaling_group("app", LaunchConfigurationName="app-1", DesiredCapacity=1)
    ground.wait(6)
    scaling = ground.client("autoscaling")
    assert refused(scaling.delete_launch_configuration, LaunchConfigurationName="app-1")[1] == "ResourceInUse"
    ground.small = ground.large
    ground.configuration("app-2")
    scaling.update_auto_scaling_group(AutoScalingGroupName="app", LaunchConfigurationName="app-2")
    scaling.set_desired_capacity(AutoScalingGroupName="app", DesiredCapacity=2)
    ground.wait(6)
    members = {item["LaunchConfigurationName"]: item for item in ground.shown("app")["Instances"]}
    assert set(members) == {"app-1", "app-2"}
    assert members["app-2"]["InstanceType"] == ground.large
    scaling.delete_launch_configuration(LaunchConfigurationName="app-1")
    names = [
        item["LaunchConfigurationName"]
        for item in scaling.describe_launch_configurations()["LaunchConfigurations"]
    ]
    assert names == ["app-2"]


def test_a_balancer_refuses_what_can_t_be(ground: Ground) -> None:
    """Names in use, instances that are not there, and groups from what is not there."""
    ground.balancer("one", 8081)
    elb, scaling = ground.client("elb"), ground.client("autoscaling")
    where: dict[str, Any] = {"Subnets": ground.subnets} if ground.subnets else {
        "AvailabilityZones": ["cluster01"]
    }  # fmt: skip
    again = {"LoadBalancerName": "one", "Listeners": [_LISTENER], **where}
    assert refused(elb.create_load_balancer, **again)[1] == "DuplicateLoadBalancerName"
    assert refused(elb.describe_load_balancers, LoadBalancerNames=["two"])[1] == "LoadBalancerNotFound"
    stranger = {"LoadBalancerName": "one", "Instances": [{"InstanceId": "i-12345678"}]}
    assert refused(elb.register_instances_with_load_balancer, **stranger)[1] == "InvalidInstance"
    nothing = {"AutoScalingGroupName": "g", "MinSize": 0, "MaxSize": 1, "LaunchConfigurationName": "none"}
    place = {"VPCZoneIdentifier": ground.subnets[0]} if ground.subnets else {
        "AvailabilityZones": ["cluster01"]
    }  # fmt: skip
    assert refused(scaling.create_auto_scaling_group, **nothing, **place)[1] == "ValidationError"
    elb.delete_load_balancer(LoadBalancerName="one")
    elb.delete_load_balancer(LoadBalancerName="one")
    assert elb.describe_load_balancers()["LoadBalancerDescriptions"] == []


def test_what_came_later_is_refused_there(tmp_path: Path) -> None:
    """Target groups, launch templates and the second generation are unknown to 4.4; 5 has templates of one version."""
    twin = Twin(tmp_path / "a")
    scaling = twin.client("autoscaling")
    given = {"AutoScalingGroupName": "g", "MinSize": 0, "MaxSize": 1, "AvailabilityZones": ["cluster01"]}
    template = {"LaunchTemplate": {"LaunchTemplateName": "web", "Version": "1"}}
    message = refused(scaling.create_auto_scaling_group, **given, **template)[2]
    assert "LaunchTemplate.LaunchTemplateName = web" in message
    message = refused(
        scaling.create_auto_scaling_group, **given, LaunchConfigurationName="l", TargetGroupARNs=["arn:aws:x"]
    )[2]
    assert "TargetGroupARNs.member.1" in message
    assert refused(twin.client().describe_launch_templates)[0] == 400
    twin.close()
    new = Twin(tmp_path / "b", "5")
    made = new.client().create_launch_template(
        LaunchTemplateName="web", LaunchTemplateData={"InstanceType": "m1.small"}
    )
    assert made["LaunchTemplate"]["LaunchTemplateName"] == "web"
    assert set(new.client().describe_launch_template_versions(LaunchTemplateName="web")) == {
        "ResponseMetadata"
    }
    zones = new.client("route53").list_hosted_zones()["HostedZones"]
    assert zones == []
    new.close()
