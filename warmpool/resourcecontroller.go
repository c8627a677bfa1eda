// SPDX-License-Identifier: Apache-2.0

package warmpool

// ResourceController implements the warm pool that
// amazon-vpc-resource-controller-k8s keeps for Windows nodes. Its targets are
// those of AWS, but cooling addresses are not available, and pending and cooling
// addresses count towards the minimum. With U assigned, w free, p pending and c
// cooling addresses:
//
//	short = max(W - (w+p), M - (U+w+p+c))     over = min(w+p - W, U+w+p+c - M)
//
//	W = M = 3    U   w   p   c | short - over
//	             0   0   0   0 |  3
//	             2   1   0   0 |  2
//	             2   1   0   3 |  2
//	             2   6   0   0 | -3
//	             0   0   0   4 |  3
//
// With prefixes the target is max(ceil((U+W)/16), ceil(M/16)) prefixes. With only
// a prefix target P the target is P wholly free prefixes.
type ResourceController struct {
	// WarmIPTarget is W and MinimumIPTarget is M. If both are zero they default
	// to 3 and 3, and for prefixes to 1 and 3.
	WarmIPTarget, MinimumIPTarget int
	// WarmPrefixTarget is P. It applies only to prefixes and only if the other
	// two targets are zero.
	WarmPrefixTarget int
	// Draining makes all targets zero.
	Draining bool
}

// Decide implements Policy.
func (p ResourceController) Decide(s Snapshot) Decision {
	v := s.Supply()
	d := Decision{Memory: s.Memory}
	deviation := p.deviation(v)
	d.Short = max(0, deviation)
	d.Over = max(0, min(-deviation, v.FreeSlots))
	d.Explanation = Because("deviation %d: warm %d, minimum %d; %d assigned, %d free or pending, %d cooling",
		deviation, p.targets(v.Unit)[0], p.targets(v.Unit)[1], v.Assigned, v.Free(), v.Cooling)
	d.Actions = Placer{}.Grow(nil, &s, d.Short, d.Explanation)
	d.Actions = Placer{}.Shrink(d.Actions, &s, d.Over, d.Explanation)
	return d
}

// targets returns W and M after defaults.
func (p ResourceController) targets(unit int) [2]int {
	switch {
	case p.Draining:
		return [2]int{}
	case p.WarmIPTarget > 0 || p.MinimumIPTarget > 0:
		return [2]int{p.WarmIPTarget, p.MinimumIPTarget}
	case unit > 1:
		return [2]int{1, 3}
	}
	return [2]int{3, 3}
}

// deviation returns the number of missing slots, or minus the number of surplus
// slots.
func (p ResourceController) deviation(v Supply) int {
	warm, least := p.targets(v.Unit)[0], p.targets(v.Unit)[1]
	if v.Unit == 1 {
		short := max(warm-v.Free(), least-v.Total, 0)
		return short - max(0, min(v.Free()-warm, v.Total-least))
	}
	if p.WarmPrefixTarget > 0 && p.WarmIPTarget == 0 && p.MinimumIPTarget == 0 && !p.Draining {
		return p.WarmPrefixTarget - v.FreeSlots - ceilDiv(v.Pending, v.Unit)
	}
	return max(ceilDiv(v.Assigned+warm, v.Unit), ceilDiv(least, v.Unit)) - ceilDiv(v.Total, v.Unit)
}
