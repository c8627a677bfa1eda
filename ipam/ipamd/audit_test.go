// SPDX-License-Identifier: Apache-2.0

package ipamd

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
)

const shown = "the metadata service shows other ENIs or addresses than are known"

// TestAudit checks that the audit makes no call to EC2 while nothing changes, even
// if the metadata service does not answer. If another program unassigns an address,
// the agent notices that within a minute, logs it once, and assigns another one.
func TestAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.run(t.Context(), 3)
		time.Sleep(10 * time.Minute)
		before := n.blocks()
		_, skip := n.since(0)
		if len(before) != 3 || skip == 0 || int(n.counted.Load()) != skip {
			t.Fatalf("%d blocks after %d calls, %d of them counted; want 3 blocks, all calls counted", len(before), skip, n.counted.Load())
		}
		quiet := func(when string) {
			t.Helper()
			if calls, _ := n.since(skip); len(calls) > 0 || int(n.counted.Load()) != skip || strings.Contains(n.log.String(), shown) {
				t.Fatalf("%s: calls %v, log\n%s", when, names(calls), n.log.String())
			}
		}
		time.Sleep(time.Hour)
		quiet("nothing changes")
		back := n.cloud.AddFault(enitest.Fault{Action: "meta-data/network/interfaces/macs/", Err: &enitest.APIError{Status: 500}})
		time.Sleep(10 * time.Minute)
		quiet("no metadata service")
		if !strings.Contains(n.log.String(), `"msg":"audit","err":`) {
			t.Errorf("the log lacks the failure of the metadata service:\n%s", n.log.String())
		}
		back()

		lost := before[0]
		_, err := n.otherClient().UnassignPrivateIpAddresses(t.Context(), &ec2.UnassignPrivateIpAddressesInput{
			NetworkInterfaceId: aws.String(n.primary().ID), PrivateIpAddresses: []string{lost.Addr().String()},
		})
		n.check(err)
		n.check(n.cloud.Occupy(n.subnet.ID, lost.Addr()))
		time.Sleep(auditEvery + 10*time.Second)
		after := n.blocks()
		if slices.Contains(after, lost) || len(after) != 3 {
			t.Errorf("blocks %v a minute after another program unassigned %v, want 3 without it", after, lost)
		}
		calls, skip := n.since(skip)
		if got := names(calls); !slices.Equal(got, []string{"AssignPrivateIpAddresses", "DescribeNetworkInterfaces"}) || len(calls) != 2 {
			t.Errorf("calls %v, want one observation and one refill", got)
		}
		time.Sleep(time.Hour)
		if calls, _ := n.since(skip); len(calls) > 0 || strings.Count(n.log.String(), shown) != 1 {
			t.Errorf("an hour later: calls %v, want none; log\n%s", names(calls), n.log.String())
		}
	})
}

// TestAuditSeesAnAttachment checks that the agent notices an ENI that another
// program attached, so that its device index does not count as free.
func TestAuditSeesAnAttachment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, nil)
		n.run(t.Context(), 3)
		time.Sleep(10 * time.Minute)
		made, err := n.otherClient().CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: aws.String(n.subnet.ID)})
		n.check(err)
		_, err = n.otherClient().AttachNetworkInterface(t.Context(), &ec2.AttachNetworkInterfaceInput{
			DeviceIndex: aws.Int32(1), InstanceId: aws.String(n.instance.ID), NetworkInterfaceId: made.NetworkInterface.NetworkInterfaceId,
		})
		n.check(err)
		time.Sleep(auditEvery + 10*time.Second)
		e, known := n.manager.Inventory().ENI(*made.NetworkInterface.NetworkInterfaceId)
		if !known || e.ForPods() || len(n.pool.View().ENIs) != 1 {
			t.Errorf("inventory %v, pool %v; want the ENI known and not used", n.manager.Inventory().ENIs, n.pool.View().ENIs)
		}
	})
}

// TestAuditFinishes checks that an operation that EC2 refuses to finish ends as soon
// as EC2 allows it, without a restart or another operation of the same kind.
func TestAuditFinishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		intents := eni.NewMemory()
		n := newNode(t, intents)
		n.check(intents.Put(t.Context(), halfMade(n.subnet.ID)))
		n.cloud.Deny("", "CreateNetworkInterface")
		if err := n.manager.Resume(t.Context()); err == nil {
			t.Fatal("Resume succeeded")
		}
		n.run(t.Context(), 3)
		time.Sleep(10 * time.Minute)
		if open, err := n.manager.Unfinished(t.Context()); err != nil || len(open) != 1 || len(n.blocks()) != 3 {
			t.Fatalf("open %v, %v, blocks %v; want one operation open and 3 blocks", open, err, n.blocks())
		}
		n.cloud.Allow("", "CreateNetworkInterface")
		time.Sleep(auditEvery + 30*time.Second)
		open, err := n.manager.Unfinished(t.Context())
		if err != nil || len(open) > 0 || len(n.pool.View().ENIs) != 2 {
			t.Errorf("open %v, %v, ENIs %v; want nothing open and the ENI in the pool\n%s", open, err, n.pool.View().ENIs, n.log.String())
		}
		if got := n.cloud.Calls()["AttachNetworkInterface"]; got != 1 {
			t.Errorf("%d ENIs attached, want 1", got)
		}
		if !strings.Contains(n.log.String(), `"msg":"unfinished operations ended","ended":1,"open":0`) {
			t.Errorf("the log lacks the end of the operation:\n%s", n.log.String())
		}
	})
}

// TestStillOpen checks that an operation that the agent begins while an earlier one ends
// does not hide the end of the earlier one.
func TestStillOpen(t *testing.T) {
	list := func(ids ...string) (all []eni.Intent) {
		for _, id := range ids {
			all = append(all, eni.Intent{ID: id})
		}
		return all
	}
	for _, c := range []struct {
		before, after []eni.Intent
		want          int
	}{
		{list("provision-1"), list("assign-2"), 0},
		{list("provision-1"), list("provision-1", "assign-2"), 1},
		{list("provision-1", "assign-2"), list("assign-2"), 1},
		{list("provision-1"), nil, 0},
	} {
		if got := stillOpen(c.before, c.after); got != c.want {
			t.Errorf("%v, then %v: %d still open, want %d", c.before, c.after, got, c.want)
		}
	}
}

// halfMade returns the intent of an ENI after a create call that got no answer.
func halfMade(subnet string) eni.Intent {
	at := time.Now().UTC()
	return eni.Intent{
		ID: "provision-1", Op: eni.OpProvision, Kind: eni.KindInterface, Device: 1,
		Start: at, Changed: at, Created: at.Truncate(time.Second), Token: "token-1", Subnet: subnet, Addrs: 2,
	}
}
