// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

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
