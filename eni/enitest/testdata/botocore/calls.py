# SPDX-License-Identifier: Apache-2.0
"""Calls every action of an EC2 endpoint with botocore.

It reads one JSON object from its standard input, see the Go test that runs it, and
writes one: the version of botocore, the numbers of successful and of refused calls
by action, and the list of all that was disliked.
"""

import collections
import functools
import itertools
import json
import sys
import time
import types
import urllib.parse

import answers
import botocore
import botocore.awsrequest
import botocore.config
import botocore.exceptions
import botocore.httpsession
import botocore.session

FAST = {"Delay": 0.1, "MaxAttempts": 50}
# No resource has these IDs.
NOTHING = "0123456789abcdef0"


class Client:
    """The clients of EC2 and of STS, whose answers are checked and counted."""

    def __init__(self, args):
        self.answers = answers.Answers(answers.GoModel(args["sdk"]))
        self.succeeded, self.refused = collections.Counter(), collections.Counter()
        self.endpoint = args["endpoint"]
        self.http = botocore.httpsession.URLLib3Session(timeout=30)
        session = botocore.session.Session()

        def client(service, key="AKIATEST", **more):
            made = session.create_client(
                service, region_name=args["region"], endpoint_url=args["endpoint"],
                config=botocore.config.Config(retries={"max_attempts": 0}).merge(botocore.config.Config(**more)),
                aws_access_key_id=key, aws_secret_access_key="secret")
            made.meta.events.register("before-send." + service, functools.partial(self.send, made))
            return made

        self.ec2, self.sts = client("ec2"), client("sts")
        # The endpoint refuses the calls of the first one, and the first call of the other.
        self.denied = client("ec2", "AKIADENIED")
        self.throttled = client("ec2", "AKIATHROTTLED", retries={"max_attempts": 2})

    def send(self, client, request, event_name, **_):
        """Sends a request in place of botocore, to see the raw answer."""
        operation = client.meta.service_model.operation_model(event_name.rpartition(".")[2])
        return self.inspect(operation, self.http.send(request))

    def inspect(self, operation, answer):
        self.answers.check(operation, answer.status_code, answer.headers.get("content-type", ""), answer.content)
        (self.succeeded if answer.status_code < 300 else self.refused)[operation.name] += 1
        return answer

    def newer(self, action, code=None, **parameters):
        """Makes a call that this botocore may be too old to know, refused with the code if there is one."""
        method = next((m for m, a in self.ec2.meta.method_to_api_mapping.items() if a == action), None)
        if method and code:
            self.refuse(code, getattr(self.ec2, method), **parameters)
        elif method:
            getattr(self.ec2, method)(**parameters)
        else:
            text = {name: "true" if value is True else value for name, value in parameters.items()}
            body = urllib.parse.urlencode({"Action": action, "Version": "2016-11-15", **text})
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            request = botocore.awsrequest.AWSRequest("POST", self.endpoint, headers, body).prepare()
            operation = types.SimpleNamespace(name=action, service_model=self.ec2.meta.service_model, output_shape=None)
            self.inspect(operation, self.http.send(request))

    def expect(self, what, got, want):
        if got != want:
            self.answers.dislike(what, f"got {str(got)[:500]}, want {str(want)[:500]}")

    def refuse(self, code, call, **parameters):
        """Makes a call that must be refused with the code."""
        try:
            call(**parameters)
        except botocore.exceptions.ClientError as err:
            name = err.operation_name
            self.expect(f"error code of {name}", err.response["Error"]["Code"], code)
            if not err.response["Error"].get("Message") or not err.response["ResponseMetadata"].get("RequestId"):
                self.answers.dislike(name, f"botocore finds no message or request ID in {err.response}")
        else:
            self.answers.dislike(call.__name__, f"succeeded, want error {code}")

    def wait(self, waiter, **parameters):
        self.ec2.get_waiter(waiter).wait(WaiterConfig=FAST, **parameters)

    def attached(self, *interfaces):
        """Waits until ENIs are attached; botocore has no waiter for that."""
        for _ in range(50):
            shown = self.ec2.describe_network_interfaces(NetworkInterfaceIds=list(interfaces))["NetworkInterfaces"]
            if all(one["Attachment"]["Status"] == "attached" for one in shown):
                return
            time.sleep(0.1)
        self.answers.dislike("attachments", f"of {interfaces} are not attached after 5 s")

    def pages(self, action, key, **parameters):
        """Checks that the pages of an action have together what one answer has."""
        def elements(answer):  # a page of instances can hold a part of a reservation
            if key != "Reservations":
                return answer[key]
            return sorted((i for r in answer[key] for i in r["Instances"]), key=lambda i: i["InstanceId"])

        whole = elements(getattr(self.ec2, action)(**parameters))
        paginator = self.ec2.get_paginator(action)
        pages = [elements(page) for page in paginator.paginate(PaginationConfig={"PageSize": 5}, **parameters)]
        for one, other in itertools.zip_longest(sum(pages, []), whole):
            self.expect("element of the pages of " + action, one, other)
        sizes = [len(page) for page in pages]
        if len(sizes) < 2 or any(size != 5 for size in sizes[:-1]) or sizes[-1] > 5:
            self.answers.dislike("pages of " + action, f"pages of {sizes}, want several of 5")


