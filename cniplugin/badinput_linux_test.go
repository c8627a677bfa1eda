// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/cniplugin"
)

// badInput is an environment and a configuration with one wrong value, and the
// verbs that read the value.
type badInput struct {
	name  string
	verbs string
	env   map[string]string // replaces valid variables
	stdin string            // replaces the valid configuration if not empty
	code  cniplugin.Code    // 0: the verb succeeds
	text  string            // part of the message or details
}

const strict, onAttachment = "ADD CHECK STATUS", "ADD DEL CHECK"

var badInputs = []badInput{
	{name: "unknown command", verbs: "UPDATE", code: 4, text: `CNI_COMMAND "UPDATE"`},
	{name: "lower case", verbs: "add", code: 4, text: `CNI_COMMAND "add"`},
	{name: "VERSION with garbage", verbs: "VERSION", stdin: "{", code: 6, text: "VERSION"},
	{name: "VERSION of the future", verbs: "VERSION", stdin: `{"cniVersion":"9.9.9"}`, code: 0},

	{name: "empty input", verbs: strict + " GC", stdin: " ", code: 6, text: "no network configuration"},
	{name: "malformed input", verbs: strict + " GC", stdin: `{"cniVersion":`, code: 6, text: "JSON"},
	{name: "unknown version", verbs: strict, stdin: `{"cniVersion":"7.0.0","name":"vpcnet"}`, code: 1, text: "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"},
	{name: "missing version", verbs: "CHECK GC STATUS", stdin: `{"name":"vpcnet"}`, code: 1, text: "cniVersion 0.1.0 has no"},
	{name: "missing name", verbs: strict + " GC", stdin: `{"cniVersion":"1.1.0"}`, code: 7, text: "name"},
	{name: "unsupported field", verbs: strict, stdin: `{"cniVersion":"1.1.0","name":"n","ipam":{"type":"dhcp"}}`, code: 2, text: "ipam"},
	{name: "field of the wrong type", verbs: strict, stdin: `{"cniVersion":"1.1.0","name":"n","stateDir":[]}`, code: 6, text: "stateDir"},
	{name: "version before CHECK", verbs: "CHECK", stdin: `{"cniVersion":"0.3.1","name":"n"}`, code: 1, text: "has no CHECK"},
	{name: "version before GC", verbs: "GC", stdin: `{"cniVersion":"1.0.0","name":"n"}`, code: 1, text: "has no GC"},
	{name: "version before STATUS", verbs: "STATUS", stdin: `{"cniVersion":"0.4.0","name":"n"}`, code: 1, text: "has no STATUS"},
	{name: "no list", verbs: "GC", stdin: `{"cniVersion":"1.1.0","name":"n"}`, code: 7, text: "valid-attachments"},
	{name: "list of the wrong type", verbs: "GC", stdin: `{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":7}`, code: 6, text: "valid-attachments"},
	{name: "no prevResult", verbs: "CHECK", stdin: `{"cniVersion":"1.1.0","name":"n"}`, code: 7, text: "prevResult"},
	{name: "prevResult of the wrong type", verbs: "ADD CHECK", stdin: `{"cniVersion":"1.1.0","name":"n","prevResult":7}`, code: 6, text: "prevResult"},

	{name: "no container", verbs: onAttachment, env: map[string]string{"CNI_CONTAINERID": ""}, code: 4, text: "CNI_CONTAINERID"},
	{name: "invalid container", verbs: onAttachment, env: map[string]string{"CNI_CONTAINERID": "../c"}, code: 4, text: `CNI_CONTAINERID "../c"`},
	{name: "no interface", verbs: onAttachment, env: map[string]string{"CNI_IFNAME": ""}, code: 4, text: "CNI_IFNAME"},
	{name: "long interface", verbs: onAttachment, env: map[string]string{"CNI_IFNAME": "sixteencharacter"}, code: 4, text: "has 16 bytes, want 1 to 15"},
	{name: "invalid interface", verbs: onAttachment, env: map[string]string{"CNI_IFNAME": "a/b"}, code: 4, text: `CNI_IFNAME "a/b"`},
	{name: "dots", verbs: onAttachment, env: map[string]string{"CNI_IFNAME": ".."}, code: 4, text: `CNI_IFNAME ".."`},
	{name: "pattern", verbs: onAttachment, env: map[string]string{"CNI_IFNAME": "eth%d"}, code: 4, text: "contains a percent sign"},
	{name: "white space of Latin-1", verbs: onAttachment, env: map[string]string{"CNI_IFNAME": "eth\u00e0"}, code: 4, text: "white space"},
	{name: "huge interface", verbs: onAttachment, env: map[string]string{"CNI_IFNAME": strings.Repeat("e", 1<<20)}, code: 4, text: "has 1048576 bytes, want 1 to 15"},
	{name: "huge container", verbs: onAttachment, env: map[string]string{"CNI_CONTAINERID": strings.Repeat("c", 1<<20)}, code: 4, text: "it has 1048576 bytes, want at most 1024"},
	{name: "huge sandbox", verbs: "ADD CHECK", env: map[string]string{"CNI_NETNS": "/" + strings.Repeat("n", 1<<20)}, code: 3, text: "file name too long"},
	{name: "huge arguments", verbs: "ADD CHECK", env: map[string]string{"CNI_ARGS": strings.Repeat("a", 1<<20)}, code: 4, text: "is not KEY=VALUE"},
	{name: "huge command", verbs: strings.Repeat("A", 1<<20), code: 4, text: "CNI_COMMAND"},
	{name: "huge name", verbs: "ADD CHECK STATUS", stdin: `{"cniVersion":"1.1.0","name":"` + strings.Repeat("n", 1<<20) + `"}`, code: 7, text: "it has 1048576 bytes, want at most 1024"},
	{name: "huge version", verbs: "ADD CHECK STATUS", stdin: `{"cniVersion":"` + strings.Repeat("1", 1<<20) + `"}`, code: 1, text: "0.1.0"},
	{name: "huge ipam", verbs: "ADD CHECK STATUS", stdin: `{"cniVersion":"1.1.0","name":"n","ipam":"` + strings.Repeat("i", 1<<20) + `"}`, code: 2, text: "ipam"},
	{name: "huge value", verbs: "ADD CHECK STATUS", stdin: `{"cniVersion":"1.1.0","name":"n","agentSocket":"/` + strings.Repeat("s", 1<<20) + `"}`, code: 7, text: "want at most 107"},
	{name: "huge timeout", verbs: "ADD CHECK STATUS", stdin: `{"cniVersion":"1.1.0","name":"n","timeout":"` + strings.Repeat("9", 1<<20) + `"}`, code: 6, text: "timeout"},
	{name: "huge MTU", verbs: "ADD CHECK STATUS", stdin: `{"cniVersion":"1.1.0","name":"n","mtu":"` + strings.Repeat("9", 1<<20) + `"}`, code: 6, text: "mtu"},
	{name: "deep JSON", verbs: "ADD CHECK STATUS", stdin: strings.Repeat("[", 1<<20), code: 6, text: "JSON"},
	{name: "null in prevResult", verbs: "ADD CHECK", stdin: `{"cniVersion":"1.1.0","name":"n","prevResult":{"interfaces":[null]}}`, code: 6, text: "null"},
	{name: "nothing at all", verbs: onAttachment, env: map[string]string{"CNI_CONTAINERID": "", "CNI_IFNAME": ""}, code: 4, text: "CNI_CONTAINERID, CNI_IFNAME"},
	{name: "malformed arguments", verbs: "ADD CHECK", env: map[string]string{"CNI_ARGS": "K8S_POD_NAME"}, code: 4, text: "CNI_ARGS"},
	{name: "no sandbox", verbs: "ADD CHECK", env: map[string]string{"CNI_NETNS": ""}, code: 4, text: "CNI_NETNS"},
	{name: "missing sandbox", verbs: "ADD CHECK", env: map[string]string{"CNI_NETNS": "/run/netns/nowhere"}, code: 3, text: "/run/netns/nowhere"},
	{name: "sandbox is a file", verbs: "ADD CHECK", env: map[string]string{"CNI_NETNS": "/proc/version"}, code: 3, text: "CNI_NETNS"},
	{name: "sandbox of another kind", verbs: "ADD CHECK", env: map[string]string{"CNI_NETNS": "/proc/self/ns/mnt"}, code: 3, text: "CNI_NETNS"},
	{name: "sandbox is the node", verbs: "ADD CHECK", env: map[string]string{"CNI_NETNS": "/proc/thread-self/ns/net"}, code: 4, text: "CNI_NETNS"},

	{name: "malformed arguments", verbs: "DEL", env: map[string]string{"CNI_ARGS": "K8S_POD_NAME"}},
	{name: "no sandbox", verbs: "DEL", env: map[string]string{"CNI_NETNS": ""}},
	{name: "missing sandbox", verbs: "DEL", env: map[string]string{"CNI_NETNS": "/run/netns/nowhere"}},
	{name: "sandbox is a file", verbs: "DEL", env: map[string]string{"CNI_NETNS": "/proc/version"}},
	{name: "sandbox is the node", verbs: "DEL", env: map[string]string{"CNI_NETNS": "/proc/thread-self/ns/net", "CNI_IFNAME": "lo"}},
	{name: "unknown container", verbs: "DEL", env: map[string]string{"CNI_CONTAINERID": "never-added"}},
	{name: "unknown container", verbs: "CHECK", env: map[string]string{"CNI_CONTAINERID": "never-added"}, code: 3, text: "not-allocated"},
}

