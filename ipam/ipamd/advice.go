// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/vpcnet/vpcnet/eni"
)

// advise adds to an error the advice for the operator, if there is any.
func advise(err error, r route) error {
	if hint := advice(err, r); hint != "" {
		return fmt.Errorf("%w; %s", err, hint)
	}
	return err
}

// advice returns what an operator can do about a failure. It is empty if the error
// itself is enough.
func advice(err error, r route) string {
	switch {
	case errors.Is(err, eni.ErrNoMetadata):
		return adviceOnMetadata(err)
	case errors.Is(err, eni.ErrUnreachable):
		if r.proxy != "" {
			return fmt.Sprintf("check the proxy %s (HTTPS_PROXY), or add %s to NO_PROXY", r.proxy, r.host())
		}
		if name := (*net.DNSError)(nil); errors.As(err, &name) {
			return fmt.Sprintf("check that the region %q (AWS_REGION) exists and that the node's resolver knows %s", r.region, r.host())
		}
		return fmt.Sprintf("check that the node can reach %s: route, VPC endpoint, security groups, region; AWS_ENDPOINT_URL_EC2 sets another endpoint", r.endpoint)
	case errors.Is(err, eni.ErrNoCredentials):
		return "check that the instance has an IAM role and that the agent can reach the instance metadata service, whose hop limit must be at least 2 if the agent runs in a container with its own network"
	case errors.Is(err, eni.ErrClockSkew):
		return "set the node's clock, for example from the time service at 169.254.169.123"
	case errors.Is(err, eni.ErrUnauthorized):
		return "allow the node's IAM role the action that the error names"
	}
	return ""
}

// adviceOnMetadata returns the advice for an error of the metadata service.
func adviceOnMetadata(err error) string {
	const enabled = "check that the instance metadata service is enabled"
	var late net.Error
	var answer *smithyhttp.ResponseError
	switch {
	case errors.As(err, &answer) && (answer.HTTPStatusCode() == http.StatusForbidden || answer.HTTPStatusCode() == http.StatusUnauthorized):
		return enabled + " for this instance (http-endpoint) and gives the agent a session token"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return enabled + " and, if the agent runs in a container with its own network, that its hop limit is at least 2, because the session token does not arrive otherwise; with AWS_REGION the agent does not ask for the region"
	}
	return enabled + " and that the node can reach it; AWS_EC2_METADATA_SERVICE_ENDPOINT sets another endpoint; with AWS_REGION the agent does not ask for the region"
}

// route is how requests of the agent reach EC2.
type route struct {
	endpoint string // the URL
	region   string
	proxy    string // the proxy without its password, or empty
}

// routeToEC2 returns the route to an endpoint, or to that of the region if it is empty. proxyOf chooses the proxy of a request, as
// http.ProxyFromEnvironment does.
func routeToEC2(endpoint, region string, proxyOf func(*http.Request) (*url.URL, error)) route {
	r := route{endpoint: endpoint, region: region}
	if r.endpoint == "" && region == "" {
		r.endpoint = "the region's EC2 endpoint"
		return r
	}
	if r.endpoint == "" {
		r.endpoint = "https://ec2." + region + ".amazonaws.com"
	}
	u, err := url.Parse(r.endpoint)
	if err != nil {
		return r
	}
	if proxy, err := proxyOf(&http.Request{URL: u}); err == nil && proxy != nil {
		r.proxy = proxy.Redacted()
	}
	return r
}

// host returns the host of the endpoint.
func (r route) host() string {
	u, err := url.Parse(r.endpoint)
	if err != nil || u.Hostname() == "" {
		return r.endpoint
	}
	return u.Hostname()
}
