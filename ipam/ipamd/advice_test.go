// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// byProxy sends every request through a proxy.
func byProxy(*http.Request) (*url.URL, error) {
	return url.Parse("http://me:secret@proxy.example:3128")
}

// noProxy sends every request directly.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// TestAdvice checks that the advice names the cause: proxy, hop limit, token, region,
// role or clock.
func TestAdvice(t *testing.T) {
	direct := routeToEC2("", "us-west-2", noProxy)
	for _, c := range []struct {
		name  string
		err   error
		route route
		want  string
	}{
		{"proxy", eni.NewOpError("a", eni.ReasonUnreachable, nil), routeToEC2("", "us-west-2", byProxy), "check the proxy http://me:xxxxx@proxy.example:3128 (HTTPS_PROXY), or add ec2.us-west-2.amazonaws.com to NO_PROXY"},
		{"region", eni.NewOpError("a", eni.ReasonUnreachable, &net.DNSError{Name: "x"}), direct, `check that the region "us-west-2" (AWS_REGION) exists`},
		{"endpoint", eni.NewOpError("a", eni.ReasonUnreachable, nil), direct, "check that the node can reach https://ec2.us-west-2.amazonaws.com"},
		{"region not known", eni.NewOpError("a", eni.ReasonUnreachable, nil), routeToEC2("", "", byProxy), "check that the node can reach the region's EC2 endpoint"},
		{"hop limit", eni.NewOpError("a", eni.ReasonNoMetadata, context.DeadlineExceeded), direct, "hop limit is at least 2"},
		{"no role", eni.NewOpError("a", eni.ReasonUnauthorized, eni.ErrNoCredentials), direct, "the instance has an IAM role"},
		{"clock", eni.NewOpError("a", eni.ReasonUnauthorized, fmt.Errorf("x: %w", eni.ErrClockSkew)), direct, "set the node's clock"},
		{"action", eni.NewOpError("a", eni.ReasonUnauthorized, nil), direct, "allow the node's IAM role the action"},
		{"nothing", errors.New("x"), direct, ""},
	} {
		if got := advice(c.err, c.route); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q, want %q in it", c.name, got, c.want)
		}
	}
}

// TestAdviceOnToken checks the advice for a metadata service that refuses to give a
// session token.
func TestAdviceOnToken(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer srv.Close()
	t.Setenv("AWS_REGION", "")
	_, _, err := connect(t.Context(), Config{MetadataEndpoint: srv.URL, HTTPTimeout: defaultHTTPTimeout}, "", nil)
	if got := advice(err, route{}); !errors.Is(err, eni.ErrNoMetadata) || !strings.Contains(got, "session token") || !strings.Contains(got, "http-endpoint") {
		t.Errorf("%v: %q, want advice on the session token", err, got)
	}
}

// TestEC2EndpointWins checks that the endpoint of the configuration overrides AWS_ENDPOINT_URL_EC2,
// which the SDK reads too.
func TestEC2EndpointWins(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	cloud := enitest.New(enitest.Config{})
	vpc, err := cloud.AddVPC(enitest.VPCInput{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := cloud.Listen(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	client, _, err := connect(t.Context(), Config{EC2Endpoint: srv.EC2URL, HTTPTimeout: time.Second}, cloud.Region(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eni.Sweep(t.Context(), client, eni.SweepInput{VPCID: vpc.ID}); err != nil {
		t.Errorf("the endpoint of the configuration was not asked: %v", err)
	}
}
