// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// put sends settings to the agent of a node at a Unix socket or, from the namespace of the
// node, at a TCP address. It returns the status of the answer, or 0 if there is none, and
// its body.
func (n *Node) put(t *testing.T, network, addr, text string) (status int, body string) {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
			if network == "tcp" {
				return n.Dial(t, network, netip.MustParseAddrPort(addr)), nil
			}
			return net.Dial(network, addr)
		},
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://ipamd/v1/config", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// free waits until the agent has exactly a number of free addresses.
func (n *Node) free(t *testing.T, want int) {
	t.Helper()
	n.Eventually(t, func() error {
		if s := n.Status(t); s.Free != want || len(s.InFlight) > 0 {
			return fmt.Errorf("%d addresses are free while %v is under way, want %d and nothing", s.Free, s.InFlight, want)
		}
		return nil
	})
}

// hangup sends SIGHUP to the agent, and waits until it has logged a text once more.
func (n *Node) hangup(t *testing.T, text string) {
	t.Helper()
	before := strings.Count(n.Agent.Output(), text)
	n.Agent.Signal(t, syscall.SIGHUP)
	n.Eventually(t, func() error {
		if strings.Count(n.Agent.Output(), text) == before {
			return fmt.Errorf("the agent has not logged %q", text)
		}
		return nil
	})
}

// TestReconfigure changes the settings of a running agent: a target by SIGHUP, subnets and
// groups by PUT. Pods keep their addresses, and a new ENI is in the other subnet. Mistakes
// and TCP change nothing. After a restart the settings are those of the file.
func TestReconfigure(t *testing.T) {
	t.Parallel()
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := placed(t, "10.0.0.0/20",
				enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.0.0/20"), Zone: "us-west-2a"},
				enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.16.0/20"), Zone: "us-west-2a"},
				enitest.SubnetInput{Prefix: netip.MustParsePrefix("100.64.32.0/20"), Zone: "us-west-2b"})
			r := &reconfigured{vpc: vpc, group: openGroup(t, vpc, "pods"), file: t.TempDir() + "/vpcnet.conf"}
			r.custom = []string{"VPCNET_LAYOUT=" + layout, "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=true", "VPCNET_POD_SUBNETS=" + vpc.Subnets[2].ID}
			r.write(t, "WARM_IP_TARGET=1")
			r.Node = Start(t, vpc.NodeIn(t, enitest.InstanceInput{Subnet: vpc.Subnets[0].ID, Type: "m5.large"}), Config{Args: []string{"-config", r.file}})
			r.changeFile(t)
			r.changePlacement(t)
			r.refuse(t)
			r.restart(t)
			wantNoDrops(t, vpc)
		})
	}
}

// reconfigured is a node with an agent that reads a file.
type reconfigured struct {
	*Node
	vpc    *vpctest.VPC
	group  string
	file   string
	custom []string // lines that are always in the file
	pods   []*Pod
}

