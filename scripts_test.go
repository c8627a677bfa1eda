// SPDX-License-Identifier: Apache-2.0

package vpcnet_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shebang begins a shell script.
var shebang = regexp.MustCompile(`^#!\S*/(env )?(ba|da)?sh\b`)

// closesEarly are the commands that may end before they have read all of their input.
var closesEarly = regexp.MustCompile(`\|\s*(head\b|grep\s+(-\w*q|--quiet|-\w*m)|sed\s.*\dq\b)`)

// TestScriptsReadPipes checks that no script with pipefail pipes into a command that
// closes its input early. What still writes to such a pipe is ended by SIGPIPE, or not,
// depending on the scheduler, and the script then fails with status 141.
func TestScriptsReadPipes(t *testing.T) {
	scripts := 0
	for name, text := range shellScripts(t) {
		if !strings.Contains(text, "pipefail") {
			continue
		}
		scripts++
		for i, line := range strings.Split(text, "\n") {
			if closesEarly.MatchString(line) && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				t.Errorf("%s:%d: a command closes its pipe early: %s", name, i+1, line)
			}
		}
	}
	if scripts < 2 {
		t.Errorf("%d scripts with pipefail, want .ci/run and .ci/kernel at least", scripts)
	}
}

// TestCIFunctions calls the functions of .ci/run that shorten the output of go test with
// an output of 200,000 tests, in bash under pipefail.
func TestCIFunctions(t *testing.T) {
	script, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	var functions strings.Builder
	for _, name := range []string{"first", "judge", "errors", "tests", "slowest"} {
		body := regexp.MustCompile(`(?ms)^` + name + `\(\) \{\n.*?^\}\n`).Find(script)
		if body == nil {
			t.Fatalf(".ci/run does not have the function %s", name)
		}
		functions.Write(body)
	}
	const passed, failed = 200_000, 5_000
	pass := strings.Repeat("--- PASS: TestPassed (0.01s)\n", passed) + "--- PASS: TestSlow (7.00s)\nok  \tpackage\t1.0s\n"
	fail := strings.Repeat("=== RUN   TestFailed\n    a_test.go:1: a reason\n--- FAIL: TestFailed (0.01s)\n", failed)
	dir := t.TempDir()
	for name, text := range map[string]string{"pass": pass, "fail": pass + fail} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		command, want string
		status        int
	}{
		{"slowest pass", "7.00 TestSlow", 0},
		{"errors fail", "a_test.go:1: a reason", 0},
		{"tests log cat pass", "ok  \tpackage", 0},
		{"tests log bash -c 'cat fail; exit 1'", "a_test.go:1: a reason", 1},
	} {
		cmd := exec.Command("bash", "-c", "set -euo pipefail\n"+functions.String()+c.command)
		cmd.Dir = dir
		out, _ := cmd.CombinedOutput()
		if status := cmd.ProcessState.ExitCode(); status != c.status || !bytes.Contains(out, []byte(c.want)) {
			t.Errorf("%s: status %d, want %d, output of %d bytes, want %q in it: %.300s", c.command, status, c.status, len(out), c.want, out)
		}
	}
}

// shellScripts reads all shell scripts of the tree.
func shellScripts(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if shebang.Match(data) {
			all[filepath.ToSlash(name)] = string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
