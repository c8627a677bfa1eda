// SPDX-License-Identifier: Apache-2.0

package warmpool

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrSetting is the error for an unknown policy name, an unknown setting, or a
// setting with an invalid value.
var ErrSetting = errors.New("bad policy setting")

// policies lists the policies that PolicyByName knows.
var policies = []struct {
	name, doc string
	build     func(*settings) Policy
}{
	{"band", "dead band filled in batches; the default of vpcnet", buildBand},
	{"aws", "warm targets of amazon-vpc-cni-k8s, under the names of its environment variables", buildAWS},
	{"cilium", "watermarks of Cilium's ENI mode", buildCilium},
	{"azure-v1", "reactive scaler of Azure CNS", func(s *settings) Policy {
		var p AzureV1
		s.num("batch", &p.Batch)
		s.num("request-percent", &p.RequestPercent)
		s.num("release-percent", &p.ReleasePercent)
		s.num("max", &p.Max)
		return p
	}},
	{"azure-v2", "proactive scaler of Azure CNS", func(s *settings) Policy {
		var p AzureV2
		s.num("batch", &p.Batch)
		s.num("request-percent", &p.RequestPercent)
		s.num("max", &p.Max)
		return p
	}},
	{"terway", "idle band of Terway's node daemon", buildTerway},
	{"resource-controller", "Windows pools of amazon-vpc-resource-controller-k8s", func(s *settings) Policy {
		var p ResourceController
		s.num("warm-ip-target", &p.WarmIPTarget)
		s.num("minimum-ip-target", &p.MinimumIPTarget)
		s.num("warm-prefix-target", &p.WarmPrefixTarget)
		s.flag("draining", &p.Draining)
		return p
	}},
}

func buildBand(s *settings) Policy {
	var p Band
	s.numFrom(-1, "low", &p.Low)
	s.num("high", &p.High)
	s.num("batch", &p.Batch)
	s.duration("hold-down", &p.HoldDown)
	s.duration("keep-eni", &p.KeepENI)
	s.num("warm-up", &p.Warmup)
	return p
}

func buildAWS(s *settings) Policy {
	p := AWS{WarmENITarget: 1}
	s.num("WARM_ENI_TARGET", &p.WarmENITarget)
	s.num("WARM_IP_TARGET", &p.WarmIPTarget)
	s.num("MINIMUM_IP_TARGET", &p.MinimumIPTarget)
	s.num("WARM_PREFIX_TARGET", &p.WarmPrefixTarget)
	s.duration("min-age", &p.MinAge)
	s.duration("unassign-every", &p.UnassignEvery)
	s.flag("quirk-cooling-is-free", &p.Quirks.CoolingIsFree)
	s.flag("quirk-card-units", &p.Quirks.CardUnits)
	s.flag("quirk-zero-flaps", &p.Quirks.ZeroFlaps)
	return p
}

func buildCilium(s *settings) Policy {
	var p Cilium
	s.num("pre-allocate", &p.PreAllocate)
	s.num("min-allocate", &p.MinAllocate)
	s.num("max-allocate", &p.MaxAllocate)
	s.num("max-above-watermark", &p.MaxAboveWatermark)
	s.flag("release", &p.Release)
	s.duration("release-after", &p.ReleaseAfter)
	return p
}

func buildTerway(s *settings) Policy {
	var p Terway
	s.num("min-idle", &p.MinIdle)
	s.num("max-idle", &p.MaxIdle)
	s.duration("sync-every", &p.SyncEvery)
	s.num("per-call", &p.PerCall)
	s.duration("reclaim-after", &p.ReclaimAfter)
	s.duration("reclaim-every", &p.ReclaimEvery)
	s.num("reclaim-batch", &p.ReclaimBatch)
	s.num("warm-up", &p.WarmUp)
	return p
}

