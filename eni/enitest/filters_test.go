// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/url"
	"os"
	"strings"
	"testing"
)

// TestDocumentedFilters calls each action with each filter that the API reference
// documents for it and fails if the action refuses the filter. testdata/filters.txt
// holds an action and a filter on each line.
func TestDocumentedFilters(t *testing.T) {
	text, err := os.ReadFile("testdata/filters.txt")
	if err != nil {
		t.Fatal(err)
	}
	table := actions()
	filtered := map[string]bool{}
	c, subnet, _, _ := fuzzCloud(t)
	for line := range strings.Lines(string(text)) {
		action, filter, _ := strings.Cut(strings.TrimSpace(line), " ")
		filtered[action] = true
		form := url.Values{"Filter.1.Name": {filter}, "Filter.1.Value.1": {"*"}}
		switch action {
		case "GetSubnetCidrReservations":
			form.Set("SubnetId", subnet)
		case "DescribeLaunchTemplateVersions":
			form.Set("LaunchTemplateVersion.1", "$Latest")
		}
		run, err := table[action].prepare(form)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		tx := c.begin()
		_, err = run(tx)
		tx.end()
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for name, a := range table {
		if filtered[name] {
			continue
		}
		if _, err := a.prepare(url.Values{"Filter.1.Name": {"vpc-id"}}); err == nil {
			t.Errorf("testdata/filters.txt does not have the filters of %s", name)
		}
	}
}