def tags(kind, **pairs):
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in pairs.items()]}]


def interfaces(c, args):
    """The life of ENIs: create, attach, assign, unassign, detach, delete."""
    ec2, ids = c.ec2, []
    for n in range(7):
        created = ec2.create_network_interface(
            SubnetId=args["subnet"], Description=f"number {n} é<&>\"'", TagSpecifications=tags("network-interface", number=str(n)))
        ids.append(created["NetworkInterface"]["NetworkInterfaceId"])
        c.expect("description", created["NetworkInterface"]["Description"], f"number {n} é<&>\"'")
    first, trunk, branch = ids[0], None, ids[1]
    c.wait("network_interface_available", NetworkInterfaceIds=ids)
    efa = ec2.create_network_interface(SubnetId=args["subnet"], InterfaceType="efa")["NetworkInterface"]
    c.expect("interface type", efa["InterfaceType"], "efa")
    six = ec2.create_network_interface(SubnetId=args["ipv6_subnet"], Ipv6AddressCount=1)["NetworkInterface"]
    c.expect("private address in an IPv6 subnet", six.get("PrivateIpAddress"), None)
    prefixed = ec2.create_network_interface(SubnetId=args["subnet"], Ipv4PrefixCount=1, Ipv6PrefixCount=1, ClientToken="once")
    c.expect("create again", ec2.create_network_interface(
        SubnetId=args["subnet"], Ipv4PrefixCount=1, Ipv6PrefixCount=1, ClientToken="once")
        ["NetworkInterface"]["NetworkInterfaceId"], prefixed["NetworkInterface"]["NetworkInterfaceId"])
    attachment = ec2.attach_network_interface(
        NetworkInterfaceId=first, InstanceId=args["instance"], DeviceIndex=1)["AttachmentId"]
    got = ec2.assign_private_ip_addresses(NetworkInterfaceId=first, SecondaryPrivateIpAddressCount=2)
    addresses = [a["PrivateIpAddress"] for a in got["AssignedPrivateIpAddresses"]]
    c.expect("addresses", len(addresses), 2)
    blocks = ec2.assign_private_ip_addresses(NetworkInterfaceId=first, Ipv4PrefixCount=1)["AssignedIpv4Prefixes"]
    ipv6 = ec2.assign_ipv6_addresses(NetworkInterfaceId=first, Ipv6AddressCount=2)["AssignedIpv6Addresses"]
    ec2.assign_ipv6_addresses(NetworkInterfaceId=first, Ipv6PrefixCount=1)
    for attribute in ("description", "groupSet", "sourceDestCheck", "attachment"):
        ec2.describe_network_interface_attribute(NetworkInterfaceId=first, Attribute=attribute)
    ec2.modify_network_interface_attribute(
        NetworkInterfaceId=first, Attachment={"AttachmentId": attachment, "DeleteOnTermination": True})
    ec2.modify_network_interface_attribute(NetworkInterfaceId=first, SourceDestCheck={"Value": False})
    shown = ec2.describe_network_interfaces(NetworkInterfaceIds=[first])["NetworkInterfaces"][0]
    c.expect("secondary addresses", [a["PrivateIpAddress"] for a in shown["PrivateIpAddresses"]][1:], addresses)
    c.expect("prefixes", shown["Ipv4Prefixes"], blocks)
    c.expect("delete on termination", shown["Attachment"]["DeleteOnTermination"], True)
    trunk = ec2.create_network_interface(SubnetId=args["subnet"], InterfaceType="trunk")["NetworkInterface"]["NetworkInterfaceId"]
    ec2.attach_network_interface(NetworkInterfaceId=trunk, InstanceId=args["instance"], DeviceIndex=2)
    association = ec2.associate_trunk_interface(BranchInterfaceId=branch, TrunkInterfaceId=trunk, VlanId=7)
    ec2.describe_trunk_interface_associations()
    ec2.describe_instances(InstanceIds=[args["instance"]])  # while an ENI is attaching
    c.attached(first, trunk)
    c.pages("describe_network_interfaces", "NetworkInterfaces")
    ec2.disassociate_trunk_interface(AssociationId=association["InterfaceAssociation"]["AssociationId"])
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=first, PrivateIpAddresses=addresses)
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=first, Ipv4Prefixes=[b["Ipv4Prefix"] for b in blocks])
    ec2.unassign_ipv6_addresses(NetworkInterfaceId=first, Ipv6Addresses=ipv6[:1])
    c.refuse("InvalidParameterValue", ec2.delete_network_interface, NetworkInterfaceId=first)
    ec2.detach_network_interface(AttachmentId=attachment)
    ec2.describe_network_interfaces(NetworkInterfaceIds=[first])  # while it is detaching
    c.wait("network_interface_available", NetworkInterfaceIds=[first])
    ec2.create_tags(Resources=[first, ids[2]], Tags=[{"Key": "Name", "Value": ""}])
    c.pages("describe_tags", "Tags", Filters=[{"Name": "resource-type", "Values": ["network-interface"]}])
    ec2.delete_tags(Resources=[first], Tags=[{"Key": "Name"}])
    for one in ids:
        ec2.delete_network_interface(NetworkInterfaceId=one)
    c.refuse("InvalidNetworkInterfaceID.NotFound", ec2.describe_network_interfaces, NetworkInterfaceIds=[first])


