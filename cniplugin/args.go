// SPDX-License-Identifier: Apache-2.0

package cniplugin

import "strings"

// arguments are the values of CNI_ARGS.
type arguments struct {
	pod Pod
	// ip and mac are the values of IP and MAC, empty if they are missing.
	ip, mac string
}

// parseArgs parses CNI_ARGS. It accepts the pairs in any order, because runtimes
// shuffle them. By convention, a key that the plugin does not know is an error unless
// IgnoreUnknown is true. Together with an error it returns what could be read.
//
// https://github.com/containernetworking/cni/blob/spec-v1.1.0/CONVENTIONS.md#cni_args
func parseArgs(args string) (arguments, error) {
	var a arguments
	var unknown []string
	ignoreUnknown := false
	for pair := range strings.SplitSeq(args, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return a, &Error{Code: CodeInvalidEnvironment, Msg: "invalid CNI_ARGS: " + shorten(pair) + " is not KEY=VALUE"}
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			a.pod.Namespace = value
		case "K8S_POD_NAME":
			a.pod.Name = value
		case "K8S_POD_UID":
			a.pod.UID = value
		case "K8S_POD_INFRA_CONTAINER_ID": // the same as CNI_CONTAINERID
		case "IP":
			a.ip = value
		case "MAC":
			a.mac = value
		case "IgnoreUnknown":
			var err error
			if ignoreUnknown, err = parseBool(value); err != nil {
				return a, err
			}
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 && !ignoreUnknown {
		return a, &Error{
			Code: CodeInvalidEnvironment, Msg: "invalid CNI_ARGS: unknown " + shorten(strings.Join(unknown, ", ")),
			Details: "want only IP, MAC, IgnoreUnknown and K8S_POD_*, or IgnoreUnknown=1",
		}
	}
	return a, nil
}

// parseBool parses the value of IgnoreUnknown, as the CNI library does.
func parseBool(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	}
	return false, &Error{
		Code: CodeInvalidEnvironment, Msg: "invalid CNI_ARGS: IgnoreUnknown is " + shorten(value), Details: "want 1, true, 0 or false",
	}
}
