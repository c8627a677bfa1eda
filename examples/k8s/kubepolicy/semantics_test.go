// SPDX-License-Identifier: Apache-2.0

package kubepolicy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/vpcnet/vpcnet/datapath/policy"
	"github.com/vpcnet/vpcnet/examples/k8s/kubepolicy"
	"github.com/vpcnet/vpcnet/examples/k8s/netpol"
)

// The cluster of the table below, besides the policies of its rows. The pod of the tests is
// x/server on this node.
const objects = `
{metadata: {name: x, labels: {team: x, kubernetes.io/metadata.name: x}}}
{metadata: {name: y, labels: {team: y, kubernetes.io/metadata.name: y}}}
---
{metadata: {namespace: x, name: server, labels: {app: server}}, spec: {nodeName: node-0, containers: [{ports: [{name: web, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]}],
  initContainers: [{restartPolicy: Always, ports: [{name: side, containerPort: 9000}]}, {ports: [{name: once, containerPort: 9001}]}]}, status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}
{metadata: {namespace: x, name: client, labels: {app: client}}, spec: {nodeName: node-1, containers: [{ports: [{name: web, containerPort: 8081}]}]}, status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
{metadata: {namespace: x, name: bare}, status: {phase: Running, podIPs: [{ip: 10.0.0.3}]}}
{metadata: {namespace: x, name: done, labels: {app: client}}, status: {phase: Succeeded, podIPs: [{ip: 10.0.0.4}]}}
{metadata: {namespace: x, name: failed, labels: {app: client}}, status: {phase: Failed, podIPs: [{ip: 10.0.0.5}]}}
{metadata: {namespace: x, name: host, labels: {app: client}}, spec: {hostNetwork: true, nodeName: node-0}, status: {phase: Running, podIPs: [{ip: 192.0.2.6}]}}
{metadata: {namespace: x, name: pending, labels: {app: client}}, status: {phase: Pending}}
{metadata: {namespace: x, name: leaving, labels: {app: client}, deletionTimestamp: "2026-01-01T00:00:00Z"}, status: {phase: Running, podIPs: [{ip: 10.0.0.7}], conditions: [{type: Ready, status: "False"}]}}
{metadata: {namespace: y, name: client, labels: {app: client}}, spec: {containers: [{ports: [{name: web, containerPort: 8080, protocol: UDP}]}]}, status: {phase: Running, podIP: 10.0.1.2}}
{metadata: {namespace: y, name: other, labels: {app: other}}, status: {phase: Running, podIP: 10.0.1.3}}
`

