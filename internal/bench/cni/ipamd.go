// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/eni/vpctest"
	"github.com/vpcnet/vpcnet/internal/fabric"
)

// instanceType is a type of which a node has room for hundreds of pods.
const instanceType = "m5.24xlarge"

// newIPAMD returns a contender on a node of a VPC of its own, with the real agent. The
// agent has addresses for burst pods at once, and released addresses do not rest.
func newIPAMD(ctx context.Context, name, bin string, burst int, slowDisk time.Duration) (_ *contender, err error) {
	vpc, err := vpctest.Start(ctx, vpctest.Config{})
	if err != nil {
		return nil, err
	}
	c := &contender{name: name, program: filepath.Join(bin, programs[name]), bin: bin, stop: vpc.Close}
	node, err := vpc.AddNode(ctx, enitest.InstanceInput{Type: instanceType})
	if err == nil {
		c.node, err = fabric.OpenNetns(node.Path())
	}
	if err != nil {
		return nil, errors.Join(err, vpc.Close())
	}
	dir := filepath.Join("/run", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return c, err
	}
	c.syncLog = filepath.Join(dir, "syncs")
	cmd, log := c.agentCommand(dir, slowDisk), &bytes.Buffer{}
	cmd.Env = append(node.Env(), "PATH="+os.Getenv("PATH"), "CLUSTER_NAME=bench", "WARM_ENI_TARGET=0",
		fmt.Sprintf("WARM_IP_TARGET=%d", 2*burst), "IP_COOLDOWN_PERIOD=0")
	cmd.Stdout, cmd.Stderr = log, log
	if err := c.node.Do(cmd.Start); err != nil {
		return c, err
	}
	c.stop = func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			return errors.Join(fmt.Errorf("ipamd: %w: %s", err, log), vpc.Close())
		}
		return vpc.Close()
	}
	c.conf = map[string]any{
		"cniVersion": "1.0.0", "name": "vpcnet", "type": "vpc-cni",
		"agentSocket": filepath.Join(dir, "agent.sock"), "stateDir": filepath.Join(dir, "state"),
	}
	return c, c.waitReady(ctx, filepath.Join(dir, "agent.sock"))
}

// agentCommand returns the command that runs ipamd. With a slow disk, strace delays each
// fsync and fdatasync of ipamd and lists them; a seccomp filter lets all other system calls
// pass at their usual speed.
func (c *contender) agentCommand(dir string, slowDisk time.Duration) *exec.Cmd {
	args := []string{
		filepath.Join(c.bin, "ipamd"), "-socket=" + filepath.Join(dir, "agent.sock"), "-state-dir=" + filepath.Join(dir, "state"),
		"-conflist=" + filepath.Join(dir, "10-vpcnet.conflist"), "-status-socket=" + filepath.Join(dir, "status.sock"),
		"-portmap=false",
	}
	if slowDisk > 0 {
		args = append([]string{
			"strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", c.syncLog, "-e", "trace=fsync,fdatasync",
			"-e", fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", slowDisk.Microseconds()),
		}, args...)
	}
	return exec.Command(args[0], args[1:]...) //nolint:gosec // the programs of this benchmark
}

// readyTime bounds the time in which ipamd becomes ready.
const readyTime = time.Minute

// waitReady waits until the agent serves pods.
func (c *contender) waitReady(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		err := cniplugin.Client{Socket: socket}.Status(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", c.name, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// syncs returns how often the agent has written to the disk and waited for it, if strace
// runs it.
func (c *contender) syncs() int {
	b, _ := os.ReadFile(c.syncLog) // without strace there is no file
	return strings.Count(string(b), "\n")
}
