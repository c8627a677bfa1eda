// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/vpcnet/vpcnet/internal/nft"
)

// Box is a part of what a class allows: ranges of addresses of one family, of protocols and
// of destination ports. Both ends of a range belong to it.
type Box struct {
	First, Last                 netip.Addr
	FirstProtocol, LastProtocol Protocol
	FirstPort, LastPort         uint16
}

// String returns the box in nft's notation.
func (b Box) String() string { return b.element().String() }

// Protocols returns the protocols and ports of the box for people: "any", "tcp 80-90".
func (b Box) Protocols() string {
	text := b.FirstProtocol.String()
	if b.FirstProtocol != b.LastProtocol {
		text += "-" + b.LastProtocol.String()
	}
	if b.FirstProtocol == 0 && b.LastProtocol == 0xff {
		text = "any"
	}
	switch {
	case b.FirstPort == 0 && b.LastPort == 0xffff:
		return text
	case b.FirstPort == b.LastPort:
		return fmt.Sprintf("%s %d", text, b.FirstPort)
	}
	return fmt.Sprintf("%s %d-%d", text, b.FirstPort, b.LastPort)
}

// Peers returns the addresses of the box: an address, a prefix or a range.
func (b Box) Peers() string {
	if b.First == b.Last {
		return b.First.String()
	}
	if p, err := b.First.Prefix(commonBits(b.First, b.Last)); err == nil && p.Addr() == b.First && nft.LastAddr(p) == b.Last {
		return p.String()
	}
	return b.First.String() + "-" + b.Last.String()
}

// commonBits returns the number of bits at the beginning of both addresses that are equal.
func commonBits(a, b netip.Addr) int {
	for n := a.BitLen(); n > 0; n-- {
		p, err := a.Prefix(n)
		if err == nil && p.Contains(b) {
			return n
		}
	}
	return 0
}

func (b Box) element() nft.Element {
	return nft.Element{Box: nft.Box{
		First: b.First, Last: b.Last, FirstProtocol: byte(b.FirstProtocol), LastProtocol: byte(b.LastProtocol), FirstPort: b.FirstPort, LastPort: b.LastPort,
	}}
}

func boxOf(b nft.Box) Box {
	return Box{b.First, b.Last, Protocol(b.FirstProtocol), Protocol(b.LastProtocol), b.FirstPort, b.LastPort}
}

// Boxes returns what a class allows in a direction in which it isolates a pod, IPv4 first,
// each family in the order of addresses. The boxes do not overlap.
func (c Compiled) Boxes(d Direction) (all []Box) {
	for _, f := range families {
		for _, e := range c.side(d).boxes[f] {
			all = append(all, boxOf(e.Box))
		}
	}
	return all
}

// limits is the JSON of a class in one direction.
type limits struct {
	Isolated bool
	Boxes    []Box `json:",omitempty"`
}

// MarshalJSON writes the boxes of the class.
func (c Compiled) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]limits{
		"Ingress": {c.Isolated(Ingress), c.Boxes(Ingress)}, "Egress": {c.Isolated(Egress), c.Boxes(Egress)},
	})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Compiled) UnmarshalJSON(data []byte) error {
	var all struct{ Ingress, Egress limits }
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	c.ingress, c.egress = all.Ingress.side(), all.Egress.side()
	return nil
}

func (l limits) side() side {
	s := side{isolated: l.Isolated}
	for _, b := range l.Boxes {
		if s.boxes == nil {
			s.boxes = map[nft.Family][]nft.Element{}
		}
		f := nft.FamilyOf(b.First)
		s.boxes[f] = append(s.boxes[f], b.element())
	}
	return s
}
