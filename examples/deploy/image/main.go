// SPDX-License-Identifier: Apache-2.0

// Command image builds the container image of the node agent without docker: an archive in
// the layout of OCI, with an image for each architecture.
//
//	go run github.com/vpcnet/vpcnet/examples/deploy/image -o vpcnet.tar
//	skopeo copy --all oci-archive:vpcnet.tar docker://example.com/vpcnet:v1
//	go run github.com/vpcnet/vpcnet/examples/deploy/image -iptables -tag iptables -o vpcnet-iptables.tar
//
// The images have nothing but ipamd, vpc-cni, egress-cni and the certificates of the
// authorities that the machine trusts: the agent speaks with the kernel and needs no other
// program. Two builds from the same sources and certificates are the same byte for byte. With
// -iptables the images also have the programs of iptables, for agents with -snat-backend
// iptables; that needs apt-get and dpkg-deb, and takes the packages of Debian.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

// programs are the programs of the image, which lie in its root.
var programs = []string{"ipamd", "vpc-cni", "egress-cni"}

// certificates is where the programs find certificates, and where the machine has them:
// https://pkg.go.dev/crypto/x509.
const certificates = "/etc/ssl/certs/ca-certificates.crt"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) (err error) {
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.SetOutput(stderr)
	out := fs.String("o", "vpcnet.tar", "`file` to write")
	arches := fs.String("arch", "amd64,arm64", "comma-separated `architectures`")
	tag := fs.String("tag", "latest", "`name` of the image in the archive")
	withIptables := fs.Bool("iptables", false, "include the programs of iptables, which apt-get downloads")
	roots := fs.String("certificates", certificates, "`file` with the certificates of authorities")
	if err := fs.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vpcnet-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	certs, err := os.ReadFile(*roots)
	if err != nil {
		return fmt.Errorf("-certificates: %w", err)
	}
	var images []image
	for arch := range strings.SplitSeq(*arches, ",") {
		files, err := build(ctx, filepath.Join(dir, arch), arch)
		if err != nil {
			return err
		}
		files = append(files, file{strings.TrimPrefix(certificates, "/"), 0o644, certs})
		if *withIptables {
			further, err := iptables(ctx, filepath.Join(dir, "iptables-"+arch), arch)
			if err != nil {
				return err
			}
			files = append(files, further...)
		}
		images = append(images, image{arch: arch, files: files})
	}
	archive, err := pack(images, *tag)
	if err != nil {
		return err
	}
	return os.WriteFile(*out, archive, 0o644)
}

// build builds the programs for an architecture.
func build(ctx context.Context, dir, arch string) (files []file, err error) {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + string(os.PathSeparator)}
	for _, p := range programs {
		args = append(args, "github.com/vpcnet/vpcnet/examples/"+p)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build for %s: %w\n%s", arch, err, out)
	}
	for _, p := range programs {
		b, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			return nil, err
		}
		files = append(files, file{p, 0o755, b})
	}
	return files, nil
}
