// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestCredentials takes the credentials of the role and the region from metadata,
// as the SDK does on an instance, and checks that the audit log names the instance.
func TestCredentials(t *testing.T) {
	w := newWorld(t, setup{})
	region := must(w.imds.GetRegion(t.Context(), &imds.GetRegionInput{}))(t)
	client := ec2.New(ec2.Options{
		Region: region.Region, HTTPClient: &http.Client{Transport: w.Transport(w.instance.ID)},
		Credentials: ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = w.imds }),
	})
	must(client.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{}))(t)
	call := w.Audit()[0]
	if call.Caller != w.instance.ID || region.Region != "us-west-2" {
		t.Errorf("got caller %q in %q, want %s in us-west-2", call.Caller, region.Region, w.instance.ID)
	}
}

// TestMetadataListing checks the listings of directories. As in IMDS, the names of
// subdirectories end in a slash.
func TestMetadataListing(t *testing.T) {
	w := newWorld(t, setup{kind: "c6in.32xlarge", ipv6: true})
	e := w.ENIs()[0]
	must(w.ec2.AssignIpv6Addresses(t.Context(), &ec2.AssignIpv6AddressesInput{
		NetworkInterfaceId: &e.ID, Ipv6Addresses: []string{"2001:db8:1:2::5"},
	}))(t)
	for path, want := range map[string]string{
		"network/interfaces/macs/": e.MAC + "/",
		"network":                  "interfaces/",
		"ipv6":                     "2001:db8:1:2::5",
		"placement/":               "availability-zone\navailability-zone-id\nregion",
		"network/interfaces/macs/" + e.MAC + "/": strings.Join([]string{
			"device-number", "interface-id", "ipv4-associations/", "ipv6s", "local-hostname", "local-ipv4s", "mac", "network-card", "owner-id",
			"public-hostname", "public-ipv4s", "security-group-ids", "security-groups", "subnet-id", "subnet-ipv4-cidr-block",
			"subnet-ipv6-cidr-blocks", "vpc-id", "vpc-ipv4-cidr-block", "vpc-ipv4-cidr-blocks", "vpc-ipv6-cidr-blocks",
		}, "\n"),
		"network/interfaces/macs/" + e.MAC + "/network-card":            "0",
		"network/interfaces/macs/" + e.MAC + "/subnet-ipv6-cidr-blocks": "2001:db8:1:2::/64",
		"nothing": "404",
	} {
		if diff := cmp.Diff(want, metadata(t, w.imds, path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
}

// TestSessions requests session tokens and metadata, with valid and with invalid
// requests.
func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, setup{})
		other := w.runInstance(t, "m5.large")
		h := w.IMDSHandler(w.instance.ID)
		ask := func(h http.Handler, method, path string, header ...string) (int, string) {
			r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			return rec.Code, rec.Body.String()
		}
		const ttl, tok, id = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token", "/latest/meta-data/instance-id"
		_, token := ask(h, http.MethodPut, "/latest/api/token", ttl, "60")
		_, foreign := ask(w.IMDSHandler(other.ID), http.MethodPut, "/latest/api/token", ttl, "60")
		for _, tt := range []struct {
			name, method, path string
			header             []string
			want               int
		}{
			{"good token", http.MethodGet, id, []string{tok, token}, http.StatusOK},
			{"no token", http.MethodGet, id, nil, http.StatusUnauthorized},
			{"bad token", http.MethodGet, id, []string{tok, "x"}, http.StatusUnauthorized},
			{"token of another instance", http.MethodGet, id, []string{tok, foreign}, http.StatusUnauthorized},
			{"forwarded", http.MethodGet, id, []string{tok, token, "X-Forwarded-For", "1.2.3.4"}, http.StatusForbidden},
			{"post", http.MethodPost, id, []string{tok, token}, http.StatusMethodNotAllowed},
			{"token without lifetime", http.MethodPut, "/latest/api/token", nil, http.StatusBadRequest},
			{"token for too long", http.MethodPut, "/latest/api/token", []string{ttl, "21601"}, http.StatusBadRequest},
			{"token with get", http.MethodGet, "/latest/api/token", []string{ttl, "60"}, http.StatusMethodNotAllowed},
		} {
			if got, _ := ask(h, tt.method, tt.path, tt.header...); got != tt.want {
				t.Errorf("%s: got status %d, want %d", tt.name, got, tt.want)
			}
		}
		time.Sleep(61 * time.Second)
		if got, _ := ask(h, http.MethodGet, id, tok, token); got != http.StatusUnauthorized {
			t.Errorf("expired token: got status %d, want 401", got)
		}
		if err := w.AllowMetadataV1(w.instance.ID); err != nil {
			t.Fatal(err)
		}
		if got, body := ask(h, http.MethodGet, id); got != http.StatusOK || body != w.instance.ID {
			t.Errorf("version 1: got status %d and %q, want 200 and %q", got, body, w.instance.ID)
		}
	})
}

