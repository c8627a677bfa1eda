// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"strings"
	"time"
)

type attachIn struct {
	ID       string `ec2:"NetworkInterfaceId"`
	Instance string `ec2:"InstanceId"`
	Device   *int   `ec2:"DeviceIndex"`
	Card     int    `ec2:"NetworkCardIndex"`

	EnaQueues *int    `ec2:"EnaQueueCount"`
	EnaSRD    ignored `ec2:"EnaSrdSpecification"`
}

type attachOut struct {
	AttachmentID string `xml:"attachmentId"`
	Card         int    `xml:"networkCardIndex"`
}

func (t *tx) attachNetworkInterface(in attachIn) (attachOut, error) {
	var none attachOut
	e, err := t.mutableENI(in.ID)
	if err != nil {
		return none, err
	}
	if in.Instance == "" {
		return none, missing("instanceId")
	}
	if in.Device == nil {
		return none, missing("deviceIndex")
	}
	i := t.c.state.instances.found(t, in.Instance)
	if i == nil {
		return none, kindInstance.unknown(in.Instance)
	}
	at := position{instance: i, card: in.Card, device: *in.Device}
	if in.EnaQueues != nil {
		if at.queues = *in.EnaQueues; at.queues < 1 {
			return none, invalidValue("Value (%d) for parameter enaQueueCount is invalid.", at.queues)
		}
	}
	if err := t.checkAttach(e, at); err != nil {
		return none, err
	}
	e = t.attach(e, at, attachOptions{delay: t.c.delays.Attach})
	return attachOut{e.Attachment.ID, in.Card}, nil
}

// position is where an ENI is attached: an instance, a network card index and a
// device index. queues is the number of ENA queues, or 0 if EC2 chooses it.
type position struct {
	instance     *Instance
	card, device int
	queues       int
}

// checkAttach returns EC2's error if the ENI cannot be attached at the position.
func (t *tx) checkAttach(e *ENI, s position) error {
	it, id := t.typeOf(s.instance), s.instance.ID
	state := s.instance.State(t.now)
	switch {
	case e.Attachment != nil, e.Trunk != nil:
		return errorf("InvalidNetworkInterface.InUse", "Interface: [%s] in use.", e.ID)
	case state != "running" && state != "pending" && state != "stopped":
		return errorf("IncorrectState", "Instance '%s' is not in a valid state for this operation: %s", id, state)
	case e.Zone != s.instance.Zone:
		return errorf("InvalidParameterCombination",
			"You may not attach a network interface to an instance if they are not in the same availability zone")
	case s.device < 0:
		return invalidValue("Value (%d) for parameter deviceIndex is invalid.", s.device)
	case s.card < 0 || s.card >= len(it.ENIs):
		return invalidValue("The network card index %d is not valid for instance type %s.", s.card, it.Name)
	}
	count := 1
	for _, have := range t.attached(id, t.now) {
		if have.Attachment.Card != s.card {
			continue
		}
		if have.Attachment.Device == s.device {
			return invalidValue("Instance '%s' already has an interface attached at device index '%d'.", id, s.device)
		}
		count++
	}
	most := it.ENIs[s.card]
	if s.queues > 0 {
		most += it.flexible(s.card)
	}
	if count > most {
		return errorf("AttachmentLimitExceeded", "Interface count %d exceeds the limit for %s", count, it.Name)
	}
	return t.checkKind(e, s, it)
}

// checkKind returns EC2's error if the instance type does not support this type
// of interface, or not with so many addresses.
func (t *tx) checkKind(e *ENI, s position, it InstanceType) error {
	if e.Type == "trunk" {
		if it.Branches == 0 {
			return errorf("UnsupportedOperation", "Instance type %s does not support trunk network interfaces", it.Name)
		}
		for _, have := range t.attached(s.instance.ID, t.now) {
			if have.Type == "trunk" {
				return errorf("AttachmentLimitExceeded", "Instance '%s' already has a trunk network interface", s.instance.ID)
			}
		}
	}
	return e.slotUse().check(it)
}

// attachOptions are the properties of a new attachment.
type attachOptions struct {
	delay               time.Duration
	deleteOnTermination bool
	primary             bool
}

// attach attaches the ENI at the position.
func (t *tx) attach(e *ENI, s position, o attachOptions) *ENI {
	e = e.clone()
	e.Attachment = &ENIAttachment{
		ID: t.newID("eni-attach-"), Instance: s.instance.ID, Card: s.card, Device: s.device, EnaQueues: s.queues, Primary: o.primary,
		AttachTime: t.now, AttachedAt: t.now.Add(o.delay), DeleteOnTermination: o.deleteOnTermination,
	}
	t.put(e)
	if s.instance.hasDevices() {
		t.emit(Attached, e, s.instance.ID, nil)
	}
	return e
}

type detachIn struct {
	ID    string `ec2:"AttachmentId"`
	Force bool   `ec2:"Force"`
}

