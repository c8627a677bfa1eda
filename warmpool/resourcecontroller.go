// SPDX-License-Identifier: Apache-2.0

package warmpool

// ResourceController keeps the warm pool of Windows nodes as
// amazon-vpc-resource-controller-k8s does. Its targets are those of AWS, but
// cooling addresses are not available, and both pending and cooling ones count
// towards the minimum. With U assigned, w free, p pending and c cooling:
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
// For prefixes of 16 it wants max(ceil((U+W)/16), ceil(M/16)) of them. With
// only a prefix target P it wants P wholly free ones.
type ResourceController struct {
	// WarmIPTarget is W and MinimumIPTarget is M. If no target is set they are
	// 3 and 3, and for prefixes 1 and 3.
	WarmIPTarget, MinimumIPTarget int
	// WarmPrefixTarget is P. It counts only for prefixes and if the other two
	// are zero.
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
	d.Reason = Because("deviation %d: warm %d, minimum %d; %d assigned, %d free or pending, %d cooling",
		deviation, p.targets(v.Unit)[0], p.targets(v.Unit)[1], v.Assigned, v.Free(), v.Cooling)
	d.Actions = Placement{}.Grow(nil, &s, d.Short, d.Reason)
	d.Actions = Placement{}.Shrink(d.Actions, &s, d.Over, d.Reason)
	return d
}

// targets are W and M as they are in force.
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

// deviation is the number of slots wanted more, or less if negative.
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
