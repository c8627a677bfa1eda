// SPDX-License-Identifier: Apache-2.0

package enitest

import (
	"net/netip"
	"slices"
)

type createReservationIn struct {
	Subnet      string         `ec2:"SubnetId"`
	CIDR        netip.Prefix   `ec2:"Cidr"`
	Type        string         `ec2:"ReservationType"`
	Description string         `ec2:"Description"`
	Tags        []tagSpecParam `ec2:"TagSpecification"`
}

type wireSubnetReservation struct {
	ID          string        `xml:"subnetCidrReservationId"`
	Subnet      string        `xml:"subnetId"`
	CIDR        string        `xml:"cidr"`
	Type        string        `xml:"reservationType"`
	OwnerID     string        `xml:"ownerId"`
	Description string        `xml:"description,omitempty"`
	Tags        list[wireTag] `xml:"tagSet"`
}

type createReservationOut struct {
	Reservation wireSubnetReservation `xml:"subnetCidrReservation"`
}

// createSubnetCidrReservation reserves a part of a subnet:
// https://docs.aws.amazon.com/vpc/latest/userguide/subnet-cidr-reservation.html
func (t *tx) createSubnetCidrReservation(in createReservationIn) (createReservationOut, error) {
	var none createReservationOut
	s := t.c.state.subnets.found(t, in.Subnet)
	if s == nil {
		return none, kindSubnet.unknown(in.Subnet)
	}
	space := t.c.state.spaces[s.ID]
	switch {
	case !in.CIDR.IsValid():
		return none, missing("cidr")
	case in.Type != "prefix" && in.Type != "explicit":
		return none, invalidValue("Value (%s) for parameter reservationType is invalid. Expected prefix or explicit.", in.Type)
	case in.CIDR != in.CIDR.Masked() || !space.contains(in.CIDR):
		return none, invalidValue("Reservation CIDR %s should be within subnet CIDR block (%s)", in.CIDR, firstLine(prefixText(s.Prefix)))
	case space.reservedAny(in.CIDR):
		return none, invalidValue("Reservation CIDR %s has overlap with existing reserved CIDR block", in.CIDR)
	}
	tags, err := tagsFor("subnet-cidr-reservation", in.Tags)
	if err != nil {
		return none, err
	}
	r := Reservation{ID: t.newID("scr-"), Prefix: in.CIDR, Type: in.Type, Description: in.Description, Tags: tags}
	s = s.clone()
	s.Reservations = append(s.Reservations, r)
	space.reserve(s.Reservations)
	t.putSubnet(s)
	return createReservationOut{t.wireReserved(s, r)}, nil
}

// reserve replaces the reservations of the subnet.
func (s *space) reserve(all []Reservation) {
	clear(s.reserved)
	for _, r := range all {
		s.reserved[r.Type] = append(s.reserved[r.Type], r.Prefix)
	}
}

func (t *tx) wireReserved(s *Subnet, r Reservation) wireSubnetReservation {
	return wireSubnetReservation{r.ID, s.ID, r.Prefix.String(), r.Type, t.c.cfg.Account, r.Description, wireTags(r.Tags)}
}

type deleteReservationIn struct {
	ID string `ec2:"SubnetCidrReservationId"`
}

type deleteReservationOut struct {
	Reservation wireSubnetReservation `xml:"deletedSubnetCidrReservation"`
}

// kindReservation is the kind of a subnet CIDR reservation.
var kindReservation = kind{"scr-", "subnet CIDR reservation ID", "InvalidSubnetCidrReservationID.NotFound", ""}

func (t *tx) deleteSubnetCidrReservation(in deleteReservationIn) (deleteReservationOut, error) {
	for _, s := range existing(t.c.state.subnets, t.now) {
		index := slices.IndexFunc(s.Reservations, func(r Reservation) bool { return r.ID == in.ID })
		if index < 0 {
			continue
		}
		deleted := s.Reservations[index]
		s = s.clone()
		s.Reservations = slices.Delete(s.Reservations, index, index+1)
		t.c.state.spaces[s.ID].reserve(s.Reservations)
		t.putSubnet(s)
		return deleteReservationOut{t.wireReserved(s, deleted)}, nil
	}
	return deleteReservationOut{}, kindReservation.unknown(in.ID)
}

type getReservationsIn struct {
	query
	Subnet string `ec2:"SubnetId"`
}

type getReservationsOut struct {
	IPv4 list[wireSubnetReservation] `xml:"subnetIpv4CidrReservationSet"`
	IPv6 list[wireSubnetReservation] `xml:"subnetIpv6CidrReservationSet"`
	Next string                      `xml:"nextToken,omitempty"`
}

func (t *tx) getSubnetCidrReservations(in getReservationsIn) (getReservationsOut, error) {
	var out getReservationsOut
	s := t.c.state.subnets.at(in.Subnet, t.view)
	if s == nil {
		return out, kindSubnet.unknown(in.Subnet)
	}
	r := resource[Reservation]{
		kind: kindReservation,
		id:   func(r Reservation) string { return r.ID },
		tags: func(r Reservation) map[string]string { return r.Tags },
		filters: map[string]func(Reservation) []string{
			"cidr":             func(r Reservation) []string { return []string{r.Prefix.String()} },
			"reservationType":  func(r Reservation) []string { return []string{r.Type} },
			"reservation-type": func(r Reservation) []string { return []string{r.Type} },
			"subnet-id":        func(Reservation) []string { return []string{s.ID} },
		},
	}
	all := slices.SortedFunc(slices.Values(s.Reservations), func(a, b Reservation) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	page, next, err := r.find(all, nil, in.query)
	if err != nil {
		return out, err
	}
	out.Next = next
	for _, r := range page {
		to := &out.IPv4
		if r.Prefix.Addr().Is6() {
			to = &out.IPv6
		}
		to.Items = append(to.Items, t.wireReserved(s, r))
	}
	return out, nil
}