// wrapWith puts the wrappers of the "with-" settings around p.
func wrapWith(s *settings, p Policy) Policy {
	var hold HoldDown
	if s.duration("with-hold-down", &hold.For); hold.For > 0 {
		hold.Policy = p
		p = hold
	}
	var tight Exhaustion
	if s.num("with-exhaustion-below", &tight.Below); tight.Below > 0 {
		tight.Policy = p
		p = tight
	}
	var ahead Predictive
	if s.num("with-headroom-max", &ahead.Max); ahead.Max > 0 {
		ahead.Policy = p
		p = ahead
	}
	var bounds Bounds
	s.num("with-floor", &bounds.Floor)
	if s.num("with-ceiling", &bounds.Ceiling); bounds.Floor > 0 || bounds.Ceiling > 0 {
		bounds.Policy = p
		p = bounds
	}
	return p
}

// PolicyByName returns the policy with the given name and settings, for flags and
// configuration files. Settings that are not in set are zero, except
// WARM_ENI_TARGET, which is 1 as in amazon-vpc-cni-k8s. A setting that starts with
// "with-" puts a wrapper around the policy. An unknown name, an unknown setting or
// an invalid value is an error that wraps ErrSetting.
func PolicyByName(name string, set map[string]string) (Policy, error) {
	for _, n := range policies {
		if n.name != name {
			continue
		}
		s := &settings{set: set}
		p := wrapWith(s, n.build(s))
		for key := range set {
			if !slices.Contains(s.keys, key) && s.err == nil {
				s.err = fmt.Errorf("%w: policy %s has no setting %q, want one of %s", ErrSetting, name, key, strings.Join(s.keys, ", "))
			}
		}
		return p, s.err
	}
	var all []string
	for n := range PolicyNames() {
		all = append(all, n)
	}
	return nil, fmt.Errorf("%w: unknown policy %q, want one of %s", ErrSetting, name, strings.Join(all, ", "))
}

// ParsePolicy parses NAME or NAME:key=value,..., the form of a policy in flags and
// environment variables. The results are the arguments of PolicyByName, which
// checks them. A text of another form is an error that wraps ErrSetting.
func ParsePolicy(text string) (name string, set map[string]string, err error) {
	name, rest, hasSettings := strings.Cut(text, ":")
	set = map[string]string{}
	if !hasSettings {
		return name, set, nil
	}
	for pair := range strings.SplitSeq(rest, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return "", nil, fmt.Errorf("%w: %q is not of the form key=value", ErrSetting, pair)
		}
		set[key] = value
	}
	return name, set, nil
}

// PolicyNames yields the names that PolicyByName knows, each with a one-line
// description.
func PolicyNames() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, n := range policies {
			if !yield(n.name, n.doc) {
				return
			}
		}
	}
}

// PolicySettings returns the names of a policy's settings, those of the wrappers
// last. It returns nil for an unknown policy.
func PolicySettings(name string) []string {
	for _, n := range policies {
		if n.name == name {
			s := &settings{}
			wrapWith(s, n.build(s))
			return s.keys
		}
	}
	return nil
}

// settings parses the values of settings and records the known names.
type settings struct {
	set  map[string]string
	keys []string
	err  error
}

// text returns the value of a setting and whether it is set.
func (s *settings) text(key string) (string, bool) {
	s.keys = append(s.keys, key)
	v, ok := s.set[key]
	return v, ok
}

func (s *settings) num(key string, to *int) { s.numFrom(0, key, to) }

func (s *settings) numFrom(least int, key string, to *int) {
	v, ok := s.text(key)
	if !ok {
		return
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < least {
		s.bad(key, v, fmt.Sprintf("a number of at least %d", least))
	}
	*to = n
}

func (s *settings) duration(key string, to *time.Duration) {
	v, ok := s.text(key)
	if !ok {
		return
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		s.bad(key, v, "a duration such as 90s")
	}
	*to = d
}

func (s *settings) flag(key string, to *bool) {
	v, ok := s.text(key)
	if !ok {
		return
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		s.bad(key, v, "true or false")
	}
	*to = b
}

func (s *settings) bad(key, value, want string) {
	if s.err == nil {
		s.err = fmt.Errorf("%w: %s=%q is not %s", ErrSetting, key, value, want)
	}
}
