// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestNoCredentials checks that a call without credentials fails at once, as
// unauthorized, and leaves no operation in the journal.
func TestNoCredentials(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		cfg := w.config(inst.ID, nil)
		good, have := cfg.Credentials, true
		cfg.Credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			if !have {
				return aws.Credentials{}, errors.New("no role on the instance")
			}
			return good.Retrieve(ctx)
		})
		m := w.manager(inst, eni.Config{Client: eni.NewClient(cfg, fast)})
		e := w.provision(m, eni.ProvisionInput{Slots: 2})
		have = false
		begin := time.Now()
		for name, do := range map[string]func() error{
			"Assign": func() error {
				_, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
				return err
			},
			"Provision": func() error { _, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1}); return err },
			"Unassign":  func() error { return m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:1]}) },
			"Retire":    func() error { return m.Retire(t.Context(), e.ID) },
			"Discover": func() error {
				inv, err := m.Discover(t.Context())
				if err == nil {
					err = inv.EC2Err
				}
				return err
			},
		} {
			if err := do(); !errors.Is(err, eni.ErrUnauthorized) || !errors.Is(err, eni.ErrNoCredentials) || !strings.Contains(err.Error(), "no role on the instance") {
				t.Errorf("%s: %v, want ErrUnauthorized with the cause", name, err)
			}
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the refusals took %v", took)
		}
		if open, err := m.Unfinished(t.Context()); len(open) != 0 || err != nil {
			t.Errorf("unfinished: %+v, %v", open, err)
		}
		have = true
		w.assignTo(m, e.ID, 1)
		w.check(m.Retire(t.Context(), e.ID))
	})(t)
}

// TestNoCredentialsAtAll checks a configuration without a source of credentials.
func TestNoCredentialsAtAll(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		cfg := w.config(inst.ID, nil)
		cfg.Credentials = nil
		inv, err := w.manager(inst, eni.Config{Client: eni.NewClient(cfg, fast)}).Discover(t.Context())
		if err != nil || !errors.Is(inv.EC2Err, eni.ErrNoCredentials) || len(inv.ENIs) != 1 {
			t.Errorf("%v, %v, %d ENIs, want ErrNoCredentials and the ENI of the metadata", err, inv.EC2Err, len(inv.ENIs))
		}
	})(t)
}

// otherClock refuses requests that are signed more than 5 minutes before or after
// its time, as EC2 does.
type otherClock struct {
	http.RoundTripper
	ahead  time.Duration
	always bool // refuse every request
}

func (c *otherClock) RoundTrip(r *http.Request) (*http.Response, error) {
	signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return c.RoundTripper.RoundTrip(r) // for the metadata service
	}
	now := time.Now().Add(c.ahead).UTC()
	if c.always || now.Sub(signed).Abs() > 5*time.Minute {
		return &http.Response{
			StatusCode: http.StatusBadRequest, ProtoMajor: 1, ProtoMinor: 1, Request: r,
			Header: http.Header{"Date": {now.Format(http.TimeFormat)}},
			Body: io.NopCloser(strings.NewReader("<Response><Errors><Error><Code>RequestExpired</Code>" +
				"<Message>Request has expired.</Message></Error></Errors><RequestID>1</RequestID></Response>")),
		}, nil
	}
	res, err := c.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Header.Set("Date", now.Format(http.TimeFormat))
	}
	return res, err
}

// TestClockSkew checks that a node with a clock that is off by an hour makes its first call
// within that call, and that OnCall learns the difference.
func TestClockSkew(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			inst := w.run("m5.large")
			cfg := fast
			var tries []string
			cfg.OnCall = func(c eni.Call) { tries = append(tries, fmt.Sprint(c.Code, " ", c.ClockSkew.Round(time.Minute))) }
			awsConfig := w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper { return &otherClock{RoundTripper: rt, ahead: ahead} })
			m := w.manager(inst, eni.Config{Client: eni.NewClient(awsConfig, cfg)})
			inv, err := m.Discover(t.Context())
			if err != nil || inv.EC2Err != nil {
				t.Errorf("first Discover: %v, %v", err, inv.EC2Err)
			}
			if diff := cmp.Diff([]string{"RequestExpired " + ahead.String(), " 0s"}, tries); diff != "" {
				t.Errorf("tries (-want +got):\n%s", diff)
			}
		})(t)
	}
}

// TestClockSkewNamed checks that an error names the clock if EC2 refuses the repeated
// try too, and that there is no third one.
func TestClockSkewNamed(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		cfg, tries := fast, 0
		cfg.OnCall = func(eni.Call) { tries++ }
		awsConfig := w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
			return &otherClock{RoundTripper: rt, ahead: time.Hour, always: true}
		})
		inv, err := w.manager(inst, eni.Config{Client: eni.NewClient(awsConfig, cfg)}).Discover(t.Context())
		w.check(err)
		if !errors.Is(inv.EC2Err, eni.ErrClockSkew) || !errors.Is(inv.EC2Err, eni.ErrUnauthorized) || !strings.Contains(fmt.Sprint(inv.EC2Err), "1h0m0s behind") || tries != 2 {
			t.Errorf("%v after %d tries, want ErrClockSkew with 1h0m0s after 2", inv.EC2Err, tries)
		}
	})(t)
}

