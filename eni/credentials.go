// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// ErrNoCredentials is wrapped by the error of a call that was not sent, because
// there were no credentials to sign it with. The error is also ErrUnauthorized.
var ErrNoCredentials = errors.New("no AWS credentials")

// nameCredentials returns a provider that marks the errors of p, so that they can be
// told from those of a call that was sent. For nil it returns one that always fails.
func nameCredentials(p aws.CredentialsProvider) aws.CredentialsProvider {
	if aws.IsCredentialsProvider(p, (*aws.AnonymousCredentials)(nil)) {
		return p
	}
	return aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		if p == nil {
			return aws.Credentials{}, fmt.Errorf("%w: no source is configured", ErrNoCredentials)
		}
		got, err := p.Retrieve(ctx)
		if err != nil {
			return aws.Credentials{}, fmt.Errorf("%w: %w", ErrNoCredentials, err)
		}
		return got, nil
	})
}
