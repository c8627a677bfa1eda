// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"
)

// ServeMetadata serves HTTP at [MetadataAddr] and fd00:ec2::254, port 80, until
// Close. It passes each request to the handler that h returns for the instance that
// owns the source address. If h returns nil the answer is 404.
func (f *Fabric) ServeMetadata(h func(instance string) http.Handler) error {
	byInstance := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var answer http.Handler
		if from, err := netip.ParseAddrPort(req.RemoteAddr); err == nil {
			if p := f.owner(from.Addr().Unmap()); p != nil {
				answer = h(p.Instance)
			}
		}
		if answer == nil {
			answer = http.NotFoundHandler()
		}
		answer.ServeHTTP(w, req)
	})
	for _, a := range usable(MetadataAddr, metadataAddr6) {
		if err := f.serve(a, byInstance); err != nil {
			return err
		}
	}
	return nil
}

// ServeEC2 serves h at [EC2Addr], port 80, until Close and returns the URL.
func (f *Fabric) ServeEC2(h http.Handler) (string, error) {
	return "http://" + EC2Addr.String(), f.serve(EC2Addr, h)
}

func (f *Fabric) serve(a netip.Addr, h http.Handler) error {
	l, err := f.router.Listen(context.Background(), netip.AddrPortFrom(a, 80))
	if err != nil {
		return fmt.Errorf("fabric: serve at %v: %w", a, err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }() // returns when Close closes the server
	f.closeLater(s)
	return nil
}
