// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
	"github.com/vpcnet/vpcnet/warmpool"
)

// Settings are the values of all settings.
type Settings struct {
	// Config is the configuration of the agent, but for what the other fields say.
	ipamd.Config
	// warmPolicy is the name of a policy of package warmpool, or auto. The targets belong
	// to the policy aws.
	warmPolicy       string
	WarmENITarget    int
	WarmIPTarget     int
	minimumIPTarget  int
	warmPrefixTarget int
	// enableIPv4 and enableIPv6 are the families of addresses that pods get.
	enableIPv4, enableIPv6 bool
	// CustomNetwork takes the subnets and groups of pods from podNetworks, a file, or from
	// podSubnets and podGroups. podNetwork is the name of a network in the file.
	CustomNetwork bool
	podNetworks   string
	podNetwork    string
	podSubnets    []string
	podGroups     []string
	// SubnetDiscovery takes the subnets of pods from tags.
	SubnetDiscovery bool
	// maxENI limits the ENIs of each network card. Zero and -1 mean no limit.
	maxENI int
	// cooldownPeriod is how long a released address rests. Zero means not at all.
	cooldownPeriod time.Duration
	// configFile is the file with further settings.
	configFile string
	// Status is the unix socket on which the program shows its status. Introspection is where
	// it does so as amazon-vpc-cni-k8s does, unless NoIntrospection is set, and Metrics is
	// where its metrics are, unless NoMetrics is set. Empty means nowhere.
	Status          string
	Introspection   string
	NoIntrospection bool
	Metrics         string
	NoMetrics       bool
	// LogFile is where the program logs, and logLevel what.
	LogFile  string
	logLevel string
	// Root is the directory in front of the paths of the commands install and uninstall, and
	// Preflight is what install does about other programs: PreflightReport, PreflightWrite or
	// PreflightOff. NoTCPEarlyDemux switches off tcp_early_demux.
	Root            string
	Preflight       string
	NoTCPEarlyDemux bool
	// NetworkPolicies is a file with the network policies of pods, which the program
	// follows.
	NetworkPolicies string

	// given has the names of the settings that were set.
	given map[string]bool
	// networks is the content of podNetworks, which Agent reads.
	networks string
	// warnings are those of Warnings.
	warnings []string
}

// unset is the value of a target that means that it is not set.
const unset = -1

// levelFatal is a level of amazon-vpc-cni-k8s above error. The agent has nothing to log
// at it.
const levelFatal = "fatal"

// The values of Settings.LogFile that are not paths.
const (
	LogStdout = "stdout"
	LogStderr = "stderr"
)

// The names of warm pool policies. auto means aws if one of its targets is set, and
// band otherwise.
const (
	policyAuto = "auto"
	policyAWS  = "aws"
	policyBand = "band"
)

// The paths of the CNI configuration in the two formats.
const (
	conflistVPCNet = "/etc/cni/net.d/10-vpcnet.conflist"
	conflistAWS    = "/etc/cni/net.d/10-aws.conflist"
)

// The values of Settings.Preflight.
const (
	PreflightReport = "report"
	PreflightWrite  = "write"
	PreflightOff    = "off"
)

func defaults() Settings {
	return Settings{
		Config: ipamd.Config{
			Layout:         datapath.Flat,
			ENIMTU:         9001,
			HostLinkPrefix: "eni",
			SNATBackend:    ipamd.AutoBackend,
			RandomPorts:    snat.RandomPRNG,
			HTTPTimeout:    10 * time.Second,
			Enforcement:    datapath.Strict,
			PolicyMode:     ipamd.PolicyStandard,
			Bridge:         "cbr0",
			BranchCooldown: time.Minute,
			Socket:         cniplugin.DefaultSocket,
			StateDir:       cniplugin.DefaultStateDir,
			Conflist:       conflistVPCNet,
			ConflistFormat: ipamd.FormatVPCNet,
			PluginDir:      "/opt/cni/bin",
			EgressIPv4:     true,
		},
		enableIPv4:     true,
		warmPolicy:     policyAuto,
		WarmENITarget:  1,
		cooldownPeriod: 30 * time.Second,
		Status:         "/run/vpcnet/status.sock",
		Introspection:  "127.0.0.1:61679",
		Metrics:        ":61678",
		LogFile:        LogStderr,
		logLevel:       "info",
		Root:           "/",
		Preflight:      PreflightReport,
	}
}

