// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/vpcnet/vpcnet/eni"
)

// placementFields are the fields of a Config that say where pods' ENIs are.
var placementFields = []string{"Subnets", "Groups"}

// liveFields are the fields of a Config that Reconfigure changes.
var liveFields = append([]string{"Policy", "MaxENIs", "MaxPods", "Cooldown"}, placementFields...)

// programFields are the fields of a Config that are parts of the program. Reconfigure
// ignores them.
var programFields = []string{"Demand", "Handler", "Hooks", "Logger", "Policies"}

// Reconfigure changes the configuration of an agent: Policy, MaxENIs, MaxPods, Cooldown,
// Subnets and Groups take effect at once. Pods and ENIs stay where they are: the subnets
// are those of ENIs that are created from then on, lower limits end no pod, and the
// security groups of existing ENIs follow soon. Demand, Handler, Hooks, Logger and Policies
// are ignored.
//
// It also makes the agent check at once, and not only with its next audit, what the metadata
// service shows: the prefixes of the VPC, of which one is dropped when no check has shown it
// for 20 seconds, and ENIs and addresses that it does not know.
//
// It returns the names of the other fields that differ. They keep their values, and take
// effect if the next agent is created with them. If NoPrimaryPods is one of them, Subnets
// and Groups wait too, because the pods of the primary ENI would be in the wrong place.
//
// If the configuration is invalid, or if EC2 knows no subnet or not all security groups
// that it chooses, Reconfigure returns an error that wraps [ErrConfig]. If that cannot be
// found out, it returns the error of EC2. Nothing has changed then. It asks EC2 only about
// a new placement, and only once the agent knows its instance.
func (a *Agent) Reconfigure(ctx context.Context, next Config) (waiting []string, err error) {
	if next, err = next.withDefaults(); err != nil {
		return nil, err
	}
	if err := a.checkPlacement(ctx, next); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.cfg
	a.cfg, waiting = before.merge(next)
	if a.parts == nil {
		return waiting, nil
	}
	err = a.parts.reconfigure(before, a.cfg)
	signal(a.parts.look)
	return waiting, err
}

// signal sends a value unless one is pending already.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// checkPlacement returns an error for new subnets and groups that do not exist.
func (a *Agent) checkPlacement(ctx context.Context, next Config) error {
	a.mu.Lock()
	before, parts := a.cfg, a.parts
	a.mu.Unlock()
	merged, _ := before.merge(next)
	if parts == nil || !differ(before, merged, placementFields) {
		return nil
	}
	err := parts.manager.CheckPlacement(ctx, merged.Subnets, merged.Groups)
	if op := (*eni.OpError)(nil); err == nil || errors.As(err, &op) && !errors.Is(err, eni.ErrNotFound) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrConfig, err)
}

// config returns the present configuration.
func (a *Agent) config() Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg
}

// publish makes parts that were started with the configuration of n follow Reconfigure.
func (a *Agent) publish(n *node, parts *started) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.parts = parts
	return parts.reconfigure(n.cfg, a.cfg)
}

// merge returns c with the live fields of next, and the names of the other fields that
// differ. Both have their defaults.
func (c Config) merge(next Config) (Config, []string) {
	var waiting []string
	from, to := reflect.ValueOf(next), reflect.ValueOf(&c).Elem()
	held := c.NoPrimaryPods != next.NoPrimaryPods
	for i := range from.NumField() {
		name := from.Type().Field(i).Name
		live := slices.Contains(liveFields, name) && !(held && slices.Contains(placementFields, name))
		switch {
		case slices.Contains(programFields, name):
		case live:
			to.Field(i).Set(from.Field(i))
		case !reflect.DeepEqual(from.Field(i).Interface(), to.Field(i).Interface()):
			waiting = append(waiting, name)
		}
	}
	return c, waiting
}

// differ reports whether two configurations differ in one of the fields.
func differ(a, b Config, fields []string) bool {
	return slices.ContainsFunc(fields, func(name string) bool {
		return !reflect.DeepEqual(reflect.ValueOf(a).FieldByName(name).Interface(), reflect.ValueOf(b).FieldByName(name).Interface())
	})
}

// reconfigure makes the parts follow the live fields. The placement comes before the
// policy, which may create an ENI at once.
func (s *started) reconfigure(before, now Config) error {
	s.manager.SetMaxENIs(now.MaxENIs)
	if differ(before, now, placementFields) {
		s.manager.SetPlacement(now.Subnets, now.Groups)
		signal(s.regroup)
	}
	if differ(before, now, []string{"MaxPods", "Cooldown"}) {
		s.pool.SetMaxPods(now.MaxPods)
		s.pool.SetCooldown(now.Cooldown)
	}
	if !differ(before, now, []string{"Policy", "MaxENIs", "MaxPods"}) {
		return nil
	}
	return s.agent.Reconfigure(now.Policy, now.limits(s.limits, s.cards))
}
