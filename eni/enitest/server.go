// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Server serves a Cloud on sockets: EC2 on one port and the metadata of each
// instance on another. The caller must close it. It is safe for concurrent use.
type Server struct {
	// EC2URL is the endpoint of the EC2 API.
	EC2URL string

	cloud *Cloud
	host  string

	mu       sync.Mutex
	metadata map[string]string
	servers  []*http.Server
}

// Listen serves the Cloud on the given address; empty means 127.0.0.1:0. The
// metadata services use other ports of the same host. The context bounds the
// opening of the listener; cancelling it later has no effect.
func (c *Cloud) Listen(ctx context.Context, addr string) (*Server, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen address: %w", err)
	}
	s := &Server{cloud: c, host: host, metadata: map[string]string{}}
	if s.EC2URL, err = s.open(ctx, addr, c.EC2Handler()); err != nil {
		return nil, err
	}
	return s, nil
}

// IMDSURL returns the URL of the metadata service of an instance. The first call
// for an instance opens its port.
func (s *Server) IMDSURL(ctx context.Context, instance string) (string, error) {
	s.mu.Lock()
	url, ok := s.metadata[instance]
	s.mu.Unlock()
	if ok {
		return url, nil
	}
	return s.ListenIMDS(ctx, instance, net.JoinHostPort(s.host, "0"))
}

// ListenIMDS serves the metadata of an instance on the given address, and returns
// its URL. From then on IMDSURL returns the same URL. The instance may be started
// later.
func (s *Server) ListenIMDS(ctx context.Context, instance, addr string) (string, error) {
	url, err := s.open(ctx, addr, s.cloud.IMDSHandler(instance))
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metadata[instance] = url
	return url, nil
}

// open serves the handler on a new listener and returns its URL.
func (s *Server) open(ctx context.Context, addr string, h http.Handler) (url string, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers = append(s.servers, server)
	go func() { _ = server.Serve(l) }() // returns when Close closes the server
	return "http://" + l.Addr().String(), nil
}

// Close closes all ports and connections.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, server := range s.servers {
		errs = append(errs, server.Close())
	}
	s.servers = nil
	return errors.Join(errs...)
}