// option is the flag, environment variable and help of one setting. The variable has
// the name that amazon-vpc-cni-k8s gives it, if any, and otherwise begins with
// VPCNET_.
type option struct {
	group string
	name  string
	env   string
	arg   string // placeholder of the value in the help
	help  string
	value value
}

// options lists every setting in the order of the help.
func (s *Settings) options() []option {
	return slices.Concat(s.poolOptions(), s.placementOptions(), s.ownPodOptions(), s.kernelOptions(), s.snatOptions(), s.policyOptions(), s.cloudOptions(), s.conflistOptions(), s.processOptions(), s.installOptions())
}

func (s *Settings) poolOptions() []option {
	const group = "Warm pool and addresses"
	return []option{
		{group, "warm-policy", "VPCNET_WARM_POLICY", "POLICY", "Policy that decides how much spare capacity the node keeps, as NAME or NAME:key=value,...; `vpcctl pool sim -help` lists names and keys. aws without keys follows the four targets below as amazon-vpc-cni-k8s does; band is a dead band that needs no setting; auto is aws if one of the targets is set and band otherwise.", policyValue(&s.warmPolicy).live()},
		{group, "warm-eni-target", "WARM_ENI_TARGET", "N", "Keep as many free addresses as N whole ENIs have. Overridden by the two IP targets; not used with prefixes. -1 means not set, also for the three targets below.", intValue(&s.WarmENITarget, unset, 1000).live()},
		{group, "warm-ip-target", "WARM_IP_TARGET", "N", "Keep N addresses free. 0 means not set.", intValue(&s.WarmIPTarget, unset, 100000).live()},
		{group, "minimum-ip-target", "MINIMUM_IP_TARGET", "N", "Hold at least N addresses, free or in use. 0 means not set.", intValue(&s.minimumIPTarget, unset, 100000).live()},
		{group, "warm-prefix-target", "WARM_PREFIX_TARGET", "N", "Keep N delegated prefixes wholly free. Used with prefixes only; overridden by the two IP targets.", intValue(&s.warmPrefixTarget, unset, 10000).live()},
		{group, "enable-ipv4", "ENABLE_IPv4", "", "Give each pod an IPv4 address.", boolValue(&s.enableIPv4).drain()},
		{group, "enable-ipv6", "ENABLE_IPv6", "", "Give each pod an IPv6 address, from a /80 prefix of the ENI. With both families a pod has one address of each.", boolValue(&s.enableIPv6).drain()},
		{group, "enable-prefix-delegation", "ENABLE_PREFIX_DELEGATION", "", "Assign /28 prefixes to ENIs instead of single addresses.", boolValue(&s.Prefixes)},
		{group, "enable-multi-nic", "ENABLE_MULTI_NIC", "", "Serve all network cards of the instance, and give pods with the annotation k8s.amazonaws.com/nicConfig=multi-nic-attachment an interface on each. Cards that only an EFA-only ENI uses are left alone.", boolValue(&s.EachCard).drain()},
		{group, "max-eni", "MAX_ENI", "N", "Use at most N ENIs of each network card. 0 or -1 means what the instance type allows.", intValue(&s.maxENI, -1, 1000).live()},
		{group, "max-pods", "VPCNET_MAX_PODS", "N", "Give addresses to at most N pods. 0 means as many as the ENIs have addresses for.", intValue(&s.MaxPods, 0, 100000).live()},
		{group, "ip-cooldown-period", "IP_COOLDOWN_PERIOD", "SECONDS", "How long a released address cools before another pod can get it.", secondsValue(&s.cooldownPeriod).live()},
	}
}

// placementGroup is the group of the settings that say where pods' ENIs are.
const placementGroup = "Subnets and security groups of pods"

