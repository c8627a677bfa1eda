// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vpcnet/vpcnet/datapath/internal/datapathtest"
	"github.com/vpcnet/vpcnet/datapath/netstate"
)

// TestScript has iproute2 and nft make a node out of the text of its State, and
// compares with what this package makes: the text is no paraphrase.
func TestScript(t *testing.T) {
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs the program %s: %v", tool, err)
		}
	}
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			theirs, ours := newLab(t, layout), newLab(t, layout)
			ours.n.RefuseMetadata, theirs.n.RefuseMetadata = true, true
			ours.ensure()
			var script strings.Builder
			script.WriteString(datapathtest.ShellSysctl)
			for _, c := range netstate.Diff(netstate.State{}, theirs.n.State()) {
				script.WriteString(c.String() + "\n")
			}
			on(t, theirs.node, func() error {
				cmd := exec.Command("sh", "-e")
				cmd.Stdin = strings.NewReader(script.String())
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%s\n%s", out, script.String())
				}
				return err
			})
			if diff := cmp.Diff(ours.state(), theirs.state()); diff != "" {
				t.Errorf("(-ours +iproute2's):\n%s", diff)
			}
		})
	}
}

// TestNFTText compares the text of our table with nft's own.
func TestNFTText(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("needs the program nft: %v", err)
	}
	for _, layout := range layouts {
		l := newLab(t, layout)
		l.n.RefuseMetadata = true
		l.ensure()
		on(t, l.node, func() error {
			out, err := exec.Command("nft", "list", "table", "inet", netstate.FilterTable).CombinedOutput()
			fields := func(s string) string { return strings.Join(strings.Fields(s), "\n") }
			if diff := cmp.Diff(fields(string(out)), fields(l.n.State().Filter.String())); diff != "" {
				t.Errorf("%s: (-nft +ours):\n%s", layout, diff)
			}
			return err
		})
	}
}