// commands are all CNI commands. Each must have a row in badInputs.
var commands = []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"}

func TestBadInput(t *testing.T) {
	n := newNode(t, ofLayout("per-pod"))
	newSandbox(t, "c1")
	rows := map[string]int{}
	for _, row := range badInputs {
		for _, verb := range strings.Fields(row.verbs) {
			rows[verb]++
			t.Run(verb+"/"+row.name, func(t *testing.T) { n.testBadInput(t, verb, row) })
		}
	}
	for _, verb := range commands {
		if rows[verb] == 0 {
			t.Errorf("no row for %s", verb)
		}
	}
}

// testBadInput calls the plugin in this process, and expects the answer of the row
// and an unchanged node.
func (n *node) testBadInput(t *testing.T, verb string, row badInput) {
	env := map[string]string{
		"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0",
	}
	for k, v := range row.env {
		env[k] = v
	}
	stdin := row.stdin
	if stdin == "" {
		stdin = n.conf("1.1.0", `"prevResult":{}`, `"cni.dev/valid-attachments":[]`)
	}
	before := n.state()
	var stdout, stderr bytes.Buffer
	status := cniplugin.Plugin{}.Main(t.Context(), cniplugin.Invocation{
		Getenv: func(k string) string { return env[k] }, Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr,
	})
	expect(t, row, status, stdout.Bytes())
	if diff := cmp.Diff(before, n.state()); diff != "" {
		t.Errorf("left behind: -before +after:\n%s", diff)
	}
}

