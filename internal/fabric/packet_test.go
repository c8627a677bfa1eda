// SPDX-License-Identifier: Apache-2.0

package fabric_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/internal/fabric"
)

// frames holds frames as hexadecimal text, with the text of Packet.String.
var frames = map[string]string{
	"ffffffffffff020000000001 0806 0001080006040001 020000000001 0a00010a 000000000000 0a000101":                                                                                 "ARP, who-has 10.0.1.1 tell 10.0.1.10",
	"020000000001060000000001 0806 0001080006040002 060000000001 0a000101 020000000001 0a00010a":                                                                                 "ARP, 10.0.1.1 is-at 06:00:00:00:00:01",
	"060000000001020000000001 0800 45000021 00014000 40110000 0a00010b cb00710a 9c400007 000d0000 68656c6c6f":                                                                    "IP 10.0.1.11.40000 > 203.0.113.10.7: UDP, length 5",
	"060000000001020000000001 0800 45000021 00014000 40110000 0a00010b cb00710a 9c400007 000d0000 68656c6c6f 0000000000000000000000":                                             "IP 10.0.1.11.40000 > 203.0.113.10.7: UDP, length 5",
	"060000000001020000000001 0800 45000028 00014000 40060000 0a00010b cb00710a 9c400050 00000001 00000000 50020000 00000000":                                                    "IP 10.0.1.11.40000 > 203.0.113.10.80: TCP, flags [S], length 0",
	"060000000001020000000001 0800 4500002a 00014000 40060000 0a00010b cb00710a 9c400050 00000001 00000000 50180000 00000000 6869":                                               "IP 10.0.1.11.40000 > 203.0.113.10.80: TCP, flags [P.], length 2",
	"060000000001020000000001 0800 4500001c 00014000 40010000 0a00010b 0a000101 0800f7fe 00010000":                                                                               "IP 10.0.1.11 > 10.0.1.1: ICMP, echo request, length 8",
	"060000000001020000000001 0800 45000014 00014000 40020000 0a00010b e0000016":                                                                                                 "IP 10.0.1.11 > 224.0.0.22: protocol 2, length 0",
	"33330000000102000000000186dd 60000000 0008 11 40 20010db8000100010000000000000010 20010db8ffff00000000000000000010 9c400007 00080000":                                       "IP6 2001:db8:1:1::10.40000 > 2001:db8:ffff::10.7: UDP, length 0",
	"33330000000102000000000186dd 60000000 0018 3a ff 20010db8000100010000000000000010 ff0200000000000000000001ff000001 87000000 00000000 fe800ec2000000000000000000000001":      "IP6 2001:db8:1:1::10 > ff02::1:ff00:1: ICMP6, neighbor solicitation, who has fe80:ec2::1",
	"33330000000102000000000186dd 60000000 0018 3a ff fe800ec2000000000000000000000001 20010db8000100010000000000000010 88000000 60000000 fe800ec2000000000000000000000001 0000": "IP6 fe80:ec2::1 > 2001:db8:1:1::10: ICMP6, neighbor advertisement, tgt is fe80:ec2::1",
	"33330000000102000000000186dd 60000000 0010 00 01 20010db8000100010000000000000010 20010db8ffff00000000000000000010 1100050200000000 9c400007 00080000":                      "IP6 2001:db8:1:1::10.40000 > 2001:db8:ffff::10.7: UDP, length 0",
	"ffffffffffff020000000001 88cc 0000": "frame of 16 bytes",
	"ffff":                               "frame of 2 bytes",
}

func frame(t testing.TB, text string) fabric.Packet {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return fabric.Packet{Data: b}
}

func TestPacketString(t *testing.T) {
	for text, want := range frames {
		if got := frame(t, text).String(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

func FuzzPacketString(f *testing.F) {
	for text := range frames {
		f.Add(frame(f, text).Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := fabric.Packet{Data: data}
		if p.String() == "" {
			t.Error("String returns an empty text")
		}
		if _, ok := p.Flow(); ok && !strings.HasPrefix(p.String(), "IP") {
			t.Errorf("Flow returns true for %q, want a text that begins with IP", p)
		}
	})
}
