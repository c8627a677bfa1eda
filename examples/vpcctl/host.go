// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
	"github.com/vpcnet/vpcnet/ipam/ipamd/settings"
)

// hostFacts are what is known of the host of a node beside its files and its network.
type hostFacts struct {
	// The paths are those of the agent's settings, and HostLinkPrefix is too.
	StateDir, Conflist, PluginDir, HostLinkPrefix string
	// Iptables means that the agent translates with iptables.
	Iptables bool `json:",omitempty"`
	// Disk is the disk of the state directory.
	Disk disk
	// XtablesLock says that another program held the lock of iptables for longer than
	// lockPatience.
	XtablesLock bool `json:",omitempty"`
	// Versions are those of the programs of this module in the plugin directory.
	Versions map[string]introspect.Version `json:",omitempty"`
	// Nft is the ruleset of nftables, and Legacy the rules of iptables-legacy, as their
	// programs print them. They are empty without these programs.
	Nft, Legacy string `json:"-"`
}

// disk describes the disk of a directory.
type disk struct {
	// Free and Total are in bytes, Files and FreeFiles are numbers of files.
	Free, Total, FreeFiles, Files uint64
	ReadOnly                      bool   `json:",omitempty"`
	Error                         string `json:",omitempty"`
}

// cloudFacts are what EC2 and the instance metadata service say.
type cloudFacts struct {
	// Asked says that they were asked.
	Asked     bool
	Inventory eni.Inventory
	// EC2Reason and MetadataReason say why a source did not answer, with the error.
	EC2Reason, EC2Error           string `json:",omitempty"`
	MetadataReason, MetadataError string `json:",omitempty"`
	// Skew is how far EC2's clock is ahead.
	Skew time.Duration `json:",omitempty"`
	// FreeAddrs are the free IPv4 addresses of the subnets of the ENIs.
	FreeAddrs map[string]int `json:",omitempty"`
	// Endpoint is where EC2 is, empty for that of the region. Region is the region.
	Endpoint, Region string `json:",omitempty"`
	// EC2Proxy is the proxy for calls to EC2, and MetadataProxy the one that programs that obey the
	// variables use for the metadata service, without passwords.
	EC2Proxy, MetadataProxy string `json:",omitempty"`
}

// lockPatience is how long the lock of iptables may be held. One call holds it for
// milliseconds.
const lockPatience = 2 * time.Second

// hostOf reads the host. set are the settings of the agent, and root is in front of the paths.
func hostOf(ctx context.Context, set settings.Settings, root, netns string) hostFacts {
	h := hostFacts{
		StateDir: set.StateDir, Conflist: set.Conflist, PluginDir: set.PluginDir, HostLinkPrefix: set.HostLinkPrefix,
		Iptables: set.SNATBackend == "iptables", Versions: map[string]introspect.Version{}, Disk: diskOf(filepath.Join(root, set.StateDir)),
		XtablesLock: lockHeld(ctx, filepath.Join(root, "run/xtables.lock"), lockPatience),
	}
	entries, _ := os.ReadDir(filepath.Join(root, set.PluginDir)) // the check of the CNI configuration names what is missing
	for _, e := range entries {
		if v := versionOf(filepath.Join(root, set.PluginDir, e.Name())); v != (introspect.Version{}) {
			h.Versions[e.Name()] = v
		}
	}
	h.Nft = printed(ctx, netns, "nft", "list", "ruleset")
	for _, family := range []string{"ip", "ip6"} {
		// The programs load the tables that they print, so they run only where tables are in use.
		if names, err := os.ReadFile("/proc/net/" + family + "_tables_names"); err == nil && len(bytes.TrimSpace(names)) > 0 {
			h.Legacy += printed(ctx, netns, family+"tables-legacy-save")
		}
	}
	return h
}

// printTime limits the time of a program that prints rules.
const printTime = 20 * time.Second

// printed returns what a program prints in a network namespace, empty if it fails.
func printed(ctx context.Context, netns string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, printTime)
	defer cancel()
	if netns != "" {
		args = append([]string{"nsenter", "--net=" + netns}, args...)
	}
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// versionOf returns the version of a Go program of this module, and else the zero version.
func versionOf(file string) introspect.Version {
	info, err := buildinfo.ReadFile(file)
	if err != nil || info.Main.Path != "github.com/vpcnet/vpcnet" {
		return introspect.Version{}
	}
	return introspect.VersionOf(info)
}

