// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/instancetype"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/warmpool"
)

// Config configures an [Agent]. The zero value is an agent that serves IPv4 pods in
// the flat layout, with the default paths of package cniplugin, and writes no CNI
// configuration.
type Config struct {
	// Socket is the unix socket on which the CNI plugin asks for addresses. Empty means
	// cniplugin.DefaultSocket. It may have at most 103 bytes.
	Socket string
	// StateDir is the directory for the state that must survive a restart. Empty means
	// cniplugin.DefaultStateDir. Only one agent at a time can use it.
	StateDir string
	// Conflist is the file to which the CNI configuration is written when the first
	// address can be given to a pod. Empty means no file.
	// An operator's edits of it stay.
	Conflist string
	// ConflistFormat is the form of the CNI configuration. Empty means FormatVPCNet.
	ConflistFormat ConflistFormat
	// PluginDir is the directory in which the runtime finds plugins. Empty means
	// /opt/cni/bin.
	PluginDir string
	// NoPortmap leaves upstream's portmap out of the CNI configuration, which otherwise is
	// in it if PluginDir has its binary: without it hostPort has no effect.
	NoPortmap bool
	// Bandwidth adds upstream's bandwidth.
	Bandwidth bool
	// DisablePodIPv6 adds upstream's tuning, which switches IPv6 off in pods.
	DisablePodIPv6 bool
	// EgressIPv6 adds egress-cni, so that pods with IPv4 addresses reach IPv6 destinations by
	// the node's IPv6 address. EgressIPv4 does so for pods with IPv6 addresses. Pods with
	// addresses of both families need neither.
	EgressIPv6, EgressIPv4 bool
	// PluginLogFile and PluginLogLevel are where and what the plugins log; see
	// cniplugin.NetConf.
	PluginLogFile, PluginLogLevel string

	// Policy decides how much spare capacity the node has. Nil means the dead band of
	// package warmpool with its default settings.
	Policy warmpool.Policy
	// Families are the families of addresses that each pod gets. Empty means IPv4. The
	// IPv6 addresses come from /80 prefixes, one on each ENI, and need a subnet with IPv6.
	Families []ipam.Family
	// Prefixes assigns /28 prefixes to ENIs instead of single addresses, if the
	// instance type supports them.
	Prefixes bool
	// EachCard serves all network cards of the instance: pods that ask for it by
	// [NICAnnotation] get an interface on each. A card that only an EFA-only ENI uses is left
	// alone. Otherwise only the card of the primary ENI serves pods.
	EachCard bool
	// MaxENIs limits the ENIs of each network card. Zero means the limit of the
	// instance type.
	MaxENIs int
	// PodENI gives pods that ask for security groups a branch ENI each. The agent creates
	// a trunk ENI for them, on instance types that can have one. The names are those of
	// amazon-vpc-cni-k8s: ENABLE_POD_ENI.
	PodENI bool
	// Enforcement says which packets of such pods pass their security groups. Empty means
	// datapath.Strict. It changes only at a start without such pods.
	Enforcement datapath.Enforcement
	// BranchCooldown is how long a branch ENI is kept after its pod has ended. Zero means
	// 60 s, as amazon-vpc-resource-controller-k8s has it.
	BranchCooldown time.Duration
	// WholeENIs is how many pods can have an ENI of their own. The pool leaves as many
	// ENIs of the primary ENI's network card to them.
	WholeENIs int
	// NodePrefixes are prefixes outside of the VPC, at most one of each family, of which
	// pods in networks with the mode bridge get their addresses, as kubenet has it. The
	// agent switches off the source/destination check of the primary ENI. ExcludeSNAT must
	// have the prefixes of all nodes.
	NodePrefixes []netip.Prefix
	// Bridge is the name of the bridge of such pods. Empty means cbr0.
	Bridge string
	// RouteTables are the IDs of the VPC route tables in which the agent creates routes for
	// NodePrefixes to the primary ENI.
	RouteTables []string
	// MaxPods limits the pods, including those with ENIs of their own. Zero means no limit
	// but that of the ENIs.
	MaxPods int
	// Cooldown is how long a released address rests before another pod can get it. Zero
	// means 30 s, and a negative value none.
	Cooldown time.Duration

	// Subnets and Groups choose the subnets and security groups of the pods' ENIs. Nil
	// means those of the primary ENI. [Networks] is both.
	Subnets eni.SubnetSelector
	Groups  eni.GroupSelector
	// NoPrimaryPods keeps pods off the primary ENI, because it has other subnets or
	// groups than Subnets and Groups choose.
	NoPrimaryPods bool

	// Layout is how pods are routed. Empty means datapath.Flat.
	Layout datapath.Layout
	// ENIMTU is the MTU of the ENIs in bytes. Zero means 9001.
	ENIMTU int
	// PodMTU is the MTU of pod links in bytes, at most ENIMTU. Zero means ENIMTU.
	PodMTU int
	// HostLinkPrefix is the beginning of the names of pods' host links. Empty means
	// "eni".
	HostLinkPrefix string
	// ServicePrefixes are destinations that pods always reach by the primary ENI.
	ServicePrefixes []netip.Prefix
	// RefuseMetadata keeps pods from the instance metadata service.
	RefuseMetadata bool
	// Accelerate lets packets of established flows of pods pass from link to link by a
	// flowtable, see datapath.Node.Accelerate. Pods that a network policy limits are left
	// out. On a kernel without flowtables the agent warns, and goes on without.
	Accelerate bool

	// ExternalSNAT leaves the translation of sources to another device, such as a NAT
	// gateway.
	ExternalSNAT bool
	// ExcludeSNAT are destinations outside of the VPC to which packets keep the
	// addresses of pods.
	ExcludeSNAT []netip.Prefix
	// SNATBackend has the rules of the translation: snat.Nftables, snat.Iptables or
	// AutoBackend. Empty means AutoBackend. The other one is emptied of rules of an earlier
	// agent.
	SNATBackend snat.Backend
	// RandomPorts is how source ports are chosen. Empty means snat.RandomPRNG.
	RandomPorts snat.Random
	// NoNodePorts switches off the marks that send the replies of a connection to an
	// ENI's own address by the same ENI.
	NoNodePorts bool

	// Policies knows what pods may receive and send. Nil means that nothing limits them.
	// The class of a pod is in the kernel before the plugin gets the pod's addresses, and
	// until its DEL.
	Policies Policies
	// PolicyMode says what a new pod may do as long as Policies does not know its class.
	// Empty means PolicyStandard.
	PolicyMode PolicyMode
	// PolicyLogLimit is how many denied packets a second are logged for each class and each of
	// its directions. 0 logs none.
	PolicyLogLimit int

	// Cluster is the name of the cluster, with which created ENIs are tagged.
	Cluster string
	// ENITags are further tags of created ENIs.
	ENITags map[string]string
	// EC2Endpoint and MetadataEndpoint are URLs. Empty means those of the AWS SDK's
	// configuration.
	EC2Endpoint, MetadataEndpoint string
	// HTTPTimeout limits one request to EC2 or the metadata service. Zero means 10 s.
	HTTPTimeout time.Duration

	// Demand knows the pods that are bound to the node, so that the pool grows before the
	// runtime asks for their addresses. Nil means that only waiting pods are known.
	Demand agent.Demand

	// Handler answers requests at Socket that are not of the plugin's protocol, from the
	// users that may call the agent: root and the user that runs it. Nil means that there
	// are none.
	Handler http.Handler
	Hooks   Hooks
	// Logger receives every decision. Nil discards.
	Logger *slog.Logger
}

