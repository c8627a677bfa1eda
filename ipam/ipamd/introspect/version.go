// SPDX-License-Identifier: Apache-2.0

package introspect

import (
	"runtime/debug"
	"time"
)

// Version is the version of a program.
type Version struct {
	// Version is that of the module, "(devel)" for a program that was built in a checkout.
	Version string `json:"version,omitempty"`
	// Revision and Time are those of the commit, if the build recorded them.
	Revision string    `json:"revision,omitempty"`
	Time     time.Time `json:"time,omitzero"`
}

// VersionOf returns the version that the build of a program recorded.
func VersionOf(info *debug.BuildInfo) Version {
	v := Version{Version: info.Main.Version}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time, _ = time.Parse(time.RFC3339, s.Value) // zero means unknown
		}
	}
	return v
}

// ownVersion returns the version of this program.
func ownVersion() Version {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Version{}
	}
	return VersionOf(info)
}