// semantics lists what implementations of NetworkPolicy have got wrong, by the numbers of the
// issues where there are some. A flow is "in" or "out" of the pod, the peer, the protocol and
// the port.
var semantics = []struct {
	name   string
	policy string // specs, one each line
	allow  []string
	deny   []string
}{
	{"no policy", ``, []string{"in 10.0.1.3 tcp 1", "out 192.0.2.1 udp 1"}, nil},
	{"isolation is by direction", `{policyTypes: [Ingress]}`, []string{"out 10.0.1.3 tcp 1"}, []string{"in 10.0.0.2 tcp 1"}},
	{"egress alone", `{policyTypes: [Egress], ingress: [{}]}`, []string{"in 10.0.1.3 tcp 1"}, []string{"out 10.0.0.2 tcp 1"}},
	{"policyTypes absent", `{ingress: []}`, []string{"out 10.0.1.3 tcp 1"}, []string{"in 10.0.0.2 tcp 1"}},
	{"policyTypes absent, with egress", `{egress: [{to: [{podSelector: {}}]}]}`, []string{"out 10.0.0.2 tcp 1"}, []string{"in 10.0.0.2 tcp 1", "out 10.0.1.2 tcp 1"}},
	{"an empty rule", `{ingress: [{}]}`, []string{"in 192.0.2.1 icmp 0", "in 2001:db8::1 sctp 7"}, nil},
	{"empty lists", `{ingress: [{from: [], ports: []}]}`, []string{"in 192.0.2.1 icmp 0"}, nil},
	{"another pod is selected", `{podSelector: {matchLabels: {app: client}}}`, []string{"in 10.0.1.3 tcp 1"}, nil},
	{"pods of the namespace", `{ingress: [{from: [{podSelector: {}}]}]}`, []string{"in 10.0.0.2 tcp 1", "in fd00::2 tcp 1", "in 10.0.0.3 icmp 0"}, []string{"in 10.0.1.2 tcp 1", "in 192.0.2.1 tcp 1"}},
	{"pods of namespaces", `{ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}]}]}`, []string{"in 10.0.1.2 tcp 1", "in 10.0.1.3 tcp 1"}, []string{"in 10.0.0.2 tcp 1"}},
	{"both selectors in one peer", `{ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}, podSelector: {matchLabels: {app: client}}}]}]}`, []string{"in 10.0.1.2 tcp 1"}, []string{"in 10.0.1.3 tcp 1", "in 10.0.0.2 tcp 1"}},
	{"both selectors as two peers", `{ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}}, {podSelector: {matchLabels: {app: client}}}]}]}`, []string{"in 10.0.1.3 tcp 1", "in 10.0.0.2 tcp 1"}, []string{"in 10.0.0.3 tcp 1"}},
	{"an empty namespaceSelector", `{ingress: [{from: [{namespaceSelector: {}}]}]}`, []string{"in 10.0.1.3 tcp 1", "in 10.0.0.3 tcp 1"}, []string{"in 192.0.2.1 tcp 1"}},
	{"NotIn without the key", `{ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [client]}]}}]}]}`, []string{"in 10.0.0.3 tcp 1"}, []string{"in 10.0.0.2 tcp 1"}},
	{"DoesNotExist", `{ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}]}]}`, []string{"in 10.0.0.3 tcp 1"}, []string{"in 10.0.0.2 tcp 1"}},
	{"Exists", `{ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: Exists}]}}]}]}`, []string{"in 10.0.0.2 tcp 1"}, []string{"in 10.0.0.3 tcp 1"}},
	{"protocol absent is TCP", `{ingress: [{ports: [{port: 80}]}]}`, []string{"in 10.0.0.2 tcp 80"}, []string{"in 10.0.0.2 udp 80", "in 10.0.0.2 icmp 0"}},
	{"protocol alone", `{ingress: [{ports: [{protocol: SCTP}]}]}`, []string{"in 10.0.0.2 sctp 1", "in 10.0.0.2 sctp 65535"}, []string{"in 10.0.0.2 tcp 1"}},
	{"endPort", `{ingress: [{ports: [{port: 80, endPort: 82}]}]}`, []string{"in 10.0.0.2 tcp 80", "in 10.0.0.2 tcp 82"}, []string{"in 10.0.0.2 tcp 79", "in 10.0.0.2 tcp 83"}},
	{"endPort below port", `{ingress: [{ports: [{port: 80, endPort: 70}]}]}`, nil, []string{"in 10.0.0.2 tcp 75", "in 10.0.0.2 tcp 80"}},
	{"endPort, all ports", `{ingress: [{ports: [{port: 1, endPort: 65535}]}]}`, []string{"in 10.0.0.2 tcp 1", "in 10.0.0.2 tcp 65535"}, []string{"in 10.0.0.2 udp 1"}},
	{"a named port of the pod", `{ingress: [{ports: [{port: web}]}]}`, []string{"in 10.0.0.2 tcp 8080"}, []string{"in 10.0.0.2 tcp 8081", "in 10.0.0.2 udp 8080"}},
	{"a named port of a sidecar", `{ingress: [{ports: [{port: side}, {port: once}]}]}`, []string{"in 10.0.0.2 tcp 9000"}, []string{"in 10.0.0.2 tcp 9001"}},
	{"a named port of another protocol", `{ingress: [{ports: [{port: dns}]}]}`, nil, []string{"in 10.0.0.2 tcp 53", "in 10.0.0.2 udp 53", "in 10.0.0.2 tcp 1"}},
	{"a named port that no container has", `{ingress: [{ports: [{port: none}]}], egress: [{ports: [{port: none}]}]}`, nil, []string{"in 10.0.0.2 tcp 1", "out 10.0.0.2 tcp 8081"}},
	{"a named port of the peer", `{egress: [{to: [{podSelector: {}}], ports: [{port: web}]}]}`, []string{"out 10.0.0.2 tcp 8081", "out 10.0.0.1 tcp 8080"}, []string{"out 10.0.0.2 tcp 8080", "out 10.0.0.3 tcp 8081", "out 10.0.1.2 tcp 8080"}},
	{"a named port of any peer", `{egress: [{ports: [{port: web}, {port: 443}]}]}`, []string{"out 10.0.0.2 tcp 8081", "out 192.0.2.1 tcp 443"}, []string{"out 192.0.2.1 tcp 8081", "out 10.0.1.2 tcp 8080"}},
	{"a named port in a block", `{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{port: web}]}]}`, []string{"out 10.0.0.2 tcp 8081"}, []string{"out fd00::2 tcp 8081", "out 10.0.0.9 tcp 8081"}},
	{"an exception is of its own block (aws-network-policy-agent 180)", `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.1.0/24]}}]}, {from: [{ipBlock: {cidr: 10.0.1.2/32}}], ports: [{port: 80}]}]}`,
		[]string{"in 10.0.0.2 udp 1", "in 10.0.1.2 tcp 80"}, []string{"in 10.0.1.2 tcp 81", "in 10.0.1.3 tcp 80"}},
	{"an exception and a selector", `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.1.0/24]}}, {namespaceSelector: {matchLabels: {team: y}}}]}]}`, []string{"in 10.0.1.2 tcp 80"}, []string{"in 10.0.1.9 tcp 80"}},
	{"all of IPv4 is not all of IPv6", `{ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`, []string{"in 192.0.2.1 tcp 1"}, []string{"in 2001:db8::1 tcp 1"}},
	{"a block with bits behind its length (aws-network-policy-agent 609)", `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.5/24}}, {ipBlock: {cidr: 192.000.002.001/32}}, {ipBlock: {cidr: "::ffff:198.51.100.0/120"}}]}]}`,
		[]string{"in 10.0.0.200 tcp 1", "in 192.0.2.1 tcp 1", "in 198.51.100.7 tcp 1"}, []string{"in 10.0.1.1 tcp 1", "in 198.51.101.7 tcp 1"}},
	{"overlapping blocks (calico 12851)", `{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: 10.0.1.0/24}}], ports: [{port: 80}, {port: 80}, {port: 79, endPort: 90}]}]}`,
		[]string{"in 10.0.1.2 tcp 80", "in 10.9.0.1 tcp 90"}, []string{"in 10.0.1.2 tcp 91"}},
	{"pods that have ended are left out", `{ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}`, []string{"in 10.0.0.2 tcp 1"}, []string{"in 10.0.0.4 tcp 1", "in 10.0.0.5 tcp 1"}},
	{"pods that terminate are peers (calico 4518)", `{ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}`, []string{"in 10.0.0.7 tcp 1"}, nil},
	{"pods in the network of a node are left out", `{ingress: [{from: [{namespaceSelector: {}}]}]}`, nil, []string{"in 192.0.2.6 tcp 1"}},
	{"policies are added", "{ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}\n{ingress: [{ports: [{port: 443}]}]}\n{policyTypes: [Ingress]}", []string{"in 10.0.0.2 tcp 1", "in 192.0.2.1 tcp 443"}, []string{"in 192.0.2.1 tcp 1"}},
	{"peers that allow nothing", `{ingress: [{from: [{}]}, {from: [{ipBlock: {cidr: 10.0.0.0/33}}]}, {from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}]}`, nil, []string{"in 10.0.0.2 tcp 1", "in 192.0.2.1 tcp 1"}},
	{"ports that allow nothing", `{ingress: [{ports: [{port: 0}]}, {ports: [{port: 65536}]}, {ports: [{protocol: ICMP}]}, {ports: [{endPort: 9}]}, {ports: [{port: ""}]}]}`, nil, []string{"in 10.0.0.2 tcp 0", "in 10.0.0.2 tcp 9", "in 10.0.0.2 icmp 0"}},
	{"an operator that does not exist", `{ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: Gt, values: ["1"]}]}}]}]}`, nil, []string{"in 10.0.0.2 tcp 1"}},
}

