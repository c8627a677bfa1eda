// SPDX-License-Identifier: Apache-2.0

package settings

// Effect is when a change of a setting takes effect.
type Effect string

// The effects.
const (
	// Live is at once, for the decisions and ENIs from then on.
	Live Effect = "live"
	// Restart is the next start of the agent. Pods stay.
	Restart Effect = "restart"
	// Drain is the next start of the agent on a node without pods.
	Drain Effect = "drain"
)

func (o option) effect() Effect {
	if o.value.takes == "" {
		return Restart
	}
	return o.value.takes
}

// Changes are the settings that differ from those of a running agent, by the names of
// their variables. Its JSON is what programs publish.
type Changes struct {
	// Live has the settings that change now.
	Live []string `json:"live"`
	// Waiting has the settings that wait for the effect that they need.
	Waiting map[string]Effect `json:"waiting"`
}

// since returns how s differs from the settings with which the agent was started, and from
// the latest ones that it got since. [Settings.Agent] must have been called for all of
// them, because it reads the file of podNetworks.
func (s *Settings) since(start, latest *Settings) Changes {
	out := Changes{Live: []string{}, Waiting: map[string]Effect{}}
	old, before, now := start.options(), latest.options(), s.options()
	for i, o := range now {
		effect := o.effect()
		if o.group == placementGroup && s.CustomNetwork != start.CustomNetwork {
			effect = Drain // subnets and groups change together with the pods of the primary ENI
		}
		text := s.text(o)
		switch {
		case effect == Live && text != latest.text(before[i]):
			out.Live = append(out.Live, o.env)
		case effect != Live && text != start.text(old[i]):
			out.Waiting[o.env] = effect
		}
	}
	return out
}

// text returns what a setting means as a text that differs if the meaning does.
func (s *Settings) text(o option) string {
	switch o.name {
	case "warm-policy":
		return s.policyName()
	case "pod-networks":
		return s.podNetworks + "\n" + s.networks
	}
	return o.value.String()
}