def instances(c, args):
    """The life of instances, and the descriptions of types, zones and regions."""
    ec2 = c.ec2
    launch = {
        "ImageId": "ami-" + NOTHING, "InstanceType": "m5.large", "MinCount": 6, "MaxCount": 6, "UserData": "#!/bin/sh",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        "TagSpecifications": tags("instance", Name="node") + tags("network-interface", Name="eth0"),
        "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": args["subnet"], "Ipv6AddressCount": 1, "AssociatePublicIpAddress": True}],
    }
    ids = [i["InstanceId"] for i in ec2.run_instances(**launch)["Instances"]]
    c.wait("instance_exists", InstanceIds=ids)
    ec2.describe_instance_status(InstanceIds=ids, IncludeAllInstances=True)  # while they are pending
    c.wait("instance_running", InstanceIds=ids)
    c.wait("instance_status_ok", InstanceIds=ids)
    c.wait("system_status_ok", InstanceIds=ids)
    more = [ec2.run_instances(ImageId="ami-" + NOTHING, InstanceType="t3.medium", MinCount=1, MaxCount=1, SubnetId=args["subnet"])
            ["Instances"][0]["InstanceId"] for _ in range(5)]
    c.wait("instance_running", InstanceIds=more)
    c.pages("describe_instances", "Reservations")
    c.pages("describe_instance_status", "InstanceStatuses", IncludeAllInstances=True)
    for filters in ([], [{"Name": "instance-state-name", "Values": ["running"]}, {"Name": "tag:Name", "Values": ["no*"]}]):
        ec2.describe_instances(Filters=filters)
    ec2.stop_instances(InstanceIds=ids[:1])
    ec2.describe_instances(InstanceIds=ids[:1])  # while it is stopping
    c.wait("instance_stopped", InstanceIds=ids[:1])
    c.refuse("IncorrectInstanceState", ec2.reboot_instances, InstanceIds=ids[:1])
    ec2.start_instances(InstanceIds=ids[:1])
    c.wait("instance_running", InstanceIds=ids[:1])
    ec2.reboot_instances(InstanceIds=ids)
    ec2.terminate_instances(InstanceIds=ids)
    ec2.describe_instances(InstanceIds=ids)  # while they are shutting down
    c.wait("instance_terminated", InstanceIds=ids)
    try:
        c.wait("instance_running", InstanceIds=ids)
        c.answers.dislike("waiter instance_running", "succeeded for terminated instances")
    except botocore.exceptions.WaiterError as err:
        c.expect("waiter instance_running", err.last_response["Reservations"][0]["Instances"][0]["State"]["Name"], "terminated")
    for page in ec2.get_paginator("describe_instance_types").paginate(PaginationConfig={"PageSize": 100}):
        c.expect("size of a page of types", 0 < len(page["InstanceTypes"]) <= 100, True)
    ec2.describe_instance_types(InstanceTypes=["p4d.24xlarge", "m5.metal", "t2.micro"])
    ec2.describe_availability_zones(AllAvailabilityZones=True)
    ec2.describe_regions(AllRegions=True)


