// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// pod is a network namespace that a CNI ADD has connected.
type pod struct {
	name      string
	node      *node
	container string // the runtime's ID of the sandbox
	ns        *fabric.Netns
	addr      netip.Addr
	eni       string // owner of addr
	device    int    // and its device index
	hostLink  string
	result    *types100.Result
	took      time.Duration // the ADD
	tookDel   time.Duration // the DEL
	stopEcho  func()
}

// ifName is the name of the interface inside of pods.
const ifName = "eth0"

// addPod does what a container runtime does for a new pod: make a network
// namespace and have libcni execute the plugins of the node's configuration.
// Then it starts a server in the pod that answers at [fabric.EchoPort].
func (n *node) addPod(ctx context.Context) (p *pod, err error) {
	n.lastPod++
	name := fmt.Sprintf("pod-%s-%d", n.name[len("node-"):], n.lastPod)
	id := sha256.Sum256([]byte(name))
	p = &pod{name: name, node: n, container: hex.EncodeToString(id[:])}
	if p.ns, err = fabric.CreateNetns(filepath.Join("/run/netns", name)); err != nil {
		return nil, err
	}
	added := false
	defer func() {
		if !added {
			err = errors.Join(err, p.close())
		}
	}()
	start := time.Now()
	if err := p.add(ctx); err != nil {
		return nil, fmt.Errorf("ADD %s: %w", name, err)
	}
	p.took = time.Since(start)
	owner, ok := n.owner(p.addr)
	if !ok {
		return nil, fmt.Errorf("ADD %s gave %v, which no ENI of %s owns", name, p.addr, n.name)
	}
	p.eni, p.device = owner.ID, owner.Attachment.Device
	if p.stopEcho, err = p.ns.Echo(ctx, netip.AddrPortFrom(netip.IPv4Unspecified(), fabric.EchoPort)); err != nil {
		return nil, err
	}
	n.pods = append(n.pods, p)
	added = true
	return p, nil
}

// add runs CNI ADD and takes in the result.
func (p *pod) add(ctx context.Context) error {
	list, rt, err := p.config()
	if err != nil {
		return err
	}
	err = p.node.ns.Do(func() error {
		res, err := p.cni().AddNetworkList(ctx, list, rt)
		if err != nil {
			return err
		}
		p.result, err = types100.NewResultFromResult(res)
		return err
	})
	if err != nil {
		return err
	}
	if len(p.result.IPs) == 0 || len(p.result.Interfaces) == 0 {
		return errors.New("the result has no address or no interface")
	}
	addr, ok := netip.AddrFromSlice(p.result.IPs[0].Address.IP)
	if !ok {
		return fmt.Errorf("the result's address %v is none", p.result.IPs[0].Address)
	}
	p.addr = addr.Unmap()
	for _, i := range p.result.Interfaces {
		if i.Sandbox == "" {
			p.hostLink = i.Name
		}
	}
	return nil
}

// delete runs CNI DEL and removes the pod's namespace, in the order of a
// container runtime.
func (p *pod) delete(ctx context.Context) error {
	list, rt, err := p.config()
	if err != nil {
		return err
	}
	p.stop()
	start := time.Now()
	err = p.node.ns.Do(func() error { return p.cni().DelNetworkList(ctx, list, rt) })
	if err != nil {
		return fmt.Errorf("DEL %s: %w", p.name, err)
	}
	p.tookDel = time.Since(start)
	p.node.pods = slices.DeleteFunc(p.node.pods, func(o *pod) bool { return o == p })
	return p.close()
}

// cni is the library that container runtimes use. What it starts runs in the
// namespace of the calling thread.
func (p *pod) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{p.node.world.programs}, filepath.Join(p.node.dir, "cni-cache"), nil)
}

// config is the node's network configuration and what the runtime adds to it
// for the pod.
func (p *pod) config() (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.ConfListFromFile(p.node.conflist())
	return list, &libcni.RuntimeConf{
		ContainerID: p.container, NetNS: p.ns.Path(), IfName: ifName,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", p.name}},
	}, err
}

// stop ends the pod's server.
func (p *pod) stop() {
	if p.stopEcho != nil {
		p.stopEcho()
		p.stopEcho = nil
	}
}

// close removes the pod's namespace without telling anyone.
func (p *pod) close() error {
	p.stop()
	return p.ns.Delete()
}

// echo is where the pod's server listens.
func (p *pod) echo() netip.AddrPort { return netip.AddrPortFrom(p.addr, fabric.EchoPort) }

// resultJSON is the CNI result as the runtime got it.
func (p *pod) resultJSON() ([]byte, error) { return json.MarshalIndent(p.result, "", "  ") }
