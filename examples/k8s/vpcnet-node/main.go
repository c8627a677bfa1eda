// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/examples/k8s/kubenode"
	"github.com/vpcnet/vpcnet/examples/k8s/kubepolicy"
	"github.com/vpcnet/vpcnet/internal/logfile"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
	"github.com/vpcnet/vpcnet/ipam/ipamd/metrics"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// gcPercent replaces the default of GOGC, 100: the agent is idle most of the time and shares
// the node with its pods.
const gcPercent = 50

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stderr))
}

// run is main with the environment as parameters. It returns the exit status: 2 for an error
// in flags or variables, and 1 if the agent cannot run.
func run(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) int {
	k, err := readKubernetes(getenv)
	var s settings.Settings
	if err == nil {
		s, err = settings.Parse(args, k.without(getenv), stderr)
	}
	var cfg ipamd.Config
	if err == nil {
		cfg, err = s.Agent()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "vpcnet-node: %v\nRun vpcnet-node -help for the flags and variables of the agent.\n", err)
		return 2
	}
	if getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	cfg.Logger = slog.New(logfile.NewHandler(stderr, s.Level()))
	for _, w := range s.Warnings() {
		cfg.Logger.Warn(w)
	}
	if err := serve(ctx, &s, cfg, k); err != nil {
		cfg.Logger.Error("agent ends", "err", err)
		return 1
	}
	return 0
}

// kubernetesSettings are the settings of the program in addition to those of the agent.
type kubernetesSettings struct {
	config, node     string
	policies         bool
	hostNetworkPeers bool
	demand           bool
	mode             ipamd.PolicyMode
}

// The variables of the program.
const (
	configEnv      = "KUBECONFIG"
	nodeEnv        = "MY_NODE_NAME"
	policiesEnv    = "VPCNET_KUBERNETES_POLICIES"
	hostNetworkEnv = "VPCNET_KUBERNETES_HOST_NETWORK_PEERS"
	modeEnv        = "NETWORK_POLICY_ENFORCING_MODE"
	demandEnv      = "VPCNET_KUBERNETES_DEMAND"
)

// readKubernetes reads the variables of the program.
func readKubernetes(getenv func(string) string) (k kubernetesSettings, err error) {
	k = kubernetesSettings{config: getenv(configEnv), node: getenv(nodeEnv), mode: ipamd.PolicyMode(getenv(modeEnv)), hostNetworkPeers: true}
	for env, to := range map[string]*bool{policiesEnv: &k.policies, hostNetworkEnv: &k.hostNetworkPeers, demandEnv: &k.demand} {
		if text := getenv(env); text != "" {
			if *to, err = strconv.ParseBool(text); err != nil {
				return k, fmt.Errorf("%s=%q: want true or false", env, text)
			}
		}
	}
	switch {
	case k.node == "" && k.any():
		return k, fmt.Errorf("%s: want the name of the node", nodeEnv)
	case k.policies && getenv("VPCNET_NETWORK_POLICIES") != "":
		return k, fmt.Errorf("%s and VPCNET_NETWORK_POLICIES: want one of them", policiesEnv)
	}
	return k, nil
}

// any reports whether the program uses the API server.
func (k kubernetesSettings) any() bool { return k.policies || k.demand }

// without returns the environment without the variables that the program reads itself: the
// agent of package settings refuses or warns of some of them.
func (k kubernetesSettings) without(getenv func(string) string) func(string) string {
	return func(name string) string {
		if name == configEnv || name == nodeEnv || name == modeEnv && k.policies {
			return ""
		}
		return getenv(name)
	}
}

// client returns a client of the API server, of the file or of the program's service account.
func (k kubernetesSettings) client() (kubernetes.Interface, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", k.config)
	if err != nil {
		return nil, err
	}
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.ContentType = runtime.ContentTypeProtobuf
	return kubernetes.NewForConfig(cfg)
}

// connect sets what the agent takes from Kubernetes. It returns what runs beside the agent.
func (k kubernetesSettings) connect(cfg *ipamd.Config) (run []func(context.Context) error, err error) {
	if !k.any() {
		return nil, nil
	}
	client, err := k.client()
	if err != nil {
		return nil, err
	}
	if k.policies {
		policies := kubepolicy.New(kubepolicy.Config{Client: client, Node: k.node, HostNetworkPeers: k.hostNetworkPeers, Logger: cfg.Logger})
		cfg.Policies, cfg.PolicyMode = policies, k.mode
		cfg.Hooks.BeforeReply = func(ctx context.Context, req cniplugin.AddRequest, _ []ipam.Allocation) error {
			policies.Await(ctx, req.Pod)
			return nil
		}
		run = append(run, policies.Run)
	}
	if k.demand {
		pods := kubenode.NewPods(kubenode.Config{Client: client, Node: k.node, Logger: cfg.Logger})
		cfg.Demand, run = pods, append(run, pods.Run)
	}
	return run, nil
}

// serve runs the agent, and what it needs of Kubernetes, until ctx ends.
func serve(ctx context.Context, s *settings.Settings, cfg ipamd.Config, k kubernetesSettings) error {
	show := &introspect.Server{Settings: func() settings.Settings { return *s }}
	start, m := time.Now(), metrics.New("")
	cfg.Hooks = m.Hooks(show.Called)
	run, err := k.connect(&cfg)
	if err != nil {
		return err
	}
	a, err := ipamd.New(cfg)
	if err != nil {
		return err
	}
	show.Agent = a
	m.Watch(a)
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range run {
		g.Go(func() error { return r(ctx) })
	}
	for _, e := range endpoints(s, show, m.Handler()) {
		g.Go(func() error { return e.Serve(ctx, cfg.Logger) })
	}
	g.Go(func() error {
		m.Started(ctx, start, a.Ready())
		return nil
	})
	g.Go(func() error { return a.Run(ctx) })
	return g.Wait()
}

// endpoints returns where the program shows its state.
func endpoints(s *settings.Settings, show *introspect.Server, measured http.Handler) (all []introspect.Endpoint) {
	if s.Status != "" {
		all = append(all, introspect.Endpoint{Setting: "VPCNET_STATUS_SOCKET", Address: "unix:" + s.Status, Handler: show.V2()})
	}
	if !s.NoMetrics {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", measured)
		all = append(all, introspect.Endpoint{Setting: "VPCNET_METRICS_BIND_ADDRESS", Address: s.Metrics, Handler: mux})
	}
	return all
}
