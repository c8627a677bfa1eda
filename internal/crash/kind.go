// SPDX-License-Identifier: Apache-2.0

package main

// kind is a kind of trouble.
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

// kinds lists all kinds in the order of the help.
func kinds() []kind {
	return []kind{
		agentKill, pluginKill, pluginStop, noDel, metadataLag, throttle, lostAnswer,
		ec2Hang, metadataHang, journalLost, journalOld, journalDamaged, nftFlush, clockStep,
	}
}

// about says what a kind does, for the help.
func (k kind) about() string {
	switch k {
	case agentKill:
		return "the agent is killed at a random moment and started again"
	case pluginKill:
		return "the plugin is killed in an ADD or a DEL; DEL follows, or the sandbox goes without it"
	case pluginStop:
		return "the plugin is stopped in an ADD and continued late, often after a DEL of the same sandbox"
	case noDel:
		return "a sandbox is deleted without DEL"
	case metadataLag:
		return "the metadata service is up to 120 s behind, but never behind the start of the instance"
	case throttle:
		return "EC2 takes few calls for some seconds"
	case lostAnswer:
		return "EC2 does what a call asks for, and the answer is lost"
	case ec2Hang:
		return "the agent is started again while EC2 answers nothing"
	case metadataHang:
		return "the agent is started again while the metadata service answers nothing"
	case journalLost:
		return "some or all files of the state directory are removed while the agent is down"
	case journalOld:
		return "an old copy of the state directory is put back while the agent is down"
	case journalDamaged:
		return "files of the state directory are damaged while the agent is down"
	case nftFlush:
		return "the node's nftables ruleset is flushed, which the agent mends"
	case clockStep:
		return "the wall clock steps by a second, an hour or ten years, either way"
	}
	return ""
}

// long reports whether the kind lasts for seconds in which no pod is served.
func (k kind) long() bool { return k == ec2Hang || k == metadataHang }
