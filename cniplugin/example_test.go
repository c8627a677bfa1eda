// SPDX-License-Identifier: Apache-2.0

package cniplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/version"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
	"github.com/vpcnet/vpcnet/cniplugin/servertest"
)

// A list that chains the upstream portmap plugin after vpc-cni, for hostPort.
func ExampleConflist() {
	list := cniplugin.Conflist{
		Conf:    cniplugin.NetConf{LogFile: "/var/log/vpc-cni.log"},
		Chained: []json.RawMessage{json.RawMessage(`{"type":"portmap","capabilities":{"portMappings":true}}`)},
	}
	b, err := list.JSON()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(b))
	// Output:
	// {
	//   "cniVersion": "1.0.0",
	//   "cniVersions": [
	//     "1.0.0",
	//     "1.1.0"
	//   ],
	//   "name": "vpcnet",
	//   "plugins": [
	//     {
	//       "type": "vpc-cni",
	//       "pluginLogFile": "/var/log/vpc-cni.log"
	//     },
	//     {
	//       "type": "portmap",
	//       "capabilities": {
	//         "portMappings": true
	//       }
	//     }
	//   ]
	// }
}

// A program runs the plugin, here with the command VERSION.
func ExamplePlugin_Main() {
	environment := map[string]string{"CNI_COMMAND": "VERSION"}
	status := cniplugin.Plugin{}.Main(context.Background(), cniplugin.Invocation{
		Getenv: func(name string) string { return environment[name] },
		Stdin:  strings.NewReader(`{"cniVersion": "1.0.0"}`),
		Stdout: os.Stdout,
		Stderr: os.Stderr,
	})
	fmt.Println("exit status", status)
	// Output:
	// {
	//     "cniVersion": "1.0.0",
	//     "supportedVersions": [
	//         "0.1.0",
	//         "0.2.0",
	//         "0.3.0",
	//         "0.3.1",
	//         "0.4.0",
	//         "1.0.0",
	//         "1.1.0"
	//     ]
	// }
	// exit status 0
}

// The error for a configuration with an invalid value.
func ExampleParseNetConf() {
	_, err := cniplugin.ParseNetConf([]byte(`{"cniVersion": "1.0.0", "name": "vpcnet", "mtu": "60"}`))
	var e *cniplugin.Error
	if errors.As(err, &e) {
		fmt.Println(e.Code, e.Msg)
	}
	fmt.Println(e.Details)
	// Output:
	// 7 invalid mtu "60"
	// MTU 60, want 68 to 65535
}

// A program that asks the agent by itself gives the runtime the error that the plugin
// would give.
func ExampleCNIError() {
	err := fmt.Errorf("add: %w", &cniplugin.AgentError{
		Code: cniplugin.CodeTryAgainLater, Reason: "subnet-full", Message: "no IPv4 address for default/web", RetryAfter: 1500 * time.Millisecond,
	})
	e := cniplugin.CNIError(err)
	fmt.Println(e.Code, e)
	// Output:
	// 11 subnet-full: no IPv4 address for default/web; retry after 1.5s
}

// The addresses of an IPAM plugin's result, of whatever version it is.
func ExampleAddressesOf() {
	result, err := version.NewResult("0.2.0", []byte(`{"cniVersion": "0.2.0", "ip4": {"ip": "10.0.1.5/24"}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	addrs, err := cniplugin.AddressesOf(result)
	fmt.Println(addrs[0].Addr, err)
	// Output:
	// 10.0.1.5 <nil>
}

// Two pods ask an agent that has one address. Then the agent ends.
func ExampleClient() {
	dir, err := os.MkdirTemp("", "vpcnet")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "agent.sock")
	l, err := server.Listen(socket)
	if err != nil {
		fmt.Println(err)
		return
	}
	agent := servertest.New(servertest.Config{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.1.5/32")}, ENI: "eni-0a1b", Card: 1, Device: 1,
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- (&server.Server{Backend: agent, AllowUIDs: []uint32{uint32(os.Geteuid())}}).Serve(ctx, l)
	}()

	client := cniplugin.Client{Socket: socket, Wait: time.Second}
	for _, id := range []string{"web", "db"} {
		got, err := client.Add(ctx, cniplugin.AddRequest{
			Attachment: cniplugin.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"},
			Netns:      "/run/netns/" + id,
		})
		var e *cniplugin.AgentError
		if errors.As(err, &e) {
			fmt.Println(id, e.Code, e.Reason, e.RetryAfter)
			continue
		}
		fmt.Println(id, got.Addresses[0].Addr, "on", got.Addresses[0].ENI, "table", got.Addresses[0].Table)
	}
	stop()
	fmt.Println(<-done)
	err = cniplugin.Client{Socket: socket}.Status(context.Background())
	fmt.Println("agent is away:", errors.Is(err, cniplugin.ErrAgentAway))
	// Output:
	// web 10.0.1.5 on eni-0a1b table 10101
	// db 11 subnet-full 5s
	// <nil>
	// agent is away: true
}

// dryRun is a Wiring that prints what it would make.
type dryRun struct{}

func (dryRun) Add(_ context.Context, req cniplugin.WiringRequest) (*cniplugin.Result, error) {
	mac := req.MAC
	if mac == "" {
		mac = "02:00:00:00:00:01"
	}
	for _, a := range req.Allocated.Addresses {
		fmt.Fprintf(os.Stderr, "%s of %s gets %s on %s, MAC %s\n", req.IfName, req.Pod.Name, a.Addr, a.ENI, mac)
	}
	result := req.Result()
	result.Interfaces[0].Mac = mac
	return result, nil
}

func (dryRun) Del(context.Context, cniplugin.WiringRequest) error { return nil }

// A plugin that asks the agent for addresses, as vpc-cni does, and changes nothing in the kernel.
func ExampleWiring() {
	main := func() {
		os.Exit(cniplugin.Plugin{Wiring: dryRun{}}.Main(context.Background(), cniplugin.Invocation{
			Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		}))
	}
	_ = main
}
