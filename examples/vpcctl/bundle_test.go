// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath/trace"
	"github.com/vpcnet/vpcnet/ipam"
)

// secrets are texts with a secret, which is the part between « and ».
var secrets = []string{
	"AWS_ACCESS_KEY_ID=«AKIAIOSFODNN7EXAMPLE»", "key «ASIAIOSFODNN7EXAMPLE» expired", "AWS_SECRET_ACCESS_KEY='«wJalrXUtnFEMI K7MDENG»'",
	`{"SecretAccessKey":"«wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY»","n":1}`, `"Token" : "«a \" quote»"`, `{"msg":"{\"token\":\"«escaped-in-json»\"}"}`,
	"loose «wJalrXUtnFEMIaK7MDENGabPxRfiCYEXAMPLEKE1» key", "password: «hunter2hunter2»", "db_passwd=«hunter3»", "  wpa-psk «»x", "psk=«short»",
	"Authorization: Bearer «abcdefghijkl»", `"Authorization": "AWS4-HMAC-SHA256 «Credential=x, Signature=y»"`, "Bearer «bearer456789ab»",
	"https://user:«pw0rd»@example.com/x", "proxy http://u:«p%40ss»@10.0.0.1:3128", "X-Amz-Security-Token=«FwoGZXIvYXdzE»&X-Amz-Date=1",
	"X-aws-ec2-metadata-token: «AQAEAGk»", "-----BEGIN RSA PRIVATE KEY-----\n«MIIEpAIBAAKCAQEA»\n-----END RSA PRIVATE KEY-----\n",
	"eyJhbGciOiJIUzI1NiJ9.«eyJzdWIiOiIxMjM0NTY3ODkwIn0».sig", "api_key=«k-123»;", "sandbox 0123456789ab«cdef0123456789abcdef0123456789abcdef0123456789abcdef01»",
	"free text with «the value of the variable»",
}

// environ has a secret that no pattern matches.
var environ = []string{"HOME=/root", "MY_PASSWORD=the value of the variable", "PSK=x"}

// TestRedact removes secrets from texts, and keeps what doctor needs.
func TestRedact(t *testing.T) {
	for _, s := range secrets {
		text := strings.NewReplacer("«", "", "»", "").Replace(s)
		_, rest, _ := strings.Cut(s, "«")
		secret, _, _ := strings.Cut(rest, "»")
		if got := redact(text, secretsOf(environ)); secret != "" && strings.Contains(got, secret) {
			t.Errorf("%q is still in %q", secret, got)
		}
	}
	const line = `{"b":1,"msg":"a\nBearer bearer456789ab","attachment":"0123456789abcdef0123456789abcdef"}` + "\n"
	if got := redactLog(line, nil); got != `{"attachment":"0123456789ab...","b":1,"msg":"a\nBearer [redacted]"}`+"\n" {
		t.Errorf("log: %s", got)
	}
	for _, kept := range []string{
		`{"Token":null,"TokenCount":3,"tokens":[1],"secret":{}}`, "PUT http://169.254.169.254/latest/api/token: context deadline exceeded",
		"ip -4 rule add pref 1536 from 10.0.0.113 table 2", "/var/lib/vpcnet/pods/a-long-path/with/some/directories/1A", "eni-0123456789abcdef0", "2026-01-02T03:04:05Z",
		"update ec2:AssignPrivateIpAddresses answered UnauthorizedOperation", "net.ipv4.conf.ens5.rp_filter = 2",
	} {
		if got := redactLog(kept, secretsOf(environ)); got != kept && !strings.HasPrefix(kept, "{") {
			t.Errorf("line %q became %q", kept, got)
		}
		if got := redact(kept, secretsOf(environ)); got != kept {
			t.Errorf("%q became %q", kept, got)
		}
	}
}

