// SPDX-License-Identifier: Apache-2.0

package enitest_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/race"
)

// botocorePython returns a Python interpreter that has botocore: the first one in the
// path, or else the one of Debian, for which the package python3-botocore is made.
func botocorePython(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.CommandContext(t.Context(), name, "-c", "import botocore").Run() == nil {
			return name
		}
	}
	t.Skip("no python3 has botocore (Debian package python3-botocore)")
	return ""
}

// botocoreReport is the output of testdata/botocore/calls.py.
type botocoreReport struct {
	Version            string
	Succeeded, Refused map[string]int
	Elements           int
	Disliked           []string
}

// TestBotocore makes calls of all actions with botocore, successful and refused ones,
// and checks each answer against the service model. It fails if an action is not
// called both ways.
func TestBotocore(t *testing.T) {
	if race.Enabled {
		t.Log("without the race detector only: most of the time is that of another program")
		return
	}
	t.Parallel()
	python := botocorePython(t)
	sdk, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/ec2").Output()
	if err != nil {
		t.Fatalf("find the source of the AWS SDK: %v", err)
	}
	short := 300 * time.Millisecond
	cloud := enitest.New(enitest.Config{Delays: enitest.Delays{Attach: short, Detach: short, Start: short, Stop: short, Terminate: short}})
	node := enitest.NewNodeIn(t, cloud, "m5.xlarge")
	ipv6Subnet := addOthers(t, cloud, node.VPC.ID, node.Subnet.ID)
	endpoint, _ := node.Listen()
	refuse := func(action, caller string, skip int, refusal enitest.APIError) {
		cloud.AddFault(enitest.Fault{Action: action, Caller: caller, Skip: skip, Times: 1, Err: &refusal})
	}
	refuse("GetCallerIdentity", "", 1, enitest.APIError{Code: "ExpiredToken", Message: "The security token included in the request is expired", Status: 403})
	refuse("DescribeVpcs", "AKIATHROTTLED", 0, enitest.APIError{Code: "RequestLimitExceeded", Message: "Request limit exceeded."})
	cloud.Deny("AKIADENIED", "*")
	in, err := json.Marshal(map[string]string{
		"endpoint": endpoint, "region": cloud.Region(), "account": "123456789012", "sdk": strings.TrimSpace(string(sdk)),
		"vpc": node.VPC.ID, "subnet": node.Subnet.ID, "instance": node.Instance.ID, "ipv6_subnet": ipv6Subnet,
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "-B", "testdata/botocore/calls.py")
	cmd.Env = clientEnv(cloud.Region())
	cmd.Stdin = bytes.NewReader(in)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var report botocoreReport
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("%v in the output %q", err, out)
	}
	for _, disliked := range report.Disliked {
		t.Error(disliked)
	}
	for _, action := range enitest.ActionNames() {
		if report.Succeeded[action] == 0 || report.Refused[action] == 0 {
			t.Errorf("%s: %d successful and %d refused calls, want some of each; add them to testdata/botocore/calls.py",
				action, report.Succeeded[action], report.Refused[action])
		}
	}
	checkInvariants(t, cloud)
	logClient(t, "botocore "+report.Version, allCalls(cloud), len(report.Disliked))
	t.Logf("%d elements checked against the service model", report.Elements)
}

// addOthers adds an ENI of each service to a subnet, an instance that a service
// manages, and an IPv6-only subnet. It returns the ID of that subnet.
func addOthers(t *testing.T, cloud *enitest.Cloud, vpc, subnet string) (ipv6Subnet string) {
	t.Helper()
	for _, service := range []enitest.Service{
		enitest.ControlPlane, enitest.ApplicationLoadBalancer, enitest.NetworkLoadBalancer, enitest.NATGateway, enitest.VPCEndpoint,
	} {
		must(cloud.AddForeignENI(enitest.ForeignENIInput{Subnet: subnet, Service: service}))(t)
	}
	must(cloud.RunInstance(enitest.InstanceInput{Subnet: subnet, Operator: "eks.amazonaws.com"}))(t)
	return must(cloud.AddSubnet(enitest.SubnetInput{VPC: vpc, IPv6: netip.MustParsePrefix("2001:db8:0:9::/64")}))(t).ID
}

// clientEnv returns the environment of a client, which takes no setting of AWS from
// the environment of the test.
func clientEnv(region string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	return append(env, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_DEFAULT_REGION="+region, "AWS_PAGER=",
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
		"LC_ALL=C.UTF-8", "NO_PROXY=127.0.0.1")
}

// logClient writes the row of a client in the table of clients that .ci/run prints.
func logClient(t *testing.T, name string, calls, disliked int) {
	t.Helper()
	t.Logf("client: %s, %d calls, %d answers disliked", name, calls, disliked)
}

// allCalls returns the number of calls of all actions.
func allCalls(cloud *enitest.Cloud) int {
	sum := 0
	for _, n := range cloud.Calls() {
		sum += n
	}
	return sum
}
