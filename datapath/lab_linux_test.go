// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
)

// lab is a node with two ENIs in a VPC, with short names for what most tests use.
type lab struct {
	*datapathtest.Lab
	t       testing.TB
	node    string // path of the namespace of the node
	router  string // path of the namespace of the VPC's router
	outside string // path of the namespace of the host outside the VPC
	h       *datapath.Handle
	n       *datapath.Node
}

func newLab(t testing.TB, layout datapath.Layout) *lab {
	t.Helper()
	l := datapathtest.NewLab(t, layout)
	return &lab{
		Lab: l, t: t, h: l.Handle, n: &l.Node,
		node: l.Netns.Path(), router: l.VPC.Router().Path(), outside: l.VPC.Peer().Path(),
	}
}

func (l *lab) pod(i int, id string) datapath.Pod  { return l.Pod(i, id) }
func (l *lab) ensure()                            { l.t.Helper(); l.EnsureNode() }
func (l *lab) add(p datapath.Pod) datapath.Wiring { l.t.Helper(); return l.AddPod(p) }
func (l *lab) state() string                      { l.t.Helper(); return l.State() }
func (l *lab) listen(path string, a netip.Addr)   { l.t.Helper(); datapathtest.Echo(l.t, path, a) }
func (l *lab) waitAnswer(path string, from, to netip.Addr) {
	l.t.Helper()
	datapathtest.WaitAnswer(l.t, path, from, to)
}

var (
	outside4 = datapathtest.Outside4
	outside6 = datapathtest.Outside6
	host4    = datapathtest.Node4
	host6    = datapathtest.Node6
)

func newNetns(t testing.TB) string { t.Helper(); return datapathtest.NewNetns(t) }

func removeNetns(t testing.TB, path string) { t.Helper(); datapathtest.DeleteNetns(t, path) }

func on(t testing.TB, path string, f func() error) { t.Helper(); datapathtest.On(t, path, f) }

func in(t testing.TB, path string, f func(*netlink.Handle) error) {
	t.Helper()
	datapathtest.In(t, path, f)
}

func try(path string, f func() error) error { return datapathtest.Try(path, f) }

// ask returns the address that the other side saw as the source of a packet.
func ask(path string, from, to netip.Addr) (string, error) {
	seen, err := datapathtest.Ask(path, from, to, 3*datapathtest.AnswerTime)
	if err != nil {
		return "", err
	}
	return seen.String(), nil
}

func sysctl(key, value string) error { return datapathtest.SetSysctl(key, value) }

func addAddr(h *netlink.Handle, link netlink.Link, prefix string) error {
	return datapathtest.AddAddr(h, link, prefix)
}

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
