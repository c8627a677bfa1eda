// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/warmpool"
)

// value is a [flag.Value]. Its errors describe the values that are valid.
type value struct {
	set    func(string) error
	text   func() string
	isBool bool
	// takes is when a change takes effect. Empty means restart.
	takes Effect
}

// live and drain return v with that effect.
func (v value) live() value {
	v.takes = Live
	return v
}

func (v value) drain() value {
	v.takes = Drain
	return v
}

func (v value) Set(s string) error { return v.set(s) }

// IsBoolFlag makes package flag accept -name without =true.
func (v value) IsBoolFlag() bool { return v.isBool }

// String returns the current value, and "" for a zero value, which package flag
// uses.
func (v value) String() string {
	if v.text == nil {
		return ""
	}
	return v.text()
}

func intValue(p *int, low, high int) value {
	return value{
		set: func(s string) error {
			n, err := strconv.Atoi(s)
			if err != nil || n < low || n > high {
				return fmt.Errorf("want a whole number from %d to %d", low, high)
			}
			*p = n
			return nil
		},
		text: func() string { return strconv.Itoa(*p) },
	}
}

// zeroOr also accepts 0.
func zeroOr(v value, p *int) value {
	set := v.set
	v.set = func(s string) error {
		if s == "0" {
			*p = 0
			return nil
		}
		return set(s)
	}
	return v
}

func boolValue(p *bool) value {
	return value{
		set: func(s string) error {
			b, err := strconv.ParseBool(s)
			if err != nil {
				return fmt.Errorf("want true or false")
			}
			*p = b
			return nil
		},
		text:   func() string { return strconv.FormatBool(*p) },
		isBool: true,
	}
}

// notValue stores the opposite of a bool.
func notValue(p *bool) value {
	is := !*p
	v := boolValue(&is)
	set := v.set
	v.set = func(s string) error {
		err := set(s)
		*p = !is
		return err
	}
	v.text = func() string { return strconv.FormatBool(!*p) }
	return v
}

// secondsValue accepts whole seconds, as the variables of amazon-vpc-cni-k8s do, or
// a Go duration.
func secondsValue(p *time.Duration) value {
	return value{
		set: func(s string) error {
			d, err := time.ParseDuration(s)
			if n, numErr := strconv.Atoi(s); numErr == nil {
				d, err = time.Duration(n)*time.Second, nil
			}
			if err != nil || d < 0 {
				return fmt.Errorf("want seconds, or a duration such as 1m30s")
			}
			*p = d
			return nil
		},
		text: func() string { return p.String() },
	}
}

// positive refuses 0.
func positive(v value, p *time.Duration) value {
	set, old := v.set, *p
	v.set = func(s string) error {
		if err := set(s); err != nil {
			return err
		}
		if *p == 0 {
			*p = old
			return fmt.Errorf("want more than 0")
		}
		return nil
	}
	return v
}

func textValue(p *string) value {
	return value{
		set:  func(s string) error { *p = s; return nil },
		text: func() string { return *p },
	}
}

// urlValue accepts an http or https URL.
func urlValue(p *string) value {
	v := textValue(p)
	v.set = func(s string) error {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("want a URL such as http://169.254.169.254")
		}
		*p = s
		return nil
	}
	return v
}

// linkPrefixValue accepts a prefix of names of host links, except the reserved ones.
func linkPrefixValue(p *string, reserved ...string) value {
	return value{
		set: func(s string) error {
			if err := datapath.ValidateHostLinkPrefix(s); err != nil {
				return err
			}
			if slices.Contains(reserved, s) {
				return fmt.Errorf("%q is reserved, want none of %s", s, strings.Join(reserved, ", "))
			}
			*p = s
			return nil
		},
		text: func() string { return *p },
	}
}

func choiceValue[T ~string](p *T, choices ...T) value {
	return value{
		set: func(s string) error {
			for _, c := range choices {
				if strings.EqualFold(s, string(c)) {
					*p = c
					return nil
				}
			}
			return fmt.Errorf("want one of %v", choices)
		},
		text: func() string { return string(*p) },
	}
}

// policyValue accepts auto, or a policy of package warmpool with its settings.
func policyValue(p *string) value {
	v := textValue(p)
	v.set = func(s string) error {
		if s != policyAuto {
			name, set, err := warmpool.ParsePolicy(s)
			if err != nil {
				return err
			}
			if _, err := warmpool.PolicyByName(name, set); err != nil {
				return err
			}
		}
		*p = s
		return nil
	}
	return v
}

// prefixesValue accepts a list of CIDR blocks with commas between them.
func prefixesValue(p *[]netip.Prefix) value {
	return value{
		set: func(s string) error {
			var list []netip.Prefix
			for part := range strings.SplitSeq(s, ",") {
				if part = strings.TrimSpace(part); part == "" {
					continue
				}
				prefix, err := netip.ParsePrefix(part)
				if err != nil {
					return fmt.Errorf("%q is not a CIDR block, want a list such as 10.0.0.0/8,172.16.0.0/12", part)
				}
				list = append(list, prefix.Masked())
			}
			*p = list
			return nil
		},
		text: func() string {
			var s []string
			for _, prefix := range *p {
				s = append(s, prefix.String())
			}
			return strings.Join(s, ",")
		},
	}
}

// listValue accepts a list with commas between its elements.
func listValue(p *[]string) value {
	return value{
		set: func(s string) error {
			*p = nil
			for part := range strings.SplitSeq(s, ",") {
				if part = strings.TrimSpace(part); part != "" {
					*p = append(*p, part)
				}
			}
			return nil
		},
		text: func() string { return strings.Join(*p, ",") },
	}
}

// tagsValue accepts a JSON object of strings.
func tagsValue(p *map[string]string) value {
	return value{
		set: func(s string) error {
			var tags map[string]string
			if err := json.Unmarshal([]byte(s), &tags); err != nil {
				return fmt.Errorf(`want a JSON object of strings such as {"team":"net"}: %w`, err)
			}
			*p = tags
			return nil
		},
		text: func() string {
			if len(*p) == 0 {
				return ""
			}
			b, _ := json.Marshal(*p) // strings always marshal
			return string(b)
		},
	}
}
