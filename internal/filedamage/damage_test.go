// SPDX-License-Identifier: Apache-2.0

package filedamage_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/internal/filedamage"
)

// TestKinds: each kind changes a long file in at least half of the tries, and
// works on a file of a single line.
func TestKinds(t *testing.T) {
	long := strings.Repeat("line 12345 of a file that is long enough\n", 200)
	for _, text := range []string{long, "one line 1\n"} {
		for _, k := range filedamage.Kinds() {
			changed := 0
			for seed := range 40 {
				path := filepath.Join(t.TempDir(), "file")
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := k.Apply(rand.New(rand.NewPCG(1, uint64(seed))), path); err != nil {
					t.Fatalf("%s: %v", k.Name, err)
				}
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, []byte(text)) {
					changed++
				}
			}
			if changed < 20 && len(text) == len(long) {
				t.Errorf("%s changed %d of 40 files of %d bytes", k.Name, changed, len(text))
			}
		}
	}
}
