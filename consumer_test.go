// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	sdk      = "github.com/aws/aws-sdk-go-v2"
	olderSDK = "v1.27.0"
)

// TestWarmpoolInConsumer measures which version of the AWS SDK a module gets that has an
// older one and imports only package warmpool: that of this module, because Go selects the
// highest version that any required module names, also one that no import needs. With a
// go.mod of its own, which warmpool can have because it imports nothing else of this
// module, the older one stays. docs/architecture.md says why it does not have one yet. The
// test makes no network calls.
func TestWarmpoolInConsumer(t *testing.T) {
	ours := goRun(t, ".", nil, "list", "-m", "-f", "{{.Version}}", sdk)
	dir := t.TempDir()
	older := filepath.Join(dir, "proxy", filepath.FromSlash(sdk), "@v")
	write(t, filepath.Join(older, "list"), olderSDK+"\n")
	write(t, filepath.Join(older, olderSDK+".info"), fmt.Sprintf(`{"Version":%q}`, olderSDK))
	write(t, filepath.Join(older, olderSDK+".mod"), "module "+sdk+"\n\ngo 1.20\n")
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(dir, "warmpool")
	if err := os.CopyFS(alone, os.DirFS("warmpool")); err != nil {
		t.Fatal(err)
	}
	dropTests(t, alone)
	write(t, filepath.Join(alone, "go.mod"), "module "+module+"/warmpool\n\ngo 1.26.0\n")

	for _, c := range []struct{ name, required, at, sdk string }{
		{"of this module", module, root, ours},
		{"a module of its own", module + "/warmpool", alone, olderSDK},
	} {
		t.Run(c.name, func(t *testing.T) {
			consumer := t.TempDir()
			write(t, filepath.Join(consumer, "go.mod"), fmt.Sprintf(`module example.com/consumer

go 1.26.0

require (
	%s %s
	%s v0.0.0
)

replace %s => %s
`, sdk, olderSDK, c.required, c.required, c.at))
			write(t, filepath.Join(consumer, "main.go"), `package main

import "`+module+`/warmpool"

func main() { _ = warmpool.Plan(warmpool.Band{}, warmpool.Snapshot{}) }
`)
			cache := goRun(t, ".", nil, "env", "GOMODCACHE")
			env := []string{
				"GOWORK=off", "GOFLAGS=-mod=mod -modcacherw", "GOSUMDB=off", "GOTOOLCHAIN=local", "GOMODCACHE=" + filepath.Join(dir, "cache"),
				"GOPROXY=file://" + filepath.ToSlash(filepath.Join(dir, "proxy")) + ",file://" + filepath.ToSlash(filepath.Join(cache, "cache", "download")),
			}
			goRun(t, consumer, env, "build", "-o", os.DevNull, ".")
			if got := goRun(t, consumer, env, "list", "-m", "-f", "{{.Version}}", sdk); got != c.sdk {
				t.Errorf("the consumer gets %s of the SDK, want %s", got, c.sdk)
			}
		})
	}
}

// dropTests removes the tests below a directory, which have requirements of their own.
func dropTests(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			err = os.Remove(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// goRun runs the go command in a directory and returns its output.
func goRun(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}
