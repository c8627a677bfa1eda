// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// Service is an AWS service that puts ENIs of its own into subnets.
type Service string

// The services of foreign ENIs.
const (
	// ControlPlane is the control plane of an EKS cluster.
	ControlPlane Service = "eks"
	// ApplicationLoadBalancer and NetworkLoadBalancer are Elastic Load Balancing.
	ApplicationLoadBalancer Service = "alb"
	NetworkLoadBalancer     Service = "nlb"
	// NATGateway is a NAT gateway; its ENI has a public address.
	NATGateway Service = "nat"
	// VPCEndpoint is an interface endpoint of AWS PrivateLink.
	VPCEndpoint Service = "vpce"
)

// foreign holds the properties of the ENIs of a service, as
// DescribeNetworkInterfaces shows them.
type foreign struct {
	kind, requester, owner, attachment, description string
	public                                          bool
}

// foreigners are the services by name. %s in a description is replaced by a part of
// an ID.
var foreigners = map[Service]foreign{
	ControlPlane:            {"interface", "AROAENITESTEKSROLE001:AmazonEKS", "098765432109", "eni-attach-", "Amazon EKS test", false},
	ApplicationLoadBalancer: {"interface", "amazon-elb", "amazon-elb", "eni-attach-", "ELB app/test/%s", false},
	NetworkLoadBalancer:     {"network_load_balancer", "amazon-elb", "amazon-aws", "ela-attach-", "ELB net/test/%s", false},
	NATGateway:              {"nat_gateway", "AIDAENITESTNATGATEWAY", "amazon-aws", "ela-attach-", "Interface for NAT Gateway nat-%s", true},
	VPCEndpoint:             {"vpc_endpoint", "AIDAENITESTVPCENDPOINT", "amazon-aws", "ela-attach-", "VPC Endpoint Interface vpce-%s", false},
}

// ForeignENIInput describes an ENI of an AWS service.
type ForeignENIInput struct {
	Subnet  string
	Service Service
	// Description replaces the one that the service gives to its ENIs.
	Description string
	// Groups are the security groups. None means the default group of the VPC.
	Groups []string
	// Addr is the primary private IP. The zero Addr means that EC2 chooses.
	Addr netip.Addr
	Tags map[string]string
}

// AddForeignENI adds an ENI of an AWS service. It is managed by its requester and
// attached to a machine of another account, so that Describe calls show its
// attachment without an instance ID. Calls that change, detach or delete it are
// refused, except for those that change its tags.
func (c *Cloud) AddForeignENI(in ForeignENIInput) (ENI, error) {
	f, ok := foreigners[in.Service]
	if !ok {
		return ENI{}, fmt.Errorf("service %q is unknown", in.Service)
	}
	t := c.begin()
	defer t.end()
	e, err := t.create(eniSpec{
		subnet: in.Subnet, kind: f.kind, groups: in.Groups, addr: in.Addr, tags: in.Tags, public: f.public,
	})
	if err != nil {
		return ENI{}, err
	}
	e = e.clone()
	if e.Description = in.Description; e.Description == "" {
		e.Description = f.description
		if strings.Contains(f.description, "%s") {
			e.Description = fmt.Sprintf(f.description, t.newID(""))
		}
	}
	e.Requester, e.RequesterManaged = f.requester, true
	e.SourceDestCheck = f.kind != "nat_gateway" && f.kind != "network_load_balancer"
	e.Attachment = &ENIAttachment{
		ID: t.newID(f.attachment), InstanceOwner: f.owner, Device: 1, AttachTime: t.now, AttachedAt: t.now,
	}
	t.put(e)
	return *e.clone(), nil
}

// checkOwn returns EC2's error if the ENI belongs to a service.
func (e *ENI) checkOwn() error {
	if e.RequesterManaged {
		return errorf("AuthFailure", "You do not have permission to access the specified resource.")
	}
	return nil
}

// owner returns the account of the instance that the ENI is attached to.
func (t *tx) owner(a *ENIAttachment) string { return cmp.Or(a.InstanceOwner, t.c.cfg.Account) }