// expect compares exit status and standard output with a row.
func expect(t *testing.T, row badInput, status int, stdout []byte) {
	t.Helper()
	if row.code == 0 {
		if status != 0 {
			t.Errorf("exit status %d: %s", status, stdout)
		}
		return
	}
	var got struct {
		CNIVersion string
		cniplugin.Error
	}
	if err := json.Unmarshal(stdout, &got); err != nil || status == 0 {
		t.Fatalf("exit status %d, output %q is not a CNI error: %v", status, stdout, err)
	}
	if got.Code != row.code || !strings.Contains(got.Error.Error(), row.text) || got.CNIVersion == "" {
		t.Errorf("error %+v, want a version, code %d and the text %q", got, row.code, row.text)
	}
	if len(stdout) > 5000 {
		t.Errorf("the error has %d bytes, want a text that can be read", len(stdout))
	}
}

// TestBrokenPipes checks that input that cannot be read is an I/O failure, and
// that an ADD that cannot write its result is undone.
func TestBrokenPipes(t *testing.T) {
	n := newNode(t, ofLayout("per-pod"))
	newSandbox(t, "c1")
	env := map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0"}
	getenv := func(k string) string { return env[k] }
	var stdout, stderr bytes.Buffer
	status := cniplugin.Plugin{}.Main(t.Context(), cniplugin.Invocation{
		Getenv: getenv, Stdin: iotest.ErrReader(os.ErrClosed), Stdout: &stdout, Stderr: &stderr,
	})
	expect(t, badInput{code: 5, text: "standard input"}, status, stdout.Bytes())

	before := n.state()
	closed, err := os.Open("/dev/null") // not open for writing
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	status = cniplugin.Plugin{}.Main(t.Context(), cniplugin.Invocation{
		Getenv: getenv, Stdin: strings.NewReader(n.conf("1.0.0")), Stdout: closed, Stderr: &stderr,
	})
	if status == 0 || n.agent.Calls()["Add"] != 1 {
		t.Errorf("exit status %d after the calls %v, want a failure after one Add", status, n.agent.Calls())
	}
	if diff := cmp.Diff(before, n.state()); diff != "" {
		t.Errorf("left behind: -before +after:\n%s", diff)
	}
}
