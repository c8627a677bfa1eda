// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// programs are the programs of one variant.
type programs struct {
	variant Variant
	// unnamed means that they have the names without a variant.
	unnamed    bool
	ipv4, ipv6 family
}

// family are the programs of one variant for one family, each with its first arguments.
type family struct{ save, restore []string }

// sbin are the directories for programs of the administrator, which are not in the PATH
// of every user.
var sbin = []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}

func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range sbin {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	return path, err
}

// find returns the programs of each variant that the system has.
func find(ctx context.Context) (all []programs, err error) {
	var errs []error
	add := func(p programs, err error) {
		switch {
		case errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		default:
			all = append(all, p)
		}
	}
	for _, v := range []Variant{NFT, Legacy} {
		p, err := named(v, "-"+string(v))
		if err != nil {
			p, err = multi(v)
		}
		add(p, err)
	}
	add(unnamed(ctx))
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: want iptables-nft, iptables-legacy, xtables-nft-multi, xtables-legacy-multi or iptables in PATH or %s: %w",
			ErrNoProgram, strings.Join(sbin, ", "), errors.Join(append(errs, exec.ErrNotFound)...))
	}
	return all, nil
}

// named returns the programs of a variant that have it in their names. Version 1.6.2 was the
// first whose iptables-restore waits for seconds and whose SNAT has --random-fully.
func named(v Variant, suffix string) (programs, error) {
	p := programs{variant: v, unnamed: suffix == ""}
	for _, f := range []struct {
		name  string
		proto iptables.Protocol
		to    *family
	}{{"iptables", iptables.ProtocolIPv4, &p.ipv4}, {"ip6tables", iptables.ProtocolIPv6, &p.ipv6}} {
		main, err := lookPath(f.name + suffix)
		if err != nil {
			return p, err
		}
		t, err := iptables.New(iptables.Path(main), iptables.IPFamily(f.proto))
		if err != nil {
			return p, fmt.Errorf("snat/iptables: %s: %w", main, err)
		}
		if major, minor, patch := t.GetIptablesVersion(); !t.HasRandomFully() {
			return p, fmt.Errorf("snat/iptables: %s has version %d.%d.%d, want 1.6.2 or later", main, major, minor, patch)
		}
		save, err := lookPath(f.name + suffix + "-save")
		if err != nil {
			return p, err
		}
		restore, err := lookPath(f.name + suffix + "-restore")
		if err != nil {
			return p, err
		}
		*f.to = family{[]string{save}, []string{restore}}
	}
	return p, nil
}

// multi returns the program that is all programs of a variant. It exists since version 1.8.
func multi(v Variant) (programs, error) {
	path, err := lookPath("xtables-" + string(v) + "-multi")
	return programs{
		variant: v,
		ipv4:    family{[]string{path, "iptables-save"}, []string{path, "iptables-restore"}},
		ipv6:    family{[]string{path, "ip6tables-save"}, []string{path, "ip6tables-restore"}},
	}, err
}

// unnamed returns the programs without a variant in their names. What variant they are, they
// print with their version, since 1.8; before there was only legacy.
func unnamed(ctx context.Context) (programs, error) {
	p, err := named(Legacy, "")
	if err != nil {
		return p, err
	}
	out, err := exec.CommandContext(ctx, p.ipv4.save[0], "--version").Output()
	if strings.Contains(string(out), "nf_tables") {
		p.variant = NFT
	}
	return p, err
}

// choose returns the programs to use, and those of the other variant if there are any. saved
// returns the tables of both families.
func choose(all []programs, want Variant, saved func(programs) (string, error)) (use programs, other []programs, err error) {
	byVariant := map[Variant]programs{}
	preferred := NFT
	for _, p := range all {
		if p.unnamed {
			preferred = p.variant
		}
		if _, ok := byVariant[p.variant]; !ok {
			byVariant[p.variant] = p
		}
	}
	switch {
	case want != "":
	case len(byVariant) == 1:
		want = all[0].variant
	default:
		if want, err = usedBy(byVariant, saved); err != nil {
			return use, nil, err
		}
		want = cmp.Or(want, preferred)
	}
	use, ok := byVariant[want]
	if !ok {
		return use, nil, fmt.Errorf("%w: of variant %s", ErrNoProgram, want)
	}
	for v, p := range byVariant {
		if v != want {
			other = append(other, p)
		}
	}
	return use, other, nil
}

// hints are chains that the kubelet makes in table mangle to show which variant the node
// uses. https://github.com/kubernetes-sigs/iptables-wrappers
var hints = []string{":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "}

// usedBy returns the variant in which kubelet or kube-proxy have chains, "" if neither has.
func usedBy(byVariant map[Variant]programs, saved func(programs) (string, error)) (Variant, error) {
	texts := map[Variant]string{}
	for v, p := range byVariant {
		text, err := saved(p)
		if err != nil {
			return "", err
		}
		texts[v] = text
	}
	for _, signs := range [][]string{hints, {":KUBE-"}} {
		for _, v := range []Variant{NFT, Legacy} {
			for _, sign := range signs {
				if strings.Contains(texts[v], "\n"+sign) {
					return v, nil
				}
			}
		}
	}
	return "", nil
}
