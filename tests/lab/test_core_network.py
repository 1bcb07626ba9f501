"""Networks of the lab: VPCs, groups, interfaces, addresses, keys, templates and tags."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.lab.core_world import Pair, base_image, code_of, ground

WEB = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


def test_a_vpc_begins_with_its_defaults(pair: Pair) -> None:
    """A VPC has a main route table and a default group, which vanish with it and count as the cloud's own."""
    ec2 = pair.client()
    vpc = ec2.create_vpc(CidrBlock="127.20.0.0/16")["Vpc"]["VpcId"]
    mine = [{"Name": "vpc-id", "Values": [vpc]}]
    groups = ec2.describe_security_groups(Filters=mine)["SecurityGroups"]
    tables = ec2.describe_route_tables(Filters=mine)["RouteTables"]
    assert [row["GroupName"] for row in groups] == ["default"]
    assert tables[0]["Routes"][0]["GatewayId"] == "local"
    own = {item["kind"] for item in pair.home.inventory() if not item["default"]}
    assert own == {"vpc"}
    assert code_of(lambda: ec2.delete_security_group(GroupId=groups[0]["GroupId"])) == "CannotDelete"
    ec2.delete_vpc(VpcId=vpc)
    assert [item for item in pair.home.inventory() if not item["default"]] == []


def test_subnets_fit_into_their_vpc(pair: Pair) -> None:
    """Outside, overlapping and too small blocks are refused, and so is deleting what is used."""
    ec2 = pair.client()
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]
    assert (subnet["AvailabilityZone"], subnet["AvailableIpAddressCount"]) == ("eu-south-1a", 251)

    def create(block: str, **more: Any) -> str:
        return code_of(lambda: ec2.create_subnet(VpcId=vpc, CidrBlock=block, **more))

    assert create("10.1.0.0/24") == "InvalidSubnet.Range"
    assert create("10.0.1.128/25") == "InvalidSubnet.Conflict"
    assert create("10.0.2.0/30") == "InvalidSubnet.Range"
    assert create("10.0.2.0/24", AvailabilityZone="eu-west-1a") == "InvalidParameterValue"
    assert code_of(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/8")) == "InvalidVpc.Range"
    assert code_of(lambda: ec2.delete_vpc(VpcId=vpc)) == "DependencyViolation"
    card = ec2.create_network_interface(SubnetId=subnet["SubnetId"])["NetworkInterface"]
    assert card["PrivateIpAddress"] == "10.0.1.4"
    assert code_of(lambda: ec2.delete_subnet(SubnetId=subnet["SubnetId"])) == "DependencyViolation"
    ec2.delete_network_interface(NetworkInterfaceId=card["NetworkInterfaceId"])
    ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    ec2.delete_vpc(VpcId=vpc)


def test_routes_lead_to_a_gateway(pair: Pair) -> None:
    """A gateway is attached once; a table with an association can't be deleted."""
    ec2 = pair.client()
    place = ground(ec2)
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=place["vpc"])
    again = {"InternetGatewayId": gateway, "VpcId": place["vpc"]}
    assert code_of(lambda: ec2.attach_internet_gateway(**again)) == "Resource.AlreadyAssociated"
    table = ec2.create_route_table(VpcId=place["vpc"])["RouteTable"]["RouteTableId"]
    route = {"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway}
    ec2.create_route(**route)
    assert code_of(lambda: ec2.create_route(**route)) == "RouteAlreadyExists"
    link = ec2.associate_route_table(RouteTableId=table, SubnetId=place["subnet"])["AssociationId"]
    assert code_of(lambda: ec2.delete_route_table(RouteTableId=table)) == "DependencyViolation"
    ec2.disassociate_route_table(AssociationId=link)
    ec2.delete_route_table(RouteTableId=table)
    assert code_of(lambda: ec2.delete_internet_gateway(InternetGatewayId=gateway)) == "DependencyViolation"
    ec2.detach_internet_gateway(**again)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)


