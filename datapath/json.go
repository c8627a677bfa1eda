// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/json"
	"net"
)

// macText is a MAC that is text in JSON, such as "02:00:00:00:00:01".
type macText net.HardwareAddr

func (m macText) MarshalText() ([]byte, error) { return []byte(net.HardwareAddr(m).String()), nil }

func (m *macText) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = nil
		return nil
	}
	mac, err := net.ParseMAC(string(b))
	*m = macText(mac)
	return err
}

// MarshalJSON implements [json.Marshaler]. The MAC is text.
func (e ENI) MarshalJSON() ([]byte, error) {
	type plain ENI
	return json.Marshal(struct {
		MAC macText
		plain
	}{macText(e.MAC), plain(e)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *ENI) UnmarshalJSON(b []byte) error {
	type plain ENI
	w := struct {
		MAC macText
		*plain
	}{macText(e.MAC), (*plain)(e)}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	e.MAC = net.HardwareAddr(w.MAC)
	return nil
}

// MarshalJSON implements [json.Marshaler]. The MAC is text.
func (p Pod) MarshalJSON() ([]byte, error) {
	type plain Pod
	return json.Marshal(struct {
		plain
		MAC macText `json:",omitempty"`
	}{plain(p), macText(p.MAC)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (p *Pod) UnmarshalJSON(b []byte) error {
	type plain Pod
	w := struct {
		*plain
		MAC macText
	}{(*plain)(p), macText(p.MAC)}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	p.MAC = net.HardwareAddr(w.MAC)
	return nil
}

// MarshalJSON implements [json.Marshaler]. The MACs are text.
func (w Wiring) MarshalJSON() ([]byte, error) {
	type plain Wiring
	return json.Marshal(struct {
		HostMAC, SandboxMAC macText
		plain
	}{macText(w.HostMAC), macText(w.SandboxMAC), plain(w)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (w *Wiring) UnmarshalJSON(b []byte) error {
	type plain Wiring
	wire := struct {
		HostMAC, SandboxMAC macText
		*plain
	}{macText(w.HostMAC), macText(w.SandboxMAC), (*plain)(w)}
	if err := json.Unmarshal(b, &wire); err != nil {
		return err
	}
	w.HostMAC, w.SandboxMAC = net.HardwareAddr(wire.HostMAC), net.HardwareAddr(wire.SandboxMAC)
	return nil
}