// Hooks are calls into the program that embeds an agent. Each is optional. They are
// called from several goroutines, also at the same time.
type Hooks struct {
	// Complete returns the request of an ADD with what the program knows of the pod beside
	// it, such as an address that the pod asks for. It is called before the other hooks. An
	// error fails the ADD.
	Complete func(context.Context, cniplugin.AddRequest) (cniplugin.AddRequest, error)
	// SecurityGroups returns the security groups of a pod if its request names none. A pod
	// with groups gets a branch ENI. An error fails the ADD.
	SecurityGroups func(context.Context, cniplugin.AddRequest) ([]string, error)
	// BeforeReply is called when a pod has its addresses, before the plugin gets them.
	// After an error the addresses of a new allocation are released again, and the
	// plugin gets the error.
	BeforeReply func(context.Context, cniplugin.AddRequest, []ipam.Allocation) error
	// AfterDel is called when the addresses of a pod were released: by a DEL, by a
	// tombstone, or because its sandbox has ended without a DEL. A further DEL does not
	// call it.
	AfterDel func([]ipam.Allocation)
	// Requested is called after each ADD and DEL of a plugin.
	Requested func(Request)
	// Called is called after each attempt of a call to EC2.
	Called func(eni.Call)
	// Repaired is called after a repair of the network of the node or its pods.
	Repaired func(datapath.Repair)
	// Translated is called after a repair of the source translation.
	Translated func(snat.Repair)
	// Event is called for each event that [Status] lists.
	Event func(agent.Event)
}

