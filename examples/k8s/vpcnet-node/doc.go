// SPDX-License-Identifier: Apache-2.0

// Command vpcnet-node is the node agent with what it can take from Kubernetes. It has the
// flags and variables of ipamd, see ../../ipamd, of which it reads the files once. Each part of
// Kubernetes is switched on alone; with none the program does not use the API server.
//
//	VPCNET_KUBERNETES_POLICIES            true enforces the NetworkPolicies of the cluster, see
//	                                      package kubepolicy. VPCNET_NETWORK_POLICIES must be
//	                                      unset
//	VPCNET_KUBERNETES_HOST_NETWORK_PEERS  false makes pods in the network of their node no peers
//	                                      of selectors; unset they are, by the node's address,
//	                                      see package netpol
//	NETWORK_POLICY_ENFORCING_MODE         standard, strict or none, as for ipamd: what a new pod
//	                                      may do as long as its object has not arrived
//	VPCNET_KUBERNETES_DEMAND              true makes the pool grow for pods that are bound to the
//	                                      node, before their ADD
//	MY_NODE_NAME                          name of the node, for which DaemonSets have the
//	                                      downward API (spec.nodeName)
//	KUBECONFIG                            file with the API server and the rights for it; unset
//	                                      means the service account of the pod
//
// The rights that the program needs are in packages kubepolicy and kubenode. With policies an
// ADD waits up to two seconds for the object of its pod.
// The program starts without the API server, and goes on without it with what it knows.
package main
