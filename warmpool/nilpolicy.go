// SPDX-License-Identifier: Apache-2.0

package warmpool

import "fmt"

// CheckPolicy returns an error if p is nil, or if a policy of this package in p has a
// required policy that is nil. It names the field, for example "HoldDown.Policy".
func CheckPolicy(p Policy) error {
	required := func(field string, inner Policy) error {
		if inner == nil {
			return fmt.Errorf("%s is nil, want a policy", field)
		}
		return CheckPolicy(inner)
	}
	switch w := p.(type) {
	case nil:
		return required("policy", nil)
	case Bounds:
		return required("Bounds.Policy", w.Policy)
	case HoldDown:
		return required("HoldDown.Policy", w.Policy)
	case Predictive:
		return required("Predictive.Policy", w.Policy)
	case ServeWaiting:
		return required("ServeWaiting.Policy", w.Policy)
	case Exhaustion:
		return required("Exhaustion.Policy", w.Policy)
	case Shadow:
		if err := required("Shadow.Other", w.Other); err != nil {
			return err
		}
		return required("Shadow.Policy", w.Policy)
	case Schedule:
		for i, window := range w.Windows {
			if err := required(fmt.Sprintf("Schedule.Windows[%d].Policy", i), window.Policy); err != nil {
				return err
			}
		}
		return required("Schedule.Policy", w.Policy)
	}
	return nil
}

// decide returns the decision of p. A policy that is nil decides nothing.
func decide(p Policy, s Snapshot) Decision {
	if p == nil {
		return Decision{Explanation: Because("no policy: a field is nil")}
	}
	return p.Decide(s)
}
