// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/http"
	"net/netip"
	"net/url"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// metadataV6 holds the IPv6 addresses of the services of an instance, such as that of
// the metadata service, fd00:ec2::254
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html).
var metadataV6 = netip.MustParsePrefix("fd00:ec2::/32")

// ProxyExceptMetadata returns a choice of proxies for http.Transport.Proxy that is next,
// except that requests to the metadata service and to other services of the instance,
// such as those of credentials, never use a proxy: only the instance itself can reach
// them. A program needs it for the HTTP client of its SDK configuration, because the
// sources of credentials use that client too; a [Client] never asks the metadata
// service by a proxy.
//
// metadataEndpoint is the URL of the metadata service if that is not the usual one, or
// empty. A nil next means no proxy.
func ProxyExceptMetadata(metadataEndpoint string, next func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	var metadata string
	if u, err := url.Parse(metadataEndpoint); err == nil {
		metadata = u.Hostname()
	}
	return func(r *http.Request) (*url.URL, error) {
		host := r.URL.Hostname()
		a, err := netip.ParseAddr(host)
		local := err == nil && (a.Unmap().IsLinkLocalUnicast() || metadataV6.Contains(a.WithZone("")))
		if next == nil || local || metadata != "" && host == metadata {
			return nil, nil
		}
		return next(r)
	}
}

// withoutProxy returns the HTTP client without its proxy. The metadata service is
// link-local: a proxy cannot reach that of this node, and would answer with its own
// or not at all. A client with another transport than that of net/http is returned
// unchanged.
func withoutProxy(c imds.HTTPClient) imds.HTTPClient {
	switch c := c.(type) {
	case nil:
		return withoutProxy(awshttp.NewBuildableClient())
	case *awshttp.BuildableClient:
		return c.WithTransportOptions(func(t *http.Transport) { t.Proxy = nil })
	case *http.Client:
		t, ok := c.Transport.(*http.Transport)
		if c.Transport == nil {
			t, ok = http.DefaultTransport.(*http.Transport)
		}
		if !ok || t.Proxy == nil {
			return c
		}
		direct := *c
		own := t.Clone()
		own.Proxy = nil
		direct.Transport = own
		return &direct
	}
	return c
}
