// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// failure is one way for the first try of a call to fail.
type failure struct {
	err        error         // of the connection, or nil
	status     int           // of the answer
	code       string        // of the answer; empty for a page that is not one of EC2
	clock      time.Duration // how far EC2's clock is ahead
	onlyReads  bool          // EC2 may have executed the call, so that a repeated one can do harm
	sdkGivesUp bool          // the SDK does not repeat the call
	weGiveUp   bool          // the Client does not repeat the call either
}

// sdkFailures lists what the standard retries of the SDK recognize: all its codes and
// statuses, the errors of connections of retry.RetryableConnectionError, and refusals
// because of a clock. It also lists what they do not recognize.
func sdkFailures() map[string]failure {
	out := map[string]failure{
		"connection reset":       {err: &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, onlyReads: true},
		"connection refused":     {err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, onlyReads: true},
		"no route":               {err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, onlyReads: true},
		"use of closed":          {err: fmt.Errorf("write: %w", net.ErrClosed), onlyReads: true},
		"end of file":            {err: io.EOF, onlyReads: true},
		"unexpected end":         {err: io.ErrUnexpectedEOF, onlyReads: true},
		"timeout":                {err: os.ErrDeadlineExceeded, onlyReads: true},
		"resolver is busy":       {err: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", IsTemporary: true}}, onlyReads: true},
		"name does not exist":    {err: &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}, onlyReads: true, sdkGivesUp: true},
		"wrong parameter":        {status: 400, code: "InvalidParameterValue", sdkGivesUp: true, weGiveUp: true},
		"denied":                 {status: 403, code: "UnauthorizedOperation", sdkGivesUp: true, weGiveUp: true},
		"denied, clock is right": {status: 400, code: "AuthFailure", sdkGivesUp: true, weGiveUp: true},
	}
	for status := range retry.DefaultRetryableHTTPStatusCodes {
		out[fmt.Sprint("status ", status)] = failure{status: status, onlyReads: true}
		out[fmt.Sprint("unknown code with status ", status)] = failure{status: status, code: "NewsToUs", onlyReads: true}
	}
	for _, status := range []int{400, 503} {
		for code := range retry.DefaultRetryableErrorCodes {
			out[fmt.Sprint(code, status)] = failure{status: status, code: code, onlyReads: true}
		}
		for code := range retry.DefaultThrottleErrorCodes {
			out[fmt.Sprint(code, status)] = failure{status: status, code: code}
		}
	}
	for _, code := range []string{"InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure", "RequestTimeTooSkewed", "AccessDeniedException"} {
		out["clock "+code] = failure{status: 403, code: code, clock: time.Hour}
	}
	out["clock RequestExpired"] = failure{status: 400, code: "RequestExpired", clock: time.Hour, sdkGivesUp: true}
	return out
}

// failFirst fails the first request to EC2 and counts the requests.
type failFirst struct {
	http.RoundTripper
	failure
	requests int
}

func (f *failFirst) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost {
		return f.RoundTripper.RoundTrip(r) // for the metadata service
	}
	f.requests++
	switch {
	case f.requests > 1:
		return f.RoundTripper.RoundTrip(r)
	case f.err != nil:
		return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: f.err}
	case f.code == "":
		return answerOf(r, f.status, "text/html", usualPage), nil
	}
	return refuse(f.status, f.code, "because", f.clock)(nil, r)
}

// TestSDKRetries checks that the Client repeats every call that the SDK's own retries
// would repeat, because it replaces them, and what it repeats beyond. The exceptions
// are calls that must not be done twice: the Manager looks before it repeats them.
func TestSDKRetries(t *testing.T) {
	all := sdkFailures()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		t.Run(name, inBubble(func(t *testing.T) {
			tries := func(do func(cfg aws.Config)) int {
				w := newWorld(t, enitest.Config{})
				inst := w.run("m5.large")
				first := &failFirst{failure: f}
				do(w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
					first.RoundTripper = rt
					return first
				}))
				return first.requests
			}
			bySDK := tries(func(cfg aws.Config) {
				_, _ = ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.Retryer = retry.NewStandard() }).
					DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
			})
			if repeated := bySDK > 1; repeated == f.sdkGivesUp {
				t.Errorf("the SDK makes %d tries, so this test is out of date", bySDK)
			}
			read := tries(func(cfg aws.Config) {
				_, _ = eni.Sweep(t.Context(), eni.NewClient(cfg, fast), eni.SweepInput{VPCID: "vpc-1"})
			})
			if repeated := read == 2; repeated == f.weGiveUp {
				t.Errorf("a describe call: %d tries, want it repeated: %t", read, !f.weGiveUp)
			}
			for action, once := range map[string]bool{"ModifyNetworkInterfaceAttribute": false, "AssignPrivateIpAddresses": true} {
				calls := callsDespite(t, f, action)
				want := !f.weGiveUp && !(once && f.onlyReads)
				if repeated := calls == 2; repeated != want {
					t.Errorf("%s: %d tries, want it repeated: %t", action, calls, want)
				}
			}
		}))
	}
}