// Request is an ADD or DEL of a plugin, for metrics and events.
type Request struct {
	// Call is add or del.
	Call string
	// Pod is the pod, if the runtime has named it.
	Pod cniplugin.Pod
	// Took is the time from the request to the answer.
	Took time.Duration
	// Failed means that the plugin got an error, and Reason is the reason in it, if any.
	Failed bool
	Reason string
	// Exhausted means that there was no address.
	Exhausted bool
	// Err is the error that the plugin got, a *cniplugin.AgentError.
	Err error
}

const (
	defaultENIMTU      = 9001
	defaultLinkPrefix  = "eni"
	defaultBridge      = "cbr0" // as kubenet
	defaultPluginDir   = "/opt/cni/bin"
	defaultHTTPTimeout = 10 * time.Second
	// defaultBranchCooldown is that of amazon-vpc-resource-controller-k8s.
	defaultBranchCooldown = time.Minute
	// maxSocket is the longest path that server.Listen accepts. It is less than the
	// 107 bytes that the path of a unix socket can have.
	maxSocket = 103
)

// ErrConfig is wrapped by the errors for a [Config] that an agent cannot have.
var ErrConfig = errors.New("ipamd configuration")

// withDefaults returns the configuration with the defaults in the place of zero values.
func (c Config) withDefaults() (Config, error) {
	c.Socket = cmp.Or(c.Socket, cniplugin.DefaultSocket)
	c.StateDir = cmp.Or(c.StateDir, cniplugin.DefaultStateDir)
	c.Layout = cmp.Or(c.Layout, datapath.Flat)
	c.ENIMTU = cmp.Or(c.ENIMTU, defaultENIMTU)
	c.PodMTU = cmp.Or(c.PodMTU, c.ENIMTU)
	c.HostLinkPrefix = cmp.Or(c.HostLinkPrefix, defaultLinkPrefix)
	if len(c.Families) == 0 {
		c.Families = []ipam.Family{ipam.IPv4}
	}
	c.RandomPorts = cmp.Or(c.RandomPorts, snat.RandomPRNG)
	c.SNATBackend = cmp.Or(c.SNATBackend, AutoBackend)
	c.HTTPTimeout = cmp.Or(c.HTTPTimeout, defaultHTTPTimeout)
	c.Enforcement = cmp.Or(c.Enforcement, datapath.Strict)
	c.PolicyMode = cmp.Or(c.PolicyMode, PolicyStandard)
	c.Bridge = cmp.Or(c.Bridge, defaultBridge)
	c.ConflistFormat = cmp.Or(c.ConflistFormat, FormatVPCNet)
	c.PluginDir = cmp.Or(c.PluginDir, defaultPluginDir)
	c.BranchCooldown = cmp.Or(c.BranchCooldown, defaultBranchCooldown)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Policy == nil {
		band, err := warmpool.PolicyByName("band", nil)
		if err != nil {
			return c, err
		}
		c.Policy = band
	}
	return c, c.validate()
}

