// SPDX-License-Identifier: Apache-2.0

package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/filedamage"
	"github.com/vpcnet/vpcnet/internal/wal"
)

func config() wal.Config { return wal.Config{Name: "pool", BootID: "boot-1"} }

func mustOpen(t testing.TB, dir string, cfg wal.Config) (*wal.Log, wal.Report) {
	t.Helper()
	l, r, err := wal.Open(t.Context(), dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, r
}

func mustLoad(t testing.TB, l *wal.Log) []string {
	t.Helper()
	items, err := l.Load()
	if err != nil {
		t.Fatal(err)
	}
	return texts(items)
}

func texts(items [][]byte) []string {
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = string(item)
	}
	return out
}

func items(texts ...string) [][]byte {
	out := make([][]byte, len(texts))
	for i, s := range texts {
		out[i] = []byte(s)
	}
	return out
}

// files returns the content of all files in dir, by name.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

// writeFiles creates a directory with the files.
func writeFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// snapshot has the files and the items of a log at one time.
type snapshot struct {
	files map[string]string
	want  []string
}

// history changes a log step by step and returns a snapshot after each step.
func history(t testing.TB) (all []snapshot) {
	t.Helper()
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, config())
	var want []string
	add := func() { all = append(all, snapshot{files(t, dir), slices.Clone(want)}) }
	add()
	for i := range 40 {
		var batch []string
		for k := range 1 + i%3 {
			batch = append(batch, fmt.Sprintf(`{"n":"10.0.%d.%d","x":%q}`, i, k, strings.Repeat("x", i*5)))
		}
		write := l.Append
		if want = append(want, batch...); i%17 == 16 {
			want, write = batch, l.Replace
		}
		if err := write(items(batch...)); err != nil {
			t.Fatal(err)
		}
		add()
	}
	return all
}

// check opens the log in dir. The log must have the wanted items, or Open must
// have refused it and created an empty one. In both cases the log must work. check
// reports whether the items were there.
func check(t testing.TB, dir, what string, want []string) bool {
	t.Helper()
	l, r := mustOpen(t, dir, config())
	got := mustLoad(t, l)
	same := r.Why == nil
	if same && !slices.Equal(got, want) {
		t.Fatalf("%s: damage not detected: %d other items, want %d", what, len(got), len(want))
	}
	if !same && (!errors.Is(r.Why, wal.ErrDamaged) || len(r.SetAside) == 0 || len(got) > 0) {
		t.Fatalf("%s: refused with report %+v and %d items", what, r, len(got))
	}
	if err := l.Append(items("more")); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, r = mustOpen(t, dir, config())
	if diff := cmp.Diff(append(got, "more"), mustLoad(t, l)); diff != "" || r.Why != nil {
		t.Fatalf("%s: after one more append: %v (-want +got):\n%s", what, r.Why, diff)
	}
	_ = l.Close()
	return same
}

