// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/warmpool"
)

// TestReconfigureFields checks that each field of a Config is either live, part of the
// program, or named as waiting and unchanged.
func TestReconfigureFields(t *testing.T) {
	before, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for i := range reflect.TypeFor[Config]().NumField() {
		name := reflect.TypeFor[Config]().Field(i).Name
		next := before
		field := reflect.ValueOf(&next).Elem().Field(i)
		switch name {
		case "Policy":
			next.Policy = warmpool.AWS{}
		case "Subnets":
			next.Subnets = eni.SubnetsByID{"subnet-1"}
		case "Groups":
			next.Groups = eni.FixedGroups{"sg-1"}
		default:
			switch field.Kind() {
			case reflect.String:
				field.SetString("x")
			case reflect.Bool:
				field.SetBool(true)
			case reflect.Int, reflect.Int64:
				field.SetInt(7)
			case reflect.Slice:
				field.Set(reflect.MakeSlice(field.Type(), 3, 3))
			case reflect.Map:
				next.ENITags = map[string]string{"a": "b"}
			default:
				if !slices.Contains(programFields, name) {
					t.Errorf("this test cannot change %s", name)
				}
				continue
			}
		}
		merged, waiting := before.merge(next)
		live := slices.Contains(liveFields, name)
		if want := map[bool][]string{true: nil, false: {name}}[live]; !slices.Equal(waiting, want) {
			t.Errorf("%s: %v wait, want %v", name, waiting, want)
		}
		if differ(before, merged, []string{name}) != live {
			t.Errorf("%s changed: %v, want %v", name, !live, live)
		}
	}
}

// TestReconfigure checks that the configuration changes before and while the agent runs,
// and that what is invalid, or does not exist, changes nothing.
func TestReconfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		a, err := New(Config{MaxPods: 1})
		n.check(err)
		for _, bad := range []Config{{MaxPods: -1}, {Layout: "round"}, {Policy: warmpool.Shadow{}}} {
			if _, err := a.Reconfigure(t.Context(), bad); !errors.Is(err, ErrConfig) || a.config().MaxPods != 1 {
				t.Errorf("Reconfigure(%+v) = %v and MaxPods %d, want %v and 1", bad, err, a.config().MaxPods, ErrConfig)
			}
		}
		waiting, err := a.Reconfigure(t.Context(), Config{MaxPods: 2, PodMTU: 1500})
		if err != nil || !slices.Equal(waiting, []string{"PodMTU"}) || a.config().MaxPods != 2 || a.config().PodMTU != 9001 {
			t.Errorf("Reconfigure = %v, %v, %+v, want PodMTU to wait", waiting, err, a.config())
		}

		limits, err := n.manager.Limits(t.Context())
		n.check(err)
		loop := n.run(t.Context(), 0)
		parts := &started{pool: n.pool, agent: loop, manager: n.manager, limits: limits, cards: []int{0}, regroup: make(chan struct{}, 1), look: make(chan struct{}, 1)}
		n.check(a.publish(&node{cfg: a.config()}, parts))
		if len(parts.look) != 0 {
			t.Error("a start checks twice")
		}
		time.Sleep(time.Minute)
		change := func(cfg Config, want error) {
			t.Helper()
			before := a.config()
			if _, err := a.Reconfigure(t.Context(), cfg); !errors.Is(err, want) {
				t.Errorf("Reconfigure(%+v) = %v, want %v", cfg, err, want)
			}
			if want != nil && !reflect.DeepEqual(before, a.config()) {
				t.Errorf("the configuration changed in spite of %v", want)
			}
			time.Sleep(time.Minute)
		}
		change(Config{Policy: warmpool.AWS{WarmIPTarget: 5}}, nil)
		if len(parts.look) != 1 {
			t.Error("a change does not make the agent check")
		}
		if got := loop.Status().Free; got != 5 {
			t.Errorf("%d free addresses, want 5", got)
		}
		change(Config{Policy: warmpool.AWS{WarmIPTarget: 7}, Subnets: eni.SubnetsByID{"subnet-0123456789abcdef0"}}, ErrConfig)
		change(Config{Policy: warmpool.AWS{WarmIPTarget: 7}, Groups: eni.FixedGroups{"sg-0123456789abcdef0"}}, ErrConfig)
		change(Config{Policy: warmpool.AWS{WarmIPTarget: 7}, Groups: eni.FixedGroups{"nodes"}}, ErrConfig)
		if got := loop.Status().Free; got != 5 {
			t.Errorf("%d free addresses, want 5", got)
		}
		if len(parts.regroup) != 0 {
			t.Error("security groups are corrected although they did not change")
		}
		vpc := n.manager.Inventory().Instance.VPCID
		group, err := n.cloud.AddSecurityGroup(vpc, "pods", nil)
		n.check(err)
		change(Config{Policy: warmpool.AWS{WarmIPTarget: 5}, Groups: eni.FixedGroups{group.ID}}, nil)
		if len(parts.regroup) != 1 {
			t.Error("security groups are not corrected after they have changed")
		}
	})
}

// TestPlacementWaits checks that subnets and groups wait for NoPrimaryPods.
func TestPlacementWaits(t *testing.T) {
	before, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	next := before
	next.NoPrimaryPods, next.Subnets, next.MaxPods = true, eni.SubnetsByID{"subnet-1"}, 3
	merged, waiting := before.merge(next)
	if !slices.Equal(waiting, []string{"Subnets", "NoPrimaryPods"}) || merged.Subnets != nil || merged.MaxPods != 3 {
		t.Errorf("waiting %v, merged %+v, want Subnets and NoPrimaryPods to wait", waiting, merged)
	}
}
