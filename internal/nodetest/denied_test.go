// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// get returns what the agent shows at a path of its status socket.
func (n *Node) get(t *testing.T, path string) (string, error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.File("status.sock"))
		},
	}}
	res, err := client.Get("http://ipamd" + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// wantRefused waits until the agent shows a call to EC2 for which its role has no permission.
func (n *Node) wantRefused(t *testing.T, action string) {
	t.Helper()
	n.Eventually(t, func() error {
		shown, err := n.get(t, "/v2/ec2-errors")
		if err == nil && (!strings.Contains(shown, `"action": "`+action+`"`) || !strings.Contains(shown, `"code": "UnauthorizedOperation"`)) {
			err = fmt.Errorf("the status does not name %s: %s", action, shown)
		}
		return err
	})
}

// TestDenied takes each permission that a pod needs from the role of a node. The pod that
// gets no address has the permission in its error, which is the text of its event, and the
// agent shows the call among EC2's last errors.
func TestDenied(t *testing.T) {
	t.Parallel()
	four := map[string]string{"WARM_ENI_TARGET": "0", "WARM_IP_TARGET": "1", "VPCNET_WARM_POLICY": "aws"}
	for _, c := range []struct {
		action string
		// called is the action of the call that is refused. Empty means action.
		called string
		env    map[string]string
	}{
		{"AssignPrivateIpAddresses", "", four},
		{"CreateNetworkInterface", "", four},
		{"CreateTags", "CreateNetworkInterface", four},
		{"AttachNetworkInterface", "", four},
		{"AssignIpv6Addresses", "", map[string]string{"ENABLE_IPv4": "false", "ENABLE_IPv6": "true"}},
	} {
		t.Run(c.action, func(t *testing.T) {
			vpc := vpctest.New(t)
			node := &Node{Node: vpc.Node(t, "t3.small"), dir: t.TempDir(), cfg: Config{Env: c.env}}
			vpc.Cloud.Deny("", c.action)
			node.Run(t)
			list := `{"cniVersion":"1.0.0","name":"vpcnet","plugins":[{"type":"vpc-cni","agentSocket":"` + node.File("agent.sock") +
				`","stateDir":"` + node.File("state") + `","timeout":"5s"}]}`
			var refused error
			node.Eventually(t, func() error {
				for range 5 { // a t3.small has 3 addresses for pods on its primary ENI
					if _, err := node.TryPod(t, PodConfig{Conflist: list, Silent: true}); err != nil {
						refused = err
						break
					}
				}
				if refused == nil || !strings.Contains(refused.Error(), "unauthorized") || !strings.Contains(refused.Error(), "ec2:"+c.action) {
					return fmt.Errorf("error of the pod: %w, want unauthorized and ec2:%s", refused, c.action)
				}
				return nil
			})
			called := c.called
			if called == "" {
				called = c.action
			}
			node.wantRefused(t, called)
		})
	}
}

// TestDeniedDescribe takes from the role of a node the permission to describe ENIs. The agent
// works with what the metadata service shows, and shows the refused call.
func TestDeniedDescribe(t *testing.T) {
	t.Parallel()
	vpc := vpctest.New(t)
	vpc.Cloud.Deny("", "DescribeNetworkInterfaces")
	node := Start(t, vpc.Node(t, "t3.small"), Config{})
	node.AddPod(t).Ping(t, vpctest.InternetAddr)
	node.wantRefused(t, "DescribeNetworkInterfaces")
}
