// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"github.com/vpcnet/vpcnet/ipam"
)

// The agent adds an ENI and a delegated prefix, and a pod gets an address.
func Example() {
	pool, err := ipam.Open(ipam.Config{Cooldown: 30 * time.Second})
	if err != nil {
		log.Fatal(err)
	}

	// The agent: an ENI and a delegated prefix, and SetReady when the link is up.
	err = errors.Join(
		pool.SetENI(ipam.ENI{ID: "eni-0a1b", Device: 1}),
		pool.AddBlocks(ipam.Block{Prefix: netip.MustParsePrefix("10.0.0.16/28"), ENI: "eni-0a1b"}),
		pool.SetReady("eni-0a1b", true),
	)
	if err != nil {
		log.Fatal(err)
	}

	// A pod: two CNI ADDs with the same result, and a DEL.
	pod := ipam.Attachment{Network: "vpcnet", ContainerID: "4f1a", IfName: "eth0"}
	for range 2 {
		got, err := pool.Allocate(context.Background(), ipam.Request{Attachment: pod})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(got[0].Addr, "on", got[0].ENI)
	}
	if _, err := pool.Release(pod); err != nil {
		log.Fatal(err)
	}

	b := pool.View().ENIs[0].Blocks[0]
	fmt.Println(b.Used, "used,", b.Cooling, "cooling,", b.Free, "free")
	// Output:
	// 10.0.0.16 on eni-0a1b
	// 10.0.0.16 on eni-0a1b
	// 0 used, 1 cooling, 15 free
}

// The error says why no address is available.
func ExampleExhaustedError() {
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		log.Fatal(err)
	}
	pool.SetOutlook(0, ipam.IPv4, ipam.Outlook{
		Reason: ipam.ReasonENILimit, Evidence: "a t3.medium takes 3 ENIs", Final: true,
	})

	pod := ipam.Attachment{Network: "vpcnet", ContainerID: "4f1a", IfName: "eth0"}
	_, err = pool.Allocate(context.Background(), ipam.Request{Attachment: pod})
	var why *ipam.ExhaustedError
	if errors.As(err, &why) {
		fmt.Println(why.Reason)
		fmt.Println(why)
	}
	// Output:
	// eni-limit
	// no IPv4 address on card 0 for vpcnet/4f1a/eth0: eni-limit: a t3.medium takes 3 ENIs; 0 blocks, 0 addresses used, 0 cooling
}

// DrainBlocks is refused while a pod uses an address of the prefix.
func ExamplePool_DrainBlocks() {
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		log.Fatal(err)
	}
	prefix := netip.MustParsePrefix("10.0.0.16/28")
	pod := ipam.Attachment{Network: "vpcnet", ContainerID: "4f1a", IfName: "eth0"}
	err = errors.Join(
		pool.SetENI(ipam.ENI{ID: "eni-0a1b"}),
		pool.AddBlocks(ipam.Block{Prefix: prefix, ENI: "eni-0a1b"}),
		pool.SetReady("eni-0a1b", true),
	)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := pool.Allocate(context.Background(), ipam.Request{Attachment: pod}); err != nil {
		log.Fatal(err)
	}

	fmt.Println(pool.DrainBlocks(prefix))
	// Output:
	// block 10.0.0.16/28 on eni-0a1b: 1 used, 0 cooling: addresses in use or cooling
}

// GC of CNI lists the attachments that are still valid in one network.
func ExamplePool_ReleaseIf() {
	pool, err := ipam.Open(ipam.Config{})
	if err != nil {
		log.Fatal(err)
	}
	err = errors.Join(
		pool.SetENI(ipam.ENI{ID: "eni-0a1b"}),
		pool.AddBlocks(ipam.Block{Prefix: netip.MustParsePrefix("10.0.0.16/28"), ENI: "eni-0a1b"}),
		pool.SetReady("eni-0a1b", true),
	)
	if err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"alive", "dead"} {
		r := ipam.Request{Attachment: ipam.Attachment{Network: "vpcnet", ContainerID: id, IfName: "eth0"}}
		if _, err := pool.Allocate(context.Background(), r); err != nil {
			log.Fatal(err)
		}
	}

	started := time.Now() // the list does not cover allocations made or requested again after this time
	valid := map[ipam.Attachment]bool{{Network: "vpcnet", ContainerID: "alive", IfName: "eth0"}: true}
	gone, err := pool.ReleaseIf(func(a ipam.Allocation) bool {
		return a.Network == "vpcnet" && !valid[a.Attachment] && a.At.Before(started) && a.RequestedAt.Before(started)
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, a := range gone {
		fmt.Println("released", a.Addr, "of", a.Attachment)
	}
	// Output:
	// released 10.0.0.17 of vpcnet/dead/eth0
}
