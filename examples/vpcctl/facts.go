// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"time"

	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// agentFacts are what is known of the agent of a node at one moment.
type agentFacts struct {
	At time.Time `json:"at"`
	// Where is the address of the agent's status.
	Where string `json:"where"`
	// Answers are what the agent says. If it does not answer, they are nil, Error says why,
	// and Stored has what its state directory has, or StoredError why that cannot be read.
	Answers     *introspect.Answers `json:"answers,omitempty"`
	Error       string              `json:"error,omitempty"`
	Stored      *ipamd.Stored       `json:"stored,omitempty"`
	StoredError string              `json:"storedError,omitempty"`
	StateDir    string              `json:"stateDir"`
}

// status returns what is known of ENIs and pods.
func (a *agentFacts) status() ipamd.Status {
	switch {
	case a.Answers != nil:
		return a.Answers.Status
	case a.Stored != nil:
		return a.Stored.Status
	}
	return ipamd.Status{}
}

// offline returns the sentence that says from where an answer is if the agent does not answer.
func (a *agentFacts) offline() string {
	switch {
	case a.Answers != nil:
		return ""
	case a.Stored != nil:
		return "THE AGENT DOES NOT ANSWER. This is what its state directory " + a.StateDir + " has; links, readiness and waiting pods are not known."
	}
	return "THE AGENT DOES NOT ANSWER, and its state directory cannot be read: " + a.StoredError
}

// known returns an error if neither the agent nor its state directory says anything.
func (a *agentFacts) known() error {
	if a.Answers == nil && a.Stored == nil {
		return errors.New(a.Error + "; " + a.StoredError)
	}
	return nil
}

// source holds the flags that select the agent.
type source struct {
	agent, stateDir, bundle string
}

func (s *source) register(fs *flag.FlagSet) {
	fs.StringVar(&s.bundle, "bundle", "", bundleHelp)
	s.registerLive(fs)
}

// bundleHelp is the help of -bundle.
const bundleHelp = "answer from this `file`, written by \"vpcctl bundle\", and not from this node"

// registerLive registers the flags of a node that is not in a bundle.
func (s *source) registerLive(fs *flag.FlagSet) {
	fs.StringVar(&s.agent, "agent", "", "status `address` of ipamd, host:port or unix:path; empty means the socket of VPCNET_STATUS_SOCKET")
	fs.StringVar(&s.stateDir, "state-dir", "", "state `directory` of ipamd, for when it does not answer; empty means that of VPCNET_STATE_DIR")
}

// read reads what is known of the agent, of this node or in a bundle.
func (s *source) read(ctx context.Context) (agentFacts, error) {
	if s.bundle == "" {
		return s.live(ctx)
	}
	f, err := loadBundle(s.bundle)
	if err != nil {
		return agentFacts{}, err
	}
	return f.Agent, nil
}

// live reads what is known of the agent of this node.
func (s *source) live(ctx context.Context) (a agentFacts, err error) {
	set, err := settings.Parse(nil, os.Getenv, io.Discard)
	if err != nil {
		return a, err
	}
	a = agentFacts{At: time.Now().UTC(), Where: s.agent, StateDir: s.stateDir}
	if a.Where == "" {
		a.Where = "unix:" + set.Status
	}
	if a.StateDir == "" {
		a.StateDir = set.StateDir
	}
	answers, err := introspect.Read(ctx, a.Where)
	if err == nil {
		a.Answers = &answers
		return a, nil
	}
	a.Error = err.Error()
	stored, err := ipamd.ReadStored(ctx, a.StateDir)
	if err == nil {
		a.Stored = &stored
	} else {
		a.StoredError = err.Error()
	}
	return a, nil
}
