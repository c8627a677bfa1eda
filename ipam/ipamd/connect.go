// SPDX-License-Identifier: Apache-2.0

package ipamd

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
func connect(ctx context.Context, c Config, known string, onCall func(eni.Call)) (*eni.Client, string, error) {
	// Only the SDK's own client can take a CA bundle from the environment.
	httpClient := awshttp.NewBuildableClient().WithTimeout(c.HTTPTimeout).WithTransportOptions(func(t *http.Transport) {
		t.Proxy = eni.ProxyExceptMetadata(c.MetadataEndpoint, t.Proxy)
	})
	options := []func(*config.LoadOptions) error{config.WithHTTPClient(httpClient)}
	if c.MetadataEndpoint != "" {
		options = append(options, config.WithEC2IMDSEndpoint(c.MetadataEndpoint))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, "", fmt.Errorf("AWS settings: %w", err)
	}
	if cfg.Region == "" {
		if known == "" {
			metadata := imds.New(imds.Options{Endpoint: c.MetadataEndpoint, HTTPClient: httpClient})
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
		MetadataEndpoint: c.MetadataEndpoint, Endpoint: c.EC2Endpoint, Timeout: c.HTTPTimeout, OnCall: onCall,
	}), cfg.Region, nil
}
