// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/vpctest"
)

// service is a Service with one endpoint, for TCP and UDP at the port of the echo servers.
type service struct {
	name     string
	cluster  netip.Addr
	nodePort uint16 // 0 means none
	local    bool   // externalTrafficPolicy
	endpoint netip.Addr
	node     string // of the endpoint; empty means none
}

// ports are the ports of each Service and EndpointSlice.
func ports(nodePort uint16, of string) (list []object) {
	for _, protocol := range []string{"TCP", "UDP"} {
		p := object{"name": strings.ToLower(protocol), "protocol": protocol, "port": vpctest.EchoPort}
		if of == services.kind {
			p["targetPort"] = vpctest.EchoPort
		}
		if nodePort != 0 {
			p["nodePort"] = nodePort
		}
		list = append(list, p)
	}
	return list
}

// addService adds a Service and its EndpointSlice.
func (a *api) addService(s service) {
	family := "IPv4"
	if s.cluster.Is6() {
		family = "IPv6"
	}
	spec := object{
		"type": "ClusterIP", "clusterIP": s.cluster, "clusterIPs": []netip.Addr{s.cluster}, "ipFamilies": []string{family}, "ipFamilyPolicy": "SingleStack",
		"sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "ports": ports(s.nodePort, services.kind),
	}
	if s.nodePort != 0 {
		spec["type"], spec["externalTrafficPolicy"] = "NodePort", "Cluster"
	}
	if s.local {
		spec["externalTrafficPolicy"] = "Local"
	}
	a.add(services, s.name, nil, object{"spec": spec})
	endpoint := object{"addresses": []netip.Addr{s.endpoint}, "conditions": object{"ready": true, "serving": true, "terminating": false}}
	if s.node != "" {
		endpoint["nodeName"] = s.node
	}
	a.add(endpointSlices, s.name, object{"labels": object{"kubernetes.io/service-name": s.name}},
		object{"addressType": family, "endpoints": []object{endpoint}, "ports": ports(0, endpointSlices.kind)})
}

// addNode adds the node of a kube-proxy. Its first address has the family of the cluster.
func (a *api) addNode(name string, addrs []netip.Addr) {
	var list []object
	for _, addr := range addrs {
		list = append(list, object{"type": "InternalIP", "address": addr})
	}
	a.add(nodes, name, nil, object{"spec": object{}, "status": object{"addresses": list}})
}

// proxy is the kube-proxy of a node.
type proxy struct {
	node   *vpctest.Node
	mode   string
	config string
	api    *api
	*vpctest.Process
}

// newProxy writes the configuration of a kube-proxy, which Start starts.
func newProxy(t *testing.T, node *vpctest.Node, mode string, addrs []netip.Addr) *proxy {
	t.Helper()
	a, url := startAPI(t, node.Host)
	a.addNode(node.Name(), addrs)
	dir := t.TempDir()
	write := func(name string, o object) string {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	access := write("kubeconfig", object{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []object{{"name": "c", "cluster": object{"server": url}}},
		"contexts": []object{{"name": "c", "context": object{"cluster": "c"}}},
	})
	never := object{"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
	config := write("config", object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": mode, "hostnameOverride": node.Name(),
		"clientConnection": object{"kubeconfig": access, "contentType": "application/json", "acceptContentTypes": "application/json"},
		"conntrack":        never,
		// The default of mode nftables is the node's own address only.
		"nodePortAddresses": []string{"0.0.0.0/0", "::/0"},
		"iptables":          object{"minSyncPeriod": "0s"}, "nftables": object{"minSyncPeriod": "0s"},
	})
	return &proxy{node: node, mode: mode, config: config, api: a}
}

// start starts kube-proxy and waits until it has made rules for all Services so far.
func (p *proxy) start(t *testing.T) {
	t.Helper()
	p.Process = p.node.Start(t, exec.Command(kubeProxy(), "--config", p.config))
	p.wait(t)
}

// wait waits until kube-proxy has rules for all Services with their endpoints.
func (p *proxy) wait(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := p.missing(t)
		if err == nil {
			return
		}
		select {
		case <-p.Done():
			t.Fatalf("kube-proxy ended: %v", p.Err())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// missing returns an error if the rules of a Service are missing.
func (p *proxy) missing(t *testing.T) error {
	t.Helper()
	var text string
	first := "KUBE-SERVICES"
	if p.mode == "nftables" {
		text, first = p.node.Run(t, "nft", "list", "ruleset"), " kube-proxy {"
	} else {
		text = p.node.Run(t, "iptables-save") + p.node.Run(t, "ip6tables-save")
	}
	if !strings.Contains(text, first) {
		return fmt.Errorf("kube-proxy has made no rules:\n%s", text)
	}
	slices, _, _ := p.api.after(endpointSlices, 0)
	for _, s := range slices {
		name := s["metadata"].(object)["name"].(string)
		addr := s["endpoints"].([]object)[0]["addresses"].([]netip.Addr)[0]
		if !hasEndpoint(text, name, addr) {
			return fmt.Errorf("kube-proxy has no rule for Service %s with endpoint %v:\n%s", name, addr, text)
		}
	}
	return nil
}

// hasEndpoint reports whether the rules of kube-proxy rewrite the destination of a Service, in
// the notation of either mode, for both protocols.
func hasEndpoint(text, name string, addr netip.Addr) bool {
	to := netip.AddrPortFrom(addr, vpctest.EchoPort).String()
	found := map[string]bool{}
	chain := ""
	for line := range strings.Lines(text) {
		if c, ok := strings.CutPrefix(strings.TrimSpace(line), "chain "); ok {
			chain = c
		}
		for _, protocol := range []string{"tcp", "udp"} {
			iptables := strings.HasPrefix(line, "-A KUBE-SEP-") && strings.Contains(line, fmt.Sprintf("default/%s:%s\"", name, protocol)) && strings.Contains(line, "--to-destination "+to)
			nftables := strings.Contains(chain, fmt.Sprintf("default/%s/%s/", name, protocol)) && strings.Contains(line, " dnat ")
			if iptables || nftables {
				found[protocol] = true
			}
		}
	}
	return len(found) == 2
}