// TestMetadataBySource checks that MetadataHandler finds the instance by the
// source address of the request.
func TestMetadataBySource(t *testing.T) {
	w := newWorld(t, setup{})
	other := w.runInstance(t, "m5.large")
	for _, id := range []string{w.instance.ID, other.ID} {
		if err := w.AllowMetadataV1(id); err != nil {
			t.Fatal(err)
		}
	}
	for source, want := range map[string]string{"10.0.1.4:999": w.instance.ID, "10.0.1.5:999": other.ID, "10.0.1.6:999": ""} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/latest/meta-data/instance-id", nil)
		r.RemoteAddr = source
		rec := httptest.NewRecorder()
		w.MetadataHandler().ServeHTTP(rec, r)
		if want == "" && rec.Code == http.StatusNotFound {
			continue
		}
		if rec.Body.String() != want {
			t.Errorf("%s: got %q, want %q", source, rec.Body, want)
		}
	}
}

// TestNoMetadata checks that a transport without an instance has no metadata
// service, as a machine outside of EC2.
func TestNoMetadata(t *testing.T) {
	c := enitest.New(enitest.Config{})
	client := imds.New(imds.Options{HTTPClient: &http.Client{Transport: c.Transport("")}, Retryer: aws.NopRetryer{}})
	_, err := client.GetMetadata(t.Context(), &imds.GetMetadataInput{Path: "mac"})
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got error %v, want connection refused", err)
	}
}

// TestMetadataTrees checks the dated trees, the listings above them, repeated
// slashes, and keys that describe the instance.
func TestMetadataTrees(t *testing.T) {
	w := newWorld(t, setup{})
	i := must(w.RunInstance(enitest.InstanceInput{
		Subnet: w.subnet.ID, Tags: map[string]string{"Name": "node"}, MetadataTags: true, UserData: "#!/bin/sh\n", Image: "ami-1",
	}))(t)
	if err := w.AllowMetadataV1(i.ID); err != nil {
		t.Fatal(err)
	}
	get := func(path string) string {
		rec := httptest.NewRecorder()
		w.IMDSHandler(i.ID).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if rec.Code != http.StatusOK {
			return http.StatusText(rec.Code)
		}
		return rec.Body.String()
	}
	mac, public := get("/latest/meta-data/mac"), get("/latest/meta-data/public-ipv4")
	macs := "/latest/meta-data/network/interfaces/macs/" + mac + "/"
	for path, want := range map[string]string{
		"/latest":                                "dynamic\nmeta-data\nuser-data",
		"/2009-04-04/":                           "dynamic\nmeta-data\nuser-data",
		"/2021-03-23/meta-data/instance-id":      i.ID,
		"/latest//meta-data/reservation-id":      i.Reservation,
		"/1999-01-01/meta-data/instance-id":      "Not Found",
		"/meta-data/instance-id":                 "Not Found",
		"/latest/user-data":                      "#!/bin/sh\n",
		"/latest/meta-data/ami-id":               "ami-1",
		"/latest/meta-data/ami-launch-index":     "0",
		"/latest/meta-data/system":               "nitro",
		"/latest/meta-data/profile":              "default-hvm",
		"/latest/meta-data/block-device-mapping": "ami\nroot",
		"/latest/meta-data/public-hostname":      "ec2-" + strings.ReplaceAll(public, ".", "-") + ".us-west-2.compute.amazonaws.com",
		"/latest/meta-data/tags/instance":        "Name",
		"/latest/meta-data/tags/instance/Name":   "node",
		"/latest/meta-data/iam/":                 "info\nsecurity-credentials/",
		macs + "ipv4-associations/":              public,
		macs + "ipv4-associations/" + public:     "10.0.1.5",
		macs + "ipv4-associations/192.0.2.1":     "Not Found",
	} {
		if diff := cmp.Diff(want, get(path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if versions := strings.Split(get("/"), "\n"); versions[0] != "1.0" || versions[len(versions)-1] != "latest" {
		t.Errorf("got versions %v, want 1.0 to latest", versions)
	}
	if got := get("/latest/dynamic/instance-identity/document"); !strings.Contains(got, `"imageId": "ami-1"`) {
		t.Errorf("got identity document %s, want image ami-1", got)
	}
	if got := metadata(t, w.imds, "tags"); got != "404" {
		t.Errorf("an instance without MetadataTags shows tags: %s", got)
	}
}
