// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/vpcnet/vpcnet/datapath/preflight"
	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/nodetest"
	"github.com/vpcnet/vpcnet/snat"
)

// chain returns the agent's conflist of a node with egress-cni after vpc-cni.
func chain(t *testing.T, n *nodetest.Node, version, family, dir string) string {
	t.Helper()
	text, err := os.ReadFile(n.File("10-vpcnet.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]any
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	delete(list, "cniVersions")
	delete(list, "disableCheck")
	list["cniVersion"] = version
	plugins := list["plugins"].([]any)
	list["plugins"] = append(plugins[:1:1], entry(family, dir, addrOf(n.Node, family), nil))
	if text, err = json.Marshal(list); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestChain runs the whole system in a cluster of each family: ipamd, vpc-cni, egress-cni and
// host-local, with the CNI library in each version. A pod reaches hosts of the other family
// as the node, and all others as before.
func TestChain(t *testing.T) {
	eachFamily(t, func(t *testing.T, family string) {
		f := families[family]
		vpc := vpctest.New(t)
		env := map[string]string{"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1", "VPCNET_REFUSE_METADATA": "true"}
		for k, v := range f.env {
			env[k] = v
		}
		start := func() *nodetest.Node {
			return nodetest.Start(t, vpc.NodeIn(t, enitest.InstanceInput{Type: "t3.small", IPv6Addrs: 1}), nodetest.Config{Env: env})
		}
		node, other := start(), start()
		far := other.AddPod(t)
		dir := t.TempDir()
		for _, version := range []string{"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			list := chain(t, node, version, family, dir)
			p := node.AddPodWith(t, nodetest.PodConfig{Conflist: list})
			if len(p.Addrs) != 1 || p.Addrs[0].Is4() == f.four {
				t.Fatalf("%s: the pod has %v, want one address of the cluster's family", version, p.Addrs)
			}
			wantSource(t, p.Pod, f.internet, addrOf(node.Node, family))
			wantSource(t, p.Pod, far.Addrs[0], p.Addrs[0])
			if got := far.Ask(t, "tcp", p.At(0)).Addr(); got != far.Addrs[0] {
				t.Errorf("%s: the pod sees %v, want %v", version, got, far.Addrs[0])
			}
			if f.four {
				if err := metadata(t, p.Pod); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s: the metadata service: %v, want refused", version, err)
				}
			}
			if version >= "0.4.0" {
				p.Check(t)
			}
			if version >= "1.1.0" {
				traces(t, node, p, f.internet)
				conf, err := libcni.ConfListFromBytes([]byte(list))
				if err != nil {
					t.Fatal(err)
				}
				valid := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: p.Name(), IfName: "eth0"}}}
				node.Do(t, func() error { return node.CNI().GCNetworkList(t.Context(), conf, valid) })
				p.Check(t)
			}
			p.Delete(t)
			if rules := node.Node.Run(t, "nft", "list", "tables"); strings.Contains(rules, "egress") {
				t.Errorf("%s: after DEL: %s", version, rules)
			}
			if left := node.Node.Run(t, "ip", "-o", "link"); strings.Contains(left, snat.EgressLinkPrefix(f.internet)) {
				t.Errorf("%s: after DEL: %s", version, left)
			}
		}
	})
}

// metadata connects to the metadata service from a pod.
func metadata(t *testing.T, p *vpctest.Pod) (err error) {
	t.Helper()
	p.Do(t, func() error {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", "169.254.169.254:80", 10*time.Second); err == nil {
			err = c.Close()
		}
		return nil
	})
	return err
}

// TestMetadata reaches the metadata service from a pod on a node without an agent, which
// could refuse it as in TestChain.
func TestMetadata(t *testing.T) {
	n := newNode(t, "IPv4")
	defer n.wantAsBefore()
	p, _ := n.add(nil)
	if err := metadata(t, p); err != nil {
		t.Error(err)
	}
	n.del(p)
}

// traces traces a packet of a pod to the internet, while all is as it should be and after the
// translation is lost.
func traces(t *testing.T, node *nodetest.Node, p *nodetest.Pod, internet netip.Addr) {
	t.Helper()
	view := func() trace.View {
		v, err := trace.Observe(t.Context(), node.Path(), p.Path())
		if err != nil {
			t.Fatal(err)
		}
		h, err := snat.Open(node.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		s, err := h.ObserveEgress(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range s.Pods {
			v.Egress = append(v.Egress, trace.Egress{Pod: e.Pod, Node: e.Node, Table: snat.EgressTable(e.Pod)})
		}
		return v
	}
	v := view()
	if len(v.Egress) != 1 || len(v.Filters) != 0 {
		t.Fatalf("%d pods with egress, chains of other programs %v; want 1 and none", len(v.Egress), v.Filters)
	}
	e := v.Egress[0]
	path := trace.Trace(v, trace.Flow{Src: e.Pod, Dst: internet})
	if text := path.String(); !path.OK() || path.Source != e.Node || path.Egress != "ens5" || len(path.Back) == 0 ||
		!strings.Contains(text, " "+snat.EgressLinkPrefix(e.Pod)) || !strings.Contains(text, "table inet "+e.Table) {
		t.Errorf("trace:\n%s", text)
	}
	if faults, err := trace.Confirm(t.Context(), node.Path(), path); err != nil || len(faults) > 0 {
		t.Errorf("the kernel disagrees: %v, %v", faults, err)
	}
	v.Egress = nil
	if path := trace.Trace(v, trace.Flow{Src: e.Pod, Dst: internet}); !path.Has(trace.FaultLostSNAT) {
		t.Errorf("trace without the translation:\n%s", path)
	}
}

// TestPreflight checks that the files of package preflight are about the plugin's links too.
func TestPreflight(t *testing.T) {
	for _, a := range []netip.Addr{vpctest.InternetAddr, vpctest.InternetAddr6} {
		found := false
		for _, file := range preflight.Files(preflight.Config{}) {
			found = found || strings.Contains(file.Text, " "+snat.EgressLinkPrefix(a)+"*")
		}
		if !found {
			t.Errorf("no file names %s*", snat.EgressLinkPrefix(a))
		}
	}
}
