# SPDX-License-Identifier: Apache-2.0
"""Checks answers of the EC2 Query API against the service model of botocore.

The botocore of a distribution can be older than the answers. A member or an enum
value that its model does not have must then be in the AWS SDK for Go, whose
generated decoders list the same names.
"""

import re
import xml.etree.ElementTree as ElementTree

# EC2 sends these, but no model has them. The pages are those of
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/. The instance types are in
# the table that amazon-vpc-cni-k8s generates from the answers of DescribeInstanceTypes.
OUTSIDE_THE_MODEL = {
    ("AssignPrivateIpAddressesResult", "return"): "the example of API_AssignPrivateIpAddresses.html",
    ("AssociateAddressResult", "return"): "the example of API_AssociateAddress.html",
    ("NetworkInterfaceStatus", "pending"): "the example of API_CreateNetworkInterface.html",
    ("NetworkInterfaceType", "nat_gateway"): "answers of EC2; the model has natGateway",
    ("InstanceType", "bmn-sf1.metal"): "pkg/vpc/vpc_ip_resource_limit.go",
    ("InstanceType", "c5a.metal"): "pkg/vpc/vpc_ip_resource_limit.go",
    ("InstanceType", "c5ad.metal"): "pkg/vpc/vpc_ip_resource_limit.go",
    ("InstanceType", "c7i.32xlarge"): "pkg/vpc/vpc_ip_resource_limit.go",
}

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
SCALARS = {
    "boolean": re.compile(r"true|false"),
    "integer": re.compile(r"-?[0-9]+"),
    "long": re.compile(r"-?[0-9]+"),
    "float": re.compile(r"-?[0-9]+(\.[0-9]+)?"),
    "double": re.compile(r"-?[0-9]+(\.[0-9]+)?"),
    "timestamp": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z"),
    "string": re.compile(r"(?s).*"),
}


class GoModel:
    """The members and enums of the AWS SDK for Go, by the names of its decoders."""

    FUNCTION = re.compile(r"^func awsEc2query_deserialize(?:OpDocument|Document)(\w+)\(")
    MEMBER = re.compile(r'^\t\tcase strings\.EqualFold\("(\w+)", t\.Name\.Local\)')
    TARGET = re.compile(r"awsEc2query_deserializeDocument(\w+)\(&")
    ENUM = re.compile(r"types\.(\w+)\(xtv\)")
    KINDS = {"ptr.String(": "string", "strconv.ParseInt(": "integer", "strconv.ParseBool(": "boolean",
             "smithytime.ParseDateTime(": "timestamp", "strconv.ParseFloat(": "float", "col = xtv": "string"}

    def __init__(self, directory):
        self.members, self.enums = {}, {}
        members, name = {}, None
        with open(directory + "/deserializers.go", encoding="utf-8") as source:
            for line in source:
                if found := self.FUNCTION.match(line):
                    members, name = self.members.setdefault(found[1], {}), None
                elif found := self.MEMBER.match(line):
                    name = found[1]
                    members[name] = ("string", None)
                elif name is not None:
                    if found := self.TARGET.search(line):
                        members[name] = ("document", found[1])
                    elif found := self.ENUM.search(line):
                        members[name] = ("enum", found[1])
                    else:
                        for text, kind in self.KINDS.items():
                            if text in line and members[name][0] == "string":
                                members[name] = (kind, None)
        with open(directory + "/types/enums.go", encoding="utf-8") as source:
            for found in re.finditer(r'^\t\w+\s+(\w+)\s+= "(.*)"$', source.read(), re.MULTILINE):
                self.enums.setdefault(found[1], set()).add(found[2])


