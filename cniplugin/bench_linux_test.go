// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin/servertest"
)

// BenchmarkPlugin measures the plugin's binary from exec to exit, with an agent
// that answers at once and without the creation of the sandbox. An empty Go program
// and VERSION show the cost of the process itself.
//
//	go test -run '^$' -bench Plugin -benchtime 100x ./cniplugin
func BenchmarkPlugin(b *testing.B) {
	b.Run("EmptyProgram", func(b *testing.B) {
		path := emptyProgram(b)
		measure(b, func() time.Duration { return execute(b, exec.Command(path)) })
	})
	v4 := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}
	v6 := []netip.Prefix{netip.MustParsePrefix("2001:db8::/80")}
	for _, layout := range []string{"flat", "per-pod"} {
		for name, prefixes := range map[string][]netip.Prefix{"IPv4": v4, "IPv6": v6, "dual": slices.Concat(v4, v6)} {
			cfg := ofLayout(layout)
			cfg.Prefixes = prefixes
			b.Run(layout+"/"+name, func(b *testing.B) { benchmarkVerbs(b, cfg) })
		}
	}
}

func benchmarkVerbs(b *testing.B, cfg servertest.Config) {
	n := newNode(b, cfg)
	timed := func(i invocation) time.Duration { return execute(b, n.cmd(b.Context(), i)) }
	b.Run("VERSION", func(b *testing.B) {
		measure(b, func() time.Duration { return timed(invocation{command: "VERSION"}) })
	})
	id := 0
	next := func() string { id++; return fmt.Sprint("pod", id) }
	b.Run("ADD", func(b *testing.B) {
		measure(b, func() time.Duration {
			id := next()
			newSandbox(b, id)
			took := timed(n.add(id))
			n.must(n.del(id))
			removeSandbox(b, id)
			return took
		})
	})
	b.Run("DEL", func(b *testing.B) {
		measure(b, func() time.Duration {
			id := next()
			newSandbox(b, id)
			del := n.del(id)
			del.stdin = n.conf("1.0.0", `"prevResult":`+string(n.must(n.add(id))))
			took := timed(del)
			removeSandbox(b, id)
			return took
		})
	})
}

// BenchmarkBurst measures fifty concurrent ADDs, from the first exec to the last
// exit, as after a reboot of the node, and then the fifty DELs.
func BenchmarkBurst(b *testing.B) {
	const pods = 50
	for _, layout := range []string{"flat", "per-pod"} {
		b.Run(layout, func(b *testing.B) {
			n := newNode(b, ofLayout(layout))
			runAll := func(command func(id string) invocation) time.Duration {
				var wg sync.WaitGroup
				start := time.Now()
				for i := range pods {
					wg.Go(func() {
						if err := n.cmd(b.Context(), command(fmt.Sprint("pod", i))).Run(); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				return time.Since(start)
			}
			var dels time.Duration
			measure(b, func() time.Duration {
				for i := range pods {
					newSandbox(b, fmt.Sprint("pod", i))
				}
				took := runAll(n.add)
				dels += runAll(n.del)
				n.sweeps.Wait()
				for i := range pods {
					removeSandbox(b, fmt.Sprint("pod", i))
				}
				return took
			})
			b.ReportMetric(float64(dels.Milliseconds())/float64(b.N), "ms-DELs-mean")
		})
	}
}

// execute runs a command that must succeed, and returns how long it took.
func execute(b *testing.B, cmd *exec.Cmd) time.Duration {
	b.Helper()
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

// measure reports the minimum, median and 90th percentile of f's results.
func measure(b *testing.B, f func() time.Duration) {
	b.Helper()
	var all []time.Duration
	for b.Loop() {
		all = append(all, f())
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(0, "ns/op") // would include the preparations
	b.ReportMetric(ms(all[0]), "ms-min")
	b.ReportMetric(ms(all[len(all)/2]), "ms-median")
	b.ReportMetric(ms(all[len(all)*9/10]), "ms-p90")
}

func emptyProgram(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	source, path := filepath.Join(dir, "main.go"), filepath.Join(dir, "empty")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, source)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return path
}
