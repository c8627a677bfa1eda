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

	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// pod is a network namespace that a CNI ADD has connected.
type pod struct {
	*vpctest.Pod
	name      string
	node      *node
	container string // the runtime's ID of the sandbox
	ns        *fabric.Netns
	addr      netip.Addr
	eni       string // the ENI that owns addr
	device    int    // the device index of that ENI
	hostLink  string
	result    *types100.Result
	took      time.Duration // duration of the ADD
	tookDel   time.Duration // duration of the DEL
	stopEcho  func()
}

// ifName is the name of the interface inside of pods.
const ifName = "eth0"

// addPod adds a pod as a container runtime does: it creates a network namespace and
// calls libcni, which executes the plugins of the node's configuration. Then it
// starts a server in the pod that answers at [fabric.EchoPort].
func (n *node) addPod(ctx context.Context) (p *pod, err error) {
	sandbox, err := n.AddPod()
	if err != nil {
		return nil, err
	}
	name := sandbox.Name()
	id := sha256.Sum256([]byte(name))
	p = &pod{Pod: sandbox, name: name, node: n, container: hex.EncodeToString(id[:])}
	if p.ns, err = fabric.OpenNetns(sandbox.Path()); err != nil {
		return nil, errors.Join(err, sandbox.Close())
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

// add runs CNI ADD and stores the result.
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
		return fmt.Errorf("%v in the result is not an address", p.result.IPs[0].Address)
	}
	p.addr = addr.Unmap()
	for _, i := range p.result.Interfaces {
		if i.Sandbox == "" {
			p.hostLink = i.Name
		}
	}
	return nil
}

// delete runs CNI DEL and then removes the pod's namespace, as a container runtime
// does.
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

// cni returns the CNI library, as container runtimes use it. Plugins run in the
// namespace of the calling thread.
func (p *pod) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{p.node.world.programs}, filepath.Join(p.node.dir, "cni-cache"), nil)
}

// config returns the node's network configuration, and the parameters that the
// runtime adds for the pod.
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

// close removes the pod's namespace without a DEL.
func (p *pod) close() error {
	p.stop()
	return errors.Join(p.ns.Close(), p.Close())
}

// echo returns the address of the pod's server.
func (p *pod) echo() netip.AddrPort { return netip.AddrPortFrom(p.addr, fabric.EchoPort) }

// resultJSON returns the CNI result as the runtime got it.
func (p *pod) resultJSON() ([]byte, error) { return json.MarshalIndent(p.result, "", "  ") }