func (t *tx) detachNetworkInterface(in detachIn) (wireReturn, error) {
	if in.ID == "" {
		return wireReturn{}, missing("attachmentId")
	}
	e := t.byAttachment(in.ID)
	switch {
	case e == nil:
		return wireReturn{}, kindAttachment.unknown(in.ID)
	case strings.HasPrefix(in.ID, "ela-attach-"):
		return wireReturn{}, errorf("OperationNotPermitted", "You are not allowed to manage 'ela-attach' attachments.")
	case e.checkOwn() != nil:
		return wireReturn{}, e.checkOwn()
	case e.primary():
		return wireReturn{}, errorf("OperationNotPermitted",
			"The network interface at device index 0 and networkCard index %d cannot be detached.", e.Attachment.Card)
	case e.Attachment.Status(t.now) == "detaching" && !in.Force:
		return wireReturn{}, errorf("IncorrectState", "Attachment '%s' is detaching", in.ID)
	}
	e = e.clone()
	first := e.Attachment.DetachedAt.IsZero()
	e.Attachment.DetachedAt = t.now.Add(t.c.delays.Detach)
	t.put(e)
	if first && t.instance(e.Attachment.Instance).hasDevices() {
		t.emit(Detached, e, e.Attachment.Instance, nil)
	}
	return wireReturn{true}, nil
}

// byAttachment returns the ENI with the attachment of the given ID, nil if there is
// none.
func (t *tx) byAttachment(id string) *ENI {
	for _, h := range t.c.state.enis {
		if e := h.at(t.now).viewAt(t.now); e != nil && e.Attachment != nil && e.Attachment.ID == id {
			return e
		}
	}
	return nil
}

// primary reports whether e is the primary ENI of its instance.
func (e *ENI) primary() bool {
	return e.Attachment != nil && e.Attachment.Primary
}

type modifyENIIn struct {
	ID         string           `ec2:"NetworkInterfaceId"`
	Attachment *attachmentParam `ec2:"Attachment"`
	Describe   *stringValue     `ec2:"Description"`
	Groups     []string         `ec2:"SecurityGroupId"`
	Check      *boolValue       `ec2:"SourceDestCheck"`
	Tracking   *trackingParam   `ec2:"ConnectionTrackingSpecification"`
	// PrimaryIPv6 cannot be switched off again.
	PrimaryIPv6 *bool    `ec2:"EnablePrimaryIpv6"`
	Public      *bool    `ec2:"AssociatePublicIpAddress"`
	EnaSRD      *ignored `ec2:"EnaSrdSpecification"`
	Subnets     *ignored `ec2:"AssociatedSubnetId"`
}

type attachmentParam struct {
	ID                  string `ec2:"AttachmentId"`
	DeleteOnTermination *bool  `ec2:"DeleteOnTermination"`

	EnaQueues     *int  `ec2:"EnaQueueCount"`
	DefaultQueues *bool `ec2:"DefaultEnaQueueCount"`
}

type stringValue struct {
	Value string `ec2:"Value"`
}

type boolValue struct {
	Value bool `ec2:"Value"`
}

func (t *tx) modifyNetworkInterfaceAttribute(in modifyENIIn) (wireReturn, error) {
	e, err := t.mutableENI(in.ID)
	if err != nil {
		return wireReturn{}, err
	}
	e = e.clone()
	attributes := 0
	if in.Describe != nil {
		e.Description = in.Describe.Value
		attributes++
	}
	if in.Check != nil {
		e.SourceDestCheck = in.Check.Value
		attributes++
	}
	if in.Tracking != nil {
		e.Tracking = in.Tracking.value()
		attributes++
	}
	if len(in.Groups) > 0 {
		if e.Groups, err = t.groupsFor(in.Groups, e.VPC); err != nil {
			return wireReturn{}, err
		}
		attributes++
	}
	if in.Attachment != nil {
		if e.Attachment == nil || e.Attachment.ID != in.Attachment.ID {
			return wireReturn{}, kindAttachment.unknown(in.Attachment.ID)
		}
		switch a := in.Attachment; {
		case a.DeleteOnTermination != nil:
			e.Attachment.DeleteOnTermination = *a.DeleteOnTermination
		case a.EnaQueues != nil:
			e.Attachment.EnaQueues = *a.EnaQueues
		case a.DefaultQueues != nil:
			e.Attachment.EnaQueues = 0
		default:
			return wireReturn{}, missing("attachment.deleteOnTermination")
		}
		attributes++
	}
	more, err := t.modifyAddresses(e, in)
	if err != nil {
		return wireReturn{}, err
	}
	attributes += more
	if attributes != 1 {
		return wireReturn{}, errorf("InvalidParameterCombination", "Exactly one attribute must be specified, not %d", attributes)
	}
	t.put(e)
	return wireReturn{true}, nil
}

// modifyAddresses changes the attributes that concern addresses, and returns the
// number of further attributes that the call has.
func (t *tx) modifyAddresses(e *ENI, in modifyENIIn) (attributes int, err error) {
	if in.PrimaryIPv6 != nil {
		if e.PrimaryIPv6 && !*in.PrimaryIPv6 {
			return 0, errorf("InvalidParameterCombination", "The primary IPv6 address of %s cannot be disabled", e.ID)
		}
		e.PrimaryIPv6 = *in.PrimaryIPv6
		attributes++
	}
	if in.Public != nil {
		switch {
		case !*in.Public:
			e.Public = netip.Addr{}
		case e.Addr.IsValid() && !e.Public.IsValid():
			e.Public = t.newPublic()
		}
		attributes++
	}
	for _, p := range []*ignored{in.EnaSRD, in.Subnets} {
		if p != nil {
			attributes++
		}
	}
	return attributes, nil
}
