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
	"regexp"
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
	// kubernetesEnv, helmEnv and corednsEnv have those of Kubernetes, helm and CoreDNS.
	kubernetesEnv = "E2E_KUBERNETES"
	helmEnv       = "E2E_HELM"
	corednsEnv    = "E2E_COREDNS"
	// cgroupEnv has the name of the cgroup of this run.
	cgroupEnv    = "E2E_CGROUP"
	cgroupPrefix = "vpcnet-e2e-"
)

// containerd returns the path of a program of containerd.
func containerd(program string) string { return filepath.Join(os.Getenv(containerdEnv), program) }

// cgroupOfRun returns the parent of all cgroups of this run.
func cgroupOfRun() string { return os.Getenv(cgroupEnv) }

var (
	long = flag.Bool("long", false, "run the tests, which take minutes")
	// With 34 pods, each node has one on a second ENI.
	replicas = flag.Int("pods", 60, "run TestKubernetes with this many `pods`, at least 34")
)

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
	nodetest.Main(m, "./pod", "portmap", "deploy/image")
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
	err = errors.Join(err, os.Setenv(containerdEnv, dir), os.Setenv(cgroupEnv, cgroupPrefix+strconv.Itoa(os.Getpid())))
	// To build Kubernetes takes most of an hour, which the other tests do not need.
	if run, e := regexp.Compile(flag.Lookup("test.run").Value.String()); err != nil || e != nil || !run.MatchString("TestKubernetes") {
		return errors.Join(err, e)
	}
	var packages []string
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"} {
		packages = append(packages, "k8s.io/kubernetes/cmd/"+name)
	}
	if dir, err = programs.Build("../kubernetes", packages...); err != nil {
		return err
	}
	helm, err := programs.Build("../helm", "helm.sh/helm/v4/cmd/helm")
	if err != nil {
		return err
	}
	coredns, err := programs.Build("../coredns", "github.com/vpcnet/vpcnet/internal/e2e/coredns")
	return errors.Join(err, os.Setenv(kubernetesEnv, dir), os.Setenv(helmEnv, helm), os.Setenv(corednsEnv, coredns))
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
