// SPDX-License-Identifier: Apache-2.0

package datapath

// ownsLink reports whether a link of the node is p's alone.
func (p Pod) ownsLink(name string) bool {
	return name == p.HostLink() || p.Mode.Branch != nil && name == p.Mode.Branch.Link()
}

// sharesLink reports whether a link of the node is p's and other pods'.
func (p Pod) sharesLink(name string) bool {
	return p.Mode.Bridge != nil && name == p.Mode.Bridge.LinkName()
}

// withFurtherLinks returns wired, pods by host link, with their further links, and
// the links that several of them share.
func withFurtherLinks(wired map[string]Pod) (all map[string]Pod, shared map[string]bool) {
	all, shared = map[string]Pod{}, map[string]bool{}
	for name, p := range wired {
		all[name] = p
		if p.Mode.Branch != nil {
			all[p.Mode.Branch.Link()] = p
		}
		if p.Mode.Bridge != nil {
			shared[p.Mode.Bridge.LinkName()] = true
		}
	}
	return all, shared
}
