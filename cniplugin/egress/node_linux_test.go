// SPDX-License-Identifier: Apache-2.0

package egress_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m, "egress-cni", "host-local") }

// families are the two families of egress, with what differs.
var families = map[string]struct {
	four                bool
	env                 map[string]string // of the cluster's family
	subnet, route, link string
	internet, unused    netip.Addr
	ip                  string // the option of the program ip
}{
	"IPv6": {
		subnet: "fd00::ac:00/118", route: "::/0", link: "v6if0", internet: vpctest.InternetAddr6,
		unused: netip.MustParseAddr("fd00::ac:99"), ip: "-6",
	},
	"IPv4": {
		four: true, env: map[string]string{"ENABLE_IPv4": "false", "ENABLE_IPv6": "true"},
		subnet: "169.254.172.0/22", route: "0.0.0.0/0", link: "v4if0", internet: vpctest.InternetAddr,
		unused: netip.MustParseAddr("169.254.172.99"), ip: "-4",
	},
}

// node is a node without an agent, on which tests run only egress-cni, after an earlier
// plugin that gave the pods no address.
type node struct {
	*vpctest.Node
	vpc    *vpctest.VPC
	t      *testing.T
	family string
	// dir has the state of the plugin and of host-local.
	dir    string
	before string
}

// newNode starts a node with addresses of both families. The test defers wantAsBefore.
func newNode(t *testing.T, family string) *node {
	t.Helper()
	vpc := vpctest.New(t)
	n := &node{vpc: vpc, Node: vpc.NodeIn(t, enitest.InstanceInput{Type: "t3.small", IPv6Addrs: 1}), t: t, family: family, dir: t.TempDir()}
	n.before = n.state()
	return n
}

// wantAsBefore checks that the node is as it was at the beginning of the test.
func (n *node) wantAsBefore() {
	n.t.Helper()
	if n.t.Failed() {
		return
	}
	if diff := cmp.Diff(n.before, n.state()); diff != "" {
		n.t.Errorf("left behind: -before +after:\n%s", diff)
	}
}

// addr returns the node's address of the family of the egress.
func (n *node) addr() netip.Addr { return addrOf(n.Node, n.family) }

func addrOf(n *vpctest.Node, family string) netip.Addr {
	if families[family].four {
		return n.Addr
	}
	return n.Addr6
}

// state has everything that a pod can leave on the node.
func (n *node) state() string {
	n.t.Helper()
	var out []string
	const show = `set -e
ip -o link
for family in -4 -6; do ip $family route show table all; ip $family rule; done
ip neigh show nud permanent
nft -s list ruleset`
	for l := range strings.Lines(n.Run(n.t, "sh", "-c", show)) {
		if !strings.Contains(l, "ens5@") && !strings.Contains(l, " dev ens5 table local") { // which change by themselves
			out = append(out, strings.TrimSpace(l))
		}
	}
	for _, pattern := range []string{"state/*", "state/.tmp*", "ipam/net/*"} {
		found, err := filepath.Glob(filepath.Join(n.dir, pattern))
		if err != nil {
			n.t.Fatal(err)
		}
		for _, f := range found {
			if base := filepath.Base(f); base != "lock" && !strings.HasPrefix(base, "last_reserved_ip") {
				out = append(out, "file "+f)
			}
		}
	}
	return strings.Join(out, "\n")
}

// entry returns the plugin's entry in a list: that of amazon-vpc-cni-k8s with other
// directories. fields override it.
func entry(family, dir string, node netip.Addr, fields map[string]any) map[string]any {
	f := families[family]
	e := map[string]any{
		"name": "egress-cni", "type": "egress-cni", "mtu": "9001", "enabled": "true", "randomizeSNAT": "prng", "nodeIP": node.String(),
		"ipam": map[string]any{
			"type": "host-local", "ranges": [][]map[string]string{{{"subnet": f.subnet}}},
			"routes": []map[string]string{{"dst": f.route}}, "dataDir": filepath.Join(dir, "ipam"),
		},
		"pluginLogFile": filepath.Join(dir, "egress.log"), "pluginLogLevel": "DEBUG",
		"stateDir": filepath.Join(dir, "state"),
	}
	for k, v := range fields {
		e[k] = v
	}
	return e
}

// invocation is one call of the plugin.
type invocation struct {
	command, id, netns string
	version            string
	fields             map[string]any
}

