// SPDX-License-Identifier: Apache-2.0

package main

// kind is a kind of fault.
type kind string

const (
	agentKill      kind = "agent-kill"
	pluginKill     kind = "plugin-kill"
	pluginStop     kind = "plugin-stop"
	noDel          kind = "no-del"
	metadataLag    kind = "metadata-lag"
	throttle       kind = "throttle"
	lostAnswer     kind = "lost-answer"
	ec2Hang        kind = "ec2-hang"
	metadataHang   kind = "metadata-hang"
	journalLost    kind = "journal-lost"
	journalOld     kind = "journal-old"
	journalDamaged kind = "journal-damaged"
	nftFlush       kind = "nft-flush"
	clockStep      kind = "clock"
)

// kinds returns all kinds in the order of the help.
func kinds() []kind {
	return []kind{
		agentKill, pluginKill, pluginStop, noDel, metadataLag, throttle, lostAnswer,
		ec2Hang, metadataHang, journalLost, journalOld, journalDamaged, nftFlush, clockStep,
	}
}

// about describes a kind, for the help.
func (k kind) about() string {
	switch k {
	case agentKill:
		return "the agent is killed at a random time and started again"
	case pluginKill:
		return "the plugin is killed during an ADD or a DEL; DEL follows, or the sandbox ends without it"
	case pluginStop:
		return "the plugin is stopped during an ADD and resumed late, often after a DEL of the same sandbox"
	case noDel:
		return "a sandbox is deleted without DEL"
	case metadataLag:
		return "the metadata service lags up to 120 s behind, but not beyond the start of the instance"
	case throttle:
		return "EC2 throttles most calls for some seconds"
	case lostAnswer:
		return "EC2 carries out a call, and its answer is lost"
	case ec2Hang:
		return "the agent is restarted while EC2 does not answer"
	case metadataHang:
		return "the agent is restarted while the metadata service does not answer"
	case journalLost:
		return "some or all files of the state directory are removed while the agent is down"
	case journalOld:
		return "an old copy of the state directory is restored while the agent is down"
	case journalDamaged:
		return "files of the state directory are damaged while the agent is down"
	case nftFlush:
		return "the node's nftables ruleset is flushed; the agent must restore it"
	case clockStep:
		return "the wall clock steps by a second, an hour or ten years, forwards or backwards"
	}
	return ""
}

// long reports whether a fault of this kind lasts for seconds in which the agent
// serves no pod.
func (k kind) long() bool { return k == ec2Hang || k == metadataHang }
