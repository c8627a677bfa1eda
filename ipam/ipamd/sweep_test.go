// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

// leave creates an ENI as a process of the instance does that is killed before it
// attaches the ENI. It returns the ENI's ID.
func (n *world) leave(instance string) string {
	n.t.Helper()
	var tags []types.Tag
	for key, value := range map[string]string{
		eni.TagOwner: "vpcnet", eni.TagInstance: instance, eni.TagCreated: time.Now().UTC().Format(time.RFC3339),
	} {
		tags = append(tags, types.Tag{Key: aws.String(key), Value: aws.String(value)})
	}
	made, err := n.otherClient().CreateNetworkInterface(n.t.Context(), &ec2.CreateNetworkInterfaceInput{
		SubnetId:          aws.String(n.subnet.ID),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeNetworkInterface, Tags: tags}},
	})
	n.check(err)
	return *made.NetworkInterface.NetworkInterfaceId
}

// exists reports whether EC2 has the ENI.
func (n *world) exists(id string) bool {
	return slices.ContainsFunc(n.cloud.ENIs(), func(e enitest.ENI) bool { return e.ID == id })
}

// sweeping starts the agent and its sweep.
func (n *world) sweeping() {
	n.t.Helper()
	n.run(n.t.Context(), 3)
	go n.node.sweep(n.t.Context(), n.client, n.manager)
}

// TestSweep checks that an ENI that an earlier process has created, and whose journal is
// lost, is deleted within half a minute after the start, that ENIs of other instances
// are not, and that an agent at rest makes no more than one call for each sweep.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		lost, other := n.leave(n.instance.ID), n.leave("i-0123456789abcdef0")
		time.Sleep(time.Second)
		n.sweeping()
		time.Sleep(30 * time.Second)
		if n.exists(lost) || !n.exists(other) {
			t.Errorf("half a minute after the start: lost ENI exists %v, that of another instance %v; want false, true\n%s", n.exists(lost), n.exists(other), n.log.String())
		}
		late := n.leave(n.instance.ID) // a call that EC2 carries out late
		_, skip := n.since(0)
		time.Sleep(14 * time.Minute)
		if calls, _ := n.since(skip); len(calls) > 0 || !n.exists(late) {
			t.Errorf("between the sweeps: calls %v, late ENI exists %v; want none, true", names(calls), n.exists(late))
		}
		time.Sleep(2 * time.Minute)
		if n.exists(late) || !n.exists(other) {
			t.Errorf("after the last sweep: late ENI exists %v, that of another instance %v; want false, true", n.exists(late), n.exists(other))
		}
		_, skip = n.since(0)
		time.Sleep(time.Hour)
		if calls, _ := n.since(skip); len(calls) > 0 {
			t.Errorf("calls %v in an hour after the last sweep, want none", names(calls))
		}
	})
}

// TestSweepWaits checks that no ENI is swept while the journal has an unfinished
// creation: it could be the ENI that is about to be attached.
func TestSweepWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		intents := eni.NewMemory()
		n := newNode(t, intents)
		n.check(intents.Put(t.Context(), halfMade(n.subnet.ID)))
		lost := n.leave(n.instance.ID)
		n.cloud.Deny("", "CreateNetworkInterface")
		n.sweeping()
		time.Sleep(10 * time.Minute)
		if !n.exists(lost) {
			t.Error("the ENI was swept during a creation")
		}
		n.cloud.Allow("", "CreateNetworkInterface")
		time.Sleep(2 * time.Minute)
		if n.exists(lost) {
			t.Errorf("the ENI exists after the end of the creation; log\n%s", n.log.String())
		}
	})
}
