// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/snat"
)

// node is everything that a running [Agent] has opened.
type node struct {
	cfg      Config // with defaults
	log      *slog.Logger
	listener net.Listener
	journals *journals
	intents  eni.Intents // of journals
	links    *Links
	own      *ownPods
	pool     *ipam.Pool
	backend  *Backend
	policies *enforcer
	recorder recorder
	known    nodeRecord
	events   events
	// reading is held by what reads the kernel beside Run, so that close waits for it.
	reading sync.RWMutex
}

// open opens socket, journals and kernel. After an error nothing is open.
func (a *Agent) open(ctx context.Context) (*node, error) {
	cfg := a.config()
	n := &node{cfg: cfg, log: cfg.Logger}
	if err := n.open(ctx); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *node) open(ctx context.Context) (err error) {
	if err := refuseUnfinished(n.cfg.StateDir); err != nil {
		return err
	}
	if n.listener, err = server.Listen(n.cfg.Socket); err != nil {
		return fmt.Errorf("listen on the agent's socket: %w", err)
	}
	return n.openState(ctx)
}

// openState opens all of a node but the socket.
func (n *node) openState(ctx context.Context) error {
	if err := os.MkdirAll(n.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("create the state directory: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	booted, err := bootTime()
	if err != nil {
		return err
	}
	if n.journals, err = openJournals(ctx, n.cfg.StateDir, boot, booted, n.log); err != nil {
		return err
	}
	var both errgroup.Group // so that another processor decodes one of the journals
	both.Go(func() error { return n.journals.openIntents(ctx, n.cfg.StateDir) })
	both.Go(func() error { return n.openPool(ctx, boot) })
	if err := both.Wait(); err != nil {
		return err
	}
	n.intents = n.journals.intents
	if n.known, err = readNodeRecord(n.cfg.StateDir, boot); err != nil {
		n.log.Warn("node record of an earlier agent is not used", "err", err)
	}
	n.recorder.dir, n.recorder.boot = n.cfg.StateDir, boot
	n.backend = NewBackend(n.cfg.backend(n.pool))
	n.backend.own, n.own.ended = n.own, n.backend.released
	n.links.pods = n.backend.Pods
	if n.policies, err = openEnforcer(ctx, &n.cfg); err != nil {
		return err
	}
	n.policies.pods, n.backend.policies = n.backend.policyPods, n.policies
	n.policies.limit, n.links.limited = n.links.limit, n.policies.limits
	if err := n.policies.start(ctx); err != nil {
		return err
	}
	for _, lost := range n.journals.lost {
		n.recordEvent(lost)
	}
	return nil
}

// openPool opens the pool and what it depends on.
func (n *node) openPool(ctx context.Context, boot string) (err error) {
	if n.own, err = openOwnPods(&n.cfg, boot, n.log); err != nil {
		return err
	}
	links := n.cfg.links()
	links.Node.Enforcement, links.Node.PodLinks = n.own.enforcement, n.own.bridges()
	if n.links, err = OpenLinks(ctx, links); err != nil {
		return err
	}
	n.own.links = n.links
	if n.cfg.Accelerate {
		n.links.checkAccelerated(ctx, n.log)
	}
	n.pool, err = n.journals.openPool(ipam.Config{Cooldown: n.cfg.Cooldown, MaxPods: n.cfg.MaxPods, Witness: n.links.Witness})
	if err != nil {
		return err
	}
	n.own.pool = n.pool
	n.own.count()
	return nil
}

// close closes what open has opened. The socket is closed by the server too.
func (n *node) close() error {
	n.reading.Lock()
	defer n.reading.Unlock()
	var errs []error
	if n.listener != nil {
		_ = n.listener.Close() // the server may have closed it
	}
	if n.policies != nil {
		errs = append(errs, n.policies.table.Close())
	}
	if n.links != nil {
		errs = append(errs, n.links.Close())
	}
	if n.journals != nil {
		errs = append(errs, n.journals.close())
	}
	return errors.Join(errs...)
}

// links returns the configuration of the node's links.
func (c *Config) links() LinksConfig {
	return LinksConfig{
		Node: datapath.Node{
			Layout: c.Layout, HostLinkPrefix: c.HostLinkPrefix,
			ServicePrefixes: c.ServicePrefixes, RefuseMetadata: c.RefuseMetadata,
			Accelerate: c.Accelerate,
		},
		SNAT: snat.Config{
			Excluded: c.ExcludeSNAT, HostLinkPrefix: c.HostLinkPrefix, External: c.ExternalSNAT,
			Random: c.RandomPorts, NodePort: !c.NoNodePorts,
			Mark: datapath.MarkPrimary, ReturnMask: datapath.MarkENI,
		},
		SNATBackend: c.SNATBackend,
	}
}

// backend returns the configuration of the backend over pool.
func (c *Config) backend(pool *ipam.Pool) BackendConfig {
	return BackendConfig{
		Pool: pool, Layout: c.Layout, MTU: c.PodMTU, HostLinkPrefix: c.HostLinkPrefix, EachCard: c.EachCard,
		Complete: c.Hooks.Complete, SecurityGroups: c.Hooks.SecurityGroups, BeforeReply: c.Hooks.BeforeReply, AfterDel: c.Hooks.AfterDel,
		Requested: c.Hooks.Requested,
	}
}

// observeCall is called for each attempt of a call to EC2. It records an attempt
// that was not sent, or got no answer, as a problem at once, long before the last
// attempt fails.
func (n *node) observeCall(c eni.Call) {
	if n.cfg.Hooks.Called != nil {
		n.cfg.Hooks.Called(c)
	}
	if c.ClockSkew != 0 {
		n.log.Warn("the node's clock is wrong; calls to EC2 are signed with EC2's time", "behind", c.ClockSkew.Round(time.Second).String())
	}
	var err error
	switch c.Code { // of these two the client tells that EC2 has not answered
	case "error":
		err = eni.NewOpError(c.Action, eni.ReasonUnreachable, nil)
	case "no-credentials":
		err = eni.NewOpError(c.Action, eni.ReasonUnauthorized, eni.ErrNoCredentials)
	default:
		n.backend.SetProblem(nil)
		return
	}
	n.backend.SetProblem(n.advise(err))
}

// advise adds the advice for the operator to an error.
func (n *node) advise(err error) error {
	return advise(err, routeToEC2(n.cfg.EC2Endpoint, n.recorder.knownRegion(), http.ProxyFromEnvironment))
}

// recordEvent stores an event for operators.
func (n *node) recordEvent(e agent.Event) {
	n.events.add(e)
	if n.cfg.Hooks.Event != nil {
		n.cfg.Hooks.Event(e)
	}
}

// release releases the addresses of a tombstone's attachment.
func (n *node) release(at ipam.Attachment) error {
	_, err := n.backend.Del(context.Background(), cniplugin.DelRequest{Attachment: cniplugin.Attachment(at)})
	return err
}