func TestSemantics(t *testing.T) {
	for _, c := range semantics {
		class := classOfServer(t, c.name, netpol.Config{Name: node}, c.policy)
		for _, flow := range slices.Concat(c.allow, c.deny) {
			if want := slices.Contains(c.allow, flow); judge(t, class, flow) != want {
				t.Errorf("%s: %s is allowed: %t, want %t", c.name, flow, !want, want)
			}
		}
	}
}

// TestHostNetworkPeers checks that a pod in the network of its node is a peer by the address of
// the node if the configuration says so, for the selectors that match it only.
func TestHostNetworkPeers(t *testing.T) {
	cfg := netpol.Config{Name: node, HostNetworkPeers: true}
	for app, want := range map[string]bool{"client": true, "other": false} {
		class := classOfServer(t, app, cfg, `{ingress: [{from: [{podSelector: {matchLabels: {app: `+app+`}}}]}]}`)
		if got := judge(t, class, "in 192.0.2.6 tcp 1"); got != want {
			t.Errorf("pods of %s: the node is allowed: %t, want %t", app, got, want)
		}
	}
}

// clusterSemantics lists what ClusterNetworkPolicies mean, alone and with policies of the
// namespace.
var clusterSemantics = []struct {
	name     string
	cluster  string
	policies string // as in semantics
	allow    []string
	deny     []string
}{
	{
		"the first rule decides",
		`{priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: y}}}]}, {action: Accept, from: [{namespaces: {}}]}]}`,
		`{policyTypes: [Ingress]}`,
		[]string{"in 10.0.0.2 tcp 1", "out 10.0.1.3 tcp 1"}, []string{"in 10.0.1.3 tcp 1", "in 192.0.2.1 tcp 1"},
	},
	{
		"the lower priority number decides",
		"{priority: 20, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}\n" +
			"{priority: 10, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [192.0.2.0/24, 198.51.100.0/24]}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 90}}}}]}]}",
		"",
		[]string{"out 192.0.2.1 tcp 80", "out 198.51.100.1 tcp 90", "out fd00::2 tcp 1", "in 192.0.2.1 tcp 1"}, []string{"out 192.0.2.1 tcp 91", "out 192.0.2.1 udp 80", "out 192.0.2.1 icmp 0"},
	},
	{
		"what is passed on is for the policies of the namespace",
		`{priority: 1, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {team: x}}}]}, {action: Deny, from: [{namespaces: {}}]}]}`,
		`{ingress: [{ports: [{port: 80}]}]}`,
		[]string{"in 10.0.0.2 tcp 80", "in 192.0.2.1 tcp 80"}, []string{"in 10.0.0.2 tcp 81", "in 10.0.1.3 tcp 80"},
	},
	{
		"the baseline is for pods that no policy isolates",
		`{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}]}, {action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{namespaces: {}}]}]}`,
		`{ingress: [{ports: [{port: 80}]}]}`,
		[]string{"in 10.0.1.3 tcp 80", "out 192.0.2.1 tcp 1"}, []string{"in 10.0.0.2 tcp 81", "out 10.0.0.2 tcp 1"},
	},
	{
		"the baseline alone",
		`{tier: Baseline, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {team: x}}, podSelector: {matchLabels: {app: server}}}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}]}, {action: Deny, from: [{namespaces: {}}]}]}`,
		``,
		[]string{"in 10.0.0.2 tcp 1", "in 10.0.1.2 udp 1", "in 192.0.2.1 tcp 1"}, []string{"in 10.0.1.3 tcp 1", "in 10.0.0.3 tcp 1"},
	},
	{
		"another pod is the subject",
		`{priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: client}}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		``, []string{"in 10.0.0.2 tcp 1"}, nil,
	},
	{
		"named ports are those of the pod, and of the peer, with any protocol",
		`{priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: dns}]}], egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]}]}`,
		``,
		[]string{"in 10.0.0.2 tcp 53", "out 10.0.0.2 tcp 8080", "out 10.0.1.2 tcp 8080"}, []string{"in 10.0.0.2 udp 53", "out 10.0.0.2 tcp 8081", "out 10.0.1.2 udp 8080"},
	},
	{
		"protocols",
		`{priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{udp: {destinationPort: {number: 53}}}, {sctp: {destinationPort: {number: 9}}}]}]}`,
		``, []string{"in 10.0.0.2 tcp 53", "in 10.0.0.2 sctp 53"}, []string{"in 10.0.0.2 udp 53", "in 10.0.0.2 sctp 9"},
	},
	{
		"pods in the network of a node are left out",
		`{priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`,
		``, []string{"in 192.0.2.6 tcp 1"}, []string{"in 10.0.0.2 tcp 1"},
	},
	{
		"rules with what is not known here that accept have less",
		`{priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{nodes: {}}, {networks: [203.0.113.0/24]}]}, {action: Accept, to: [{networks: [198.51.100.0/24]}], protocols: [{tcp: {}}, {}]}, {action: Accept, to: [{domainNames: [example.com]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`,
		``, []string{"out 203.0.113.1 tcp 1"}, []string{"out 192.0.2.6 tcp 1", "out 198.51.100.1 tcp 1", "out 10.0.0.2 tcp 1"},
	},
	{
		"other rules with what is not known here deny everything",
		`{priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{networks: [192.0.2.0/24]}]}, {action: Pass, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}], ingress: [{action: Deny, from: [{}]}]}`,
		``, []string{"out 192.0.2.1 tcp 1"}, []string{"out 10.0.0.2 tcp 1", "out 198.51.100.1 udp 1", "in 10.0.0.2 tcp 1"},
	},
}

func TestClusterSemantics(t *testing.T) {
	for _, c := range clusterSemantics {
		class := classOfServer(t, c.name, netpol.Config{Name: node, HostNetworkPeers: true}, c.policies, read[policyv1.ClusterNetworkPolicySpec](t, c.cluster)...)
		for _, flow := range slices.Concat(c.allow, c.deny) {
			if want := slices.Contains(c.allow, flow); judge(t, class, flow) != want {
				t.Errorf("%s: %s is allowed: %t, want %t", c.name, flow, !want, want)
			}
		}
	}
}

// classOfServer returns the class of the server of the cluster with policies, each a line, and
// with cluster policies.
func classOfServer(t *testing.T, name string, cfg netpol.Config, policies string, cluster ...policyv1.ClusterNetworkPolicySpec) netpol.PodClass {
	t.Helper()
	n := netpol.New(cfg)
	spaces, pods, _ := strings.Cut(objects, "---")
	for _, x := range read[corev1.Namespace](t, spaces) {
		n.SetNamespace(kubepolicy.Namespace(&x))
	}
	for _, x := range read[corev1.Pod](t, pods) {
		n.SetPod(kubepolicy.Pod(&x))
	}
	for i, spec := range read[networkingv1.NetworkPolicySpec](t, policies) {
		x := networkingv1.NetworkPolicy{Spec: spec}
		x.Namespace, x.Name = "x", "policy-"+string(rune('a'+i))
		n.SetPolicy(kubepolicy.Policy(&x))
		x.Namespace = "y" // of the same name, and without a pod on the node
		n.SetPolicy(kubepolicy.Policy(&x))
	}
	for i, spec := range cluster {
		x := policyv1.ClusterNetworkPolicy{Spec: spec}
		x.Name = "cluster-" + string(rune('a'+i))
		n.SetClusterPolicy(kubepolicy.ClusterPolicy(&x))
	}
	if _, err := n.Update(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	class, known := n.Classes()[netpol.PodKey{Namespace: "x", Name: "server"}]
	if !known || len(n.Classes()) != 1 {
		t.Fatalf("%s: classes %v, want one of the server", name, n.Classes())
	}
	return class
}

// read reads one object from each line of YAML that begins one.
func read[T any](t *testing.T, text string) (all []T) {
	t.Helper()
	for _, one := range strings.Split("\n"+strings.TrimSpace(text), "\n{") {
		if strings.TrimSpace(one) == "" {
			continue
		}
		var x T
		if err := yaml.UnmarshalStrict([]byte("{"+one), &x); err != nil {
			t.Fatalf("%v in {%s", err, one)
		}
		all = append(all, x)
	}
	return all
}

// judge returns whether a class allows a flow of the table.
func judge(t *testing.T, c netpol.PodClass, flow string) bool {
	t.Helper()
	fields := strings.Fields(flow)
	var p policy.Flow
	pod, peer := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr(fields[1])
	if peer.Is6() {
		pod = netip.MustParseAddr("fd00::1")
	}
	if pod == peer {
		pod = netip.MustParseAddr("203.0.113.1")
	}
	if p.Src, p.Dst = peer, pod; fields[0] == "out" {
		p.Src, p.Dst = pod, peer
	}
	if err := p.Protocol.UnmarshalText([]byte(fields[2])); err != nil {
		t.Fatal(err)
	}
	for _, digit := range fields[3] {
		p.Port = p.Port*10 + uint16(digit-'0')
	}
	return policy.State{Classes: map[string]policy.Compiled{c.Name: c.Class}, Pods: map[netip.Addr]string{pod: c.Name}}.Judge(p).Allowed
}
