// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/datapath/preflight"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

func agentDown(f *facts) []finding {
	if f.Agent.Answers != nil {
		return nil
	}
	return found(preflight.Harm, "the agent does not answer: new pods fail, and nothing repairs the network; running pods keep their addresses",
		"start ipamd, or look at the end of its log; if it is another address, use -agent", f.Agent.Error)
}

func agentNotReady(f *facts) []finding {
	s := f.Agent.status()
	if f.Agent.Answers == nil || s.Ready {
		return nil
	}
	return found(preflight.Harm, "the agent is not ready: the kubelet reports the node as not ready, or new pods fail", reasonTexts[s.Reason].do,
		fmt.Sprintf("%s: %s", s.Reason, cmp.Or(s.Evidence, reasonTexts[s.Reason].meaning)))
}

// passing are the reasons that a full node has in its normal life.
var passing = []ipam.Reason{ipam.ReasonCooling, ipam.ReasonRefilling, ipam.ReasonInFlight, ipam.ReasonAgentStopping}

func noAddresses(f *facts) []finding {
	s := f.Agent.status()
	if !s.Ready || s.Reason == "" || slices.Contains(passing, s.Reason) {
		return nil
	}
	return found(preflight.Risk, "there are no more addresses for pods: "+reasonTexts[s.Reason].meaning, reasonTexts[s.Reason].do,
		fmt.Sprintf("%s: %s", s.Reason, cmp.Or(s.Evidence, "no evidence")))
}

func quarantined(f *facts) []finding {
	var evidence []string
	for _, q := range f.Agent.status().Quarantined {
		evidence = append(evidence, fmt.Sprintf("%s of %s, used by %s since %s", q.Addr, q.ENI, q.By, moment(q.Since)))
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "addresses are in use that no pod of the journal has, so no pod gets them",
		"find what uses them, and end it; the agent gives them out again afterwards", evidence...)
}

func journalProblems(f *facts) []finding {
	var evidence []string
	for _, e := range f.Agent.status().Events {
		if e.Kind == ipamd.EventJournalLost {
			evidence = append(evidence, moment(e.At)+": "+e.Text)
		}
	}
	if f.Agent.Stored != nil {
		evidence = append(evidence, f.Agent.Stored.Problems...)
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "the journal was lost or cannot be read: addresses in use are quarantined until their pods end",
		"look for what damages the files: a full disk, a restored backup, or a second agent with the same state directory", evidence...)
}

// stuck is how long an operation on an ENI may take. EC2 attaches within a minute, and the
// Manager undoes an attachment after three.
const stuck = 15 * time.Minute

func stuckOperations(f *facts) []finding {
	var evidence []string
	for _, i := range f.Agent.intents() {
		if f.Agent.At.Sub(i.Start) > stuck && i.NotBefore.Before(f.Agent.At) {
			evidence = append(evidence, intentText(i, f.Agent.At))
		}
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "operations on ENIs do not end", "run vpcctl explain failure for the last errors of EC2; the agent tries again by itself", evidence...)
}

// The least free space and files of the disk of the state directory. The journals take less
// than a megabyte.
const (
	minFree  = 16 << 20
	minFiles = 100
)

func stateDirFull(f *facts) []finding {
	d := f.Host.Disk
	if d.Error != "" || d.Total == 0 || d.Free >= minFree && (d.Files == 0 || d.FreeFiles >= minFiles) {
		return nil
	}
	return found(preflight.Harm, "the disk of the state directory is full: the agent cannot record addresses, so new pods fail",
		"free space on the disk of "+f.Host.StateDir, fmt.Sprintf("%s: %d bytes and %d files are free", f.Host.StateDir, d.Free, d.FreeFiles))
}

func stateDirReadOnly(f *facts) []finding {
	switch d := f.Host.Disk; {
	case d.ReadOnly:
		return found(preflight.Harm, "the state directory is read-only: the agent cannot record addresses, so new pods fail",
			"mount it writable, and look into the kernel's log for errors of the disk", f.Host.StateDir+" is mounted read-only")
	case d.Error != "" && f.Agent.Answers != nil:
		return found(preflight.Risk, "the state directory cannot be looked at, so its disk is not checked",
			"run vpcctl on the node, or give -root or -state-dir", d.Error)
	}
	return nil
}

// lastResult returns the latest attempt of each action.
func (a *agentFacts) lastResult() map[string]introspect.Call {
	last := map[string]introspect.Call{}
	if a.Answers != nil {
		for _, c := range a.Answers.Calls {
			last[c.Action] = c
		}
	}
	return last
}

// failing returns the actions of which the latest call failed with one of the codes.
func (f *facts) failing(codes ...string) (evidence []string) {
	for action, c := range f.Agent.lastResult() {
		if slices.Contains(codes, c.Code) {
			evidence = append(evidence, fmt.Sprintf("%s: ec2:%s answered %s", moment(c.At), action, c.Code))
		}
	}
	slices.Sort(evidence)
	return evidence
}

// unauthorizedCodes and throttleCodes are codes of EC2:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
var (
	unauthorizedCodes = []string{"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
	throttleCodes     = []string{"RequestLimitExceeded", "Throttling", "ThrottlingException", "EC2ThrottledException"}
	clockCodes        = []string{"RequestExpired", "RequestTimeTooSkewed", "InvalidSignatureException"}
)

func iamAction(f *facts) []finding {
	evidence := f.failing(unauthorizedCodes...)
	if f.Cloud.EC2Reason == string(ipam.ReasonUnauthorized) {
		evidence = append(evidence, f.Cloud.EC2Error)
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Harm, "the node's IAM role lacks an action", "allow the role the actions that the evidence names; examples/deploy/iam-policy.json has all", evidence...)
}

func throttled(f *facts) []finding {
	evidence := f.failing(throttleCodes...)
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "EC2 throttles the account, so that new addresses come late", reasonTexts[ipam.ReasonThrottled].do, evidence...)
}

// maxSkew is how far the clock may be off. EC2 refuses five minutes.
const maxSkew = time.Minute

func clock(f *facts) []finding {
	var evidence []string
	if f.Agent.Answers != nil {
		for _, c := range f.Agent.Answers.Failed {
			if c.ClockSkew != "" {
				evidence = []string{fmt.Sprintf("%s: EC2 refused %s, because its clock is %s ahead", moment(c.At), c.Action, c.ClockSkew)}
			}
		}
	}
	evidence = append(evidence, f.failing(clockCodes...)...)
	if s := f.Cloud.Skew; s.Abs() > maxSkew {
		evidence = append(evidence, fmt.Sprintf("EC2's clock is %s ahead", s))
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "the clock of the node is wrong, and EC2 refuses its calls", "set the clock, for example from the time service at 169.254.169.123", evidence...)
}

func noFreePrefix(f *facts) []finding {
	s := f.Agent.status()
	evidence := f.failing("InsufficientCidrBlocks")
	if s.Reason == ipam.ReasonNoFreePrefix {
		evidence = append(evidence, strings.TrimSpace(string(s.Reason)+" "+s.Evidence))
	}
	if len(evidence) == 0 {
		return nil
	}
	return found(preflight.Risk, "the subnet has no free and aligned /28: it is fragmented, and pods get single addresses",
		reasonTexts[ipam.ReasonNoFreePrefix].do, evidence...)
}
