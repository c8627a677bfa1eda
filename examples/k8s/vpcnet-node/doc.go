// SPDX-License-Identifier: Apache-2.0

// Command vpcnet-node is the node agent with what it can take from Kubernetes. It has the
// flags and variables of ipamd, see ../../ipamd, shows its state at the same addresses, and takes
// other settings by SIGHUP and PUT /v1/config as ipamd does. Each part of Kubernetes is switched
// on alone; with none the program does not use the API server.
//
//	VPCNET_KUBERNETES_POLICIES            true enforces the NetworkPolicies of the cluster, see
//	                                      package kubepolicy. VPCNET_NETWORK_POLICIES must be
//	                                      unset
//	VPCNET_KUBERNETES_CLUSTER_POLICIES    true enforces the ClusterNetworkPolicies too, version
//	                                      v1beta1 of policy.networking.k8s.io. The API server
//	                                      must have them: until it does, no class is known
//	VPCNET_KUBERNETES_HOST_NETWORK_PEERS  false makes pods in the network of their node no peers
//	                                      of selectors of NetworkPolicies; unset they are, by the node's address,
//	                                      see package netpol
//	NETWORK_POLICY_ENFORCING_MODE         standard, strict or none, as for ipamd: what a new pod
//	                                      may do as long as its object has not arrived
//	VPCNET_KUBERNETES_DEMAND              true makes the pool grow for pods that are bound to the
//	                                      node, before their ADD
//	VPCNET_KUBERNETES_POD_ANNOTATIONS     true gives pods what their annotations ask for:
//	                                      k8s.amazonaws.com/nicConfig=multi-nic-attachment, with
//	                                      ENABLE_MULTI_NIC, and vpcnet.dev/addresses, with commas.
//	                                      An ADD waits up to two seconds for the object of its pod,
//	                                      and then goes on without it
//	VPCNET_KUBERNETES_EVENTS              true writes an event for a pod with a failed ADD, with
//	                                      the reason, such as SubnetFull: five for a pod, then one
//	                                      each five minutes
//	VPCNET_KUBERNETES_ENI_CONFIGS         true takes the subnet and the security groups of pods
//	                                      from the ENIConfig of the node. The primary ENI then has
//	                                      no pods, and the node has fewer: vpcctl max-pods
//	                                      -custom-networking. AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG
//	                                      adds nothing to it
//	ENI_CONFIG_ANNOTATION_DEF             key of the annotation of the node with the name of its
//	                                      ENIConfig; unset means k8s.amazonaws.com/eniConfig
//	ENI_CONFIG_LABEL_DEF                  key of the label with that name, such as
//	                                      topology.kubernetes.io/zone; unset means the same key
//	VPCNET_KUBERNETES_CONFIG_MAP          NAMESPACE/NAME of a ConfigMap with settings of all nodes:
//	                                      names of variables of ipamd with their values, of those
//	                                      that change while the agent runs
//	VPCNET_KUBERNETES_NODE_SETTINGS       true takes such settings also from the annotations of the
//	                                      node that begin with settings.vpcnet.dev/, which override
//	                                      those of the ConfigMap
//	MY_NODE_NAME                          name of the node, for which DaemonSets have the
//	                                      downward API (spec.nodeName)
//	KUBECONFIG                            file with the API server and the rights for it; unset
//	                                      means the service account of the pod
//
// The rights that the program needs are in packages kubepolicy and kubenode. With policies an
// ADD waits up to two seconds for the object of its pod.
// The program starts without the API server, and goes on without it with what it knows.
//
// # ENIConfigs
//
// The name of the node's ENIConfig is, of these, the first that the node has: the label
// vpc.amazonaws.com/externalEniConfig, the annotation, the label, and default. ENIs that exist
// stay in their subnets, and get the security groups of another ENIConfig. As long as there is
// no ENIConfig with the name, or as EC2 does not know its subnet, the one of before counts; the
// log says so. That one is also in the state directory. An agent that never had one creates no
// ENI, and serves no pods, until it has one.
//
// # Settings
//
// Settings from the API server override those of the file, the variables and the flags, but not
// those of a PUT. Those that take effect only when the agent starts are left out and logged. If
// one has a value that it cannot have, all stay as they are.
package main