// TestDeniedActionRests checks for each action that changes something that a role
// without it costs one attempt and then few in an hour, and that the operation works
// again after the role has got the permission.
func TestDeniedActionRests(t *testing.T) {
	for _, action := range []string{
		"CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute", "DetachNetworkInterface",
		"DeleteNetworkInterface", "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses",
	} {
		t.Run(action, inBubble(func(t *testing.T) {
			w := newWorld(t, enitest.Config{})
			m := w.manager(w.run("m5.xlarge"), eni.Config{})
			e := w.provision(m, eni.ProvisionInput{Slots: 2})
			operation := func() error {
				switch action {
				case "AssignPrivateIpAddresses":
					_, err := m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
					return err
				case "UnassignPrivateIpAddresses":
					return m.Unassign(t.Context(), eni.UnassignInput{ENI: e.ID, Blocks: e.Blocks()[:1]})
				case "DetachNetworkInterface", "DeleteNetworkInterface":
					return m.Retire(t.Context(), e.ID)
				}
				_, err := m.Provision(t.Context(), eni.ProvisionInput{Slots: 1})
				return err
			}
			w.Deny("", action)
			time.Sleep(10 * time.Minute)
			w.ResetCalls()
			var op *eni.OpError
			for begin := time.Now(); time.Since(begin) < time.Hour; time.Sleep(10 * time.Second) {
				if err := operation(); !errors.Is(err, eni.ErrUnauthorized) || !errors.As(err, &op) || op.RetryAfter() <= 0 || op.RetryAfter() > 16*time.Minute {
					t.Fatalf("%#v, want ErrUnauthorized with a time", err)
				}
			}
			if got := w.Calls()[action]; got > 12 {
				t.Errorf("%d denied calls in an hour, want at most 12", got)
			}
			w.Allow("", action)
			time.Sleep(op.RetryAfter())
			_ = m.Resume(t.Context())
			w.check(operation())
		}))
	}
}

// TestDeniedDescribeRests checks that a role that may not describe ENIs costs two calls
// a minute, and that Discover returns the metadata meanwhile.
func TestDeniedDescribeRests(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		m := w.manager(w.run("m5.large"), eni.Config{})
		w.Deny("", "DescribeNetworkInterfaces")
		for begin := time.Now(); time.Since(begin) < 10*time.Minute; time.Sleep(5 * time.Second) {
			if inv, err := m.Discover(t.Context()); err != nil || !errors.Is(inv.EC2Err, eni.ErrUnauthorized) || len(inv.ENIs) != 1 {
				t.Fatalf("%v, %v, %d ENIs", err, inv.EC2Err, len(inv.ENIs))
			}
		}
		if got := w.Calls()["DescribeNetworkInterfaces"]; got > 20 {
			t.Errorf("%d calls in 10 minutes, want at most 20", got)
		}
		w.Allow("", "DescribeNetworkInterfaces")
		time.Sleep(30 * time.Second)
		if inv, err := m.Discover(t.Context()); err != nil || inv.EC2Err != nil {
			t.Errorf("allowed: %v, %v", err, inv.EC2Err)
		}
	})(t)
}

// TestMetadataWithoutProxy checks that requests to the metadata service do not go
// through the proxy of the configured HTTP client.
func TestMetadataWithoutProxy(t *testing.T) {
	w := newWorld(t, enitest.Config{})
	inst := w.run("m5.large")
	srv, err := w.Listen(t.Context(), "")
	w.check(err)
	defer srv.Close()
	metadata, err := srv.IMDSURL(t.Context(), inst.ID)
	w.check(err)
	proxy := func(*http.Request) (*url.URL, error) { return nil, errors.New("the proxy was asked") }
	for name, client := range map[string]aws.HTTPClient{
		"the SDK's client": awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.Proxy = proxy }),
		"net/http":         &http.Client{Transport: &http.Transport{Proxy: proxy}},
	} {
		cfg := w.config(inst.ID, nil)
		cfg.HTTPClient = client
		m, err := eni.New(eni.Config{Client: eni.NewClient(cfg, eni.ClientConfig{
			MetadataEndpoint: metadata, Endpoint: srv.EC2URL, Attempts: 1,
		})})
		w.check(err)
		inv, err := m.Discover(t.Context())
		if err != nil || inv.MetadataErr != nil || len(inv.ENIs) != 1 {
			t.Errorf("%s: %v, %v", name, err, inv.MetadataErr)
		}
		if inv.EC2Err == nil || !strings.Contains(inv.EC2Err.Error(), "the proxy was asked") {
			t.Errorf("%s: EC2 was asked without the proxy: %v", name, inv.EC2Err)
		}
	}
}

// TestEndpointWins checks that ClientConfig.Endpoint overrides the endpoint of the
// SDK configuration and that of the environment.
func TestEndpointWins(t *testing.T) {
	w := newWorld(t, enitest.Config{})
	inst := w.run("m5.large")
	srv, err := w.Listen(t.Context(), "")
	w.check(err)
	defer srv.Close()
	t.Setenv("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")
	cfg := w.config(inst.ID, nil)
	cfg.HTTPClient, cfg.BaseEndpoint = nil, aws.String("http://127.0.0.1:2")
	cfg.ConfigSources = []any{environment{}}
	c := eni.NewClient(cfg, eni.ClientConfig{Endpoint: srv.EC2URL, Attempts: 1})
	if _, err := eni.Sweep(t.Context(), c, eni.SweepInput{VPCID: w.vpc.ID}); err != nil {
		t.Error(err)
	}
}

// environment is a source of settings that names another endpoint of EC2, as the
// environment of a process does.
type environment struct{}

func (environment) GetServiceBaseEndpoint(context.Context, string) (string, bool, error) {
	return "http://127.0.0.1:1", true, nil
}