func (s *Settings) placementOptions() []option {
	const group = placementGroup
	return []option{
		{group, "custom-network", "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "", "Give pods the subnets and security groups of -pod-networks, or of -pod-subnets and -pod-security-groups. The primary ENI then has no pods, and the node has fewer: `vpcctl max-pods -custom-networking`.", boolValue(&s.CustomNetwork).drain()},
		{group, "pod-networks", "VPCNET_POD_NETWORKS", "FILE", `JSON file with the networks of pods by name: {"us-west-2a":{"subnets":["subnet-0a"],"groups":["sg-0a"]}}. A node uses the network with the name of its zone, or else the one named default.`, textValue(&s.podNetworks).live()},
		{group, "pod-network", "VPCNET_POD_NETWORK", "NAME", "Name of the network in -pod-networks. Empty means that of the zone.", textValue(&s.podNetwork).live()},
		{group, "pod-subnets", "VPCNET_POD_SUBNETS", "ID,...", "Subnets of pods. The first one in the node's zone that is not full is used.", listValue(&s.podSubnets).live()},
		{group, "pod-security-groups", "VPCNET_POD_SECURITY_GROUPS", "ID,...", "Security groups of the pods' ENIs. Empty means those of the primary ENI.", listValue(&s.podGroups).live()},
		{group, "enable-subnet-discovery", "ENABLE_SUBNET_DISCOVERY", "", "Create ENIs in the subnets of the zone that have the tag kubernetes.io/role/cni, the one with the most free addresses first. Each creation then needs ec2:DescribeSubnets.", boolValue(&s.SubnetDiscovery).live()},
	}
}

func (s *Settings) ownPodOptions() []option {
	const group = "Pods with ENIs of their own, and on a bridge"
	return []option{
		{group, "enable-pod-eni", "ENABLE_POD_ENI", "", "Give each pod that asks for security groups a branch ENI with them. The agent creates a trunk ENI, on instance types that can have one.", boolValue(&s.PodENI)},
		{group, "pod-security-group-enforcing-mode", "POD_SECURITY_GROUP_ENFORCING_MODE", "MODE", "Which packets of such pods pass their security groups: strict, all of them, or standard, those that leave the node. Packets that leave the VPC then have the node's address and groups. It changes only at a start without such pods.", choiceValue(&s.Enforcement, datapath.Strict, datapath.Standard).drain()},
		{group, "branch-eni-cooldown", "VPCNET_BRANCH_ENI_COOLDOWN", "SECONDS", "How long a branch ENI is kept after its pod has ended, so that late packets do not reach another pod.", positive(secondsValue(&s.BranchCooldown), &s.BranchCooldown)},
		{group, "whole-enis", "VPCNET_WHOLE_ENIS", "N", `Give at most N pods an ENI of their own, in networks with "mode":"eni". Other pods get as many ENIs less.`, intValue(&s.WholeENIs, 0, 100)},
		{group, "node-prefix", "VPCNET_NODE_PREFIX", "CIDR,...", `Prefix outside of the VPC, at most one of each family, of which pods get addresses in networks with "mode":"bridge", as kubenet has it. The source/destination check of the primary ENI is switched off. -exclude-snat-cidrs must have the prefixes of all nodes.`, prefixesValue(&s.NodePrefixes)},
		{group, "bridge", "VPCNET_BRIDGE", "NAME", "Name of the bridge of such pods.", textValue(&s.Bridge)},
		{group, "vpc-route-tables", "VPCNET_VPC_ROUTE_TABLES", "ID,...", "VPC route tables in which the agent creates a route for -node-prefix to the primary ENI.", listValue(&s.RouteTables)},
	}
}

func (s *Settings) kernelOptions() []option {
	const group = "Links, routes and rules"
	return []option{
		{group, "layout", "VPCNET_LAYOUT", "NAME", "How pods are routed: flat, where rules do not grow with pods, or per-pod, the rules of amazon-vpc-cni-k8s. Change it only on a node without pods.", choiceValue(&s.Layout, datapath.Flat, datapath.PerPod).drain()},
		{group, "eni-mtu", "AWS_VPC_ENI_MTU", "BYTES", "MTU of the ENIs.", intValue(&s.ENIMTU, 576, 9001)},
		{group, "pod-mtu", "POD_MTU", "BYTES", "MTU of pod links. 0 means that of the ENIs.", zeroOr(intValue(&s.PodMTU, 576, 9001), &s.PodMTU)},
		{group, "veth-prefix", "AWS_VPC_K8S_CNI_VETHPREFIX", "PREFIX", "First letters of the names of the host side links of pods, at most four.", linkPrefixValue(&s.HostLinkPrefix, "eth", "lo", "vlan").drain()},
		{group, "external-services", "AWS_EXTERNAL_SERVICE_CIDRS", "CIDR,...", "Destinations that pods always reach by the primary ENI.", prefixesValue(&s.ServicePrefixes)},
		{group, "refuse-metadata", "VPCNET_REFUSE_METADATA", "", "Keep pods from the instance metadata service.", boolValue(&s.RefuseMetadata)},
		{group, "accelerate", "VPCNET_ACCELERATE", "", "Let packets of established TCP and UDP flows of pods pass from link to link by a flowtable of nftables. Routing, nftables and iptables of the node do not see them; rules of other programs that are to stop an open flow have no effect on it. Pods that a network policy limits are left out. A kernel without flowtables (modules nft_flow_offload and nf_flow_table_inet) goes on without.", boolValue(&s.Accelerate)},
	}
}

func (s *Settings) snatOptions() []option {
	const group = "Traffic that leaves the VPC"
	return []option{
		{group, "external-snat", "AWS_VPC_K8S_CNI_EXTERNALSNAT", "", "Do not translate the sources of pods on the node, because another device, such as a NAT gateway, does.", boolValue(&s.ExternalSNAT)},
		{group, "exclude-snat-cidrs", "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "CIDR,...", "Further destinations, such as a peered VPC, to which packets keep the addresses of pods, as within the VPC.", prefixesValue(&s.ExcludeSNAT)},
		{group, "randomize-snat", "AWS_VPC_K8S_CNI_RANDOMIZESNAT", "HOW", "How source ports are chosen: prng, hashrandom or none.", choiceValue(&s.RandomPorts, snat.RandomPRNG, snat.RandomHash, snat.RandomNone)},
		{group, "snat-backend", "VPCNET_SNAT_BACKEND", "BACKEND", "Part of the kernel that translates: nftables, iptables, or auto, which is nftables, also beside rules of iptables, or iptables if the kernel's nftables cannot translate addresses. A kernel without nftables serves no pods, because nothing would check their sources. iptables needs its programs, uses the variant (nft or legacy) in which kubelet has its chains, and does not translate flows of pods on second ENIs to Services with endpoints outside of the VPC.", choiceValue(&s.SNATBackend, ipamd.AutoBackend, snat.Nftables, snat.Iptables)},
		{group, "node-port-support", "AWS_VPC_CNI_NODE_PORT_SUPPORT", "", "Send the replies of connections to an ENI's own address, such as those to node ports, by the same ENI.", notValue(&s.NoNodePorts)},
	}
}

func (s *Settings) policyOptions() []option {
	const group = "Network policies"
	return []option{
		{group, "network-policies", "VPCNET_NETWORK_POLICIES", "FILE", `JSON file with classes, which say what pods may receive and send, and with the classes of pods: {"classes":{"web":{"ingress":{"isolated":true,"allow":[{"name":"clients","peers":[{"prefix":"10.0.0.0/16","except":["10.0.9.0/24"]}],"ports":[{"protocol":"tcp","first":80}]}]}}},"pods":[{"pod":"default/web-*","class":"web"}]}. The first entry of pods that matches NAMESPACE/NAME counts; a pod that none matches is not limited. SIGHUP reads the file again.`, textValue(&s.NetworkPolicies)},
		{group, "network-policy-enforcing-mode", "NETWORK_POLICY_ENFORCING_MODE", "MODE", "What a new pod may do as long as its policies are not known, because -network-policies cannot be read: standard, everything, or strict, nothing. none enforces no policies.", choiceValue(&s.PolicyMode, ipamd.PolicyStandard, ipamd.PolicyStrict, ipamd.PolicyNone)},
		{group, "network-policy-log-limit", "VPCNET_NETWORK_POLICY_LOG_LIMIT", "N", "How many of the packets that network policies deny are logged a second, for each class and each of its directions. 0 logs none. Counts of all denied packets are in the status and in the metrics.", intValue(&s.PolicyLogLimit, 0, 10000)},
	}
}

func (s *Settings) cloudOptions() []option {
	const group = "AWS"
	return []option{
		{group, "cluster-name", "CLUSTER_NAME", "NAME", "Name of the cluster, written on the ENIs that the agent creates.", textValue(&s.Cluster)},
		{group, "additional-eni-tags", "ADDITIONAL_ENI_TAGS", "JSON", "Further tags for the ENIs that the agent creates, as a JSON object of strings.", tagsValue(&s.ENITags)},
		{group, "ec2-endpoint", "AWS_ENDPOINT_URL_EC2", "URL", "Address of the EC2 API. Empty means that of the region.", urlValue(&s.EC2Endpoint)},
		{group, "metadata-endpoint", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "URL", "Address of the instance metadata service. Empty means http://169.254.169.254.", urlValue(&s.MetadataEndpoint)},
		{group, "http-timeout", "HTTP_TIMEOUT", "SECONDS", "How long one request to EC2 or the metadata service may take.", positive(secondsValue(&s.HTTPTimeout), &s.HTTPTimeout)},
	}
}

func (s *Settings) conflistOptions() []option {
	const group = "CNI configuration"
	return []option{
		{group, "conflist", "VPCNET_CONFLIST", "PATH", "File to which the CNI configuration is written once the first address can be given to a pod. The kubelet then reports the node as ready. A file that was edited, or that another program wrote, stays as it is. With the format aws the default is " + conflistAWS + ". Empty means no file.", textValue(&s.Conflist)},
		{group, "conflist-format", "VPCNET_CONFLIST_FORMAT", "FORMAT", "vpcnet, or aws: the network aws-cni with the entries of the list 10-aws.conflist of amazon-vpc-cni-k8s, for programs that know that list. ipamd install then writes vpc-cni also as aws-cni. Networks with another name have other pods, so change it only on a node without pods.", choiceValue(&s.ConflistFormat, ipamd.FormatVPCNet, ipamd.FormatAWS).drain()},
		{group, "cni-bin-dir", "HOST_CNI_BIN_PATH", "PATH", "Directory in which the runtime finds plugins.", textValue(&s.PluginDir)},
		{group, "portmap", "VPCNET_PORTMAP", "", "Add upstream's portmap to the CNI configuration if its binary is there. Without it hostPort of pods has no effect.", notValue(&s.NoPortmap)},
		{group, "enable-bandwidth-plugin", "ENABLE_BANDWIDTH_PLUGIN", "", "Add upstream's bandwidth.", boolValue(&s.Bandwidth)},
		{group, "disable-pod-v6", "DISABLE_POD_V6", "", "Add upstream's tuning, which switches IPv6 off in pods.", boolValue(&s.DisablePodIPv6)},
		{group, "enable-v6-egress", "ENABLE_V6_EGRESS", "", "Add egress-cni in a cluster with IPv4 pods, so that they reach IPv6 destinations by the node's IPv6 address. It needs upstream's host-local.", boolValue(&s.EgressIPv6)},
		{group, "enable-v4-egress", "ENABLE_V4_EGRESS", "", "Add egress-cni in a cluster with IPv6 pods, so that they reach IPv4 destinations by the node's IPv4 address. It needs upstream's host-local.", boolValue(&s.EgressIPv4)},
		{group, "plugin-log-file", "AWS_VPC_K8S_PLUGIN_LOG_FILE", "PATH", "Log of vpc-cni and egress-cni, which is rotated at 50 MB. Empty and stderr mean standard error, which runtimes write to their own log after a failure.", textValue(&s.PluginLogFile)},
		{group, "plugin-log-level", "AWS_VPC_K8S_PLUGIN_LOG_LEVEL", "LEVEL", "debug, info, warn, error or fatal. Empty means info for a file and warn for standard error.", textValue(&s.PluginLogLevel)},
	}
}

func (s *Settings) processOptions() []option {
	const group = "Process"
	return []option{
		{group, "config", "VPCNET_CONFIG", "FILE", "File with further settings, as lines NAME=value with the names of the variables. Flags and variables override it. The agent reads it again on SIGHUP.", textValue(&s.configFile)},
		{group, "socket", "VPCNET_SOCKET", "PATH", "Unix socket on which vpc-cni asks for addresses.", textValue(&s.Socket)},
		{group, "state-dir", "VPCNET_STATE_DIR", "PATH", "Directory for the state that must survive a restart.", textValue(&s.StateDir).drain()},
		{group, "status-socket", "VPCNET_STATUS_SOCKET", "PATH", "Unix socket at which GET /v2/ lists what it shows as JSON: the status, the pool, decisions with their reasons, operations under way and EC2's last errors. Empty means no socket.", textValue(&s.Status)},
		{group, "introspection-bind-address", "INTROSPECTION_BIND_ADDRESS", "WHERE", "Address at which /v1/enis, /v1/eni-configs, /v1/networkutils-env-settings and /v1/ipamd-env-settings show the pool and settings in the form of amazon-vpc-cni-k8s: HOST:PORT, which every process with the node's network can read, or unix:PATH. If it is in use by another program, the agent logs that and runs without it.", textValue(&s.Introspection)},
		{group, "disable-introspection", "DISABLE_INTROSPECTION", "", "Do not listen on -introspection-bind-address.", boolValue(&s.NoIntrospection)},
		{group, "metrics-bind-address", "VPCNET_METRICS_BIND_ADDRESS", "HOST:PORT", "Address at which /metrics has metrics for Prometheus, with those of amazon-vpc-cni-k8s under its names. If it is in use by another program, the agent logs that and runs without it.", textValue(&s.Metrics)},
		{group, "disable-metrics", "DISABLE_METRICS", "", "Do not listen on -metrics-bind-address.", boolValue(&s.NoMetrics)},
		{group, "log-file", "AWS_VPC_K8S_CNI_LOG_FILE", "WHERE", "stderr, stdout, or the path of a log, which is rotated at 50 MB and has 5 older files. The log has one JSON object a line.", textValue(&s.LogFile)},
		{group, "log-level", "AWS_VPC_K8S_CNI_LOGLEVEL", "LEVEL", "debug, info, warn, error or fatal, which means the same as error.", choiceValue(&s.logLevel, "debug", "info", "warn", "error", levelFatal).live()},
	}
}

func (s *Settings) installOptions() []option {
	const group = "ipamd install and ipamd uninstall"
	return []option{
		{group, "disable-tcp-early-demux", "DISABLE_TCP_EARLY_DEMUX", "", "Write 0 to net.ipv4.tcp_early_demux, so that the kubelet reaches pods with branch ENIs whose mode is strict.", boolValue(&s.NoTCPEarlyDemux)},
		{group, "preflight", "VPCNET_PREFLIGHT", "HOW", "report logs programs and settings that also configure interfaces, rules and routes, write also writes files that stop systemd-networkd, udev and NetworkManager from that, and off does nothing.", choiceValue(&s.Preflight, PreflightReport, PreflightWrite, PreflightOff)},
		{group, "root", "VPCNET_ROOT", "PATH", "Directory in front of all other paths: an image, or the node's root as mounted in a container.", textValue(&s.Root)},
	}
}

// Parse parses the command line, the environment and the file that they name. A flag
// overrides its variable, and a variable overrides the file. A variable that is set but
// empty counts as not set. For -help it prints all settings to help, and returns
// flag.ErrHelp.
func Parse(args []string, getenv func(string) string, help io.Writer) (Settings, error) {
	s, err := parse(args, getenv)
	if errors.Is(err, flag.ErrHelp) {
		usage(help)
	}
	return s, err
}

// parse is Parse without the help. Each text has further settings in the format of the file. They
// override all others, also those of the texts before, and may be only those that are [Live].
func parse(args []string, getenv func(string) string, texts ...string) (Settings, error) {
	s := defaults()
	options := s.options()
	fs := flag.NewFlagSet("ipamd", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller prints errors
	for _, o := range options {
		fs.Var(o.value, o.name, o.help)
	}
	fs.Usage = func() {}
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	if fs.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	s.given = map[string]bool{}
	fs.Visit(func(f *flag.Flag) { s.given[f.Name] = true })
	for _, o := range options {
		text := getenv(o.env)
		if text == "" || s.given[o.name] {
			continue
		}
		if err := o.value.Set(text); err != nil {
			return s, fmt.Errorf("environment variable %s=%q: %w", o.env, text, err)
		}
		s.given[o.name] = true
	}
	foreign, err := s.setLines(options, texts)
	if err != nil {
		return s, err
	}
	for _, m := range missing {
		if v := getenv(m.env); v != "" && foreign[m.env] == "" {
			foreign[m.env] = v
		}
	}
	s.unsetTargets()
	if err := s.validate(); err != nil {
		return s, err
	}
	return s, s.checkMissing(foreign)
}

// unsetTargets gives targets that are -1 their defaults.
func (s *Settings) unsetTargets() {
	d := defaults()
	for name, p := range map[string][2]*int{
		"warm-eni-target": {&s.WarmENITarget, &d.WarmENITarget}, "warm-ip-target": {&s.WarmIPTarget, &d.WarmIPTarget},
		"minimum-ip-target": {&s.minimumIPTarget, &d.minimumIPTarget}, "warm-prefix-target": {&s.warmPrefixTarget, &d.warmPrefixTarget},
	} {
		if *p[0] == unset {
			*p[0] = *p[1]
			delete(s.given, name)
		}
	}
}

// maxSocket is the longest path that server.Listen accepts. It is less than the 107
// bytes that the path of a unix socket can have.
const maxSocket = 103

// validate checks the values that the flags themselves do not check.
func (s *Settings) validate() error {
	switch {
	case s.Socket == "" || s.StateDir == "":
		return errors.New("-socket and -state-dir (VPCNET_SOCKET, VPCNET_STATE_DIR) must not be empty")
	case len(s.Socket) > maxSocket:
		return fmt.Errorf("-socket %s (VPCNET_SOCKET) has %d bytes, want at most %d", s.Socket, len(s.Socket), maxSocket)
	case s.LogFile != LogStdout && s.LogFile != LogStderr && !filepath.IsAbs(s.LogFile):
		return fmt.Errorf("-log-file %s (AWS_VPC_K8S_CNI_LOG_FILE): want stderr, stdout or an absolute path", s.LogFile)
	case !filepath.IsAbs(s.Root) || !filepath.IsAbs(s.PluginDir):
		return fmt.Errorf("-root %s and -cni-bin-dir %s (VPCNET_ROOT, HOST_CNI_BIN_PATH): want absolute paths", s.Root, s.PluginDir)
	case s.PodMTU > s.ENIMTU:
		return fmt.Errorf("-pod-mtu %d (POD_MTU) is more than -eni-mtu %d (AWS_VPC_ENI_MTU)", s.PodMTU, s.ENIMTU)
	}
	return nil
}

// policyName returns the name of the policy, with auto resolved.
func (s *Settings) policyName() string {
	if s.warmPolicy != policyAuto {
		return s.warmPolicy
	}
	for _, target := range []string{"warm-eni-target", "warm-ip-target", "minimum-ip-target", "warm-prefix-target"} {
		if s.given[target] {
			return policyAWS
		}
	}
	return policyBand
}

// Variables returns the settings that are not the default, by the names of their variables.
// A URL does not have its password.
func (s *Settings) Variables() map[string]string {
	d, set := defaults(), map[string]string{}
	usual := d.options()
	for i, o := range s.options() {
		text := o.value.String()
		if text == usual[i].value.String() {
			continue
		}
		if u, err := url.Parse(text); err == nil && u.User != nil {
			text = u.Redacted()
		}
		set[o.env] = text
	}
	return set
}

// Agent returns the configuration of the agent, without hooks and log.
func (s *Settings) Agent() (ipamd.Config, error) {
	c := s.Config
	c.MaxENIs = max(s.maxENI, 0)
	if c.ConflistFormat == ipamd.FormatAWS && c.Conflist == conflistVPCNet {
		c.Conflist = conflistAWS
	}
	if c.Cooldown = s.cooldownPeriod; c.Cooldown == 0 {
		c.Cooldown = -1
	}
	c.Families = nil
	if s.enableIPv4 {
		c.Families = append(c.Families, ipam.IPv4)
	}
	if s.enableIPv6 {
		c.Families = append(c.Families, ipam.IPv6)
	}
	if err := s.place(&c); err != nil {
		return c, err
	}
	if len(c.Families) == 0 {
		return c, errors.New("neither -enable-ipv4 nor -enable-ipv6 (ENABLE_IPv4, ENABLE_IPv6) is set, want one or both")
	}
	var err error
	c.Policy, err = s.policy()
	return c, err
}

// place sets the subnets and security groups of pods.
func (s *Settings) place(c *ipamd.Config) error {
	networks := ipamd.Networks{Name: s.podNetwork}
	named := s.podNetworks != "" || len(s.podSubnets) > 0
	switch {
	case s.podNetworks != "" && len(s.podSubnets)+len(s.podGroups) > 0:
		return errors.New("-pod-networks (VPCNET_POD_NETWORKS) is set together with -pod-subnets or -pod-security-groups, want either")
	case named && !s.CustomNetwork || !named && s.CustomNetwork:
		return errors.New("-custom-network (AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG) needs -pod-networks or -pod-subnets (VPCNET_POD_NETWORKS, VPCNET_POD_SUBNETS), and these need it")
	case s.podNetworks != "":
		text, err := os.ReadFile(s.podNetworks)
		if err != nil {
			return fmt.Errorf("-pod-networks (VPCNET_POD_NETWORKS): %w", err)
		}
		s.networks = string(text)
		if networks.ByName, err = ipamd.ParseNetworks(text); err != nil {
			return fmt.Errorf("%s: %w", s.podNetworks, err)
		}
		if _, ok := networks.ByName[s.podNetwork]; s.podNetwork != "" && !ok {
			return fmt.Errorf("%s has no network %q, which -pod-network (VPCNET_POD_NETWORK) names", s.podNetworks, s.podNetwork)
		}
	case named:
		networks.Name = ipamd.DefaultNetwork
		networks.ByName = map[string]eni.Placement{ipamd.DefaultNetwork: {Subnets: s.podSubnets, Groups: s.podGroups}}
	}
	if s.CustomNetwork {
		c.Subnets, c.Groups, c.NoPrimaryPods = networks, networks, true
		return nil
	}
	if s.SubnetDiscovery {
		c.Subnets = eni.SubnetsByTag{Cluster: s.Cluster}
	}
	if len(s.podGroups) > 0 {
		c.Groups = eni.FixedGroups(s.podGroups)
	}
	return nil
}

// policy returns the warm pool policy.
func (s *Settings) policy() (warmpool.Policy, error) {
	if s.policyName() == policyAWS {
		return warmpool.AWS{
			WarmENITarget: s.WarmENITarget, WarmIPTarget: s.WarmIPTarget,
			MinimumIPTarget: s.minimumIPTarget, WarmPrefixTarget: s.warmPrefixTarget,
		}, nil
	}
	name, set, err := warmpool.ParsePolicy(s.policyName())
	if err != nil {
		return nil, err
	}
	return warmpool.PolicyByName(name, set)
}

// Level returns the lowest level that is logged.
func (s *Settings) Level() slog.Level {
	if s.logLevel == levelFatal {
		return slog.LevelError
	}
	var l slog.Level
	_ = l.UnmarshalText([]byte(s.logLevel)) // the setting was checked
	return l
}

// usage prints the help: every flag with its variable and its default.
func usage(w io.Writer) {
	fmt.Fprint(w, `Usage: ipamd [install|uninstall|adopt] [flags]

Ipamd is the node agent of vpcnet. It attaches ENIs to this EC2 instance, keeps
a pool of their addresses, and gives them to the CNI plugin vpc-cni.

Ipamd install copies the plugins, which lie beside ipamd, to the directory of the
runtime and sets up the kernel of the node, and ipamd uninstall restores what was
there before. Both take the flags of the agent. Ipamd adopt changes a node over
from amazon-vpc-cni-k8s, or back; it has flags of its own, see ipamd adopt -help.

Each flag can also be set by its environment variable, or by a line
VARIABLE=value in the file of -config. A flag overrides the variable, and the
variable overrides the file. The region and credentials come from the AWS SDK's
usual sources.

A change of the file takes effect
  live     when the agent gets SIGHUP
  restart  when the agent starts; pods stay
  drain    when the agent starts on a node without pods
`)
	d := defaults()
	group := ""
	for _, o := range d.options() {
		if o.group != group {
			group = o.group
			fmt.Fprintf(w, "\n%s:\n", group)
		}
		head := "  -" + o.name
		if o.arg != "" {
			head += " " + o.arg
		}
		fmt.Fprintf(w, "\n%s\n      env %s", head, o.env)
		if text := o.value.String(); text != "" {
			fmt.Fprintf(w, ", default %s", text)
		}
		fmt.Fprintf(w, ", %s\n", o.effect())
		for _, line := range wrap(o.help, 72) {
			fmt.Fprintln(w, "      "+line)
		}
	}
}

func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