// cloudTime limits the time of the calls to EC2 and the metadata service.
const cloudTime = 30 * time.Second

// cloudOf asks EC2 and the metadata service, with calls that only describe.
func cloudOf(ctx context.Context) (c cloudFacts) {
	ctx, cancel := context.WithTimeout(ctx, cloudTime)
	defer cancel()
	c.Asked, c.Endpoint = true, os.Getenv("AWS_ENDPOINT_URL_EC2")
	cfg, err := awsConfig(ctx)
	if err != nil {
		c.EC2Error = err.Error()
		return c
	}
	metadata := os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
	c.Region = cfg.Region
	c.EC2Proxy, c.MetadataProxy = proxyFor(c.Endpoint, "https://ec2."+c.Region+".amazonaws.com"), proxyFor(metadata, "http://169.254.169.254")
	client := eni.NewClient(cfg, eni.ClientConfig{Attempts: 2, MetadataEndpoint: metadata, OnCall: func(call eni.Call) { c.Skew += call.ClockSkew }})
	m, err := eni.New(eni.Config{Client: client, Mode: eni.ModeFrozen})
	if err == nil {
		c.Inventory, err = m.Discover(ctx)
	}
	c.EC2Reason, c.EC2Error = why(c.Inventory.EC2Err)
	c.MetadataReason, c.MetadataError = why(c.Inventory.MetadataErr)
	if err != nil {
		c.EC2Error = err.Error()
		var op *eni.OpError
		if errors.As(err, &op) {
			c.EC2Reason = op.Reason()
		}
		return c
	}
	c.askSubnets(ctx, cfg)
	return c
}

// why returns the reason and the text of an error.
func why(err error) (reason, text string) {
	if err == nil {
		return "", ""
	}
	var op *eni.OpError
	if errors.As(err, &op) {
		reason = op.Reason()
	}
	return reason, err.Error()
}

// askSubnets reads the free addresses of the subnets of the ENIs.
func (c *cloudFacts) askSubnets(ctx context.Context, cfg aws.Config) {
	ids := map[string]bool{}
	var in ec2.DescribeSubnetsInput
	for _, e := range c.Inventory.ENIs {
		if e.SubnetID != "" && !ids[e.SubnetID] {
			ids[e.SubnetID] = true
			in.SubnetIds = append(in.SubnetIds, e.SubnetID)
		}
	}
	if len(in.SubnetIds) == 0 || c.EC2Error != "" {
		return
	}
	out, err := ec2.NewFromConfig(cfg).DescribeSubnets(ctx, &in)
	if err != nil {
		c.EC2Error = err.Error()
		return
	}
	c.FreeAddrs = map[string]int{}
	for _, s := range out.Subnets {
		c.FreeAddrs[aws.ToString(s.SubnetId)] = int(aws.ToInt32(s.AvailableIpAddressCount))
	}
}

// proxyFor returns the proxy that the variables name for a URL, without its password.
func proxyFor(endpoint, usual string) string {
	if endpoint == "" {
		endpoint = usual
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil || proxy == nil {
		return ""
	}
	proxy.User = nil
	return proxy.String()
}

// fileSet is a set of files by path without a leading slash. As a file system it has only what
// [fs.ReadFile] and [fs.Glob] need.
type fileSet map[string][]byte

// Open implements fs.FS. No file can be opened, because ReadFile and Glob do not do so.
func (f fileSet) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

// ReadFile implements fs.ReadFileFS.
func (f fileSet) ReadFile(name string) ([]byte, error) {
	if data, ok := f[name]; ok {
		return data, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Glob implements fs.GlobFS.
func (f fileSet) Glob(pattern string) (found []string, err error) {
	for name := range f {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found, nil
}

// recorder is the file system of a node. It records what is read of it, for a bundle.
type recorder struct {
	fs.FS
	read fileSet
}

// ReadFile implements fs.ReadFileFS.
func (r recorder) ReadFile(name string) ([]byte, error) {
	data, err := fs.ReadFile(r.FS, name)
	if err == nil {
		r.read[name] = data
	}
	return data, err
}

// Glob implements fs.GlobFS.
func (r recorder) Glob(pattern string) ([]string, error) {
	found, err := fs.Glob(r.FS, pattern)
	for _, name := range found {
		if _, ok := r.read[name]; !ok {
			r.read[name] = nil
		}
	}
	return found, err
}

// rooted returns a path as fs.FS wants it.
func rooted(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }
