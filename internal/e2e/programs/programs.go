// SPDX-License-Identifier: Apache-2.0

// Package programs builds the programs of others that the tests of this module run, and keeps
// them in a cache.
//
// Each directory beside it with a go.mod of its own has the versions of one release, and names
// as its tools the programs that are built from it.
//
// The directory of the cache is that of the environment variable VPCNET_E2E_CACHE; if this is
// empty, it is vpcnet-e2e in the user's cache directory.
package programs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
)

// Build returns the directory of programs, given by the paths of their packages, and builds
// those that are not in the cache. The module is the directory of their go.mod. Each version
// of a go.mod has a directory of its own.
func Build(module string, packages ...string) (dir string, err error) {
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", err
	}
	cache := os.Getenv("VPCNET_E2E_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		cache = filepath.Join(user, "vpcnet-e2e")
	}
	sum := sha256.Sum256(mod)
	dir = filepath.Join(cache, filepath.Base(module)+"-"+hex.EncodeToString(sum[:6]))
	var missing []string
	for _, p := range packages {
		if _, err := os.Stat(filepath.Join(dir, path.Base(p))); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Another run may build the same programs at the same time.
	work, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", work + string(os.PathSeparator)}
	cmd := exec.Command("go", append(args, missing...)...)
	cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %v of %s: %w\n%s", missing, module, err, out)
	}
	for _, p := range missing {
		name := path.Base(p)
		if err := os.Rename(filepath.Join(work, name), filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}