// brokenNode returns the facts of a node with several faults, and with secrets in all parts.
func brokenNode(t *testing.T) *facts {
	t.Helper()
	f := healthy(t)
	secret := strings.NewReplacer("«", "", "»", "").Replace(strings.Join(secrets, "\n"))
	f.status().Reason, f.status().Evidence = ipam.ReasonSubnetFull, secret
	f.Agent.Answers.Settings = map[string]string{"ADDITIONAL_ENI_TAGS": secret}
	f.Cloud.EC2Error, f.Cloud.EC2Reason = secret, "ec2-unreachable"
	f.Host.Nft = iptablesForward + "# " + secret
	f.Host.Legacy = secret
	f.State.Filters = []trace.OtherChain{{Family: "ip", Table: "filter", Chain: "FORWARD", Drops: true}}
	f.State.Node.Filter.Sources = nil
	system := fstest.MapFS{}
	for name, data := range f.files.(fileSet) {
		system[name] = &fstest.MapFile{Data: data}
	}
	system["etc/cni/net.d/05-other.conflist"] = &fstest.MapFile{Data: []byte(secret)}
	system["etc/cloud/cloud.cfg"] = &fstest.MapFile{Data: []byte("hotplug\n" + secret)}
	system["etc/shadow"] = &fstest.MapFile{Data: []byte("never read")}
	f.files = recorder{system, fileSet{}}
	return f
}

// bundleOf writes a bundle of facts and returns its file and its content.
func bundleOf(t *testing.T, f *facts, logs ...string) (string, fileSet) {
	t.Helper()
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		t.Setenv(name, value)
	}
	data, err := f.bundle(t.Context(), logs, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "node.tar.gz")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	parts, err := unpack(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return file, parts
}

// TestBundle searches a bundle for planted secrets, and compares what commands say of it with
// what they say of the node.
func TestBundle(t *testing.T) {
	f := brokenNode(t)
	log := filepath.Join(t.TempDir(), "ipamd.log")
	long := strings.Repeat("first lines\n", logTail/10) + "last line password=hunter2hunter2\n"
	if err := os.WriteFile(log, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	before := diagnose(f)
	file, parts := bundleOf(t, f, log)
	for name, data := range parts {
		for _, s := range secrets {
			_, rest, _ := strings.Cut(s, "«")
			secret, _, _ := strings.Cut(rest, "»")
			quoted, _ := json.Marshal(secret)
			if secret != "" && (bytes.Contains(data, []byte(secret)) || bytes.Contains(data, bytes.Trim(quoted, `"`))) {
				t.Errorf("%s has the secret %q", name, secret)
			}
		}
		if strings.HasSuffix(name, ".json") && !json.Valid(data) {
			t.Errorf("%s is not JSON", name)
		}
		if bytes.Contains(data, []byte("never read")) {
			t.Errorf("%s has a file that doctor does not read", name)
		}
	}
	for _, name := range []string{partFacts, partState, partStored, partNft, partLegacy, partSummary, partRoot + "etc/cni/net.d/10-vpcnet.conflist"} {
		if len(parts[name]) == 0 {
			t.Errorf("the bundle lacks %s", name)
		}
	}
	tails := 0
	for name, data := range parts {
		if strings.HasPrefix(name, partLogs) && len(data) <= logTail && strings.HasSuffix(string(data), "last line password="+redacted+"\n") && strings.HasPrefix(string(data), "first") {
			tails++
		}
	}
	if tails != 1 {
		t.Errorf("the bundle has %d ends of logs, want 1", tails)
	}

	loaded, err := loadBundle(file)
	if err != nil {
		t.Fatal(err)
	}
	names := func(list []finding) (ids []string) {
		for _, x := range list {
			ids = append(ids, x.ID+" "+x.What)
		}
		return ids
	}
	if diff := cmp.Diff(names(before), names(diagnose(loaded))); diff != "" || len(before) < 5 {
		t.Errorf("doctor (-node +bundle):\n%s", diff)
	}
	shows(t, []string{"-bundle", file}, []shown{
		{"status", 0, []string{"blocker    subnet-full", "eni-b"}},
		{"enis", 0, []string{"eni-b"}}, {"pods", 0, []string{"web-0"}}, {"events", 0, []string{"AssignPrivateIpAddresses"}},
		{"explain pod default/web-0", 0, []string{"10.0.0.113 was given"}}, {"explain failure", 0, []string{"subnet-full"}},
		{"doctor", 3, []string{"forward-policy-drop (harm)", "cloud-init-hotplug", "conflist-order"}},
		{"trace default/web-0 10.0.3.4", 3, []string{"FAULT missing-mark"}},
		{"state save -o text", 0, []string{"ip "}},
	})
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	shows(t, []string{"-bundle", bad}, []shown{
		{"status", 1, []string{"is not a bundle"}}, {"doctor", 1, []string{"is not a bundle"}}, {"trace 10.0.0.113 8.8.8.8", 1, []string{"is not a bundle"}},
	})
}
