// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
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
	httpClient := awshttp.NewBuildableClient().WithTimeout(s.HTTPTimeout)
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
	if s.EC2Endpoint != "" {
		// This changes only the EC2 client, which is the only one made from cfg.
		// Credentials from other services have their own endpoints.
		cfg.BaseEndpoint = aws.String(s.EC2Endpoint)
	}
	return eni.NewClient(cfg, eni.ClientConfig{MetadataEndpoint: s.MetadataEndpoint, Timeout: s.HTTPTimeout, OnCall: onCall}), cfg.Region, nil
}

// advise adds to an error the advice for the operator, if there is any.
func advise(err error, s settings) error {
	if hint := advice(err, s); hint != "" {
		return fmt.Errorf("%w; %s", err, hint)
	}
	return err
}

// advice returns what an operator can do about a failure. It is empty if the error
// itself is enough.
func advice(err error, s settings) string {
	endpoint := s.EC2Endpoint
	if endpoint == "" {
		endpoint = "the region's EC2 endpoint"
	}
	switch {
	case errors.Is(err, eni.ErrNoMetadata):
		return "check that the instance metadata service is enabled and, if the agent runs in a container with its own network, that its hop limit is at least 2; -metadata-endpoint (AWS_EC2_METADATA_SERVICE_ENDPOINT) sets another endpoint; with AWS_REGION the agent does not ask for the region"
	case errors.Is(err, eni.ErrUnreachable):
		return fmt.Sprintf("check that the node can reach %s: route, VPC endpoint, security groups, proxy; -ec2-endpoint (AWS_ENDPOINT_URL_EC2) sets another endpoint", endpoint)
	case errors.Is(err, eni.ErrUnauthorized):
		return "allow the node's IAM role the action that the error names"
	}
	return ""
}