// TestDamage: whatever happens to one of the files, the items are the same or the
// log is refused.
func TestDamage(t *testing.T) {
	all := history(t)
	count := map[bool]int{}
	for _, name := range []string{"pool.log", "pool.head", "pool.lock"} {
		for _, k := range filedamage.Kinds() {
			for seed := range 6 {
				r := rand.New(rand.NewPCG(uint64(seed), 1))
				m := all[len(all)-1-r.IntN(len(all)/2)]
				dir := writeFiles(t, m.files)
				if name == "pool.lock" { // it is empty
					if err := os.WriteFile(filepath.Join(dir, name), []byte("x\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if err := k.Apply(r, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				same := check(t, dir, fmt.Sprintf("%s: %s, seed %d", name, k.Name, seed), m.want)
				count[same]++
				if name == "pool.lock" && !same {
					t.Errorf("%s of the lock file: the items are lost", k.Name)
				}
			}
		}
	}
	t.Logf("%d logs had all items, %d were refused", count[true], count[false])
}

// TestEveryCut: a log that ends too early is refused, also if it ends after a
// whole record.
func TestEveryCut(t *testing.T) {
	all := history(t)
	m := all[12]
	log := m.files["pool.log"]
	for n := range len(log) {
		if n%7 != 0 && n > 0 && log[n-1] != '\n' {
			continue // only the end of each line, and every seventh byte
		}
		files := maps.Clone(m.files)
		files["pool.log"] = log[:n]
		if check(t, writeFiles(t, files), fmt.Sprint("cut at byte ", n), m.want) {
			t.Fatalf("cut at byte %d of %d: damage not detected", n, len(log))
		}
	}
}

// TestMixed: a log and a head of different times are refused, unless the head is
// one record behind, as after a process was killed.
func TestMixed(t *testing.T) {
	all := history(t)
	for i, log := range all {
		if i > 4 && i%6 > 2 {
			continue
		}
		for k, head := range all {
			files := maps.Clone(log.files)
			files["pool.head"] = head.files["pool.head"]
			same := check(t, writeFiles(t, files), fmt.Sprintf("log of step %d, head of step %d", i, k), log.want)
			// The head of step 0 is after the record that Open writes.
			if want := k == i || k == i-1; same != want {
				t.Errorf("log of step %d with head of step %d: accepted is %v, want %v", i, k, same, want)
			}
		}
	}
}

// TestMixedBlocks: a log with some old blocks is refused.
func TestMixedBlocks(t *testing.T) {
	all := history(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		m, old := all[len(all)-1], all[r.IntN(len(all)-1)]
		data := []byte(m.files["pool.log"])
		at := r.IntN(len(data)/512+1) * 512
		if past := old.files["pool.log"]; at < len(past) {
			copy(data[at:min(len(data), at+512<<r.IntN(5))], past[at:])
		}
		files := maps.Clone(m.files)
		files["pool.log"] = string(data)
		same := check(t, writeFiles(t, files), fmt.Sprint("old block at ", at), m.want)
		if want := bytes.Equal(data, []byte(m.files["pool.log"])); same != want {
			t.Fatalf("old block at %d: accepted is %v, want %v", at, same, want)
		}
	}
}

// TestSpliced: a log is refused if one of its records comes from another log, with
// the right number and length.
func TestSpliced(t *testing.T) {
	logs, m := map[string]string{}, snapshot{}
	for _, word := range []string{"left", "side"} {
		dir := t.TempDir()
		l, _ := mustOpen(t, dir, config())
		for i := range 4 {
			if err := l.Append(items(fmt.Sprint(word, i))); err != nil {
				t.Fatal(err)
			}
		}
		m = snapshot{files(t, dir), []string{"side0", "side1", "side2", "side3"}}
		logs[word] = m.files["pool.log"]
		_ = l.Close()
	}
	records := func(word string) []string { return strings.SplitAfter(logs[word], "\n") }
	for i := 2; i < len(records("side"))-1; i += 2 {
		spliced := slices.Concat(records("side")[:i], records("left")[i:i+2], records("side")[i+2:])
		m.files["pool.log"] = strings.Join(spliced, "")
		if check(t, writeFiles(t, m.files), fmt.Sprint("line ", i), m.want) {
			t.Errorf("the record at line %d is from another log: not detected", i)
		}
	}
}

// TestAsideIsBounded: if the log is damaged at each start, only the latest damaged
// files are kept.
func TestAsideIsBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 12 {
		l, r := mustOpen(t, dir, config())
		if (r.Why != nil) != (i > 0) {
			t.Fatalf("open %d: %+v", i, r)
		}
		_ = l.Close()
		if err := os.WriteFile(filepath.Join(dir, "pool.log"), fmt.Append(nil, "damage ", i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for name := range files(t, dir) {
		if strings.HasPrefix(name, "pool.log.damaged") {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	want := []string{"pool.log.damaged-10", "pool.log.damaged-11", "pool.log.damaged-8", "pool.log.damaged-9"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("set aside (-want +got):\n%s", diff)
	}
}

// TestBoots: a log is discarded if neither of its files is of this boot, and set
// aside if only one of them is.
func TestBoots(t *testing.T) {
	old := history(t)[20]
	cfg := config()
	cfg.BootID = "boot-2"
	fresh := t.TempDir()
	l, _ := mustOpen(t, fresh, cfg)
	created := files(t, fresh)
	if err := l.Append(items("new")); err != nil {
		t.Fatal(err)
	}
	used := files(t, fresh)
	_ = l.Close()
	past := time.Now().Add(-time.Hour)

	for _, c := range []struct {
		name      string
		log, head string
		changed   time.Time
		want      wal.Report
		items     []string
	}{
		{"both old", old.files["pool.log"], old.files["pool.head"], time.Time{}, wal.Report{Rebooted: true}, nil},
		{"old, log damaged", "rubbish", old.files["pool.head"], time.Time{}, wal.Report{Rebooted: true}, nil},
		{"old, head damaged", old.files["pool.log"], "rubbish", time.Time{}, wal.Report{Rebooted: true}, nil},
		{"old, no head", old.files["pool.log"], "", time.Time{}, wal.Report{Rebooted: true}, nil},
		{"old, no log", "", old.files["pool.head"], time.Time{}, wal.Report{Rebooted: true}, nil},
		{"both damaged before the boot", "rubbish", "rubbish", past, wal.Report{Rebooted: true}, nil},
		{"both damaged", "rubbish", "rubbish", time.Time{}, wal.Report{Why: wal.ErrDamaged}, nil},
		{"old log", old.files["pool.log"], used["pool.head"], time.Time{}, wal.Report{Why: wal.ErrDamaged}, nil},
		{"old head", used["pool.log"], old.files["pool.head"], time.Time{}, wal.Report{Why: wal.ErrDamaged}, nil},
		{"killed after the head was created", "", head(t), time.Time{}, wal.Report{Created: true}, nil},
		{"killed after the head was created, rebooted", old.files["pool.log"], head(t), time.Time{}, wal.Report{Rebooted: true}, nil},
		{"killed after the log was created", created["pool.log"], head(t), time.Time{}, wal.Report{}, nil},
		{"used", used["pool.log"], used["pool.head"], past, wal.Report{}, []string{"new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, data := range map[string]string{"pool.log": c.log, "pool.head": c.head} {
				path := filepath.Join(dir, name)
				if data == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
					t.Fatal(err)
				}
				if !c.changed.IsZero() {
					if err := os.Chtimes(path, c.changed, c.changed); err != nil {
						t.Fatal(err)
					}
				}
			}
			cfg := cfg
			cfg.BootTime = time.Now().Add(-time.Minute)
			l, r := mustOpen(t, dir, cfg)
			if r.Created != c.want.Created || r.Rebooted != c.want.Rebooted || !errors.Is(r.Why, c.want.Why) {
				t.Errorf("report %+v, want %+v", r, c.want)
			}
			if got := mustLoad(t, l); !slices.Equal(got, c.items) {
				t.Errorf("items %q, want %q", got, c.items)
			}
		})
	}
}

// head returns the head that the creation of a log writes first. It fits a log
// without records.
func head(t *testing.T) string {
	t.Helper()
	return string(wal.FirstHead("pool", "boot-2"))
}
