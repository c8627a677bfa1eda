// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/datapath"
)

// FuzzPrevResult checks in every version that a result keeps the entries of a
// prevResult, that find finds the attachment in the result, and that the CNI library
// reads it if it reads the prevResult.
func FuzzPrevResult(f *testing.F) {
	for i, s := range []string{
		"", "{}", "null", `{"interfaces":[null,7],"ips":[{}],"dns":{"domain":"x"}}`, `{"ip4":{"ip":"10.0.0.1/8"},"CNIVERSION":"x","cniVersion":7}`,
		`{"interfaces":[{"name":"eth0","sandbox":"/run/netns/c1"}],"ips":[{"interface":0,"address":"10.0.0.1/8"}],"routes":[{"dst":"::/0"}]}`,
	} {
		f.Add([]byte(s), uint8(i))
		f.Add([]byte(s), uint8(3))
	}
	w := datapath.Pod{ContainerID: "c1", IfName: "eth0", Addrs: []datapath.PodAddr{{Addr: netip.MustParseAddr("10.0.1.5")}}}.Wiring()
	f.Fuzz(func(t *testing.T, raw []byte, v uint8) {
		version := supportedVersions[int(v)%len(supportedVersions)]
		prev, err := parsePrevResult(raw, version)
		if err != nil {
			return
		}
		r, err := prev.add(resultOf(w, "/run/netns/c1"), version)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := r.write(&out, version); err != nil {
			if _, unreadable := prev.as(newestVersion); unreadable == nil {
				t.Fatalf("%s: %v", raw, err)
			}
			return
		}
		again, err := parsePrevResult(out.Bytes(), version)
		if err != nil {
			t.Fatalf("%s: %v", out.Bytes(), err)
		}
		if !supports(version, versionOfInterfaces) {
			return
		}
		if len(again.Interfaces) != len(prev.Interfaces)+2 || len(again.IPs) != len(prev.IPs)+1 || len(again.Routes) != len(prev.Routes)+1 {
			t.Errorf("%s became %s, want 2 more interfaces, 1 more address and 1 more route", raw, out.Bytes())
		}
		a, found := again.find(w.HostLink, "eth0", "/run/netns/c1")
		want := []netip.Addr{netip.MustParseAddr("10.0.1.5")}
		if diff := cmp.Diff(want, a.addrs, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); !found || diff != "" {
			t.Errorf("%s: found %v, -want +got:\n%s", out.Bytes(), found, diff)
		}
	})
}

// FuzzParseResponse checks that any answer of an agent gives either a status with a
// body or an error, and that the body decodes or gives an error with a message.
func FuzzParseResponse(f *testing.F) {
	for _, s := range []string{
		"", "HTTP/1.0 200 OK\r\n\r\n{}", "HTTP/1.1 500\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "SSH-2.0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		status, body, err := parseResponse(raw)
		if err != nil {
			if status != 0 || body != nil {
				t.Errorf("%q: status %d and body %q together with error %v", raw, status, body, err)
			}
			return
		}
		var out AddResponse
		if err := decode(PathAdd, status, body, &out); err != nil {
			if e := (*AgentError)(nil); !errors.As(err, &e) || e.Message == "" {
				t.Errorf("%q: error %#v, want an AgentError with a message", raw, err)
			}
		}
	})
}

// FuzzParseArgs checks that two lists of CNI_ARGS parse together if and only if each of
// them parses. Each ignores unknown keys, or the other could make it do so.
func FuzzParseArgs(f *testing.F) {
	f.Add("K8S_POD_NAME=web;K8S_POD_NAMESPACE=default", "K8S_POD_UID=u")
	f.Add("=", ";")
	f.Fuzz(func(t *testing.T, a, b string) {
		a, b = a+";IgnoreUnknown=1", b+";IgnoreUnknown=1"
		_, err := parseArgs(a)
		_, errQ := parseArgs(b)
		_, errBoth := parseArgs(a + ";" + b)
		if (errBoth == nil) != (err == nil && errQ == nil) {
			t.Errorf("%q: %v, %q: %v, together %v", a, err, b, errQ, errBoth)
		}
	})
}
