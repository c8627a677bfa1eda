// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"net"
)

// MarshalJSON implements [json.Marshaler]. The MAC is text such as "02:00:00:00:00:01".
func (e ENI) MarshalJSON() ([]byte, error) {
	type plain ENI
	return json.Marshal(struct {
		MAC string
		plain
	}{e.MAC.String(), plain(e)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *ENI) UnmarshalJSON(b []byte) error {
	type plain ENI
	w := struct {
		MAC string
		*plain
	}{e.MAC.String(), (*plain)(e)}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	e.MAC = nil
	if w.MAC == "" {
		return nil
	}
	mac, err := net.ParseMAC(w.MAC)
	e.MAC = mac
	return err
}
