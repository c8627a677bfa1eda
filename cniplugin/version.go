// SPDX-License-Identifier: Apache-2.0

package cniplugin

import (
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

const (
	newestVersion = "1.1.0"
	// unversioned is the version of a configuration without cniVersion.
	unversioned = "0.1.0"
)

// supportedVersions are the versions of the specification that the plugin supports,
// in order: all that the CNI library has.
var supportedVersions = version.All.SupportedVersions()

// supports reports whether version has a feature that the version since added.
// Both must be in supportedVersions.
func supports(version, since string) bool {
	return slices.Index(supportedVersions, version) >= slices.Index(supportedVersions, since)
}

// checkVersion returns an error unless the plugin supports the version.
func checkVersion(version string) error {
	if slices.Contains(supportedVersions, version) {
		return nil
	}
	return &Error{
		Code: CodeIncompatibleVersion, Msg: "cniVersion " + shorten(version) + " is not supported",
		Details: "this plugin supports " + strings.Join(supportedVersions, ", "),
	}
}