def templates(c, args):
    """Launch templates and their versions."""
    ec2 = c.ec2
    data = {
        "ImageId": "ami-" + NOTHING, "InstanceType": "t3.small", "UserData": "IyEvYmluL3No", "KeyName": "key", "EbsOptimized": True,
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, "InstanceMetadataTags": "enabled"},
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "DeleteOnTermination": True}}],
        "IamInstanceProfile": {"Name": "node"}, "Monitoring": {"Enabled": False}, "Placement": {"Tenancy": "default"},
        "TagSpecifications": tags("instance", Name="node", owner="net") + tags("network-interface", Name="eth0"),
        "NetworkInterfaces": [
            {"DeviceIndex": 0, "SubnetId": args["subnet"], "AssociatePublicIpAddress": True, "Ipv6AddressCount": 1, "Description": "eth0",
             "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.9.9", "Primary": True}], "DeleteOnTermination": True},
            {"DeviceIndex": 1, "SubnetId": args["subnet"], "Ipv4PrefixCount": 1}],
    }
    names = [f"node-{n}" for n in range(6)]
    for name in names:
        ec2.create_launch_template(LaunchTemplateName=name, VersionDescription="first", LaunchTemplateData=data,
                                   TagSpecifications=tags("launch-template", Name=name))
    for n in range(5):
        made = ec2.create_launch_template_version(
            LaunchTemplateName=names[0], SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.medium"}, VersionDescription=str(n))
    version = made["LaunchTemplateVersion"]
    c.expect("version", (version["VersionNumber"], version["LaunchTemplateData"]["InstanceType"]), (6, "t3.medium"))
    ec2.modify_launch_template(LaunchTemplateName=names[0], DefaultVersion="2")
    c.pages("describe_launch_templates", "LaunchTemplates")
    c.pages("describe_launch_template_versions", "LaunchTemplateVersions", LaunchTemplateName=names[0])
    shown = ec2.describe_launch_template_versions(LaunchTemplateName=names[1])["LaunchTemplateVersions"][0]
    c.expect("data of a template", shown["LaunchTemplateData"], data)
    latest = {"LaunchTemplateName": names[0], "Version": "$Latest"}
    started = ec2.run_instances(MinCount=1, MaxCount=1, LaunchTemplate=latest)["Instances"][0]
    c.expect("instance of a template", (started["InstanceType"], started["PrivateIpAddress"], len(started["NetworkInterfaces"])),
             ("t3.medium", "10.0.9.9", 2))
    ec2.terminate_instances(InstanceIds=[started["InstanceId"]])
    for name in names:
        ec2.delete_launch_template(LaunchTemplateName=name)


def attributes(c, args):
    """Attributes of the account, of VPCs and of subnets."""
    ec2 = c.ec2
    ec2.describe_account_attributes()
    for attribute, parameter in (("enableDnsSupport", "EnableDnsSupport"), ("enableDnsHostnames", "EnableDnsHostnames"),
                                 ("enableNetworkAddressUsageMetrics", "EnableNetworkAddressUsageMetrics")):
        for value in (True, False):
            ec2.modify_vpc_attribute(VpcId=args["vpc"], **{parameter: {"Value": value}})
            shown = ec2.describe_vpc_attribute(VpcId=args["vpc"], Attribute=attribute)
            c.expect(attribute, shown[parameter]["Value"], value)
    ec2.modify_subnet_attribute(SubnetId=args["subnet"], MapPublicIpOnLaunch={"Value": True})
    ec2.modify_subnet_attribute(SubnetId=args["subnet"], PrivateDnsHostnameTypeOnLaunch="resource-name")
    shown = ec2.describe_subnets(SubnetIds=[args["subnet"]])["Subnets"][0]
    c.expect("attributes of a subnet", (shown["MapPublicIpOnLaunch"], shown["PrivateDnsNameOptionsOnLaunch"]["HostnameType"]),
             (True, "resource-name"))
    c.newer("ModifyManagedResourceVisibility", DefaultVisibility="hidden")
    managed = len(ec2.describe_instances()["Reservations"])
    c.newer("ModifyManagedResourceVisibility", DefaultVisibility="visible")
    c.expect("instances without the managed one", managed, len(ec2.describe_instances()["Reservations"]) - 1)
    c.newer("GetManagedResourceVisibility")


def routes(c, args):
    """VPCs, subnets, VPC route tables and addresses."""
    ec2 = c.ec2
    vpcs = [ec2.create_vpc(CidrBlock=f"10.{n}.0.0/16", TagSpecifications=tags("vpc", Name=str(n)))["Vpc"]["VpcId"] for n in range(50, 56)]
    vpc = vpcs[0]
    c.wait("vpc_exists", VpcIds=vpcs)
    c.wait("vpc_available", VpcIds=vpcs)
    four = ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="100.64.0.0/16")["CidrBlockAssociation"]
    ec2.associate_vpc_cidr_block(VpcId=vpc, AmazonProvidedIpv6CidrBlock=True)
    c.pages("describe_vpcs", "Vpcs")
    ec2.disassociate_vpc_cidr_block(AssociationId=four["AssociationId"])
    six = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"]
    subnets = []
    for n in range(6):
        extra = {"Ipv6CidrBlock": six.replace("/56", "/64")} if n == 0 else {}
        made = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.50.{n}.0/24", AvailabilityZone=args["region"] + "ab"[n % 2],
                                 TagSpecifications=tags("subnet", Name=str(n)), **extra)
        subnets.append(made["Subnet"]["SubnetId"])
    c.wait("subnet_available", SubnetIds=subnets)
    c.pages("describe_subnets", "Subnets", Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    reservation = ec2.create_subnet_cidr_reservation(
        SubnetId=subnets[0], Cidr="10.50.0.64/26", ReservationType="prefix", Description="of pods")["SubnetCidrReservation"]
    ec2.get_subnet_cidr_reservations(SubnetId=subnets[0])
    ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=reservation["SubnetCidrReservationId"])
    tables = [ec2.create_route_table(VpcId=vpc, TagSpecifications=tags("route-table", n=str(n)))["RouteTable"]["RouteTableId"]
              for n in range(5)]
    association = ec2.associate_route_table(RouteTableId=tables[0], SubnetId=subnets[0])["AssociationId"]
    eni = ec2.create_network_interface(SubnetId=subnets[0], SecondaryPrivateIpAddressCount=1)["NetworkInterface"]
    default = {"RouteTableId": tables[0], "DestinationCidrBlock": "0.0.0.0/0"}
    ec2.create_route(GatewayId="igw-" + NOTHING, **default)
    ec2.create_route(RouteTableId=tables[0], DestinationIpv6CidrBlock="::/0", EgressOnlyInternetGatewayId="eigw-" + NOTHING)
    ec2.create_route(RouteTableId=tables[0], DestinationCidrBlock="172.16.0.0/24", NetworkInterfaceId=eni["NetworkInterfaceId"])
    ec2.replace_route(NatGatewayId="nat-" + NOTHING, **default)
    c.pages("describe_route_tables", "RouteTables", Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    ec2.delete_route(**default)
    ec2.disassociate_route_table(AssociationId=association)
    addresses = [ec2.allocate_address(Domain="vpc", TagSpecifications=tags("elastic-ip", n=str(n))) for n in range(2)]
    bound = ec2.associate_address(AllocationId=addresses[0]["AllocationId"], NetworkInterfaceId=eni["NetworkInterfaceId"])
    ec2.describe_addresses()
    ec2.describe_network_interfaces(NetworkInterfaceIds=[eni["NetworkInterfaceId"]])
    ec2.disassociate_address(AssociationId=bound["AssociationId"])
    for address in addresses:
        ec2.release_address(AllocationId=address["AllocationId"])
    c.refuse("DependencyViolation", ec2.delete_vpc, VpcId=vpc)
    ec2.delete_network_interface(NetworkInterfaceId=eni["NetworkInterfaceId"])
    for table in tables:
        ec2.delete_route_table(RouteTableId=table)
    for subnet in subnets:
        ec2.delete_subnet(SubnetId=subnet)
    for one in vpcs:
        ec2.delete_vpc(VpcId=one)


def rules(c, args):
    """Security groups and network ACLs."""
    ec2 = c.ec2
    groups = [ec2.create_security_group(
        GroupName=f"group {n}", Description="of pods", VpcId=args["vpc"], TagSpecifications=tags("security-group", n=str(n)))["GroupId"]
        for n in range(6)]
    group = groups[0]
    c.wait("security_group_exists", GroupIds=groups)
    permissions = [
        {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 81, "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "web"}],
         "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}], "UserIdGroupPairs": [{"GroupId": groups[1]}]},
        {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]},
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)["SecurityGroupRules"]
    c.expect("rules", len(made), 5)
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=permissions[:1])
    ec2.describe_security_groups(GroupIds=[group])
    c.pages("describe_security_groups", "SecurityGroups")
    c.pages("describe_security_group_rules", "SecurityGroupRules", Filters=[{"Name": "group-id", "Values": [group]}])
    ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[made[0]["SecurityGroupRuleId"]])
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=permissions[1:])
    ec2.revoke_security_group_egress(GroupId=group, IpPermissions=permissions[:1])
    for one in groups[:1] + groups[:0:-1]:  # the first one refers to another
        ec2.delete_security_group(GroupId=one)
    acls = [ec2.create_network_acl(VpcId=args["vpc"])["NetworkAcl"]["NetworkAclId"] for _ in range(5)]
    entry = {"NetworkAclId": acls[0], "RuleNumber": 7, "Egress": False}
    tcp = {"Protocol": "6", "CidrBlock": "192.0.2.0/24", "PortRange": {"From": 22, "To": 23}}
    ec2.create_network_acl_entry(RuleAction="deny", **entry, **tcp)
    ec2.create_network_acl_entry(NetworkAclId=acls[0], RuleNumber=8, Egress=True, RuleAction="allow", Protocol="58",
                                 Ipv6CidrBlock="::/0", IcmpTypeCode={"Type": -1, "Code": -1})
    ec2.replace_network_acl_entry(RuleAction="allow", **entry, **tcp)
    c.pages("describe_network_acls", "NetworkAcls", Filters=[{"Name": "vpc-id", "Values": [args["vpc"]]}])
    default = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [args["subnet"]]}])["NetworkAcls"][0]
    moved = ec2.replace_network_acl_association(
        AssociationId=default["Associations"][0]["NetworkAclAssociationId"], NetworkAclId=acls[0])
    ec2.replace_network_acl_association(AssociationId=moved["NewAssociationId"], NetworkAclId=default["NetworkAclId"])
    ec2.delete_network_acl_entry(**entry)
    for acl in acls:
        ec2.delete_network_acl(NetworkAclId=acl)