// write writes the file.
func (r *reconfigured) write(t *testing.T, lines ...string) {
	t.Helper()
	text := strings.Join(append(slices.Clone(r.custom), lines...), "\n")
	if err := os.WriteFile(r.file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// placement returns the settings of a subnet of pods and a group.
func placement(subnet, group string) string {
	return "VPCNET_POD_SUBNETS=" + subnet + "\nVPCNET_POD_SECURITY_GROUPS=" + group + "\n"
}

// wantChanges sends settings that are accepted.
func (r *reconfigured) wantChanges(t *testing.T, text string, live ...string) {
	t.Helper()
	status, body := r.put(t, "unix", r.File("agent.sock"), text)
	var got settings.Changes
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK || !slices.Equal(got.Live, live) || len(got.Waiting) > 0 {
		t.Fatalf("PUT of %q: %d %s, want %v live", text, status, body, live)
	}
}

// changeFile changes a target by the file; a broken or missing file changes nothing.
func (r *reconfigured) changeFile(t *testing.T) {
	r.pods = append(r.pods, r.AddPod(t))
	r.free(t, 1)
	r.write(t, "WARM_IP_TARGET=4")
	r.hangup(t, "settings read")
	r.free(t, 4)
	const refused = "settings stay as they are"
	r.write(t, "WARM_IP_TARGET=7", "rubbish")
	r.hangup(t, refused)
	if !strings.Contains(r.Agent.Output(), r.file+":5: ") {
		t.Errorf("the log does not name line 5 of %s:\n%s", r.file, r.Agent.Output())
	}
	r.write(t, "WARM_IP_TARGET=7", "VPCNET_POD_SUBNETS="+r.vpc.Subnets[4].ID) // twice
	r.hangup(t, refused)
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	r.hangup(t, refused)
	r.write(t, "WARM_IP_TARGET=4", "CLUSTER_NAME=prod")
	r.hangup(t, `"waiting":{"CLUSTER_NAME":"restart"}`)
	r.free(t, 4)
}

// changePlacement changes subnets and groups by PUT.
func (r *reconfigured) changePlacement(t *testing.T) {
	r.write(t, "WARM_IP_TARGET=4")
	first, second := r.vpc.Subnets[2], r.vpc.Subnets[3]
	r.wantChanges(t, placement(second.ID, r.group), "VPCNET_POD_SUBNETS", "VPCNET_POD_SECURITY_GROUPS")
	r.hangup(t, "settings read") // PUT counts more than the file
	for last := r.pods[0]; !second.Prefix.Contains(last.Addrs[0]); last = r.pods[len(r.pods)-1] {
		if len(r.pods) > 9 { // as many as an ENI of an m5.large has addresses for
			t.Fatalf("the pods have %v and so on, want one in %v", last.Addrs, second.Prefix)
		}
		r.pods = append(r.pods, r.AddPod(t))
	}
	r.Eventually(t, func() error {
		for _, e := range r.ENIs()[1:] {
			if !slices.Equal(e.Groups, []string{r.group}) {
				return fmt.Errorf("%s has the groups %v, want %s", e.ID, e.Groups, r.group)
			}
		}
		return nil
	})
	if e := r.ENIs(); len(e) != 3 || e[1].Subnet != first.ID || e[2].Subnet != second.ID {
		t.Errorf("ENIs %+v, want one in %s and one in %s", e, first.ID, second.ID)
	}
	r.check(t)
}

// check checks that the pods reach each other and the internet.
func (r *reconfigured) check(t *testing.T) {
	t.Helper()
	last := r.pods[len(r.pods)-1]
	for _, p := range r.pods[:len(r.pods)-1] {
		if got := p.Ask(t, "udp", last.At(0)).Addr(); got != p.Addrs[0] {
			t.Errorf("%v sees %v, want %v", last.Addrs[0], got, p.Addrs[0])
		}
		if got := last.Ask(t, "tcp", p.At(0)).Addr(); got != last.Addrs[0] {
			t.Errorf("%v sees %v, want %v", p.Addrs[0], got, last.Addrs[0])
		}
	}
	for _, p := range []*Pod{r.pods[0], last} {
		if got := p.Ask(t, "tcp", netip.AddrPortFrom(vpctest.InternetAddr, vpctest.EchoPort)).Addr(); got != r.Addr {
			t.Errorf("the internet sees %v from %v, want %v", got, p.Addrs[0], r.Addr)
		}
		p.Check(t)
	}
}

// refuse sends settings that are refused and change nothing.
func (r *reconfigured) refuse(t *testing.T) {
	kept := placement(r.vpc.Subnets[3].ID, r.group)
	for text, want := range map[string]string{
		"rubbish":                                  "is not of the form NAME=value",
		"WARM_IP_TARGET=many":                      "want a whole number",
		"WARM_IP_TARGET=9\nVPCNET_LAYOUT=flat":     "takes effect only when the agent starts",
		"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG=false": "takes effect only when the agent starts",
		"WARM_IP_TARGET=9\n" + placement(r.vpc.Subnets[4].ID, r.group):                "none of 0 subnets",
		"WARM_IP_TARGET=9\n" + placement(r.vpc.Subnets[3].ID, "sg-0123456789abcdef0"): "sg-0123456789abcdef0 does not exist",
		"ENABLE_IMDS_ONLY_MODE=true":                                                  "does not have this setting",
		strings.Repeat("#", 2<<20):                                                    "too large",
	} {
		if status, body := r.put(t, "unix", r.File("agent.sock"), text); status != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("PUT of %.60q: %d %s, want %d with %q", text, status, body, http.StatusBadRequest, want)
		}
	}
	r.wantChanges(t, kept) // nothing has changed
	info, err := os.Stat(r.File("agent.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the agent's socket has the mode %v, %v, want one that only its owner can open", info.Mode(), err)
	}
}

// restart checks that the file counts after a restart, and that no TCP port takes settings.
func (r *reconfigured) restart(t *testing.T) {
	r.write(t, "WARM_IP_TARGET=2")
	r.Restart(t, syscall.SIGKILL)
	r.free(t, 2)
	r.wantChanges(t, "")
	r.check(t)
	const tcp = "127.0.0.1:61679"
	r.Configure(Config{Args: []string{"-config", r.file}, Env: map[string]string{"INTROSPECTION_BIND_ADDRESS": tcp}})
	r.Restart(t, syscall.SIGTERM)
	if status, body := r.put(t, "tcp", tcp, "WARM_IP_TARGET=9"); status != http.StatusMethodNotAllowed {
		t.Errorf("PUT over TCP: %d %s, want %d", status, body, http.StatusMethodNotAllowed)
	}
	r.wantChanges(t, "WARM_IP_TARGET=3", "WARM_IP_TARGET")
}
