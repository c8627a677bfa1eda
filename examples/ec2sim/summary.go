// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// summary is the line of JSON that ec2sim prints.
type summary struct {
	EC2       string     `json:"ec2"`
	Control   string     `json:"control,omitempty"`
	Region    string     `json:"region"`
	VPCs      []string   `json:"vpcs"`
	Subnets   []string   `json:"subnets"`
	Instances []instance `json:"instances"`
}

type instance struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	State    string   `json:"state"`
	Metadata string   `json:"metadata"`
	Subnet   string   `json:"subnet"`
	ENIs     []string `json:"enis"`
}

// simulator is a running ec2sim.
type simulator struct {
	cloud *enitest.Cloud
	srv   *enitest.Server
	// metadata is the address of the metadata of the first instance; empty means a
	// free port for each instance.
	metadata string
	control  string

	mu sync.Mutex
	// opened are the URLs of the metadata services, by instance.
	opened map[string]string
}

// metadataURL returns the URL of the metadata of an instance. The first call for an
// instance opens its port.
func (s *simulator) metadataURL(ctx context.Context, instance string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if url, ok := s.opened[instance]; ok || s.metadata == "" {
		if ok {
			return url, nil
		}
		return s.srv.IMDSURL(ctx, instance)
	}
	base, err := netip.ParseAddrPort(s.metadata)
	if err != nil {
		return "", err
	}
	addr := netip.AddrPortFrom(base.Addr(), base.Port()+uint16(len(s.opened)))
	url, err := s.srv.ListenIMDS(ctx, instance, addr.String())
	if err != nil {
		return "", err
	}
	if s.opened == nil {
		s.opened = map[string]string{}
	}
	s.opened[instance] = url
	return url, nil
}

// openMetadata opens the metadata of an instance that was made over the API, as soon
// as it gets its first ENI. If that fails, the control endpoint reports it.
func (s *simulator) openMetadata(ctx context.Context, e enitest.Event) {
	if e.Op == enitest.Attached {
		_, _ = s.metadataURL(ctx, e.Instance)
	}
}

// listenControl serves the control endpoint and returns a function that stops it.
func (s *simulator) listenControl(ctx context.Context, addr string) (stop func(), err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s.control = "http://" + l.Addr().String()
	server := &http.Server{Handler: newControl(s.cloud, s.summarize).handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }() // returns when stop closes the server
	return func() { _ = server.Close() }, nil
}

// summarize returns the URLs of the services and the IDs of the resources.
func (s *simulator) summarize(ctx context.Context) (summary, error) {
	cloud := s.cloud
	a := summary{EC2: s.srv.EC2URL, Control: s.control, Region: cloud.Region(), Instances: []instance{}}
	for _, v := range cloud.VPCs() {
		a.VPCs = append(a.VPCs, v.ID)
	}
	for _, n := range cloud.Subnets() {
		a.Subnets = append(a.Subnets, n.ID)
	}
	enis := map[string][]string{}
	for _, e := range cloud.ENIs() {
		if e.Attachment != nil {
			enis[e.Attachment.Instance] = append(enis[e.Attachment.Instance], e.ID)
		}
	}
	for _, i := range cloud.Instances() {
		if !i.TerminatedAt.IsZero() {
			continue
		}
		url, err := s.metadataURL(ctx, i.ID)
		if err != nil {
			return summary{}, err
		}
		a.Instances = append(a.Instances, instance{i.ID, i.Type, i.State(time.Now()), url, i.Subnet, enis[i.ID]})
	}
	return a, nil
}
