// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/datapath/preflight"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
	"github.com/vpcnet/vpcnet/snat"
)

// ErrKept means that a removal has left something on the node, which the log names.
var ErrKept = errors.New("the node still needs what is installed")

// Install installs the plugins from the programs in the directory source, and sets up the
// kernel of the node. It logs each step. It can be killed at any time, and repeated. The
// agent may run meanwhile.
func Install(ctx context.Context, s settings.Settings, source string, log *slog.Logger) error {
	cfg, err := s.Agent()
	if err != nil {
		return err
	}
	c := configOf(s, cfg)
	c.Source = source
	root := os.DirFS(c.Root)
	if err := c.addSysctls(s, cfg, root, log); err != nil {
		return err
	}
	check := preflightOf(cfg, root)
	if s.Preflight == settings.PreflightWrite {
		c.addFiles(check)
	}
	n, err := observe(c)
	if err != nil {
		return err
	}
	steps, err := plan(c, n)
	if err != nil {
		return err
	}
	if err := c.carryOut(ctx, steps, log); err != nil {
		return err
	}
	if s.Preflight != settings.PreflightOff {
		report(preflight.Check(root, check), log)
	}
	log.Info("installed", "steps", len(steps), "plugins", strings.Join(slices.Sorted(maps.Keys(c.Programs)), " "), "dir", c.PluginDir)
	return nil
}

// Uninstall removes the CNI configuration, unless it was edited, and restores what was on
// the node before [Install]. If something has to stay, it logs why and returns an error that
// wraps [ErrKept]. The agent must not run, because it would write the CNI configuration
// again. ENIs stay attached to the instance, and end with it.
func Uninstall(ctx context.Context, s settings.Settings, log *slog.Logger) error {
	cfg, err := s.Agent()
	if err != nil {
		return err
	}
	c := configOf(s, cfg)
	path, err := server.RemoveConflist(c.Root, c.at(c.StateDir))
	switch {
	case errors.Is(err, server.ErrConflistEdited):
		return fmt.Errorf("%w: %w; delete it and repeat the command", ErrKept, err)
	case err != nil:
		return fmt.Errorf("remove the CNI configuration: %w%s", err, advice(err))
	case path != "":
		log.Info("rm " + path)
	}
	n, err := observe(c)
	if err != nil {
		return err
	}
	steps, kept := planRemoval(c, n)
	if err := c.carryOut(ctx, steps, log); err != nil {
		return err
	}
	if kept.Results > 0 {
		return fmt.Errorf("%w: %s has %d results of pods in the networks %v; end the pods and repeat the command",
			ErrKept, c.at(resultsDir), kept.Results, c.Networks)
	}
	for _, edited := range kept.Edited {
		log.Warn("another program has changed this since the installation, so it stays as it is", "what", edited)
	}
	log.Info("uninstalled", "steps", len(steps))
	return nil
}

// configOf returns what is installed with the given settings, but for the source, the
// settings of the kernel and further files.
func configOf(s settings.Settings, cfg ipamd.Config) config {
	c := config{
		Root: cmp.Or(s.Root, "/"), PluginDir: cfg.PluginDir, StateDir: cfg.StateDir, Files: map[string]string{},
		Programs: map[string]string{"vpc-cni": "vpc-cni"}, Networks: []string{"vpcnet"},
	}
	if cfg.ConflistFormat == ipamd.FormatAWS {
		c.Programs["aws-cni"] = "vpc-cni"
		c.Networks = append(c.Networks, "aws-cni")
	}
	if cfg.ConflistFormat == ipamd.FormatAWS || egress4(cfg) || egress6(cfg) {
		c.Programs["egress-cni"] = "egress-cni"
	}
	return c
}

// egress4 and egress6 report whether pods reach destinations of the family by egress-cni.
func egress4(cfg ipamd.Config) bool {
	return cfg.EgressIPv4 && !slices.Contains(cfg.Families, ipam.IPv4)
}
func egress6(cfg ipamd.Config) bool {
	return cfg.EgressIPv6 && !slices.Contains(cfg.Families, ipam.IPv6)
}

// addSysctls adds the settings of the kernel. An image has none, because it has no /proc.
func (c *config) addSysctls(s settings.Settings, cfg ipamd.Config, root fs.FS, log *slog.Logger) error {
	if _, err := fs.Stat(root, "proc/sys/net"); err != nil {
		log.Warn("settings of the kernel are left out, because there is no /proc/sys/net", "root", c.Root)
		return nil
	}
	links := preflight.DefaultRouteLinks(root)
	if len(links) == 0 {
		return errors.New("the node has no IPv4 default route, by which the link of the primary ENI is found; install when the network is up")
	}
	six := slices.Contains(cfg.Families, ipam.IPv6) || egress6(cfg)
	for _, link := range links {
		link = strings.ReplaceAll(link, ".", "/") // as sysctl(8) has it
		c.Sysctls = append(c.Sysctls, sysctl{Key: "net.ipv4.conf." + link + ".rp_filter", Value: "2"})
		if six {
			// A node that forwards ignores router advertisements with the value 1.
			c.Sysctls = append(c.Sysctls, sysctl{Key: "net.ipv6.conf." + link + ".accept_ra", Value: "2"})
		}
	}
	if slices.Contains(cfg.Families, ipam.IPv4) || egress4(cfg) {
		c.Sysctls = append(c.Sysctls, sysctl{Key: "net.ipv4.ip_forward", Value: "1"})
	}
	if six {
		c.Sysctls = append(c.Sysctls, sysctl{Key: "net.ipv6.conf.all.disable_ipv6", Value: "0"}, sysctl{Key: "net.ipv6.conf.all.forwarding", Value: "1"})
	}
	if s.NoTCPEarlyDemux {
		c.Sysctls = append(c.Sysctls, sysctl{Key: "net.ipv4.tcp_early_demux", Value: "0", Optional: true})
	}
	return nil
}

// addFiles adds the files that stop other programs from configuring pods' links.
func (c *config) addFiles(check preflight.Config) {
	for _, f := range preflight.Files(check) {
		c.Files["/"+f.Path] = f.Text
	}
}

func preflightOf(cfg ipamd.Config, root fs.FS) preflight.Config {
	return preflight.Config{
		HostLinkPrefix: cfg.HostLinkPrefix, Iptables: cfg.SNATBackend == snat.Iptables, Accelerate: cfg.Accelerate, Keep: preflight.DefaultRouteLinks(root),
	}
}

// report logs findings, one line each.
func report(findings []preflight.Finding, log *slog.Logger) {
	for _, f := range findings {
		level := slog.LevelWarn
		if f.Severity == preflight.Info {
			level = slog.LevelInfo
		}
		log.Log(context.Background(), level, "preflight: "+f.What, "id", f.ID, "why", f.Why, "do", f.Do, "found", strings.Join(f.Paths, " "))
	}
}

// carryOut does the steps in order until one fails.
func (c config) carryOut(ctx context.Context, steps []step, log *slog.Logger) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.do(s); err != nil {
			return err
		}
		log.Info(s.String())
	}
	return nil
}
