// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/vpcnet/vpcnet/eni"
)

// awsConfig returns the AWS configuration of the environment. Its sources of
// credentials and of the region never ask the metadata service by a proxy.
func awsConfig(ctx context.Context) (aws.Config, error) {
	return awsConfigWith(ctx, http.ProxyFromEnvironment)
}

// awsConfigWith is awsConfig with a choice of proxies.
func awsConfigWith(ctx context.Context, proxy func(*http.Request) (*url.URL, error)) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.Proxy = eni.ProxyExceptMetadata(os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), proxy)
	})
	cfg, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(client))
	if err != nil {
		return aws.Config{}, fmt.Errorf("AWS configuration: %w", err)
	}
	return cfg, nil
}