class Answers:
    """Collects all that botocore or its model dislike in the answers."""

    def __init__(self, go_model):
        self.go = go_model
        self.disliked = []
        self.outside_used = set()
        self.elements = 0

    def dislike(self, path, text):
        self.disliked.append(f"{path}: {text}")

    def check(self, operation, status, content_type, body):
        """Checks the raw answer to an operation."""
        name = operation.name
        query = operation.service_model.protocol == "query"
        if not content_type.startswith("text/xml"):
            self.dislike(name, f"content type {content_type!r}, want text/xml")
        try:
            root = ElementTree.fromstring(body)
        except ElementTree.ParseError as err:
            self.dislike(name, f"not XML: {err}")
            return
        if status >= 300:
            self.check_error(name, query, status, root)
            return
        version = operation.service_model.api_version
        namespace = f"https://sts.amazonaws.com/doc/{version}/" if query else f"http://ec2.amazonaws.com/doc/{version}/"
        for element in root.iter():
            if not element.tag.startswith("{" + namespace + "}"):
                self.dislike(name, f"element {element.tag} is not in namespace {namespace}")
            element.tag = element.tag.rpartition("}")[2]
        if root.tag != name + "Response":
            self.dislike(name, f"root {root.tag}, want {name}Response")
        holder, result = root, root
        if query:
            holder, result = root.find("ResponseMetadata"), root.find(name + "Result")
        self.check_request_id(name, holder, "RequestId" if query else "requestId")
        if not query:
            root.remove(root.find("requestId"))
        shape = operation.output_shape
        if shape is not None:
            self.structure(name, result, shape, name + "Output")
        elif [(child.tag, child.text) for child in result] != [("return", "true")]:
            # Newer versions of an action answer more than that.
            self.document(name, [child for child in result if child.tag != "return"], name + "Output")

    def check_request_id(self, name, holder, tag):
        found = [] if holder is None else holder.findall(tag)
        if len(found) != 1 or not UUID.fullmatch(found[0].text or ""):
            self.dislike(name, f"{tag} {[f.text for f in found]}, want one UUID")

    def check_error(self, name, query, status, root):
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        path, request_id = ("Error", "RequestId") if query else ("Errors/Error", "RequestID")
        want = "ErrorResponse" if query else "Response"
        if root.tag != want:
            self.dislike(name, f"root of an error {root.tag}, want {want}")
        errors = root.findall(path)
        if len(errors) != 1:
            self.dislike(name, f"{len(errors)} errors in an answer with status {status}, want 1")
            return
        for tag in ("Code", "Message"):
            if not (errors[0].findtext(tag) or "").strip():
                self.dislike(name, f"error without {tag}")
        self.check_request_id(name, root, request_id)

    def structure(self, path, element, shape, go_name):
        """Checks an element against a structure of the model."""
        if (element.text or "").strip():
            self.dislike(path, f"text {element.text!r} in a structure")
        wire = {s.serialization.get("name", member): s for member, s in shape.members.items()}
        required = {shape.members[m].serialization.get("name", m) for m in shape.required_members}
        seen = set()
        for child in element:
            self.elements += 1
            at = f"{path}.{child.tag}"
            if child.tag in seen:
                self.dislike(at, "appears twice")
            seen.add(child.tag)
            if child.tag in wire:
                self.value(at, child, wire[child.tag])
            elif (shape.name, child.tag) in OUTSIDE_THE_MODEL:
                self.outside_used.add((shape.name, child.tag))
            else:
                self.document(path, [child], go_name)
        for missing in required - seen:
            self.dislike(path, f"required member {missing} is missing")

    def value(self, path, element, shape):
        if shape.type_name == "structure":
            self.structure(path, element, shape, shape.name)
        elif shape.type_name == "list":
            if (element.text or "").strip():
                self.dislike(path, f"text {element.text!r} in a list")
            item = shape.member.serialization.get("name", "member")
            for child in element:
                self.elements += 1
                if child.tag != item:
                    self.dislike(path, f"element {child.tag} in a list of {item}")
                self.value(f"{path}[]", child, shape.member)
        else:
            self.scalar(path, element, shape.type_name, shape.name, getattr(shape, "enum", None))

    def scalar(self, path, element, kind, name, enum):
        text = element.text or ""
        if len(element):
            self.dislike(path, f"elements in a {kind}")
        if kind not in SCALARS:
            self.dislike(path, f"type {kind} is unknown to this check")
        elif not SCALARS[kind].fullmatch(text):
            self.dislike(path, f"{text!r} is not a {kind}")
        if enum and text not in enum and text not in self.go.enums.get(name, ()):
            if (name, text) in OUTSIDE_THE_MODEL:
                self.outside_used.add((name, text))
            else:
                self.dislike(path, f"{text!r} is not a {name}")

    def document(self, path, children, go_name):
        """Checks elements that the model of botocore does not have."""
        members = self.go.members.get(go_name, {})
        for child in children:
            self.elements += 1
            at = f"{path}.{child.tag}"
            if child.tag not in members:
                self.dislike(at, "is not a member of " + go_name)
                continue
            kind, target = members[child.tag]
            if kind == "document":
                self.document(at, child, target)
            elif kind == "enum":
                self.scalar(at, child, "string", target, self.go.enums.get(target, {"?"}))
            else:
                self.scalar(at, child, kind, "", None)
