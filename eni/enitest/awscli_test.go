// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/race"
)

// serveCLI serves a Cloud until the test ends, and returns the environment of a shell
// that calls the AWS CLI with it.
func serveCLI(t *testing.T, c *enitest.Cloud) []string {
	t.Helper()
	srv := must(c.Listen(t.Context(), ""))(t)
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return append(clientEnv(c.Region()), "ENDPOINT="+srv.EC2URL)
}

// newNodes returns a Cloud with a VPC as the walkthroughs of EKS show it: a subnet in
// each of three zones, and a node with a public address in each of them.
func newNodes(t *testing.T) *enitest.Cloud {
	t.Helper()
	cloud := enitest.New(enitest.Config{Region: "us-east-1"})
	vpc := must(cloud.AddVPC(enitest.VPCInput{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("2001:db8::/56")}, Tags: map[string]string{"Name": "myeks-VPC"},
	}))(t)
	for i, node := range []struct{ subnet, ipv6, addr string }{
		{"192.168.0.0/22", "2001:db8::/64", "192.168.2.202"},
		{"192.168.4.0/22", "2001:db8:0:1::/64", "192.168.7.237"},
		{"192.168.8.0/22", "2001:db8:0:2::/64", "192.168.11.105"},
	} {
		subnet := must(cloud.AddSubnet(enitest.SubnetInput{
			VPC: vpc.ID, Zone: cloud.Zones()[i], Prefix: netip.MustParsePrefix(node.subnet), IPv6: netip.MustParsePrefix(node.ipv6), MapPublic: true,
		}))(t)
		must(cloud.RunInstance(enitest.InstanceInput{
			Subnet: subnet.ID, Type: "t3.medium", Addr: netip.MustParseAddr(node.addr), Tags: map[string]string{"Name": "myeks-1nd-node-group"},
		}))(t)
	}
	return cloud
}

// subnetAt returns the subnet with the given prefix.
func subnetAt(cloud *enitest.Cloud, prefix string) enitest.Subnet {
	for _, s := range cloud.Subnets() {
		if s.Prefix.String() == prefix {
			return s
		}
	}
	return enitest.Subnet{}
}

// instanceIn returns the ID of the instance in a subnet.
func instanceIn(cloud *enitest.Cloud, subnet string) string {
	for _, e := range cloud.ENIs() {
		if e.Subnet == subnet && e.Attachment != nil {
			return e.Attachment.Instance
		}
	}
	return ""
}

// TestAWSCLI types the commands of the files in testdata/awscli into a shell,
// and compares what they print with the lines that follow them there. With -update it
// rewrites these lines.
func TestAWSCLI(t *testing.T) {
	if race.Enabled {
		t.Log("without the race detector only: most of the time is that of another program")
		return
	}
	if _, err := exec.LookPath("aws"); err != nil {
		t.Skip("the AWS CLI is not installed (Debian package awscli)")
	}
	t.Parallel()
	files, err := filepath.Glob("testdata/awscli/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d scripts, error %v", len(files), err)
	}
	var calls, disliked atomic.Int64
	t.Run("scripts", func(t *testing.T) {
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
				t.Parallel()
				cloud := newNodes(t)
				disliked.Add(int64(runScript(t, cloud, file)))
				calls.Add(int64(allCalls(cloud)))
				checkInvariants(t, cloud)
			})
		}
	})
	logClient(t, cliVersion(t), int(calls.Load()), int(disliked.Load()))
}

// runScript types the commands of a file and returns the number of lines that differ.
func runScript(t *testing.T, cloud *enitest.Cloud, file string) int {
	t.Helper()
	env := serveCLI(t, cloud)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	subnet := subnetAt(cloud, "192.168.0.0/22")
	got := typed(t, string(text), append(env, "VPC="+cloud.VPCs()[0].ID, "SUBNET="+subnet.ID, "INSTANCE="+instanceIn(cloud, subnet.ID)))
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil { //nolint:gosec // a test's data
			t.Fatal(err)
		}
	}
	diff := cmp.Diff(strings.Split(string(text), "\n"), strings.Split(got, "\n"))
	if diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	return strings.Count(diff, "\n+")
}

// typed runs the commands of a script in one shell, and returns the script with what
// they printed, and "failed" after each command that failed.
func typed(t *testing.T, script string, env []string) string {
	t.Helper()
	var commands, comments []string
	input := `aws() { command aws --endpoint-url "$ENDPOINT" "$@"; }` + "\n"
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			commands = append(commands, command)
			input += "printf '\\n$\\n'\n" + command + " || echo failed\n"
		} else if strings.HasPrefix(line, "#") {
			comments = append(comments, line+"\n")
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "exec 2>&1\n"+input)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	blocks := strings.Split("\n"+string(out), "\n$\n")[1:]
	if len(blocks) != len(commands) {
		t.Fatalf("%d outputs of %d commands:\n%s", len(blocks), len(commands), out)
	}
	text := strings.Join(comments, "")
	for i, block := range blocks {
		text += "$ " + commands[i] + "\n" + normalized(block)
	}
	return numbered(text)
}

// runs are what tables align their cells with, and the tabs of text output.
var runs = regexp.MustCompile(`-{3,}|[ \t]+`)

// normalized returns an output without empty lines and with each run of hyphens or of
// blanks shortened, as the width of a column follows that of its cells.
func normalized(output string) string {
	var b strings.Builder
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(runs.ReplaceAllStringFunc(line, func(run string) string {
			if run[0] == '-' {
				return "---"
			}
			return " "
		}))
		if line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// made matches the IDs and public addresses that a Cloud makes up.
var made = regexp.MustCompile(`\b([a-z]+(?:-attach|-assoc)?)-[0-9a-f]{17}\b|\b198\.1[89]\.[0-9.]+\b`)

// numbered returns the text with the IDs of each kind replaced by eni-1, eni-2 and so
// on in the order of their appearance, except for those that scripts contain.
func numbered(text string) string {
	names, next := map[string]string{}, map[string]int{}
	return made.ReplaceAllStringFunc(text, func(id string) string {
		if strings.HasSuffix(id, "-0123456789abcdef0") {
			return id
		}
		if names[id] == "" {
			kind := "public"
			if i := strings.LastIndex(id, "-"); i >= 0 {
				kind = id[:i]
			}
			next[kind]++
			names[id] = fmt.Sprintf("%s-%d", kind, next[kind])
		}
		return names[id]
	})
}

// cliVersion returns the name and version of the AWS CLI, like "aws-cli 2.9.19".
func cliVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "aws", "--version").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(string(out), " ")
	return strings.Replace(name, "/", " ", 1)
}