def test_group_rules_are_added_once_and_revoked(pair: Pair) -> None:
    """Rules between groups and from ranges are shown together; doubles and strangers are refused."""
    ec2 = pair.client()
    place = ground(ec2)
    other = ec2.create_security_group(GroupName="db", Description="db", VpcId=place["vpc"])["GroupId"]
    from_shop = {
        "IpProtocol": "tcp",
        "FromPort": 5432,
        "ToPort": 5432,
        "UserIdGroupPairs": [{"GroupId": place["group"], "Description": "shop to db"}],
    }
    made = ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=[WEB, from_shop])
    assert len(made["SecurityGroupRules"]) == 2
    twice = {"GroupId": other, "IpPermissions": [WEB]}
    assert code_of(lambda: ec2.authorize_security_group_ingress(**twice)) == "InvalidPermission.Duplicate"
    shown = ec2.describe_security_groups(GroupIds=[other])["SecurityGroups"][0]
    by_port = {rule["FromPort"]: rule for rule in shown["IpPermissions"]}
    assert by_port[80]["IpRanges"][0]["CidrIp"] == "0.0.0.0/0"
    assert by_port[5432]["UserIdGroupPairs"][0]["Description"] == "shop to db"
    assert shown["IpPermissionsEgress"][0]["IpProtocol"] == "-1"
    assert code_of(lambda: ec2.delete_security_group(GroupId=place["group"])) == "DependencyViolation"
    ec2.revoke_security_group_ingress(GroupId=other, IpPermissions=[from_shop])
    gone = {"GroupId": other, "IpPermissions": [from_shop]}
    assert code_of(lambda: ec2.revoke_security_group_ingress(**gone)) == "InvalidPermission.NotFound"
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [other]}])
    assert len(rules["SecurityGroupRules"]) == 2
    ec2.delete_security_group(GroupId=place["group"])
    same = {"GroupName": "db", "Description": "x", "VpcId": place["vpc"]}
    assert code_of(lambda: ec2.create_security_group(**same)) == "InvalidGroup.Duplicate"


def test_an_elastic_address_follows_an_instance(pair: Pair) -> None:
    """An address is bound, moved, unbound and released; while bound it can't be released."""
    ec2 = pair.client()
    place = ground(ec2)
    image = base_image(ec2, pair.client("ebs"), pair.wait)
    launch = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 2, "MaxCount": 2}
    one, two = (
        row["InstanceId"] for row in ec2.run_instances(**launch, SubnetId=place["subnet"])["Instances"]
    )
    address = ec2.allocate_address(Domain="vpc")
    bind = {"AllocationId": address["AllocationId"], "InstanceId": one}
    assert code_of(lambda: ec2.associate_address(**bind)) == "InvalidInstanceID", "not while it is pending"
    pair.wait(4)
    assert code_of(lambda: ec2.associate_address(**bind)) == "Gateway.NotAttached"
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=place["vpc"])
    link = ec2.associate_address(AllocationId=address["AllocationId"], InstanceId=one)["AssociationId"]
    release = {"AllocationId": address["AllocationId"]}
    assert code_of(lambda: ec2.release_address(**release)) == "InvalidIPAddress.InUse"

    def public(instance: str) -> Any:
        found = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        return found.get("PublicIpAddress")

    assert public(one) == address["PublicIp"]
    row = ec2.describe_instances(InstanceIds=[one])["Reservations"][0]["Instances"][0]
    assert row["NetworkInterfaces"][0]["Association"]["PublicIp"] == address["PublicIp"]
    other = {"AllocationId": address["AllocationId"], "InstanceId": two}
    taken = code_of(lambda: ec2.associate_address(**other, AllowReassociation=False))
    assert taken == "Resource.AlreadyAssociated"
    ec2.associate_address(**other)
    assert (public(one), public(two)) == (None, address["PublicIp"])
    leave = {"InternetGatewayId": gateway, "VpcId": place["vpc"]}
    assert code_of(lambda: ec2.detach_internet_gateway(**leave)) == "DependencyViolation"
    assert code_of(lambda: ec2.disassociate_address(AssociationId=link)) == "InvalidAssociationID.NotFound"
    ec2.terminate_instances(InstanceIds=[two])
    pair.wait(3)
    assert "InstanceId" not in ec2.describe_addresses()["Addresses"][0]
    ec2.release_address(**release)
    assert code_of(lambda: ec2.release_address(**release)) == "InvalidAllocationID.NotFound"
    for _ in range(5):
        ec2.allocate_address(Domain="vpc")
    assert code_of(lambda: ec2.allocate_address(Domain="vpc")) == "AddressLimitExceeded"


