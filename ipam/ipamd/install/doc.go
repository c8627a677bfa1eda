// SPDX-License-Identifier: Apache-2.0

// Package install puts the CNI plugins of vpcnet and the settings of the kernel that they
// need on a node, and takes them away again.
//
// [Install] and [Uninstall] look at the node, make the steps that are still to do by a pure
// function, log each of them as the command that an operator would type, and do it. A node
// on which nothing is to do has no steps, so a repeated installation changes nothing, and
// one that was killed continues.
//
// Before the first change a record of what was there before is written to install.json in
// the state directory, and a program that another one would replace is copied there.
// Removal restores both. While a runtime still holds results of the network, removal leaves
// the plugins and the settings, because the pods need them until they have ended. The CNI
// configuration is that of the agent, which writes it when it can serve the first pod;
// removal begins with it, so that no pod is started without a plugin.
package install
