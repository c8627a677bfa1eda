// SPDX-License-Identifier: Apache-2.0

package policy

// StateOf is stateOf for tests: it reads the state back from the table of s, or from that
// table without its first chain.
func StateOf(s State, damaged bool) (State, bool) {
	t := s.table()
	if damaged {
		t.Chains = t.Chains[1:]
	}
	return stateOf(t)
}

// Validate is the check of a State for tests.
func Validate(s State) error { return s.validate() }