// validate checks a configuration that has its defaults.
func (c *Config) validate() error {
	bad := ""
	switch {
	case len(c.Socket) > maxSocket:
		bad = fmt.Sprintf("Socket %s has %d bytes, want at most %d", c.Socket, len(c.Socket), maxSocket)
	case c.Layout != datapath.Flat && c.Layout != datapath.PerPod:
		bad = fmt.Sprintf("Layout %q, want %s or %s", c.Layout, datapath.Flat, datapath.PerPod)
	case c.PodMTU < 0 || c.ENIMTU < 0 || c.PodMTU > c.ENIMTU:
		bad = fmt.Sprintf("PodMTU %d, want at most ENIMTU %d", c.PodMTU, c.ENIMTU)
	case c.SNATBackend != AutoBackend && c.SNATBackend != snat.Nftables && c.SNATBackend != snat.Iptables:
		bad = fmt.Sprintf("SNATBackend %q, want %s, %s or %s", c.SNATBackend, AutoBackend, snat.Nftables, snat.Iptables)
	case c.ConflistFormat != FormatVPCNet && c.ConflistFormat != FormatAWS:
		bad = fmt.Sprintf("ConflistFormat %q, want %s or %s", c.ConflistFormat, FormatVPCNet, FormatAWS)
	case c.DisablePodIPv6 && slices.Contains(c.Families, ipam.IPv6):
		bad = "DisablePodIPv6 with IPv6 in Families, want either"
	case !validFamilies(c.Families):
		bad = fmt.Sprintf("Families %v, want IPv4 and IPv6, each at most once", c.Families)
	case c.Enforcement != datapath.Strict && c.Enforcement != datapath.Standard:
		bad = fmt.Sprintf("Enforcement %q, want %s or %s", c.Enforcement, datapath.Strict, datapath.Standard)
	case c.PolicyLogLimit < 0:
		bad = fmt.Sprintf("PolicyLogLimit %d, want 0 or more", c.PolicyLogLimit)
	case c.PolicyMode != PolicyStandard && c.PolicyMode != PolicyStrict && c.PolicyMode != PolicyNone:
		bad = fmt.Sprintf("PolicyMode %q, want %s, %s or %s", c.PolicyMode, PolicyStandard, PolicyStrict, PolicyNone)
	case c.MaxENIs < 0 || c.MaxPods < 0 || c.WholeENIs < 0 || c.HTTPTimeout < 0 || c.BranchCooldown < 0:
		bad = fmt.Sprintf("MaxENIs %d, MaxPods %d, WholeENIs %d, HTTPTimeout %v, BranchCooldown %v: want none below 0", c.MaxENIs, c.MaxPods, c.WholeENIs, c.HTTPTimeout, c.BranchCooldown)
	}
	if bad != "" {
		return fmt.Errorf("%w: %s", ErrConfig, bad)
	}
	if err := datapath.ValidateHostLinkPrefix(c.HostLinkPrefix); err != nil {
		return fmt.Errorf("%w: HostLinkPrefix: %w", ErrConfig, err)
	}
	if err := errors.Join(datapath.ValidateLinkName(c.Bridge), validNodePrefixes(c.NodePrefixes)); err != nil {
		return fmt.Errorf("%w: Bridge, NodePrefixes: %w", ErrConfig, err)
	}
	if _, err := (cniplugin.Conflist{Conf: cniplugin.NetConf{LogFile: c.PluginLogFile, LogLevel: c.PluginLogLevel}}).JSON(); err != nil {
		return fmt.Errorf("%w: PluginLogFile, PluginLogLevel: %w", ErrConfig, err)
	}
	if err := warmpool.CheckPolicy(c.Policy); err != nil {
		return fmt.Errorf("%w: Policy: %w", ErrConfig, err)
	}
	return nil
}

func validFamilies(all []ipam.Family) bool {
	for i, f := range all {
		if f != ipam.IPv4 && f != ipam.IPv6 || slices.Contains(all[:i], f) {
			return false
		}
	}
	return true
}

// prefixes reports whether slots hold prefixes: the configuration asks for them and the
// instance type supports them.
func (c *Config) prefixes(l instancetype.Limits) bool { return c.Prefixes && l.Nitro }

// limits returns the limits of each network card. Those of the cards that do not serve
// pods stay zero.
func (c *Config) limits(l instancetype.Limits, cards []int) []warmpool.Limits {
	all := make([]warmpool.Limits, slices.Max(cards)+1)
	perSlot := 1
	if c.prefixes(l) {
		perSlot = instancetype.PrefixSize
	}
	for _, card := range cards {
		enis := l.MaxENIs(card)
		if c.MaxENIs > 0 {
			enis = min(enis, c.MaxENIs)
		}
		if card == l.DefaultCard {
			enis = max(enis-c.reserved(l), 1)
		}
		all[card] = warmpool.Limits{MaxENIs: enis, SlotsPerENI: l.SlotsPerENI(), AddressesPerSlot: perSlot, MaxPods: c.MaxPods}
	}
	return all
}
