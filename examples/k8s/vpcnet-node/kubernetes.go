// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	policyclient "sigs.k8s.io/network-policy-api/pkg/client/clientset/versioned"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/examples/k8s/eks"
	"github.com/vpcnet/vpcnet/examples/k8s/kubenode"
	"github.com/vpcnet/vpcnet/examples/k8s/kubepolicy"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// kubernetesSettings are the settings of the program in addition to those of the agent.
type kubernetesSettings struct {
	config, node     string
	policies         bool
	clusterPolicies  bool
	hostNetworkPeers bool
	mode             ipamd.PolicyMode
	demand           bool
	annotations      bool
	events           bool
	eniConfigs       bool
	keys             eks.ENIConfigKeys
	nodeSettings     bool
	configMap        kubenode.ConfigMap
}

// The variables of the program.
const (
	configEnv       = "KUBECONFIG"
	nodeEnv         = "MY_NODE_NAME"
	policiesEnv     = "VPCNET_KUBERNETES_POLICIES"
	clusterEnv      = "VPCNET_KUBERNETES_CLUSTER_POLICIES"
	hostNetworkEnv  = "VPCNET_KUBERNETES_HOST_NETWORK_PEERS"
	modeEnv         = "NETWORK_POLICY_ENFORCING_MODE"
	demandEnv       = "VPCNET_KUBERNETES_DEMAND"
	annotationsEnv  = "VPCNET_KUBERNETES_POD_ANNOTATIONS"
	eventsEnv       = "VPCNET_KUBERNETES_EVENTS"
	eniConfigsEnv   = "VPCNET_KUBERNETES_ENI_CONFIGS"
	labelEnv        = "ENI_CONFIG_LABEL_DEF"
	annotationEnv   = "ENI_CONFIG_ANNOTATION_DEF"
	customEnv       = "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"
	nodeSettingsEnv = "VPCNET_KUBERNETES_NODE_SETTINGS"
	configMapEnv    = "VPCNET_KUBERNETES_CONFIG_MAP"
)

// readKubernetes reads the variables of the program.
func readKubernetes(getenv func(string) string) (k kubernetesSettings, err error) {
	k = kubernetesSettings{
		config: getenv(configEnv), node: getenv(nodeEnv), mode: ipamd.PolicyMode(getenv(modeEnv)), hostNetworkPeers: true,
		keys: eks.ENIConfigKeys{Annotation: getenv(annotationEnv), Label: getenv(labelEnv)},
	}
	for env, to := range map[string]*bool{
		policiesEnv: &k.policies, hostNetworkEnv: &k.hostNetworkPeers, demandEnv: &k.demand, eniConfigsEnv: &k.eniConfigs,
		clusterEnv: &k.clusterPolicies, nodeSettingsEnv: &k.nodeSettings, annotationsEnv: &k.annotations, eventsEnv: &k.events,
	} {
		if text := getenv(env); text != "" {
			if *to, err = strconv.ParseBool(text); err != nil {
				return k, fmt.Errorf("%s=%q: want true or false", env, text)
			}
		}
	}
	if text := getenv(configMapEnv); text != "" {
		var ok bool
		if k.configMap.Namespace, k.configMap.Name, ok = strings.Cut(text, "/"); !ok || k.configMap.Namespace == "" || k.configMap.Name == "" {
			return k, fmt.Errorf("%s=%q: want NAMESPACE/NAME", configMapEnv, text)
		}
	}
	switch {
	case k.node == "" && k.any():
		return k, fmt.Errorf("%s: want the name of the node", nodeEnv)
	case k.clusterPolicies && !k.policies:
		return k, fmt.Errorf("%s: want %s too", clusterEnv, policiesEnv)
	case k.policies && getenv("VPCNET_NETWORK_POLICIES") != "":
		return k, fmt.Errorf("%s and VPCNET_NETWORK_POLICIES: want one of them", policiesEnv)
	case k.eniConfigs && getenv("VPCNET_POD_NETWORKS")+getenv("VPCNET_POD_SUBNETS")+getenv("VPCNET_POD_SECURITY_GROUPS") != "":
		return k, fmt.Errorf("%s and subnets or security groups of pods: want either", eniConfigsEnv)
	}
	return k, nil
}

// further reports whether settings of the agent come from the API server.
func (k kubernetesSettings) further() bool { return k.nodeSettings || k.configMap.Name != "" }

// any reports whether the program uses the API server.
func (k kubernetesSettings) any() bool {
	return k.policies || k.demand || k.annotations || k.events || k.eniConfigs || k.further()
}

