// SPDX-License-Identifier: Apache-2.0

// Package preflight finds programs and settings that also configure the interfaces,
// rules and routes of a node, and writes configuration files that prevent it.
//
// The system configures the primary ENI, and should continue to do so. Package
// datapath configures pod ENIs and the host links of pods. Programs that treat all
// interfaces the same conflict with it:
//
//   - systemd-networkd requests an address by DHCP on each pod ENI, adds a second
//     default route, and deletes rules and routes of other programs;
//   - NetworkManager and amazon-ec2-net-utils also add addresses, rules and routes;
//   - cloud-init with hotplug enabled writes configuration for these programs for
//     each new interface;
//   - udev changes the MAC address of a new veth after the pod has learned it;
//   - settings at boot make reverse path filters strict, and the limit on neighbour
//     entries is too low for a large subnet;
//   - an agent that translates sources with iptables cannot serve some Services;
//   - ufw, firewalld and Docker drop the packets that the node forwards.
//
// Watch in package datapath repairs the effects, but prevention loses no packets.
// [Check] reports conflicts, [Files] returns the files that prevent them, and [Write]
// writes these files. They only use files below a root directory. They therefore work
// on an image that is being built as well as on a live node, and reporting needs no
// privileges.
package preflight
