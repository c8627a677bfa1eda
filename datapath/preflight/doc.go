// SPDX-License-Identifier: Apache-2.0

// Package preflight looks at the files of a system for whatever else on it wants to
// configure the interfaces, rules and routes of a node, and writes the few
// configuration files that keep it away.
//
// A node's system configures the primary ENI, and should go on doing so. Pod ENIs
// and pods' host links belong to package datapath. Programs that treat every
// interface alike do not know the difference:
//
//   - systemd-networkd asks DHCP for an address on each pod ENI, adds a second
//     default route, and deletes the rules and routes that it did not make;
//   - NetworkManager and amazon-ec2-net-utils do the like in their own ways;
//   - cloud-init, told to follow hot-plugged interfaces, writes their configuration
//     for whichever of those runs;
//   - udev gives a new veth another MAC address than the one its peer knows;
//   - settings read at boot switch reverse path filters to strict, and the limit on
//     neighbours is too low for a large subnet.
//
// datapath's Watch repairs what they do, but not doing it at all costs no packet.
// [Check] reports, [Files] says what to write, [Write] writes it. All of them look at
// files below a root and nothing else: they run on an image that is being built as
// well as on a live node, and need no privilege to report.
package preflight
