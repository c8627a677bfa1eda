// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vpcnet/vpcnet/ipam/ipamd"
)

const bundleAbout = `bundle writes one archive for support: what the agent says, its events and settings, what
its state directory has, the network of the node, packet filters, the CNI configuration,
the files that doctor reads, and the ends of logs. Secrets are removed: credentials,
tokens, passwords, private keys, and the IDs of sandboxes. It has no environment.

  vpcctl bundle -f node.tar.gz -log /var/log/aws-routed-eni/ipamd.log
  vpcctl doctor -bundle node.tar.gz

status, enis, pods, explain, events, doctor, trace, policy and state answer from it with
-bundle FILE, also on another machine.`

// The names of the parts of a bundle. Files of the system are below root/, and the ends of
// logs below logs/.
const (
	partFacts   = "facts.json"   // facts
	partState   = "state.json"   // the network, as of "vpcctl state save"
	partStored  = "journal.json" // ipamd.Stored
	partNft     = "nft.txt"
	partLegacy  = "iptables-legacy.txt"
	partSummary = "summary.txt" // for people: status, events and doctor
	partRoot    = "root/"
	partLogs    = "logs/"
)

// bundleFormat is the version of the format of bundles.
const bundleFormat = 1

// savedFacts is the content of partFacts.
type savedFacts struct {
	Format int
	*facts
}

// logTail is how much of the end of a log a bundle has, in bytes. maxBundle limits what is read
// of a bundle.
const (
	logTail   = 256 << 10
	maxBundle = 256 << 20
)

// runBundle runs "vpcctl bundle".
func runBundle(ctx context.Context, std stdio, args []string) error {
	fs := flag.NewFlagSet("bundle", flag.ContinueOnError)
	var n node
	n.register(fs)
	file := fs.String("f", "", "`file` to write; - is standard output; empty means vpcnet-TIME.tar.gz")
	var logs []string
	fs.Func("log", "add the end of this log `file`; can be repeated", func(s string) error {
		logs = append(logs, s)
		return nil
	})
	if err := parse(fs, std, args, bundleAbout); err != nil {
		return err
	}
	f, err := n.gather(ctx)
	if err != nil {
		return err
	}
	data, err := f.bundle(ctx, logs, os.Environ())
	if err != nil {
		return err
	}
	if *file == "-" {
		_, err := std.out.Write(data)
		return err
	}
	if *file == "" {
		*file = "vpcnet-" + f.Agent.At.Format("20060102T150405Z") + ".tar.gz"
	}
	if err := os.WriteFile(*file, data, 0o600); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "%s: %d bytes\n", *file, len(data))
	return nil
}

// bundle returns the archive. environ has the variables of which no secret may be in it.
func (f *facts) bundle(ctx context.Context, logs, environ []string) ([]byte, error) {
	secrets := secretsOf(environ)
	parts, err := f.parts(ctx, logs)
	if err != nil {
		return nil, err
	}
	for name, data := range parts {
		switch {
		case name == partFacts || name == partState || name == partStored:
			if parts[name], err = redactJSON(data, secrets); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		case strings.HasPrefix(name, partLogs):
			parts[name] = []byte(redactLog(string(data), secrets))
		default:
			parts[name] = []byte(redact(string(data), secrets))
		}
	}
	return pack(parts, f.Agent.At)
}

// parts returns the files of a bundle before secrets are removed.
func (f *facts) parts(ctx context.Context, logs []string) (fileSet, error) {
	all := fileSet{partNft: []byte(f.Host.Nft), partLegacy: []byte(f.Host.Legacy), partSummary: f.summary()} // summary reads the files
	values := map[string]any{partFacts: savedFacts{bundleFormat, f}}
	if f.State != nil {
		values[partState] = f.State
	}
	if stored, err := ipamd.ReadStored(ctx, f.Agent.StateDir); err == nil {
		values[partStored] = stored
	} else {
		values[partStored] = map[string]string{"error": err.Error()}
	}
	for name, v := range values {
		text, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[name] = text
	}
	if r, ok := f.files.(recorder); ok {
		for name, data := range r.read {
			all[partRoot+name] = data
		}
	}
	for _, log := range logs {
		data, err := tail(log, logTail)
		if err != nil {
			return nil, err
		}
		all[partLogs+strings.ReplaceAll(rooted(filepath.ToSlash(log)), "/", "-")] = data
	}
	return all, nil
}

// summary returns what status, events and doctor print.
func (f *facts) summary() []byte {
	var b bytes.Buffer
	std := stdio{out: &b}
	f.Agent.report().print(std, &f.Agent, formatWide)
	fmt.Fprintln(&b)
	printEvents(std, &f.Agent, formatWide)
	fmt.Fprintln(&b)
	printFindings(std, f, diagnose(f))
	return b.Bytes()
}

// tail returns the last n bytes of a file, from the beginning of a line.
func tail(file string, n int64) ([]byte, error) {
	r, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-n)
	data, err := io.ReadAll(io.NewSectionReader(r, from, n))
	if _, rest, ok := bytes.Cut(data, []byte("\n")); ok && from > 0 {
		data = rest
	}
	return data, err
}

// pack returns the files as a .tar.gz.
func pack(files fileSet, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name])), ModTime: at, Typeflag: tar.TypeReg}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// unpack returns the files of a .tar.gz.
func unpack(r io.Reader) (fileSet, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	files := fileSet{}
	limited := &io.LimitedReader{R: z, N: maxBundle}
	t := tar.NewReader(limited)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) && limited.N > 0 {
			return files, nil
		}
		if limited.N <= 0 {
			return nil, fmt.Errorf("it has more than %d bytes", maxBundle)
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
}

// loadBundle reads the facts in a bundle.
func loadBundle(file string) (*facts, error) {
	r, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := readBundle(r)
	if err != nil {
		return nil, fmt.Errorf("%s is not a bundle: %w", file, err)
	}
	return f, nil
}

func readBundle(r io.Reader) (*facts, error) {
	files, err := unpack(r)
	if err != nil {
		return nil, err
	}
	s := savedFacts{facts: &facts{}}
	if err := json.Unmarshal(files[partFacts], &s); err != nil {
		return nil, fmt.Errorf("%s: %w", partFacts, err)
	}
	if s.Format != bundleFormat {
		return nil, fmt.Errorf("its format is %d, want %d", s.Format, bundleFormat)
	}
	f := s.facts
	f.Host.Nft, f.Host.Legacy = string(files[partNft]), string(files[partLegacy])
	if text, ok := files[partState]; ok {
		f.State = &saved{}
		if err := json.Unmarshal(text, f.State); err != nil {
			return nil, fmt.Errorf("%s: %w", partState, err)
		}
	}
	system := fileSet{}
	for name, data := range files {
		if name, ok := strings.CutPrefix(name, partRoot); ok {
			system[name] = data
		}
	}
	f.files = system
	return f, nil
}
