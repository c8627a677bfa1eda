// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
)

// statusTime limits the time of ReadJSON.
const statusTime = 5 * time.Second

// ReadStatus reads the status of an agent that publishes it at the path /v2/status over HTTP,
// as the example program ipamd does. where is unix:PATH or HOST:PORT. It gives up after 5
// seconds.
func ReadStatus(ctx context.Context, where string) (Status, error) {
	var s Status
	return s, ReadJSON(ctx, where, "/v2/status", &s)
}

// ReadJSON reads what an agent publishes at a path into v, as [ReadStatus] does.
func ReadJSON(ctx context.Context, where, path string, v any) error {
	if err := readJSON(ctx, where, path, v); err != nil {
		return fmt.Errorf("%s of the agent at %s: %w", strings.TrimPrefix(path, "/v2/"), where, err)
	}
	return nil
}

func readJSON(ctx context.Context, where, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			if path, unix := strings.CutPrefix(where, "unix:"); unix {
				return d.DialContext(ctx, "unix", path)
			}
			return d.DialContext(ctx, "tcp", where)
		},
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://ipamd"+path, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %s", res.Status)
	}
	return json.NewDecoder(res.Body).Decode(v)
}

// Node returns the network that the agent desires for its node, sorted by the ID of the
// ENIs. It returns an error if the status does not describe it, as before the first
// observation of the ENIs.
func (s Status) Node() (datapath.Node, error) {
	n := datapath.Node{
		Layout: datapath.Layout(s.Network.Layout), HostLinkPrefix: s.Network.HostLinkPrefix,
		ServicePrefixes: s.Network.ServicePrefixes, InUse: s.Network.InUse,
	}
	for _, e := range s.ENIs {
		x := datapath.ENI{ID: e.ID, Card: e.Card, Device: e.Device, Addrs: e.Addrs}
		var err error
		if x.MAC, err = net.ParseMAC(e.MAC); err != nil {
			return n, fmt.Errorf("status: MAC of %s: %w", e.ID, err)
		}
		for _, b := range e.Blocks {
			x.Sources = append(x.Sources, b.Prefix)
		}
		n.ENIs = append(n.ENIs, x)
	}
	slices.SortFunc(n.ENIs, func(a, b datapath.ENI) int { return strings.Compare(a.ID, b.ID) })
	return n, nil
}
