// SPDX-License-Identifier: Apache-2.0

package vpcrules_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vpcnet/vpcnet/internal/fabric/vpcrules"
)

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestRecord(t *testing.T) {
	at := time.Unix(1418530010, 0)
	ssh := vpcrules.Record{
		Account: "123456789010", ENI: "eni-1", Src: ip("172.31.16.139"), Dst: ip("172.31.16.21"), PktSrc: ip("172.31.16.139"), PktDst: ip("172.31.16.21"),
		SrcPort: 20641, DstPort: 22, Protocol: vpcrules.TCP, Packets: 20, Bytes: 4249, Start: at, End: at.Add(time.Minute),
		Action: vpcrules.Accept, Status: vpcrules.StatusOK,
	}
	six := ssh
	six.Src, six.Dst = ip("2001:db8::1"), ip("2001:db8::2")
	six.PktSrc, six.PktDst, six.Account, six.Action, six.Protocol = six.Src, six.Dst, "", vpcrules.Reject, vpcrules.ICMPv6
	six.SrcPort, six.DstPort = 0, 0
	for text, want := range map[string]vpcrules.Record{
		"2 123456789010 eni-1 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK": ssh,
		"2 - eni-1 2001:db8::1 2001:db8::2 0 0 58 20 4249 1418530010 1418530070 REJECT OK":                   six,
		"2 123456789010 eni-1 - - - - - - - 1418530010 1418530070 - NODATA":                                  {Account: "123456789010", ENI: "eni-1", Start: at, End: at.Add(time.Minute), Status: vpcrules.NoData},
		"2 123456789010 eni-1 - - - - - - - 1418530010 1418530070 - SKIPDATA":                                {Account: "123456789010", ENI: "eni-1", Start: at, End: at.Add(time.Minute), Status: vpcrules.SkipData},
	} {
		if got := want.String(); got != text {
			t.Errorf("String() = %q, want %q", got, text)
		}
		got, err := vpcrules.ParseRecord(text)
		if diff := cmp.Diff(want, got, compareAddrs); err != nil || diff != "" {
			t.Errorf("ParseRecord(%q): error %v (-want +got):\n%s", text, err, diff)
		}
	}
}

func TestParseRecordErrors(t *testing.T) {
	good := strings.Fields("2 123456789010 eni-1 10.0.0.1 10.0.0.2 1 2 6 3 4 5 6 ACCEPT OK")
	for _, tt := range []struct {
		field int
		value string
	}{
		{0, "3"}, {0, "version"}, {3, "-"}, {3, "x"}, {4, "::1"}, {4, "fe80::1%eth0"}, {5, "65536"}, {5, "-1"}, {6, "+1"}, {7, "256"},
		{8, "1.5"}, {9, ""}, {10, "9999999999999999999"}, {11, "-"}, {12, "accept"}, {12, "-"}, {13, "ok"}, {13, "NODATA"}, {13, "OK extra"},
	} {
		f := append([]string(nil), good...)
		f[tt.field] = tt.value
		if r, err := vpcrules.ParseRecord(strings.Join(f, " ")); err == nil {
			t.Errorf("field %d is %q: record %v, want an error", tt.field+1, tt.value, r)
		}
	}
	if _, err := vpcrules.ParseRecord(""); err == nil {
		t.Error("an empty record: no error")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("2 123456789010 eni-1 172.31.16.139 172.31.16.21 20641 22 6 20 4249 1418530010 1418530070 ACCEPT OK")
	f.Add("2 - eni-1 - - - - - - - 1418530010 1418530070 - NODATA")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := vpcrules.ParseRecord(s)
		if err != nil {
			return
		}
		again, err := vpcrules.ParseRecord(r.String())
		if diff := cmp.Diff(r, again, compareAddrs); err != nil || diff != "" {
			t.Errorf("%q parses, but its text %q: error %v (-want +got):\n%s", s, r, err, diff)
		}
	})
}