def test_an_elastic_address_outlives_a_stop_and_gives_way_to_another(pair: Pair) -> None:
    """A stopped instance keeps its address; a second one takes its place, and the first stays allocated; found by tag,
    instance and association.
    """
    ec2 = pair.client()
    place = ground(ec2)
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=place["vpc"])
    image = base_image(ec2, pair.client("ebs"), pair.wait)
    launch = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
    instance = ec2.run_instances(**launch, SubnetId=place["subnet"])["Instances"][0]["InstanceId"]
    pair.wait(4)
    marks = [{"ResourceType": "elastic-ip", "Tags": [{"Key": "member", "Value": "db"}]}]
    first, second = (ec2.allocate_address(TagSpecifications=marks)["AllocationId"] for _ in range(2))
    bound = ec2.associate_address(AllocationId=first, InstanceId=instance)["AssociationId"]
    ec2.stop_instances(InstanceIds=[instance])
    pair.wait(10)

    def found(name: str, value: str) -> list[str]:
        listed = ec2.describe_addresses(Filters=[{"Name": name, "Values": [value]}])["Addresses"]
        return [one["AllocationId"] for one in listed]

    row = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert (row["State"]["Name"], bool(row["PublicIpAddress"])) == ("stopped", True)
    assert row["NetworkInterfaces"][0]["Association"]["IpOwnerId"] == pair.home.account
    assert (found("instance-id", instance), found("association-id", bound)) == ([first], [first])
    assert (sorted(found("tag:member", "db")), found("tag:member", "web")) == (sorted([first, second]), [])
    ec2.associate_address(AllocationId=second, InstanceId=instance)
    assert found("instance-id", instance) == [second]
    assert found("public-ip", row["PublicIpAddress"]) == [first]
    ec2.release_address(AllocationId=first)
    assert code_of(lambda: ec2.release_address(AllocationId=second)) == "InvalidIPAddress.InUse"


def test_a_second_interface_comes_and_goes(pair: Pair) -> None:
    """An interface of the instance's zone is attached at a free index and detached again."""
    ec2 = pair.client()
    place = ground(ec2)
    image = base_image(ec2, pair.client("ebs"), pair.wait)
    launch = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
    one = ec2.run_instances(**launch, SubnetId=place["subnet"])["Instances"][0]["InstanceId"]
    pair.wait(4)
    card = ec2.create_network_interface(SubnetId=place["subnet"])["NetworkInterface"]["NetworkInterfaceId"]
    taken = {"NetworkInterfaceId": card, "InstanceId": one, "DeviceIndex": 0}
    assert code_of(lambda: ec2.attach_network_interface(**taken)) == "InvalidParameterValue"
    link = ec2.attach_network_interface(**{**taken, "DeviceIndex": 1})["AttachmentId"]
    assert code_of(lambda: ec2.delete_network_interface(NetworkInterfaceId=card)) == "InvalidParameterValue"
    ec2.detach_network_interface(AttachmentId=link)
    ec2.delete_network_interface(NetworkInterfaceId=card)


def test_keys_are_imported_and_made(pair: Pair) -> None:
    """A made key's private half is a PKCS #1 PEM whose modulus is in the public half; names are unique."""
    ec2 = pair.client()
    made = ec2.create_key_pair(KeyName="ops")
    lines = made["KeyMaterial"].strip().splitlines()
    assert (lines[0], lines[-1]) == ("-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----")
    shown = ec2.describe_key_pairs(KeyNames=["ops"], IncludePublicKey=True)["KeyPairs"][0]
    blob = base64.b64decode(shown["PublicKey"].split()[1])
    modulus = blob[-256:]
    assert modulus in base64.b64decode("".join(lines[1:-1]))
    text = shown["PublicKey"].encode()
    copy = ec2.import_key_pair(KeyName="copy", PublicKeyMaterial=text)
    assert copy["KeyFingerprint"] == made["KeyFingerprint"]
    again = {"KeyName": "ops", "PublicKeyMaterial": text}
    assert code_of(lambda: ec2.import_key_pair(**again)) == "InvalidKeyPair.Duplicate"
    bad = {"KeyName": "bad", "PublicKeyMaterial": b"ssh-rsa garbage"}
    assert code_of(lambda: ec2.import_key_pair(**bad)) == "InvalidKey.Format"
    ec2.delete_key_pair(KeyName="ops")
    ec2.delete_key_pair(KeyName="ops")
    assert code_of(lambda: ec2.describe_key_pairs(KeyNames=["ops"])) == "InvalidKeyPair.NotFound"


