// SPDX-License-Identifier: Apache-2.0

package wal_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vpcnet/vpcnet/internal/wal"
)

func TestLog(t *testing.T) {
	dir := t.TempDir()
	cfg := config()
	cfg.First = func() ([][]byte, error) { return items("first"), nil }
	l, r := mustOpen(t, dir, cfg)
	if !r.Created {
		t.Errorf("report %+v, want Created", r)
	}
	want := []string{"first"}
	for _, batch := range [][]string{{"a"}, {}, {"b", "", "c"}} {
		if err := l.Append(items(batch...)); err != nil {
			t.Fatal(err)
		}
		want = append(want, batch...)
	}
	if err := l.Append(items("two", "lines\n")); err == nil {
		t.Error("an item of two lines was accepted")
	}
	check := func() {
		t.Helper()
		if diff := cmp.Diff(want, mustLoad(t, l), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("items (-want +got):\n%s", diff)
		}
		_ = l.Close()
		if l, r = mustOpen(t, dir, cfg); r.Created || r.Why != nil {
			t.Errorf("report %+v", r)
		}
		if diff := cmp.Diff(want, mustLoad(t, l), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("items after reopening (-want +got):\n%s", diff)
		}
	}
	check()
	want = []string{"all", "new"}
	if err := l.Replace(items(want...)); err != nil {
		t.Fatal(err)
	}
	check()
	want = nil
	if err := l.Replace(nil); err != nil {
		t.Fatal(err)
	}
	check()
	if names, err := l.Discard(); err != nil || len(names) != 2 {
		t.Errorf("discard: %v, %v", names, err)
	}
	check()
}

// TestFormat checks the text of the files, which later versions must be able to
// read.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, config())
	for _, item := range []string{"one", "two"} {
		if err := l.Append(items(item)); err != nil {
			t.Fatal(err)
		}
	}
	sums := regexp.MustCompile(`[0-9a-f]{64}`)
	got := map[string]string{}
	for name, data := range files(t, dir) {
		got[name] = sums.ReplaceAllStringFunc(data, func(s string) string { return s[:4] })
	}
	want := map[string]string{
		"pool.log": "vpcnet-journal 2 pool boot-1 0000000000000000 0000 1be3\n" +
			"0000000000000001 00000000 9663\n0000000000000002 00000004 13c0\none\n0000000000000003 00000004 8cbe\ntwo\n",
		"pool.head": "vpcnet-head 2 pool boot-1 0000000000000003 8cbe acf5\n",
		"pool.lock": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestHeadFails: if the head cannot be written, an append and the ones after it
// have no effect, and a replacement is complete.
func TestHeadFails(t *testing.T) {
	for _, replace := range []bool{false, true} {
		dir := t.TempDir()
		l, _ := mustOpen(t, dir, config())
		if err := l.Append(items("a")); err != nil {
			t.Fatal(err)
		}
		if err := l.BreakHead(); err != nil {
			t.Fatal(err)
		}
		want := []string{"a"}
		for range 2 {
			if err := l.Append(items("b")); err == nil {
				t.Error("an append succeeded although the head cannot be written")
			}
		}
		if replace {
			want = []string{"c"}
			if err := l.Replace(items(want...)); err != nil {
				t.Error(err)
			}
			if err := l.Append(items("d")); err == nil {
				t.Error("an append succeeded although the head cannot be written")
			}
		}
		if got := mustLoad(t, l); !slices.Equal(got, want) {
			t.Errorf("items %q, want %q", got, want)
		}
		_ = l.Close()
		l, r := mustOpen(t, dir, config())
		if got := mustLoad(t, l); !slices.Equal(got, want) || r.Why != nil {
			t.Errorf("after reopening: %q, want %q; report %+v", got, want, r)
		}
	}
}

// TestOpenRepairs: Open updates the head to the last record and cuts off the bytes
// after it, so that both files are consistent when the process is killed again.
func TestOpenRepairs(t *testing.T) {
	all := history(t)
	files1 := maps.Clone(all[9].files)
	files1["pool.head"] = all[8].files["pool.head"]
	files1["pool.log"] += "half a record"
	dir := writeFiles(t, files1)
	l, _ := mustOpen(t, dir, config())
	_ = l.Close()
	if diff := cmp.Diff(all[9].files, files(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// TestNewer: the files of a newer version are not changed, also after a reboot.
func TestNewer(t *testing.T) {
	m := history(t)[3]
	for _, name := range []string{"pool.log", "pool.head"} {
		for _, boot := range []string{"boot-1", "boot-2"} {
			files1 := maps.Clone(m.files)
			_, rest, _ := strings.Cut(m.files[name], "\n")
			files1[name] = string(wal.Checked("vpcnet-"+map[string]string{"pool.log": "journal", "pool.head": "head"}[name]+" 3 something else")) + rest
			dir := writeFiles(t, files1)
			cfg := config()
			cfg.BootID = boot
			if _, _, err := wal.Open(t.Context(), dir, cfg); !errors.Is(err, wal.ErrFormat) || !strings.Contains(err.Error(), "start that version again") {
				t.Errorf("%s of a newer version: %v", name, err)
			}
			if diff := cmp.Diff(files1, files(t, dir)); diff != "" {
				t.Errorf("%s of a newer version was changed:\n%s", name, diff)
			}
		}
	}
}

// TestLoadSeesDamage: Load detects a change of the file while the log is open.
func TestLoadSeesDamage(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, config())
	if err := l.Append(items("a", "b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "pool.log"), 200); err != nil {
		t.Fatal(err)
	}
	if got, err := l.Load(); !errors.Is(err, wal.ErrDamaged) {
		t.Errorf("load: %q, %v", got, err)
	}
}

// FuzzJudge: reading the two files never panics, and a log that is accepted is
// accepted again after one more append.
func FuzzJudge(f *testing.F) {
	all := history(f)
	for _, i := range []int{0, 1, 20} {
		f.Add([]byte(all[i].files["pool.log"]), []byte(all[i].files["pool.head"]))
	}
	f.Add([]byte(all[3].files["pool.log"]), []byte(all[2].files["pool.head"]))
	f.Fuzz(func(t *testing.T, log, head []byte) {
		got, intact := wal.Judge("pool", "boot-1", log, head)
		if !intact {
			return
		}
		log, head = wal.More("pool", "boot-1", log, "more")
		again, intact := wal.Judge("pool", "boot-1", log, head)
		if want := append(texts(got), "more"); !intact || !slices.Equal(texts(again), want) {
			t.Errorf("after one more append: intact %v, %d items, want %d", intact, len(again), len(want))
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l, _ := mustOpen(b, b.TempDir(), config())
	item := items(strings.Repeat("x", 300))
	for b.Loop() {
		if err := l.Append(item); err != nil {
			b.Fatal(err)
		}
	}
}
