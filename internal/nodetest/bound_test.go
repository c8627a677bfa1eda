// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nodetest

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// boundEnv has the file with the names of the bound pods for the agent of boundMain.
const boundEnv = "NODETEST_BOUND"

// bound is a Demand that reads the names of pods from a file.
type bound struct {
	file    string
	changed chan struct{}
}

func (b bound) Changed() <-chan struct{} { return b.changed }

func (b bound) Bound() (pods []ipam.PodRef) {
	text, _ := os.ReadFile(b.file) // without the file no pods are bound
	for _, name := range strings.Fields(string(text)) {
		pods = append(pods, ipam.PodRef{Namespace: "default", Name: name})
	}
	return pods
}

// boundMain is an agent that knows the bound pods. SIGHUP tells it that they have changed.
func boundMain(file string) error {
	s, err := settings.Parse(nil, os.Getenv, os.Stderr)
	if err != nil {
		return err
	}
	cfg, err := s.Agent()
	if err != nil {
		return err
	}
	demand := bound{file, make(chan struct{}, 1)}
	cfg.Demand, cfg.Logger = demand, slog.New(slog.NewJSONHandler(os.Stderr, nil))
	a, err := ipamd.New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for range hup {
			demand.changed <- struct{}{}
		}
	}()
	return a.Run(ctx)
}

// TestBound checks that the agent has the addresses of pods that are bound to the node
// before the first ADD, and that the pods get these.
func TestBound(t *testing.T) {
	t.Parallel()
	for _, layout := range layouts {
		t.Run(layout, func(t *testing.T) {
			vpc := vpctest.New(t)
			file := t.TempDir() + "/bound"
			node := Start(t, vpc.Node(t, "t3.small"), Config{
				Wrap: []string{os.Args[0]}, // the arguments do not matter
				Env:  map[string]string{boundEnv: file, "VPCNET_LAYOUT": layout, "WARM_ENI_TARGET": "0"},
			})
			names := []string{"web-0", "web-1", "web-2", "web-3", "web-4"}
			if err := os.WriteFile(file, []byte(strings.Join(names, " ")), 0o644); err != nil {
				t.Fatal(err)
			}
			node.Agent.Signal(t, syscall.SIGHUP)
			var before []netip.Addr
			node.Eventually(t, func() error {
				before = nil
				for _, e := range node.ENIs() { // a t3.small has 3 addresses for pods on each
					before = append(before, e.Addrs...)
				}
				if len(before) < len(names) {
					return fmt.Errorf("the ENIs have %v for %d bound pods", before, len(names))
				}
				return nil
			})
			var pods []*Pod
			for _, name := range names {
				p := node.AddPodWith(t, PodConfig{Args: map[string]string{"K8S_POD_NAME": name}})
				if !slices.Contains(before, p.Addrs[0]) {
					t.Errorf("a pod has %v, want one of %v, which the ENIs had before the first ADD", p.Addrs[0], before)
				}
				pods = append(pods, p)
			}
			for _, p := range pods[1:] {
				if got := p.Ask(t, "udp", pods[0].At(0)).Addr(); got != p.Addrs[0] {
					t.Errorf("%v sees %v, want %v", pods[0].Addrs[0], got, p.Addrs[0])
				}
				p.Ping(t, vpctest.InternetAddr)
			}
			wantNoDrops(t, vpc)
		})
	}
}
