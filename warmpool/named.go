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

// ErrSetting is returned for a policy name or a setting that does not exist, or
// a value that does not parse.
var ErrSetting = errors.New("bad policy setting")

// policies are the policies that can be had by name.
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

// wrapWith puts the wrappers around a policy that the settings ask for.
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

// Named makes a policy from its name and settings as texts, for flags and
// configuration files. What is not set is zero, but WARM_ENI_TARGET, which is 1
// as in amazon-vpc-cni-k8s. The settings that start with
// "with-" put the wrapper of that name around any policy. An unknown name, an
// unknown setting or a bad value is an error that wraps ErrSetting.
func Named(name string, set map[string]string) (Policy, error) {
	for _, n := range policies {
		if n.name != name {
			continue
		}
		s := &settings{in: set}
		p := wrapWith(s, n.build(s))
		for key := range set {
			if !slices.Contains(s.keys, key) && s.err == nil {
				s.err = fmt.Errorf("%w: policy %s has no %q, only %s", ErrSetting, name, key, strings.Join(s.keys, ", "))
			}
		}
		return p, s.err
	}
	var all []string
	for n := range Names() {
		all = append(all, n)
	}
	return nil, fmt.Errorf("%w: no policy %q, only %s", ErrSetting, name, strings.Join(all, ", "))
}

// Parse splits the text NAME or NAME:key=value,..., as flags and variables carry
// it, into what Named takes. What is no such text is an error that wraps
// ErrSetting.
func Parse(text string) (name string, set map[string]string, err error) {
	name, rest, hasSettings := strings.Cut(text, ":")
	set = map[string]string{}
	if !hasSettings {
		return name, set, nil
	}
	for pair := range strings.SplitSeq(rest, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return "", nil, fmt.Errorf("%w: %q is not key=value", ErrSetting, pair)
		}
		set[key] = value
	}
	return name, set, nil
}

// Names yields the names that Named knows, each with a line that says what it is.
func Names() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, n := range policies {
			if !yield(n.name, n.doc) {
				return
			}
		}
	}
}

// Settings returns the settings that a policy knows, those of the wrappers
// last; nil if there is no such policy.
func Settings(name string) []string {
	for _, n := range policies {
		if n.name == name {
			s := &settings{}
			wrapWith(s, n.build(s))
			return s.keys
		}
	}
	return nil
}

// settings reads values and notes which ones there could have been.
type settings struct {
	in   map[string]string
	keys []string
	err  error
}

// text returns a setting and whether it is set.
func (s *settings) text(key string) (string, bool) {
	s.keys = append(s.keys, key)
	v, ok := s.in[key]
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
