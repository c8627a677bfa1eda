// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vpcnet/vpcnet/internal/e2e/programs"
	"github.com/vpcnet/vpcnet/internal/nodetest"
)

var long = flag.Bool("long", false, "test every combination of settings")

// programsEnv has the directory of kube-proxy, which is built outside of the tests' namespaces.
const programsEnv = "E2E_KUBERNETES"

// kubeProxy returns the path of kube-proxy.
func kubeProxy() string { return filepath.Join(os.Getenv(programsEnv), "kube-proxy") }

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(programsEnv) == "" {
		dir, err := programs.Build("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy")
		if err == nil {
			err = os.Setenv(programsEnv, dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			os.Exit(1)
		}
	}
	nodetest.Main(m, "portmap")
}
