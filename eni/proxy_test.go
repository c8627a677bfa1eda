// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/vpcnet/vpcnet/eni"
)

// TestProxyExceptMetadata checks which requests use the proxy.
func TestProxyExceptMetadata(t *testing.T) {
	proxy := func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.example:3128") }
	for endpoint, targets := range map[string]map[string]bool{
		"http://metadata.test:80": {
			"http://169.254.169.254/latest/":          false,
			"http://169.254.170.2/v2/credentials":     false,
			"http://169.254.170.23/v1/credentials":    false,
			"http://[fd00:ec2::254]/latest/":          false,
			"http://[fd00:ec2::23]/v1/credentials":    false,
			"http://[fe80::1%25eth0]/":                false,
			"http://[fd00:ec2::254%25eth0]/latest/":   false,
			"http://[::ffff:169.254.169.254]/latest/": false,
			"http://metadata.test/latest/":            false,
			"https://ec2.us-west-2.amazonaws.com/":    true,
			"https://sts.us-west-2.amazonaws.com/":    true,
			"http://10.0.0.1/":                        true,
			"https://[2001:db8::1]/":                  true,
			"https://[fd00::1]/":                      true,
		},
		"":  {"http://169.254.169.254/latest/": false, "http://metadata.test/": true, "https:///": true},
		":": {"http://169.254.169.254/latest/": false, "http://metadata.test/": true},
	} {
		for target, proxied := range targets {
			r, err := http.NewRequest(http.MethodGet, target, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := eni.ProxyExceptMetadata(endpoint, proxy)(r); err != nil || (got != nil) != proxied {
				t.Errorf("%q, %s: proxy %v, %v, want a proxy: %t", endpoint, target, got, err, proxied)
			}
			if got, err := eni.ProxyExceptMetadata(endpoint, nil)(r); err != nil || got != nil {
				t.Errorf("%q, %s: proxy %v, %v, want none", endpoint, target, got, err)
			}
		}
	}
}
