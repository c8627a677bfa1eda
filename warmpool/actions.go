// SPDX-License-Identifier: Apache-2.0

package warmpool

// added returns the number of slots that the actions add.
func added(actions []Action) int { return sumSlots(actions, true) }

// released returns the number of slots that the actions give back.
func released(actions []Action) int { return sumSlots(actions, false) }

func sumSlots(actions []Action, grows bool) int {
	n := 0
	for _, a := range actions {
		if a.Op.grows() == grows {
			n += a.N
		}
	}
	return n
}

// trim returns the actions with n slots less, cut from the growing or the
// releasing actions, the last ones first. It drops a deletion only as a whole, so
// it may cut more than n slots. The slice is a new one.
func trim(actions []Action, grows bool, n int) []Action {
	out := make([]Action, 0, len(actions))
	for i := len(actions) - 1; i >= 0; i-- {
		a := actions[i]
		if a.Op.grows() == grows && n > 0 {
			cut := min(n, a.N)
			if a.Op == OpDelete {
				cut = a.N
			}
			n -= cut
			if a.N -= cut; a.N == 0 {
				continue
			}
		}
		out = append(out, a)
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// touches reports whether one of the actions is on the ENI.
func touches(actions []Action, eni string) bool {
	for i := range actions {
		if actions[i].ENI == eni {
			return true
		}
	}
	return false
}
