// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"cmp"
	"encoding/base64"
	"maps"
	"slices"
	"time"
)

// terminatedShown is how long DescribeInstances shows a terminated instance.
const terminatedShown = time.Hour

// launch describes an instance to run.
type launch struct {
	kind, image, reservation string
	operator, userData       string
	metadataTags             bool
	index                    int
	tags                     map[string]string
	metadataV1               bool
	enis                     []launchENI
}

// launchENI is an ENI that an instance starts with: the ENI with the given ID, or
// a new one.
type launchENI struct {
	id                  string
	spec                eniSpec
	card, device        int
	queues              int
	deleteOnTermination bool
	primary             bool
}

// run starts an instance. It changes nothing if it returns an error.
func (t *tx) run(l launch) (*Instance, error) {
	it, ok := t.c.InstanceType(l.kind)
	if !ok {
		return nil, invalidValue("Invalid value '%s' for InstanceType.", l.kind)
	}
	i := &Instance{
		ID: t.newID(kindInstance.prefix), Type: it.Name, Reservation: l.reservation, Image: l.image,
		LaunchedAt: t.now, RunningAt: t.now.Add(t.c.delays.Start), MetadataV1: l.metadataV1, Tags: l.tags, Operator: l.operator,
		MetadataTags: l.metadataTags, UserData: l.userData, LaunchIndex: l.index,
	}
	events := len(t.c.events)
	var created []*ENI
	for _, want := range l.enis {
		e, err := t.launchENI(i, want)
		if e != nil && want.id == "" {
			created = append(created, e)
		}
		if err != nil {
			for _, e := range created {
				t.free(t.now, e)
			}
			t.c.events = t.c.events[:events]
			return nil, err
		}
	}
	t.putInstance(i)
	return i, nil
}

// launchENI creates or finds an ENI and attaches it to the new instance.
func (t *tx) launchENI(i *Instance, want launchENI) (*ENI, error) {
	var e *ENI
	var err error
	if want.id != "" {
		e, err = t.mutableENI(want.id)
	} else {
		it := t.typeOf(i)
		want.spec.kind = cmp.Or(want.spec.kind, "interface")
		if subnet := t.subnet(want.spec.subnet); subnet != nil {
			want.spec.public = want.spec.public || want.primary && subnet.MapPublic
		}
		if want.primary {
			want.card = it.DefaultCard
		}
		want.spec.launching = true
		if err := t.checkLaunchGroups(want.spec); err != nil {
			return nil, err
		}
		e, err = t.create(want.spec)
	}
	if err != nil {
		return nil, err
	}
	if want.primary {
		i.VPC, i.Subnet, i.Zone = e.VPC, e.Subnet, e.Zone
	}
	at := position{instance: i, card: want.card, device: want.device, queues: want.queues}
	if err := t.checkAttach(e, at); err != nil {
		return e, err
	}
	return t.attach(e, at, attachOptions{deleteOnTermination: want.deleteOnTermination, primary: want.primary}), nil
}

// checkLaunchGroups returns EC2's error if a security group of a new instance does not
// exist. It differs from the one for a new ENI.
func (t *tx) checkLaunchGroups(s eniSpec) error {
	subnet := t.subnet(s.subnet)
	for _, id := range s.groups {
		if subnet == nil || t.c.state.groups.found(t, id) != nil {
			continue
		}
		err := kindGroup.unknown(id)
		if asAPIError(err).Code == kindGroup.malformed {
			return err
		}
		return errorf(kindGroup.notFound, "The security group '%s' does not exist in VPC '%s'", id, subnet.VPC)
	}
	return nil
}

type launchENIParam struct {
	addressParams
	ID                  string         `ec2:"NetworkInterfaceId"`
	Device              int            `ec2:"DeviceIndex"`
	Card                int            `ec2:"NetworkCardIndex"`
	Subnet              string         `ec2:"SubnetId"`
	Description         string         `ec2:"Description"`
	Groups              []string       `ec2:"SecurityGroupId"`
	Type                string         `ec2:"InterfaceType"`
	Public              bool           `ec2:"AssociatePublicIpAddress"`
	Carrier             ignored        `ec2:"AssociateCarrierIpAddress"`
	DeleteOnTermination *bool          `ec2:"DeleteOnTermination"`
	PrimaryIPv6         bool           `ec2:"PrimaryIpv6"`
	Tracking            *trackingParam `ec2:"ConnectionTrackingSpecification"`
	EnaQueues           int            `ec2:"EnaQueueCount"`
	EnaSRD              ignored        `ec2:"EnaSrdSpecification"`
}

type metadataOptionsParam struct {
	Tokens   string `ec2:"HttpTokens"`
	HopLimit int    `ec2:"HttpPutResponseHopLimit"`
	Endpoint string `ec2:"HttpEndpoint"`
	IPv4     string `ec2:"HttpProtocolIpv4"`
	IPv6     string `ec2:"HttpProtocolIpv6"`
	Tags     string `ec2:"InstanceMetadataTags"`
}