def callers(c, args):
    """Callers that are known, refused and throttled."""
    c.expect("account", c.sts.get_caller_identity()["Account"], args["account"])
    c.refuse("ExpiredToken", c.sts.get_caller_identity)  # the endpoint refuses the second call
    c.refuse("UnauthorizedOperation", c.denied.describe_vpcs)
    c.expect("VPCs after a retry", len(c.throttled.describe_vpcs()["Vpcs"]), 1)
    c.expect("throttled calls", c.refused["DescribeVpcs"], 2)


def refusals(c, args):
    """One refused call of each action of EC2."""
    bad_filter = {"Filters": [{"Name": "no-such-filter", "Values": ["x"]}]}
    eni = {"NetworkInterfaceId": "eni-" + NOTHING}
    group = {"GroupId": "sg-" + NOTHING, "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}
    route = {"RouteTableId": "rtb-" + NOTHING, "DestinationCidrBlock": "0.0.0.0/0"}
    entry = {"NetworkAclId": "acl-" + NOTHING, "RuleNumber": 1, "Egress": False}
    allow = {**entry, "Protocol": "-1", "RuleAction": "allow", "CidrBlock": "10.0.0.0/8"}
    acl = c.ec2.describe_network_acls()["NetworkAcls"][0]["NetworkAclId"]
    refused = [
        ("InvalidParameterValue", "allocate_address", {"Domain": "moon"}),
        ("InvalidNetworkInterfaceID.NotFound", "assign_ipv6_addresses", {**eni, "Ipv6AddressCount": 1}),
        ("InvalidNetworkInterfaceID.NotFound", "assign_private_ip_addresses", {**eni, "SecondaryPrivateIpAddressCount": 1}),
        ("InvalidAllocationID.NotFound", "associate_address", {"AllocationId": "eipalloc-" + NOTHING, "InstanceId": args["instance"]}),
        ("InvalidRouteTableID.NotFound", "associate_route_table", {"RouteTableId": "rtb-" + NOTHING, "SubnetId": args["subnet"]}),
        ("InvalidNetworkInterfaceID.NotFound", "associate_trunk_interface",
         {"BranchInterfaceId": "eni-" + NOTHING, "TrunkInterfaceId": "eni-" + NOTHING, "VlanId": 1}),
        ("InvalidVpcID.NotFound", "associate_vpc_cidr_block", {"VpcId": "vpc-" + NOTHING, "CidrBlock": "10.0.0.0/16"}),
        ("InvalidNetworkInterfaceID.NotFound", "attach_network_interface", {**eni, "InstanceId": args["instance"], "DeviceIndex": 3}),
        ("InvalidGroup.NotFound", "authorize_security_group_egress", group),
        ("InvalidGroup.NotFound", "authorize_security_group_ingress", group),
        ("InvalidVpcID.NotFound", "create_network_acl", {"VpcId": "vpc-" + NOTHING}),
        ("InvalidNetworkAclID.NotFound", "create_network_acl_entry", allow),
        ("InvalidSubnetID.NotFound", "create_network_interface", {"SubnetId": "subnet-" + NOTHING}),
        ("InvalidRouteTableID.NotFound", "create_route", {**route, "GatewayId": "igw-" + NOTHING}),
        ("InvalidVpcID.NotFound", "create_route_table", {"VpcId": "vpc-" + NOTHING}),
        ("InvalidVpcID.NotFound", "create_security_group", {"GroupName": "g", "Description": "d", "VpcId": "vpc-" + NOTHING}),
        ("InvalidVpcID.NotFound", "create_subnet", {"VpcId": "vpc-" + NOTHING, "CidrBlock": "10.0.0.0/24"}),
        ("InvalidSubnetID.NotFound", "create_subnet_cidr_reservation",
         {"SubnetId": "subnet-" + NOTHING, "Cidr": "10.0.0.0/28", "ReservationType": "prefix"}),
        ("InvalidNetworkInterfaceID.NotFound", "create_tags", {"Resources": ["eni-" + NOTHING], "Tags": [{"Key": "a", "Value": "b"}]}),
        ("InvalidLaunchTemplateName.MalformedException", "create_launch_template",
         {"LaunchTemplateName": "a b", "LaunchTemplateData": {"ImageId": "ami-" + NOTHING}}),
        ("InvalidLaunchTemplateId.NotFound", "create_launch_template_version",
         {"LaunchTemplateId": "lt-" + NOTHING, "LaunchTemplateData": {"ImageId": "ami-" + NOTHING}}),
        ("InvalidLaunchTemplateId.NotFound", "delete_launch_template", {"LaunchTemplateId": "lt-" + NOTHING}),
        ("InvalidParameterValue", "describe_account_attributes", {"AttributeNames": ["no-such-attribute"]}),
        ("InvalidLaunchTemplateId.NotFound", "describe_launch_template_versions", {"LaunchTemplateId": "lt-" + NOTHING}),
        ("InvalidLaunchTemplateName.NotFoundException", "describe_launch_templates", {"LaunchTemplateNames": ["nothing"]}),
        ("InvalidVpcID.NotFound", "describe_vpc_attribute", {"VpcId": "vpc-" + NOTHING, "Attribute": "enableDnsSupport"}),
        ("InvalidLaunchTemplateId.NotFound", "modify_launch_template", {"LaunchTemplateId": "lt-" + NOTHING, "DefaultVersion": "1"}),
        ("InvalidParameterCombination", "modify_subnet_attribute", {"SubnetId": args["subnet"]}),
        ("InvalidVpcID.NotFound", "modify_vpc_attribute", {"VpcId": "vpc-" + NOTHING, "EnableDnsSupport": {"Value": True}}),
        ("InvalidInstanceID.NotFound", "reboot_instances", {"InstanceIds": ["i-" + NOTHING]}),
        ("InvalidInstanceID.NotFound", "start_instances", {"InstanceIds": ["i-" + NOTHING]}),
        ("InvalidInstanceID.NotFound", "stop_instances", {"InstanceIds": ["i-" + NOTHING]}),
        ("InvalidVpc.Range", "create_vpc", {"CidrBlock": "10.0.0.0/8"}),
        ("InvalidNetworkAclID.NotFound", "delete_network_acl", {"NetworkAclId": "acl-" + NOTHING}),
        ("InvalidNetworkAclID.NotFound", "delete_network_acl_entry", entry),
        ("InvalidNetworkInterfaceID.NotFound", "delete_network_interface", eni),
        ("InvalidRouteTableID.NotFound", "delete_route", route),
        ("InvalidRouteTableID.NotFound", "delete_route_table", {"RouteTableId": "rtb-" + NOTHING}),
        ("InvalidGroup.NotFound", "delete_security_group", {"GroupId": "sg-" + NOTHING}),
        ("InvalidSubnetID.NotFound", "delete_subnet", {"SubnetId": "subnet-" + NOTHING}),
        ("InvalidSubnetCidrReservationID.NotFound", "delete_subnet_cidr_reservation", {"SubnetCidrReservationId": "scr-" + NOTHING}),
        ("InvalidParameterValue", "delete_tags", {"Resources": [args["subnet"]], "Tags": [{"Key": "aws:a"}]}),
        ("InvalidVpcID.NotFound", "delete_vpc", {"VpcId": "vpc-" + NOTHING}),
        ("InvalidAllocationID.NotFound", "describe_addresses", {"AllocationIds": ["eipalloc-" + NOTHING]}),
        ("InvalidParameterValue", "describe_availability_zones", bad_filter),
        ("InvalidInstanceID.NotFound", "describe_instance_status", {"InstanceIds": ["i-" + NOTHING]}),
        ("InvalidInstanceType", "describe_instance_types", {"InstanceTypes": ["m5.tiny"]}),
        ("InvalidInstanceID.Malformed", "describe_instances", {"InstanceIds": ["i-xyz"]}),
        ("InvalidNetworkAclID.NotFound", "describe_network_acls", {"NetworkAclIds": ["acl-" + NOTHING]}),
        ("InvalidNetworkInterfaceID.NotFound", "describe_network_interface_attribute", {**eni, "Attribute": "description"}),
        ("InvalidNextToken", "describe_network_interfaces", {"NextToken": "x"}),
        ("InvalidParameterValue", "describe_regions", {"RegionNames": ["moon-east-1"]}),
        ("InvalidRouteTableID.NotFound", "describe_route_tables", {"RouteTableIds": ["rtb-" + NOTHING]}),
        ("InvalidSecurityGroupRuleId.NotFound", "describe_security_group_rules", {"SecurityGroupRuleIds": ["sgr-" + NOTHING]}),
        ("InvalidGroup.NotFound", "describe_security_groups", {"GroupIds": ["sg-" + NOTHING]}),
        ("InvalidSubnetID.NotFound", "describe_subnets", {"SubnetIds": ["subnet-" + NOTHING]}),
        ("InvalidParameterValue", "describe_tags", bad_filter),
        ("InvalidParameterValue", "describe_trunk_interface_associations", bad_filter),
        ("InvalidVpcID.NotFound", "describe_vpcs", {"VpcIds": ["vpc-" + NOTHING]}),
        ("InvalidAttachmentID.NotFound", "detach_network_interface", {"AttachmentId": "eni-attach-" + NOTHING}),
        ("InvalidAssociationID.NotFound", "disassociate_address", {"AssociationId": "eipassoc-" + NOTHING}),
        ("InvalidAssociationID.NotFound", "disassociate_route_table", {"AssociationId": "rtbassoc-" + NOTHING}),
        ("InvalidAssociationID.NotFound", "disassociate_trunk_interface", {"AssociationId": "trunk-assoc-" + NOTHING}),
        ("InvalidVpcCidrBlockAssociationID.NotFound", "disassociate_vpc_cidr_block", {"AssociationId": "vpc-cidr-assoc-" + NOTHING}),
        ("InvalidSubnetID.NotFound", "get_subnet_cidr_reservations", {"SubnetId": "subnet-" + NOTHING}),
        ("InvalidNetworkInterfaceID.NotFound", "modify_network_interface_attribute", {**eni, "SourceDestCheck": {"Value": True}}),
        ("InvalidAllocationID.NotFound", "release_address", {"AllocationId": "eipalloc-" + NOTHING}),
        ("InvalidAssociationID.NotFound", "replace_network_acl_association",
         {"AssociationId": "aclassoc-" + NOTHING, "NetworkAclId": acl}),
        ("InvalidNetworkAclID.NotFound", "replace_network_acl_entry", allow),
        ("InvalidRouteTableID.NotFound", "replace_route", {**route, "GatewayId": "igw-" + NOTHING}),
        ("InvalidGroup.NotFound", "revoke_security_group_egress", group),
        ("InvalidGroup.NotFound", "revoke_security_group_ingress", group),
        ("InvalidSubnetID.NotFound", "run_instances",
         {"ImageId": "ami-" + NOTHING, "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1, "SubnetId": "subnet-" + NOTHING}),
        ("InvalidInstanceID.NotFound", "terminate_instances", {"InstanceIds": ["i-" + NOTHING]}),
        ("InvalidNetworkInterfaceID.NotFound", "unassign_ipv6_addresses", {**eni, "Ipv6Addresses": ["2001:db8::1"]}),
        ("InvalidNetworkInterfaceID.NotFound", "unassign_private_ip_addresses", {**eni, "PrivateIpAddresses": ["10.0.0.9"]}),
    ]
    for code, call, parameters in refused:
        c.refuse(code, getattr(c.ec2, call), **parameters)
        operation = c.ec2.meta.service_model.operation_model(c.ec2.meta.method_to_api_mapping[call])
        if "DryRun" in operation.input_shape.members:
            c.refuse("DryRunOperation", getattr(c.ec2, call), DryRun=True, **parameters)
    c.newer("ModifyManagedResourceVisibility", "InvalidParameterValue", DefaultVisibility="dim")
    c.newer("GetManagedResourceVisibility", "DryRunOperation", DryRun=True)


def main():
    args = json.load(sys.stdin)
    c = Client(args)
    for scenario in (interfaces, instances, templates, attributes, routes, rules, callers, refusals):
        try:
            scenario(c, args)
        except Exception as err:  # the test shows the error together with all that was disliked before
            c.answers.dislike(scenario.__name__, f"ended by {type(err).__name__}: {err}")
    for unused in set(answers.OUTSIDE_THE_MODEL) - c.answers.outside_used:
        c.answers.dislike("OUTSIDE_THE_MODEL", f"{unused} is in no answer")
    json.dump({"version": botocore.__version__, "succeeded": c.succeeded, "refused": c.refused,
               "elements": c.answers.elements, "disliked": c.answers.disliked}, sys.stdout)


main()
