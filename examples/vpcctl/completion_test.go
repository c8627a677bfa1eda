// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestCompletion lets bash complete command lines with the script.
func TestCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skipf("needs the program bash: %v", err)
	}
	code, script, stderr := vpcctl(t, "completion", "bash")
	if code != 0 {
		t.Fatal(stderr)
	}
	_, help, _ := vpcctl(t, "doctor", "-h")
	stub := "vpcctl() { cat <<'END'\n" + help + "END\n}\n"
	for line, want := range map[string]string{
		"vpcctl ex": "explain", "vpcctl d": "doctor", "vpcctl state ": "save diff", "vpcctl explain p": "pod", "vpcctl doctor -b": "-bundle", "vpcctl doctor -ro": "-root",
	} {
		words := strings.Split(line, " ")
		text := stub + script + "COMP_WORDS=('" + strings.Join(words, "' '") + "') COMP_CWORD=" + string(rune('0'+len(words)-1)) + "\n_vpcctl\necho ${COMPREPLY[@]}\n"
		out, err := exec.CommandContext(t.Context(), bash, "-c", text).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%q completes to %q, %v, want %q", line, got, err, want)
		}
	}
	for _, shell := range []string{"zsh", "fish"} {
		if code, out, _ := vpcctl(t, "completion", shell); code != 0 || !strings.Contains(out, "doctor") || strings.Contains(out, "%!") {
			t.Errorf("%s: exit %d\n%s", shell, code, out)
		}
	}
	if code, _, _ := vpcctl(t, "completion", "csh"); code != 2 {
		t.Errorf("csh: exit %d, want 2", code)
	}
	for name := range groups() {
		if !slices.ContainsFunc(commands(), func(c command) bool { return c.name == name }) {
			t.Errorf("%s is not a command", name)
		}
	}
}
