// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/vpcnet/vpcnet/eni"
)

// connect returns a client of EC2 and the metadata service, and the region. It asks
// the metadata service for the region, unless the environment names one or it is
// known from an earlier process. onCall is called for every attempt of every call
// to EC2.
func connect(ctx context.Context, s settings, known string, onCall func(eni.Call)) (*eni.Client, string, error) {
	// Only the SDK's own client can take a CA bundle from the environment.
	httpClient := awshttp.NewBuildableClient().WithTimeout(s.HTTPTimeout).WithTransportOptions(func(t *http.Transport) {
		t.Proxy = eni.ProxyExceptMetadata(s.MetadataEndpoint, t.Proxy)
	})
	options := []func(*config.LoadOptions) error{config.WithHTTPClient(httpClient)}
	if s.MetadataEndpoint != "" {
		options = append(options, config.WithEC2IMDSEndpoint(s.MetadataEndpoint))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, "", fmt.Errorf("AWS settings: %w", err)
	}
	if cfg.Region == "" {
		if known == "" {
			metadata := imds.New(imds.Options{Endpoint: s.MetadataEndpoint, HTTPClient: httpClient})
			found, err := metadata.GetRegion(ctx, nil)
			if err != nil {
				return nil, "", eni.NewOpError("find the region", eni.ReasonNoMetadata, err)
			}
			known = found.Region
		}
		// The configuration is loaded again, because the sources of credentials need
		// the region too.
		if cfg, err = config.LoadDefaultConfig(ctx, append(options, config.WithRegion(known))...); err != nil {
			return nil, "", fmt.Errorf("AWS settings: %w", err)
		}
	}
	return eni.NewClient(cfg, eni.ClientConfig{
		MetadataEndpoint: s.MetadataEndpoint, Endpoint: s.EC2Endpoint, Timeout: s.HTTPTimeout, OnCall: onCall,
	}), cfg.Region, nil
}
