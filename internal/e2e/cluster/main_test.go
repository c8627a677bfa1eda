// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cluster

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vpcnet/vpcnet/internal/e2e/programs"
	"github.com/vpcnet/vpcnet/internal/nodetest"
)

const (
	// containerdEnv has the directory of the programs of containerd, which are built outside of
	// the tests' namespaces.
	containerdEnv = "E2E_CONTAINERD"
	// cgroupEnv has the name of the cgroup of this run.
	cgroupEnv    = "E2E_CGROUP"
	cgroupPrefix = "vpcnet-e2e-"
)

// containerd returns the path of a program of containerd.
func containerd(program string) string { return filepath.Join(os.Getenv(containerdEnv), program) }

// cgroupOfRun returns the parent of all cgroups of this run.
func cgroupOfRun() string { return os.Getenv(cgroupEnv) }

var long = flag.Bool("long", false, "run the tests, which take minutes")

// TestMain runs nothing without -long: the tests are a part of the long tier.
func TestMain(m *testing.M) {
	flag.Parse()
	if !*long {
		return
	}
	if os.Getenv(containerdEnv) == "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "cluster:", err)
			os.Exit(1)
		}
	}
	nodetest.Main(m, "./pod", "portmap")
}

// prepare makes outside of the tests' namespaces what they need in them.
func prepare() error {
	if os.Getuid() != 0 {
		return errors.New("the tests run containers in cgroups of their own, which needs root")
	}
	if err := removeEnded(); err != nil {
		return err
	}
	const path = "github.com/containerd/containerd/v2/cmd/"
	dir, err := programs.Build("../containerd", path+"containerd", path+"containerd-shim-runc-v2", path+"ctr")
	return errors.Join(err, os.Setenv(containerdEnv, dir), os.Setenv(cgroupEnv, cgroupPrefix+strconv.Itoa(os.Getpid())))
}

// removeEnded removes the cgroups of earlier runs that were killed.
func removeEnded() error {
	tops, err := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroupPrefix+"*"))
	for _, top := range tops {
		name := filepath.Base(top)
		_, e := os.Stat("/proc/" + strings.TrimPrefix(name, cgroupPrefix))
		if errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, removeCgroup(name))
		}
	}
	return err
}