// machineParams are the parameters of RunInstances that do not concern its
// network.
type machineParams struct {
	Devices      ignored `ec2:"BlockDeviceMapping"`
	Capacity     ignored `ec2:"CapacityReservationSpecification"`
	CPU          ignored `ec2:"CpuOptions"`
	Credit       ignored `ec2:"CreditSpecification"`
	NoStop       ignored `ec2:"DisableApiStop"`
	NoTerminate  ignored `ec2:"DisableApiTermination"`
	EBSOptimized ignored `ec2:"EbsOptimized"`
	Enclave      ignored `ec2:"EnclaveOptions"`
	Hibernation  ignored `ec2:"HibernationOptions"`
	Profile      ignored `ec2:"IamInstanceProfile"`
	Shutdown     ignored `ec2:"InstanceInitiatedShutdownBehavior"`
	Market       ignored `ec2:"InstanceMarketOptions"`
	KeyName      ignored `ec2:"KeyName"`
	Maintenance  ignored `ec2:"MaintenanceOptions"`
	Monitoring   ignored `ec2:"Monitoring"`
	Placement    ignored `ec2:"Placement"`
	DNS          ignored `ec2:"PrivateDnsNameOptions"`
	Kernel       ignored `ec2:"KernelId"`
	License      ignored `ec2:"LicenseSpecification"`
	Performance  ignored `ec2:"NetworkPerformanceOptions"`
	Inference    ignored `ec2:"ElasticInferenceAccelerator"`
	GPU          ignored `ec2:"ElasticGpuSpecification"`
}

type runIn struct {
	addressParams
	machineParams
	Image       string               `ec2:"ImageId"`
	Type        string               `ec2:"InstanceType"`
	Min         int                  `ec2:"MinCount"`
	Max         int                  `ec2:"MaxCount"`
	Subnet      string               `ec2:"SubnetId"`
	Groups      []string             `ec2:"SecurityGroupId"`
	ENIs        []launchENIParam     `ec2:"NetworkInterface"`
	Tags        []tagSpecParam       `ec2:"TagSpecification"`
	Metadata    metadataOptionsParam `ec2:"MetadataOptions"`
	ClientToken string               `ec2:"ClientToken"`
	GroupNames  []string             `ec2:"SecurityGroup"`
	UserData    string               `ec2:"UserData"`
	IPv6Addrs   []ipv6AddrParam      `ec2:"Ipv6Address"`
	PrimaryIPv6 bool                 `ec2:"EnablePrimaryIpv6"`
	Template    *launchTemplateParam `ec2:"LaunchTemplate"`
}

// runTaggable are the types of the resources that RunInstances can tag.
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html
var runTaggable = []string{"instance", "network-interface", "volume", "spot-instances-request"}

// runOut is the reservation with the instances that the call has started.
type runOut struct {
	wireReservation
}

func (t *tx) runInstances(in runIn) (runOut, error) {
	if err := t.fromTemplate(&in); err != nil {
		return runOut{}, err
	}
	switch {
	case in.Image == "":
		return runOut{}, missing("ImageId")
	case len(in.ENIs) > 0 && (in.Subnet != "" || len(in.Groups)+len(in.GroupNames) > 0):
		return runOut{}, errorf("InvalidParameterCombination",
			"Network interfaces and an instance-level subnet ID or security groups may not be specified on the same request")
	case in.Min < 1 || in.Max < in.Min:
		return runOut{}, invalidValue("Invalid value for the number of instances: %d to %d", in.Min, in.Max)
	}
	tags, err := tagsFor("instance", in.Tags, runTaggable...)
	if err != nil {
		return runOut{}, err
	}
	eniTags, err := tagsFor("network-interface", in.Tags, runTaggable...)
	if err != nil {
		return runOut{}, err
	}
	userData, err := base64.StdEncoding.DecodeString(in.UserData)
	if err != nil {
		return runOut{}, invalidValue("Invalid BASE64 encoding of user data")
	}
	if err := t.resolveGroups(&in); err != nil {
		return runOut{}, err
	}
	l := launch{
		kind: cmp.Or(in.Type, "m1.small"), image: in.Image, reservation: t.newID("r-"), tags: tags,
		metadataV1: in.Metadata.Tokens == "optional", metadataTags: in.Metadata.Tags == "enabled", userData: string(userData),
	}
	if l.enis, err = in.launchENIs(t.primaryCard(in, l.kind)); err != nil {
		return runOut{}, err
	}
	for i := range l.enis {
		l.enis[i].spec.tags = eniTags
		if id, subnet := l.enis[i].id, l.enis[i].spec.subnet; id == "" && subnet == "" {
			return runOut{}, errorf("VPCIdNotSpecified", "No default VPC for this user")
		}
	}
	out := runOut{wireReservation{ID: l.reservation, OwnerID: t.c.cfg.Account}}
	for n := range in.Max {
		l.index = n
		i, err := t.run(l)
		if err != nil && n < in.Min {
			return runOut{}, t.undoRun(out, err)
		}
		if err != nil {
			break
		}
		out.Instances.Items = append(out.Instances.Items, t.wireInstance(i))
	}
	return out, nil
}