// without returns the environment without the variables that the program reads itself: the
// agent of package settings refuses or warns of some of them.
func (k kubernetesSettings) without(getenv func(string) string) func(string) string {
	own := map[string]bool{
		configEnv: true, nodeEnv: true, modeEnv: k.policies,
		labelEnv: k.eniConfigs, annotationEnv: k.eniConfigs, customEnv: k.eniConfigs,
	}
	return func(name string) string {
		if own[name] {
			return ""
		}
		return getenv(name)
	}
}

// client returns how the API server is reached: as the file says, or the program's service
// account.
func (k kubernetesSettings) client() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", k.config)
	if err != nil {
		return nil, err
	}
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.ContentType = runtime.ContentTypeProtobuf
	return cfg, nil
}

// connection is what the agent takes from Kubernetes.
type connection struct {
	kubernetesSettings
	cfg     kubenode.Config
	dynamic dynamic.Interface
	cluster policyclient.Interface // nil without cluster policies
	// run runs beside the agent.
	run []func(context.Context) error
}

// connect sets what the agent takes from Kubernetes. changer changes the settings of the agent,
// which is created with cfg.
func (k kubernetesSettings) connect(cfg *ipamd.Config, changer *settings.Changer) (*connection, error) {
	c := &connection{kubernetesSettings: k}
	if !k.any() {
		return c, nil
	}
	server, err := k.client()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(server)
	if err != nil {
		return nil, err
	}
	if c.dynamic, err = dynamic.NewForConfig(server); err != nil {
		return nil, err
	}
	if k.clusterPolicies {
		plain := rest.CopyConfig(server) // custom resources have no protobuf
		plain.AcceptContentTypes, plain.ContentType = "", ""
		if c.cluster, err = policyclient.NewForConfig(plain); err != nil {
			return nil, err
		}
	}
	c.cfg = kubenode.Config{Client: client, Node: k.node, Logger: cfg.Logger}
	if k.policies {
		c.enforce(cfg)
	}
	if k.demand || k.annotations {
		pods := kubenode.NewPods(c.cfg)
		if k.demand {
			cfg.Demand = pods
		}
		if k.annotations {
			cfg.Hooks.Complete = pods.Complete
		}
		c.add(pods.Run)
	}
	if k.events {
		events, measure := kubenode.NewEvents(c.cfg), cfg.Hooks.Requested
		cfg.Hooks.Requested = func(r ipamd.Request) {
			measure(r)
			events.Requested(r)
		}
		c.add(events.Run)
	}
	if k.eniConfigs || k.further() {
		c.followNode(cfg, changer)
	}
	return c, nil
}

func (c *connection) add(run ...func(context.Context) error) { c.run = append(c.run, run...) }

// enforce gives the agent the network policies of the cluster.
func (c *connection) enforce(cfg *ipamd.Config) {
	policies := kubepolicy.New(kubepolicy.Config{Client: c.cfg.Client, ClusterPolicies: c.cluster, Node: c.node, HostNetworkPeers: c.hostNetworkPeers, Logger: cfg.Logger})
	cfg.Policies, cfg.PolicyMode = policies, c.mode
	cfg.Hooks.BeforeReply = func(ctx context.Context, req cniplugin.AddRequest, _ []ipam.Allocation) error {
		policies.Await(ctx, req.Pod)
		return nil
	}
	c.add(policies.Run)
}

// followNode gives the agent what depends on the object of the node.
func (c *connection) followNode(cfg *ipamd.Config, changer *settings.Changer) {
	var node *kubenode.Node
	if c.eniConfigs || c.nodeSettings {
		node = kubenode.NewNode(c.cfg)
		c.add(node.Run)
	}
	if c.eniConfigs {
		networks := kubenode.NewNetworks(c.cfg, c.dynamic, c.keys, node, cfg.StateDir)
		networks.Adjust(cfg)
		changer.Adjust = networks.Adjust
		c.add(networks.Watch, func(ctx context.Context) error { return networks.Run(ctx, changer.Apply) })
	}
	if c.further() {
		annotated := node
		if !c.nodeSettings {
			annotated = nil
		}
		further := kubenode.NewSettings(c.cfg, c.configMap, annotated)
		c.add(further.Watch, func(ctx context.Context) error {
			return further.Run(ctx, func(ctx context.Context, all map[string]string) error {
				return setFurther(ctx, changer, all, cfg.Logger)
			})
		})
	}
}

// setFurther gives the agent settings from the API server.
func setFurther(ctx context.Context, changer *settings.Changer, all map[string]string, log *slog.Logger) error {
	left, err := changer.SetFurther(ctx, all)
	if len(left) > 0 {
		log.Warn("settings from the API server have no effect: there are none with these names, or they take effect only when the agent starts", "settings", left)
	}
	if err != nil {
		log.Error("settings from the API server are refused, those of before stay", "err", err)
	}
	return err
}
