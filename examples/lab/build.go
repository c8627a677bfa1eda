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
)

const modulePath = "github.com/vpcnet/vpcnet"

// programs are the binaries that the lab runs, as a node would have them.
func programs() []string { return []string{"ipamd", "vpc-cni"} }

// findPrograms copies the programs to dir from the directory of this binary, where
// `go install ./examples/...` puts them. If they are not there, it builds them.
func findPrograms(ctx context.Context, dir string, p *printer) error {
	done := p.progress("building ipamd and vpc-cni")
	origin := "built"
	err := copyPrograms(dir)
	if err == nil {
		origin = "found in the directory of this program"
	} else {
		err = build(ctx, dir)
	}
	if err != nil {
		done("failed")
		return err
	}
	var sizes []string
	for _, name := range programs() {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		sizes = append(sizes, fmt.Sprintf("%s %.1f MB", name, float64(info.Size())/1e6))
	}
	done(origin + ": " + strings.Join(sizes, ", "))
	return nil
}

// copyPrograms copies the programs from the directory of this binary to dir.
func copyPrograms(dir string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	for _, name := range programs() {
		if err := copyProgram(filepath.Join(filepath.Dir(exe), name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// build compiles the programs with the same settings as this one, so that the
// packages that they share are not compiled again.
func build(ctx context.Context, dir string) error {
	args := []string{"build", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}
	for _, name := range programs() {
		args = append(args, modulePath+"/examples/"+name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("the lab builds ipamd and vpc-cni with the go command, which is not in PATH: install Go from https://go.dev/dl, or put both binaries into the directory of this one: %w", err)
	case err != nil:
		return fmt.Errorf("go %s (run the lab inside a clone of the repository): %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}
