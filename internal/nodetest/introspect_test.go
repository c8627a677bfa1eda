// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// TestIntrospection reads from the node what the agent and the plugin show with their default
// settings: the pool as amazon-vpc-cni-k8s shows it, metrics under its names, and the logs.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node := Start(t, vpctest.New(t).Node(t, "t3.small"), Config{Env: map[string]string{
		"AWS_VPC_K8S_CNI_LOG_FILE": dir + "/log/ipamd.log", "AWS_VPC_K8S_CNI_LOGLEVEL": "debug",
		"AWS_VPC_K8S_PLUGIN_LOG_FILE": dir + "/log/plugin.log",
	}})
	pod := node.AddPod(t)
	if out := node.Agent.Output(); out != "" {
		t.Errorf("the agent wrote to standard output or error: %s", out)
	}

	var cards map[string]struct {
		TotalIPs, AssignedIPs int
		ENIs                  map[string]struct {
			IsPrimary          bool
			SubnetID           string
			AvailableIPv4Cidrs map[string]struct {
				IPAddresses map[string]struct{ IPAMMetadata struct{ K8sPodName string } }
			}
		}
	}
	if err := json.Unmarshal([]byte(node.http(t, "127.0.0.1:61679", "/v1/enis")), &cards); err != nil {
		t.Fatal(err)
	}
	primary := node.ENIs()[0]
	shown := cards["0"].ENIs[primary.ID]
	at := netip.PrefixFrom(pod.Addrs[0], 32).String()
	if cards["0"].TotalIPs != 3 || cards["0"].AssignedIPs != 1 || !shown.IsPrimary || shown.SubnetID != primary.Subnet ||
		shown.AvailableIPv4Cidrs[at].IPAddresses[pod.Addrs[0].String()].IPAMMetadata.K8sPodName != pod.Name() {
		t.Errorf("/v1/enis: %+v, want pod %s at %v", cards, pod.Name(), at)
	}
	metrics := node.http(t, "127.0.0.1:61678", "/metrics")
	for _, line := range []string{
		"awscni_eni_max 3\n", "awscni_ip_max 9\n", "awscni_total_ip_addresses 3\n", "awscni_assigned_ip_addresses 1\n", "awscni_add_ip_req_count 1\n",
		`awscni_ec2api_req_count{fn="AssignPrivateIpAddresses"} 1`, `awscni_connmark_backend{backend="nftables"} 1`, `vpcnet_requests_total{call="add",result="ok"} 1`,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}

	for file, words := range map[string][]string{
		dir + "/log/ipamd.log":  {`"level":"debug"`, "IP pool stats for network card 0: Total IPs/Prefixes = 3/0, AssignedIPs/CooldownIPs: 1/0, c.maxIPsPerENI = 3"},
		dir + "/log/plugin.log": {`"level":"info"`, `"command":"ADD"`},
	} {
		node.Eventually(t, func() error {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				var entry struct {
					Level, Caller, Msg string
					TS                 time.Time
				}
				if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level == "" || entry.TS.IsZero() || !strings.Contains(entry.Caller, ".go:") || entry.Msg == "" {
					t.Fatalf("%s has the line %s (%v), want level, ts, caller and msg", file, line, err)
				}
			}
			for _, w := range words {
				if !strings.Contains(string(b), w) {
					return fmt.Errorf("%s lacks %s", file, w)
				}
			}
			return nil
		})
	}
}

// http returns what an address of the node shows at a path.
func (n *Node) http(t *testing.T, where, path string) (body string) {
	t.Helper()
	conn := n.Dial(t, "tcp", netip.MustParseAddrPort(where))
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	return readBody(t, conn)
}

// TestPortsTaken runs an agent while other programs listen on its ports. It says so, and
// serves pods. Without these ports it listens on none.
func TestPortsTaken(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	on := vpc.Node(t, "t3.small")
	for _, port := range []uint16{61678, 61679} {
		l := on.Listen(t, netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		go func() { _ = http.Serve(l, http.NotFoundHandler()) }() // ends with the listener
	}
	node := Start(t, on, Config{})
	for _, setting := range []string{"INTROSPECTION_BIND_ADDRESS", "VPCNET_METRICS_BIND_ADDRESS"} {
		node.Eventually(t, func() error { return logged(node, "another process listens", setting, "address already in use") })
	}
	node.AddPod(t).Ping(t, vpctest.InternetAddr)

	quiet := Start(t, vpc.Node(t, "t3.small"), Config{Env: map[string]string{"DISABLE_INTROSPECTION": "true", "DISABLE_METRICS": "true"}})
	if ports := quiet.Node.Run(t, "ss", "-Hltn"); strings.Contains(ports, ":6167") {
		t.Errorf("ports of an agent without introspection and metrics: %s", ports)
	}
}

// readBody reads the body of an answer without errors.
func readBody(t *testing.T, r io.Reader) string {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("HTTP status %s, %v: %s", res.Status, err, b)
	}
	return string(b)
}
