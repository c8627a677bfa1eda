// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vpcnet/vpcnet/cniplugin"
	"github.com/vpcnet/vpcnet/cniplugin/server"
)

// A DEL finds no agent and leaves a tombstone. An agent that starts later collects
// it.
func ExampleCollectTombstones() {
	state, err := os.MkdirTemp("", "vpcnet")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(state)
	dir := cniplugin.TombstoneDir(state)
	web := cniplugin.Attachment{Network: "vpcnet", ContainerID: "web", IfName: "eth0"}
	if err := cniplugin.WriteTombstone(dir, cniplugin.Tombstone{Attachment: web, At: time.Now()}); err != nil {
		fmt.Println(err)
		return
	}
	n, err := server.CollectTombstones(context.Background(), dir, func(_ context.Context, t cniplugin.Tombstone) error {
		fmt.Println("release", t.Attachment)
		return nil
	})
	fmt.Println(n, err)
	// Output:
	// release vpcnet/web/eth0
	// 1 <nil>
}

// An agent announces the plugin to the runtime when it can serve pods.
func ExampleWriteConflist() {
	dir, err := os.MkdirTemp("", "net.d")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	changed, err := server.WriteConflist(filepath.Join(dir, "10-vpcnet.conflist"), filepath.Join(dir, "state"), cniplugin.Conflist{})
	fmt.Println(changed, err)
	// Output:
	// true <nil>
}
