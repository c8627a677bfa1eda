// SPDX-License-Identifier: Apache-2.0

package adopt

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vpcnet/vpcnet/ipam"
)

// branchResult is the result of an ADD of a pod on a branch ENI, as the runtime has cached it.
type branchResult struct {
	Attachment ipam.Attachment
	// Pod is empty if the runtime has not cached CNI_ARGS.
	Pod      ipam.PodRef
	HostLink string
	VLAN     int
	Addrs    []netip.Addr
}

// dummy begins the name of an interface that exists in results alone: its MAC is the VLAN ID of
// the branch ENI, and its name ends as that of the host link.
const dummy = "dummy"

// parseResult parses a file of package libcni in the cache of a runtime. It reports false if
// the file is not that of a pod on a branch ENI.
func parseResult(text []byte) (r branchResult, ok bool) {
	var cached struct {
		ContainerID string      `json:"containerId"`
		IfName      string      `json:"ifName"`
		NetworkName string      `json:"networkName"`
		Args        [][2]string `json:"cniArgs"`
		Result      struct {
			Interfaces []struct{ Name, MAC string }
			IPs        []struct{ Address netip.Prefix }
		}
	}
	if json.Unmarshal(text, &cached) != nil {
		return r, false
	}
	ending := ""
	for _, i := range cached.Result.Interfaces {
		if digits, found := strings.CutPrefix(i.Name, dummy); found {
			ending = digits
			r.VLAN, _ = strconv.Atoi(i.MAC)
		}
	}
	for _, i := range cached.Result.Interfaces {
		if ending != "" && strings.HasSuffix(i.Name, ending) && !strings.HasPrefix(i.Name, dummy) {
			r.HostLink = i.Name
		}
	}
	for _, a := range cached.Args {
		switch a[0] {
		case "K8S_POD_NAMESPACE":
			r.Pod.Namespace = a[1]
		case "K8S_POD_NAME":
			r.Pod.Name = a[1]
		}
	}
	for _, a := range cached.Result.IPs {
		r.Addrs = append(r.Addrs, a.Address.Addr())
	}
	r.Attachment = ipam.Attachment{Network: cached.NetworkName, ContainerID: cached.ContainerID, IfName: cached.IfName}
	return r, r.VLAN > 0 && r.HostLink != "" && len(r.Addrs) > 0 && cached.ContainerID != "" && cached.IfName != ""
}
