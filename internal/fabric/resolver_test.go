// SPDX-License-Identifier: Apache-2.0

package fabric

import (
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func testResolver(t testing.TB) *Resolver {
	t.Helper()
	r := newResolver("r.compute.internal", func(a netip.Addr) bool { return a == netip.MustParseAddr("10.0.0.9") })
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	if err := r.Set("many.example", many...); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAnswer checks the header of the answers.
func TestAnswer(t *testing.T) {
	r := testResolver(t)
	question := func(name string, typ dnsmessage.Type) dnsmessage.Question {
		return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}
	}
	const known = "ip-10-0-0-9.r.compute.internal."
	for _, tt := range []struct {
		name      string
		change    func(*dnsmessage.Message)
		edns      int
		limit     int
		rcode     dnsmessage.RCode
		answers   int
		truncated bool
	}{
		{name: "a name", answers: 1},
		{name: "no record of the type", change: func(m *dnsmessage.Message) { m.Questions[0] = question(known, dnsmessage.TypeAAAA) }},
		{name: "all types", change: func(m *dnsmessage.Message) { m.Questions[0] = question(known, dnsmessage.TypeALL) }, answers: 1},
		{name: "no such name", change: func(m *dnsmessage.Message) {
			m.Questions[0] = question("ip-10-0-0-8.r.compute.internal.", dnsmessage.TypeA)
		}, rcode: dnsmessage.RCodeNameError},
		{name: "the root", change: func(m *dnsmessage.Message) { m.Questions[0] = question(".", dnsmessage.TypeNS) }, rcode: dnsmessage.RCodeNameError},
		{name: "a reverse name", change: func(m *dnsmessage.Message) { m.Questions[0] = question("9.0.0.10.in-addr.arpa.", dnsmessage.TypePTR) }, answers: 1},
		{name: "half a reverse name", change: func(m *dnsmessage.Message) { m.Questions[0] = question("0.10.in-addr.arpa.", dnsmessage.TypePTR) }, rcode: dnsmessage.RCodeNameError},
		{name: "no question", change: func(m *dnsmessage.Message) { m.Questions = nil }, rcode: dnsmessage.RCodeFormatError},
		{name: "two questions", change: func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }, rcode: dnsmessage.RCodeFormatError},
		{name: "another class", change: func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }, rcode: dnsmessage.RCodeRefused},
		{name: "an update", change: func(m *dnsmessage.Message) { m.OpCode = 5 }, rcode: dnsmessage.RCodeNotImplemented},
		{name: "too long for UDP", change: func(m *dnsmessage.Message) { m.Questions[0] = question("many.example.", dnsmessage.TypeA) }, truncated: true},
		{name: "a large buffer", change: func(m *dnsmessage.Message) { m.Questions[0] = question("many.example.", dnsmessage.TypeA) }, edns: 4096, answers: 100},
		{name: "a tiny buffer", edns: 100, answers: 1},
		{name: "over TCP", change: func(m *dnsmessage.Message) { m.Questions[0] = question("many.example.", dnsmessage.TypeA) }, limit: 65535, answers: 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{question(known, dnsmessage.TypeA)}}
			if tt.change != nil {
				tt.change(&m)
			}
			if tt.edns > 0 {
				var h dnsmessage.ResourceHeader
				if err := h.SetEDNS0(tt.edns, 0, false); err != nil {
					t.Fatal(err)
				}
				m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
			}
			query, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			out, err := r.answer(query, tt.limit)
			if err != nil {
				t.Fatal(err)
			}
			var got dnsmessage.Message
			if err := got.Unpack(out); err != nil {
				t.Fatal(err)
			}
			if got.ID != 7 || !got.Response || got.OpCode != m.OpCode || !got.RecursionDesired {
				t.Errorf("header %+v", got.Header)
			}
			if got.RCode != tt.rcode || len(got.Answers) != tt.answers || got.Truncated != tt.truncated || (len(got.Additionals) == 1) != (tt.edns > 0) {
				t.Errorf("%v, %d answers, truncated %t, %d additional records; want %v, %d, %t", got.RCode, len(got.Answers), got.Truncated, len(got.Additionals), tt.rcode, tt.answers, tt.truncated)
			}
			if limit := max(tt.limit, tt.edns, minUDP); len(out) > limit {
				t.Errorf("the answer has %d bytes, want at most %d", len(out), limit)
			}
		})
	}
	response := dnsmessage.Message{Header: dnsmessage.Header{Response: true}}
	packed, err := response.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, no := range [][]byte{nil, []byte("short"), packed} {
		if _, err := r.answer(no, 0); err == nil {
			t.Errorf("an answer to %q, want none", no)
		}
	}
}

// FuzzAnswer checks that each answer is a message.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, '9', 1, '0', 1, '0', 2, '1', '0', 7, 'i', 'n', '-', 'a', 'd', 'd', 'r', 4, 'a', 'r', 'p', 'a', 0, 0, 12, 0, 1})
	r := testResolver(f)
	f.Fuzz(func(t *testing.T, query []byte) {
		out, err := r.answer(query, 0)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil || !m.Response {
			t.Errorf("%v, response %t", err, m.Response)
		}
	})
}

func TestReversed(t *testing.T) {
	for name, want := range map[string]string{
		"9.0.0.10.in-addr.arpa.": "10.0.0.9",
		"9.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.": "2001:db8::99",
		"9.0.10.in-addr.arpa.":   "",
		"x.0.0.10.in-addr.arpa.": "",
		"99.0.0.ip6.arpa.":       "",
		"example.com.":           "",
	} {
		a, ok := reversed(name)
		if ok != (want != "") || ok && a.String() != want {
			t.Errorf("%s is %v, %t; want %q", name, a, ok, want)
		}
	}
}
