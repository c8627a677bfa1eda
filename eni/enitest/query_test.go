// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type decoded struct {
	query
	Text   string       `ec2:"Text"`
	Number int          `ec2:"Number"`
	Maybe  *bool        `ec2:"Maybe"`
	Addr   netip.Addr   `ec2:"Addr"`
	Words  []string     `ec2:"Word"`
	Inner  *decodedPart `ec2:"Inner"`
}

type decodedPart struct {
	Value string `ec2:"Value"`
}

func TestDecode(t *testing.T) {
	yes := true
	for _, tt := range []struct {
		form string
		want decoded
		err  string
	}{
		{"Action=X&Version=2016-11-15", decoded{}, ""},
		{"Text=a&Number=7&Maybe=true&Inner.Value=v", decoded{Text: "a", Number: 7, Maybe: &yes, Inner: &decodedPart{"v"}}, ""},
		{"Addr=10.0.0.1", decoded{Addr: netip.MustParseAddr("10.0.0.1")}, ""},
		{"Word.2=b&Word.10=c&Word.1=a", decoded{Words: []string{"a", "b", "c"}}, ""},
		{"Filter.1.Name=n&Filter.1.Value.1=x&Filter.1.Value.2=y",
			decoded{query: query{Filters: []filterParam{{"n", []string{"x", "y"}}}}}, ""},
		{"Number=x", decoded{}, "InvalidParameterValue: Value (x) for parameter Number is invalid."},
		{"Addr=x", decoded{}, "InvalidParameterValue: Value (x) for parameter Addr is invalid."},
		{"Number=99999999999", decoded{}, "InvalidParameterValue: Value (99999999999) for parameter Number is invalid."},
		{"Colour=red", decoded{}, "UnknownParameter: The parameter Colour is not recognized"},
		{"Filter.1.Colour=red", decoded{}, "UnknownParameter: The parameter Filter.1.Colour is not recognized"},
	} {
		form, err := url.ParseQuery(tt.form)
		if err != nil {
			t.Fatal(err)
		}
		var got decoded
		err = decode(form, &got)
		if text := errText(err); text != tt.err {
			t.Errorf("%s: got error %q, want %q", tt.form, text, tt.err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(decoded{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err == nil && diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.form, diff)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// FuzzDecode feeds parameters of any form to every action: none may panic, and
// what is refused is refused with an error of the API.
func FuzzDecode(f *testing.F) {
	table := actions()
	for name := range table {
		f.Add(name, "NetworkInterfaceId.1=eni-1&Filter.1.Name=a&Filter.1.Value.1=b&DryRun=true&MaxResults=5")
	}
	f.Add("RunInstances", "NetworkInterface.1.PrivateIpAddresses.1.Primary=true&MinCount=1&MaxCount=0&Tag.9.Key=")
	f.Fuzz(func(t *testing.T, name, query string) {
		act, ok := table[name]
		form, err := url.ParseQuery(query)
		if !ok || err != nil {
			t.Skip("not a query of an action")
		}
		c := New(Config{})
		run, err := act.prepare(form)
		if err != nil {
			return
		}
		tx := c.begin()
		defer tx.end()
		_, _ = run(tx)
	})
}
