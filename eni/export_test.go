// SPDX-License-Identifier: Apache-2.0

package eni

// DefaultSubnets and DefaultGroups are the selectors of a Config without others.
var (
	DefaultSubnets SubnetSelector = primarySubnet{}
	DefaultGroups  GroupSelector  = primaryGroups{}
)

// ErrorRow is a row of the table of errors, for tests of the package's behavior.
type ErrorRow struct {
	Code, Text string
	Reason     Reason
	Rest, Look bool
	Clock      bool
	Hint       string
}

// ErrorRows returns the rows that are about an action.
func ErrorRows(action string) []ErrorRow {
	var out []ErrorRow
	for _, r := range errorRows {
		if r.isAbout(action) {
			out = append(out, ErrorRow{r.code, r.text, r.reason, r.rest, r.look, r.clock, r.hint})
		}
	}
	return out
}
