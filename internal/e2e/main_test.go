// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/vpcnet/vpcnet/internal/nodetest"
)

var long = flag.Bool("long", false, "test every combination of settings")

// proxyEnv has the path of kube-proxy, which is built outside of the tests' namespaces.
const proxyEnv = "E2E_KUBE_PROXY"

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(proxyEnv) == "" {
		program, err := buildProxy()
		if err == nil {
			err = os.Setenv(proxyEnv, program)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			os.Exit(1)
		}
	}
	nodetest.Main(m, "portmap")
}

// buildProxy returns the path of kube-proxy in the cache, and builds it if it is not there.
func buildProxy() (string, error) {
	dir := os.Getenv("VPCNET_E2E_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(user, "vpcnet-e2e")
	}
	mod, err := os.ReadFile("kubeproxy/go.mod")
	if err != nil {
		return "", err
	}
	version := regexp.MustCompile(`k8s\.io/kubernetes (v\S+)`).FindSubmatch(mod)
	if version == nil {
		return "", fmt.Errorf("kubeproxy/go.mod has no version of k8s.io/kubernetes")
	}
	program := filepath.Join(dir, "kube-proxy-"+string(version[1]))
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Another run may build the same program at the same time.
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	built := filepath.Join(work, "kube-proxy")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", built, "k8s.io/kubernetes/cmd/kube-proxy")
	cmd.Dir, cmd.Env = "kubeproxy", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kube-proxy %s: %w\n%s", version[1], err, out)
	}
	return program, os.Rename(built, program)
}
