// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"io/fs"
	"slices"
	"strings"
)

// DefaultRouteLinks returns the links of the IPv4 default routes of the system with the root
// fsys. On a node without pods that is the link of the primary ENI. See
// https://man7.org/linux/man-pages/man5/proc_pid_net.5.html.
func DefaultRouteLinks(fsys fs.FS) []string {
	links := []string{}
	table, err := fs.ReadFile(fsys, "proc/net/route")
	if err != nil {
		return links
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" && !slices.Contains(links, f[0]) {
			links = append(links, f[0])
		}
	}
	return links
}
