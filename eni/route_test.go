// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// TestRoutePrefix checks the routes for the prefix of a node: they are created, left alone
// when they are right, and replaced when their ENI is gone. A route to another ENI and a table
// that does not exist are errors; with the former the other tables get their routes.
func TestRoutePrefix(t *testing.T) {
	inBubble(func(t *testing.T) {
		w := newWorld(t, enitest.Config{})
		inst, other := w.run("m5.large"), w.run("m5.large")
		m, api := w.manager(inst, eni.Config{}), ec2.NewFromConfig(w.config(inst.ID, nil))
		main := w.RouteTables()[0].ID
		made, err := api.CreateRouteTable(t.Context(), &ec2.CreateRouteTableInput{VpcId: &w.vpc.ID})
		w.check(err)
		second := *made.RouteTable.RouteTableId
		target := func(table string, p netip.Prefix) string {
			for _, r := range w.RouteTables() {
				for _, route := range r.Routes {
					if r.ID == table && route.Destination == p {
						return route.Target
					}
				}
			}
			return ""
		}
		primary, theirs := w.primary(inst).ID, w.primary(other).ID
		for _, text := range []string{"100.65.129.0/24", "fd00:1::/80"} {
			p := netip.MustParsePrefix(text)
			w.check(m.RoutePrefix(t.Context(), p, []string{main, second}))
			for _, table := range []string{main, second} {
				if got := target(table, p); got != primary {
					t.Errorf("%s: %v leads to %q, want %s", table, p, got, primary)
				}
			}
			before := w.Calls()
			w.check(m.RoutePrefix(t.Context(), p, []string{main, second}))
			after := w.Calls()
			if after["CreateRoute"] != before["CreateRoute"] || after["ReplaceRoute"] != before["ReplaceRoute"] {
				t.Errorf("calls %v, before %v: want no further route", after, before)
			}
		}
		if w.primary(inst).SourceDestCheck {
			t.Error("the source/destination check is on")
		}

		taken := netip.MustParsePrefix("100.65.130.0/24")
		create := func(id string) {
			_, err := api.CreateRoute(t.Context(), &ec2.CreateRouteInput{RouteTableId: &main, DestinationCidrBlock: aws.String(taken.String()), NetworkInterfaceId: &id})
			w.check(err)
		}
		create(theirs)
		err = m.RoutePrefix(t.Context(), taken, []string{main, "rtb-0123456789abcdef0", second})
		if !errors.Is(err, eni.ErrNotFound) {
			t.Errorf("unknown table: %v, want ErrNotFound", err)
		}
		if err = m.RoutePrefix(t.Context(), taken, []string{main, second}); !errors.Is(err, eni.ErrNotManaged) || target(main, taken) != theirs || target(second, taken) != primary {
			t.Errorf("route of another node: %v, leads to %s and %s, want ErrNotManaged and the route unchanged", err, target(main, taken), target(second, taken))
		}
		_, err = api.DeleteRoute(t.Context(), &ec2.DeleteRouteInput{RouteTableId: &main, DestinationCidrBlock: aws.String(taken.String())})
		w.check(err)
		lone, err := api.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &w.subnet.ID})
		w.check(err)
		create(*lone.NetworkInterface.NetworkInterfaceId) // attached to no instance, so a blackhole
		w.check(m.RoutePrefix(t.Context(), taken, []string{main}))
		if got := target(main, taken); got != primary || w.Calls()["ReplaceRoute"] != 1 {
			t.Errorf("a blackhole leads to %s after %d calls of ReplaceRoute, want %s after 1", got, w.Calls()["ReplaceRoute"], primary)
		}
	})(t)
}
