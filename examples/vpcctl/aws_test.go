// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// TestCredentialsWithoutProxy checks that the credentials of the instance are asked for
// without the proxy, and EC2 with it.
func TestCredentialsWithoutProxy(t *testing.T) {
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			_, _ = io.WriteString(w, "token")
		case "/latest/meta-data/iam/security-credentials/":
			_, _ = io.WriteString(w, "node")
		default:
			_, _ = io.WriteString(w, `{"Code":"Success","AccessKeyId":"AKIATEST","SecretAccessKey":"secret","Token":"t","Expiration":"2999-01-01T00:00:00Z"}`)
		}
	}))
	defer metadata.Close()
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.URL, "AWS_EC2_METADATA_DISABLED": "false", "AWS_REGION": "us-west-2",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_CONFIG_FILE": t.TempDir() + "/none", "AWS_SHARED_CREDENTIALS_FILE": t.TempDir() + "/none",
	} {
		t.Setenv(name, value)
	}
	asked := errors.New("the proxy was asked")
	cfg, err := awsConfigWith(t.Context(), func(*http.Request) (*url.URL, error) { return nil, asked })
	if err != nil {
		t.Fatal(err)
	}
	got, err := cfg.Credentials.Retrieve(t.Context())
	if err != nil || got.AccessKeyID != "AKIATEST" {
		t.Errorf("credentials %v, %v, want those of the metadata service", got.AccessKeyID, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://ec2.us-west-2.amazonaws.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	var client aws.HTTPClient = cfg.HTTPClient
	if res, err := client.Do(r); !errors.Is(err, asked) {
		t.Errorf("EC2 was asked without the proxy: %v, %v", res, err)
	}
}