// stdin returns the configuration. Without a prevResult it has an empty one.
func (n *node) stdin(i invocation) string {
	e := entry(n.family, n.dir, n.addr(), i.fields)
	e["cniVersion"], e["name"] = i.version, "net"
	if i.version == "" {
		e["cniVersion"] = "1.1.0"
	}
	if _, ok := e["prevResult"]; !ok {
		e["prevResult"] = map[string]any{"cniVersion": e["cniVersion"]}
	}
	b, err := json.Marshal(e)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

func (n *node) cmd(i invocation) *exec.Cmd {
	cmd := exec.CommandContext(n.t.Context(), nodetest.Program("egress-cni"))
	cmd.Env = []string{
		"CNI_COMMAND=" + i.command, "CNI_CONTAINERID=" + i.id, "CNI_NETNS=" + i.netns, "CNI_IFNAME=eth0",
		"CNI_PATH=" + filepath.Dir(nodetest.Program("egress-cni")),
	}
	cmd.Stdin = strings.NewReader(n.stdin(i))
	return cmd
}

// run executes the plugin in the node, and returns its output and whether it succeeded.
func (n *node) run(i invocation) (stdout string, ok bool) {
	n.t.Helper()
	cmd := n.cmd(i)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	n.Do(n.t, cmd.Start)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	if errs.Len() > 0 {
		n.t.Logf("%s %s: %s", i.command, i.id, &errs)
	}
	return out.String(), err == nil
}

// must executes an invocation that must succeed.
func (n *node) must(i invocation) string {
	n.t.Helper()
	out, ok := n.run(i)
	if !ok {
		n.t.Fatalf("%s %s: %s", i.command, i.id, out)
	}
	return out
}

// add adds a pod and returns it with its result.
func (n *node) add(fields map[string]any) (*vpctest.Pod, string) {
	n.t.Helper()
	p := n.Pod(n.t)
	return p, n.must(invocation{command: "ADD", id: p.Name(), netns: p.Path(), fields: fields})
}

func (n *node) del(p *vpctest.Pod) {
	n.t.Helper()
	n.must(invocation{command: "DEL", id: p.Name(), netns: p.Path()})
}

// check runs CHECK with the result of an ADD, and returns its error.
func (n *node) check(p *vpctest.Pod, result string, fields map[string]any) string {
	n.t.Helper()
	with := map[string]any{"prevResult": json.RawMessage(result)}
	for k, v := range fields {
		with[k] = v
	}
	out, ok := n.run(invocation{command: "CHECK", id: p.Name(), netns: p.Path(), fields: with})
	if ok != (out == "") {
		n.t.Errorf("CHECK: success %v with output %q", ok, out)
	}
	return out
}

// links returns the names of both ends of the pod's link.
func links(t *testing.T, result string) (host, inside string) {
	t.Helper()
	var r types100.Result
	if err := json.Unmarshal([]byte(result), &r); err != nil || len(r.Interfaces) < 2 {
		t.Fatalf("result %s: %v, want two interfaces", result, err)
	}
	last := r.Interfaces[len(r.Interfaces)-2:]
	return last[0].Name, last[1].Name
}

// podAddr returns the address that host-local gave to a pod.
func (n *node) podAddr(id string) netip.Addr {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.dir, "ipam/net/*"))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), id+"\r\n") {
			if a, err := netip.ParseAddr(filepath.Base(f)); err == nil {
				return a
			}
		}
	}
	n.t.Fatalf("host-local gave no address to %s: %v", id, files)
	return netip.Addr{}
}

// echoAt returns the echo server at an address.
func echoAt(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, vpctest.EchoPort) }

// eachFamily runs a test for both families.
func eachFamily(t *testing.T, f func(t *testing.T, family string)) {
	names := []string{"IPv6", "IPv4"}
	if len(names) != len(families) || !slices.ContainsFunc(names, func(n string) bool { return families[n].four }) {
		t.Fatal("a family has no test")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) { f(t, name) })
	}
}

// wantSource checks the source that the host at an address sees, over TCP and UDP.
func wantSource(t *testing.T, p *vpctest.Pod, to, want netip.Addr) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if got := p.Ask(t, network, echoAt(to)).Addr(); got != want {
			t.Errorf("%s over %s sees %v, want %v", to, network, got, want)
		}
	}
}

// transfer sends lines that are longer than any packet to an echo server, and reads them
// back.
func transfer(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 30000) + "\n"
	back := bufio.NewReader(c)
	for range 4 {
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
		if got, err := back.ReadString('\n'); err != nil || !strings.HasSuffix(got, line) {
			t.Fatalf("echo has %d bytes, want at least %d: %v", len(got), len(line), err)
		}
	}
}