def test_templates_have_versions(pair: Pair) -> None:
    """Versions count up, the default moves, and the default can't be deleted."""
    ec2 = pair.client()
    request = {"LaunchTemplateName": "web", "LaunchTemplateData": {"InstanceType": "t3.micro"}}
    made = ec2.create_launch_template(**request, ClientToken="t")["LaunchTemplate"]["LaunchTemplateId"]
    again = ec2.create_launch_template(**request, ClientToken="t")["LaunchTemplate"]["LaunchTemplateId"]
    assert again == made
    code = code_of(lambda: ec2.create_launch_template(**request))
    assert code == "InvalidLaunchTemplateName.AlreadyExistsException"
    ec2.create_launch_template_version(
        LaunchTemplateId=made, SourceVersion="1", LaunchTemplateData={"KeyName": "ops"}
    )
    versions = ec2.describe_launch_template_versions(LaunchTemplateId=made, Versions=["$Latest"])
    data = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert data == {"InstanceType": "t3.micro", "KeyName": "ops"}
    ec2.modify_launch_template(LaunchTemplateId=made, DefaultVersion="2")
    shown = ec2.describe_launch_templates(LaunchTemplateNames=["web"])["LaunchTemplates"][0]
    assert (shown["DefaultVersionNumber"], shown["LatestVersionNumber"]) == (2, 2)
    result = ec2.delete_launch_template_versions(LaunchTemplateId=made, Versions=["1", "2"])
    assert [row["VersionNumber"] for row in result["SuccessfullyDeletedLaunchTemplateVersions"]] == [1]
    assert [row["VersionNumber"] for row in result["UnsuccessfullyDeletedLaunchTemplateVersions"]] == [2]
    ec2.delete_launch_template(LaunchTemplateId=made)
    code = code_of(lambda: ec2.describe_launch_templates(LaunchTemplateIds=[made]))
    assert code == "InvalidLaunchTemplateId.NotFound"


def test_tags_are_put_replaced_listed_and_taken_off(pair: Pair) -> None:
    """Tags obey the limits of EC2."""
    ec2 = pair.client()
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": "a", "Value": "9"}])

    def tags() -> dict[str, str]:
        mine = [{"Name": "resource-id", "Values": [vpc]}]
        return {row["Key"]: row["Value"] for row in ec2.describe_tags(Filters=mine)["Tags"]}

    assert tags() == {"a": "9", "b": "2"}
    ec2.delete_tags(Resources=[vpc], Tags=[{"Key": "a", "Value": "other"}, {"Key": "b"}])
    assert tags() == {"a": "9"}
    many = [{"Key": f"k{number}", "Value": ""} for number in range(50)]
    assert code_of(lambda: ec2.create_tags(Resources=[vpc], Tags=many)) == "TagLimitExceeded"
    reserved = [{"Key": "aws:mine", "Value": ""}]
    assert code_of(lambda: ec2.create_tags(Resources=[vpc], Tags=reserved)) == "InvalidParameterValue"
    missing = ["i-0123456789abcdef0"]
    assert code_of(lambda: ec2.create_tags(Resources=missing, Tags=many[:1])) == "InvalidID"


def test_regions_and_zones(pair: Pair) -> None:
    """A site has three zones of its own region."""
    zones = pair.client("ec2", "away").describe_availability_zones()["AvailabilityZones"]
    assert [row["ZoneName"] for row in zones] == ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    assert zones[0]["ZoneId"] == "euw1-az1"
    names = {row["RegionName"] for row in pair.client().describe_regions()["Regions"]}
    assert {"eu-south-1", "eu-west-1"} <= names
    attributes = pair.client().describe_account_attributes(AttributeNames=["max-elastic-ips"])
    assert attributes["AccountAttributes"][0]["AttributeValues"][0]["AttributeValue"] == "5"


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        ("create_vpc", {"CidrBlock": "10.0.0.0/16"}),
        ("allocate_address", {}),
        ("create_internet_gateway", {}),
        ("create_volume", {"AvailabilityZone": "eu-south-1a", "Size": 1}),
        ("create_key_pair", {"KeyName": "k"}),
        ("describe_instances", {}),
        ("create_launch_template", {"LaunchTemplateName": "web", "LaunchTemplateData": {"KeyName": "k"}}),
    ],
)
def test_every_dry_run_only_says_so(pair: Pair, call: str, request_: dict[str, Any]) -> None:
    """DryRun is answered with DryRunOperation and nothing is made."""
    before = pair.home.inventory()
    assert code_of(lambda: getattr(pair.client(), call)(**request_, DryRun=True)) == "DryRunOperation"
    assert pair.home.inventory() == before