// callsDespite returns how many tries the Client makes for a call that changes
// something and fails once.
func callsDespite(t *testing.T, f failure, action string) int {
	t.Helper()
	w := newWorld(t, enitest.Config{})
	inst := w.run("m5.large")
	setup := w.manager(inst, eni.Config{})
	e := w.provision(setup, eni.ProvisionInput{Slots: 1})
	time.Sleep(5 * time.Minute)
	first, calls := &failFirst{failure: f}, 0
	cfg := fast
	cfg.OnCall = func(c eni.Call) {
		if c.Action == action {
			calls++
		}
	}
	group, err := w.AddSecurityGroup(w.vpc.ID, "pods", nil)
	w.check(err)
	m := w.manager(inst, eni.Config{
		Groups: eni.FixedGroups{group.ID},
		Client: eni.NewClient(w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
			first.RoundTripper = rt
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				if r.Method == http.MethodPost && w.form(r).Get("Action") != action {
					return rt.RoundTrip(r)
				}
				return first.RoundTrip(r)
			})
		}), cfg),
	})
	_, err = m.Discover(t.Context())
	w.check(err)
	if action == "AssignPrivateIpAddresses" {
		_, err = m.Assign(t.Context(), eni.AssignInput{ENI: e.ID, Slots: 1})
	} else {
		_, err = m.Reconcile(t.Context())
	}
	if (err == nil) != (calls == 2) {
		t.Errorf("%s: %v after %d tries", action, err, calls)
	}
	return calls
}

// TestClockSetRight sets the clock of the node right after the Client has learned that
// it is wrong. The next call is signed with the old difference, and must heal within
// the same call without blaming the clock for good.
func TestClockSetRight(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		clock := &otherClock{ahead: time.Hour}
		var skews []string
		cfg := fast
		cfg.OnCall = func(c eni.Call) { skews = append(skews, c.Code+" "+c.ClockSkew.Round(time.Minute).String()) }
		m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
			clock.RoundTripper = rt
			return clock
		}), cfg)})
		for _, ahead := range []time.Duration{time.Hour, 0, -time.Hour, 0} {
			clock.ahead = ahead
			for range 2 {
				inv, err := m.Discover(t.Context())
				if err != nil || inv.EC2Err != nil {
					t.Errorf("EC2's clock %v ahead: %v, %v", ahead, err, inv.EC2Err)
				}
			}
		}
		if len(skews) != 12 {
			t.Errorf("tries %v, want 3 for each of 4 clocks", skews)
		}
	})(t)
}

// TestAnswerOfFailure checks that a call is not successful if its answer says false.
func TestAnswerOfFailure(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst := w.run("m5.large")
		m := w.manager(inst, eni.Config{Client: eni.NewClient(w.config(inst.ID, func(rt http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				if r.Method != http.MethodPost || w.form(r).Get("Action") != "CreateTags" {
					return rt.RoundTrip(r)
				}
				return answerOf(r, 200, "text/xml", "<CreateTagsResponse><return>false</return></CreateTagsResponse>"), nil
			})
		}), fast), Owner: "other"})
		e := w.provision(w.manager(inst, eni.Config{}), eni.ProvisionInput{Slots: 1})
		time.Sleep(5 * time.Minute)
		err := m.Adopt(t.Context(), e.ID)
		var op *eni.OpError
		if known, _ := m.Inventory().ENI(e.ID); !errors.As(err, &op) || !errors.Is(err, eni.ErrUnreachable) || known.Managed {
			t.Errorf("Adopt: %v, managed %t, want an error", err, known.Managed)
		}
	})(t)
}