// resolveGroups adds the IDs of the security groups that the call names.
func (t *tx) resolveGroups(in *runIn) error {
	vpc := ""
	if s := t.subnet(in.Subnet); s != nil {
		vpc = s.VPC
	}
	for _, name := range in.GroupNames {
		all := t.c.state.groups.all(t.now)
		index := slices.IndexFunc(all, func(g *SecurityGroup) bool { return g.VPC == vpc && g.Name == name })
		if index < 0 {
			return errorf(kindGroup.notFound, "The security group '%s' does not exist", name)
		}
		in.Groups = append(in.Groups, all[index].ID)
	}
	return nil
}

// undoRun removes the instances of a call that did not start enough of them.
func (t *tx) undoRun(out runOut, err error) error {
	for _, w := range out.Instances.Items {
		for _, e := range t.attached(w.ID, t.now) {
			t.emit(Detached, e, w.ID, nil)
			t.free(t.now, e)
		}
		t.c.state.instances.set(t, w.ID, nil)
	}
	return err
}

// primaryCard returns the network card of the primary ENI among the ENIs of a call: the
// default card of the type, or card 0 if the call has no device 0 there.
func (t *tx) primaryCard(in runIn, kind string) int {
	it, _ := t.c.InstanceType(kind)
	if slices.ContainsFunc(in.ENIs, func(p launchENIParam) bool { return p.Device == 0 && p.Card == it.DefaultCard }) {
		return it.DefaultCard
	}
	return 0
}

// launchENIs returns the ENIs that each instance starts with. The primary ENI is device 0
// of the given card.
func (in runIn) launchENIs(card int) ([]launchENI, error) {
	if len(in.ENIs) == 0 {
		l := launchENI{primary: true, deleteOnTermination: true, spec: eniSpec{
			subnet: in.Subnet, groups: in.Groups, primaryIPv6: in.PrimaryIPv6,
		}}
		in.IPv6 = append(in.IPv6, in.IPv6Addrs...)
		err := in.setAddrs(&l.spec)
		return []launchENI{l}, err
	}
	var all []launchENI
	for _, p := range in.ENIs {
		l := launchENI{
			id: p.ID, card: p.Card, device: p.Device, queues: p.EnaQueues, primary: p.Device == 0 && p.Card == card,
			deleteOnTermination: p.ID == "" && (p.DeleteOnTermination == nil || *p.DeleteOnTermination),
			spec: eniSpec{
				subnet: p.Subnet, description: p.Description, groups: p.Groups, kind: p.Type,
				noIPv4: p.Type == "efa-only", public: p.Public, tracking: p.Tracking.value(),
				primaryIPv6: p.PrimaryIPv6,
			},
		}
		if err := p.setAddrs(&l.spec); err != nil {
			return nil, err
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b launchENI) int {
		if a.primary != b.primary {
			if a.primary {
				return -1
			}
			return 1
		}
		return cmp.Or(a.card-b.card, a.device-b.device)
	})
	if !slices.ContainsFunc(all, func(l launchENI) bool { return l.primary }) {
		return nil, invalidValue("A network interface with device index 0 is required.")
	}
	return all, nil
}

type terminateIn struct {
	IDs            []string `ec2:"InstanceId"`
	Force          bool     `ec2:"Force"`
	SkipOSShutdown bool     `ec2:"SkipOsShutdown"`
}

func (t *tx) terminateInstances(in terminateIn) (stateChangesOut, error) {
	all, err := t.named(in.IDs, "terminated", slices.Collect(maps.Keys(stateCodes))...)
	if err != nil {
		return stateChangesOut{}, err
	}
	var out stateChangesOut
	for _, before := range all {
		after := t.terminate(before)
		out.Instances.Items = append(out.Instances.Items,
			wireStateChange{before.ID, stateOf(after.State(t.now)), stateOf(before.State(t.now))})
	}
	return out, nil
}

// terminate shuts an instance down and detaches its ENIs. ENIs with
// delete-on-termination are deleted when the instance is terminated.
func (t *tx) terminate(i *Instance) *Instance {
	if !i.TerminatingAt.IsZero() {
		return i
	}
	devices := i.hasDevices()
	i = i.clone()
	i.TerminatingAt, i.TerminatedAt = t.now, t.now.Add(t.c.delays.Terminate)
	t.putInstance(i)
	for _, e := range t.attached(i.ID, t.now) {
		e = e.clone()
		if e.Attachment.DetachedAt.IsZero() && devices {
			t.emit(Detached, e, i.ID, nil)
		}
		e.Attachment.DetachedAt = i.TerminatedAt
		if e.Attachment.DeleteOnTermination {
			t.c.state.deleteAt[e.ID] = i.TerminatedAt
		}
		t.put(e)
	}
	return i
}

// TerminateInstance terminates an instance, as the action TerminateInstances does.
func (c *Cloud) TerminateInstance(id string) error {
	t := c.begin()
	_, err := t.terminateInstances(terminateIn{IDs: []string{id}})
	t.end()
	c.deliver()
	return err
}
