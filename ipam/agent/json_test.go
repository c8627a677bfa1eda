// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/ipam/agent"
)

// TestMACInJSON checks that a MAC is text in JSON, and that the value can be read back.
func TestMACInJSON(t *testing.T) {
	for mac, e := range map[string]agent.ENI{
		`"MAC":"02:00:00:00:00:01"`: {ID: "eni-1", MTU: 9001, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		`"MAC":""`:                  {ID: "eni-2"},
	} {
		b, err := json.Marshal(e)
		if err != nil || strings.Count(string(b), mac) != 1 || strings.Count(string(b), "MAC") != 1 {
			t.Errorf("JSON %s, %v, want %s once", b, err, mac)
		}
		var again agent.ENI
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, again); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	if err := json.Unmarshal([]byte(`{"MAC":"AgAAAAAB"}`), new(agent.ENI)); err == nil {
		t.Error("a MAC in base64 is accepted")
	}
}
