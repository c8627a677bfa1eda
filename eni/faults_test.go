// SPDX-License-Identifier: Apache-2.0

package eni_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/eni/enitest"
	"github.com/vpcnet/vpcnet/internal/race"
)

// disturbance is one way in which EC2, or a program between the node and EC2, fails to
// do or to answer a call.
type disturbance struct {
	name string
	// apply answers a request. It may pass it on to EC2.
	apply func(x *faultNode, r *http.Request) (*http.Response, error)
	// code is the code that Call.Code must have.
	code string
	// lasts is how long the calls are disturbed.
	lasts time.Duration
	// passes says that the fault passes by itself, so that a new ENI must survive it.
	passes bool
	// only are the first letters of the actions to disturb. Empty means all.
	only string
}

// How long faults last: those that are not final within Config.Lag end before, and all
// others last long enough to count retries.
const (
	withinLag = 90 * time.Second
	forLong   = 3 * time.Minute
)

// refuse answers with an error of EC2 and does not execute the call.
func refuse(status int, code, message string, clock time.Duration) func(*faultNode, *http.Request) (*http.Response, error) {
	return func(_ *faultNode, r *http.Request) (*http.Response, error) {
		res := answerOf(r, status, "text/xml", "<Response><Errors><Error><Code>"+code+"</Code><Message>"+message+"</Message></Error></Errors><RequestID>1</RequestID></Response>")
		res.Header.Set("Date", time.Now().Add(clock).UTC().Format(http.TimeFormat))
		return res, nil
	}
}

// answerOf returns an answer with a body.
func answerOf(r *http.Request, status int, contentType, body string) *http.Response {
	return &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Request: r, Header: http.Header{"Content-Type": {contentType}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// html answers with a page of a proxy. If executed is set, the call reaches EC2 before.
func html(status int, executed bool, page string) func(*faultNode, *http.Request) (*http.Response, error) {
	return func(x *faultNode, r *http.Request) (*http.Response, error) {
		if executed {
			if _, err := x.rt.RoundTrip(r); err != nil {
				return nil, err
			}
		}
		return answerOf(r, status, "text/html", page), nil
	}
}

// Pages of proxies: one that a parser of XML accepts, and one that it does not.
const (
	tidyPage  = "<html><head><title>Blocked</title></head><body><p>by the proxy</p></body></html>"
	usualPage = "<!DOCTYPE html><html><head><meta charset=utf-8><title>Bad gateway</title><body><p>Bad gateway<br>nginx"
)

// truncate executes the call and returns the first half of its answer.
func truncate(x *faultNode, r *http.Request) (*http.Response, error) {
	return editResponse(x.rt, r, func(body string) string { return body[:len(body)/2] })
}

// reset executes the call and loses the answer.
func reset(x *faultNode, r *http.Request) (*http.Response, error) {
	if _, err := x.rt.RoundTrip(r); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("read tcp 10.0.0.1:1->10.0.0.2:443: read: %w", syscall.ECONNRESET)
}

// cancelBefore and cancelAfter end the context of the operation before and after EC2
// has executed the call.
func cancelBefore(x *faultNode, r *http.Request) (*http.Response, error) {
	x.cancel()
	return nil, r.Context().Err()
}

func cancelAfter(x *faultNode, r *http.Request) (*http.Response, error) {
	if _, err := x.rt.RoundTrip(r); err != nil {
		return nil, err
	}
	x.cancel()
	return nil, r.Context().Err()
}

// emptyList answers a describe call with an empty list.
func emptyList(x *faultNode, r *http.Request) (*http.Response, error) {
	set := regexp.MustCompile(`(?s)<(\w+Set|instanceTypeSet)>.*</(\w+Set|instanceTypeSet)>`)
	return editResponse(x.rt, r, func(body string) string { return set.ReplaceAllString(body, "") })
}

var every = flag.Bool("every", false, "run TestEveryCallEveryFault with every code for every action, which takes a minute")

// disturbances lists the ways to disturb an action: the rows of the table of errors,
// codes without a row, and faults of the way to EC2. Of the codes with the same meaning
// it lists the first, and a quarter of the others, which is another one for the next
// action, unless the flag -every is set.
func disturbances(action string, turn int) []disturbance {
	out := []disturbance{
		{name: "unknown code", code: "NewsToUs", apply: refuse(400, "NewsToUs", "never heard of", 0), lasts: forLong, passes: true},
		{name: "unknown code of a failure", code: "NewsToUs", apply: refuse(500, "NewsToUs", "never heard of", 0), lasts: forLong, passes: true},
		{name: "truncated", code: "error", apply: truncate, lasts: forLong, passes: true},
		{name: "reset", code: "error", apply: reset, lasts: forLong, passes: true},
		{name: "canceled before", code: "error", apply: cancelBefore, lasts: forLong, passes: true},
		{name: "canceled after", code: "error", apply: cancelAfter, lasts: forLong, passes: true},
		{name: "proxy 407", code: "error", apply: html(407, false, tidyPage), lasts: forLong, passes: true},
		{name: "proxy 502", code: "error", apply: html(502, false, usualPage), lasts: forLong, passes: true},
		{name: "proxy 504 after EC2 has executed the call", code: "error", apply: html(504, true, tidyPage), lasts: forLong, passes: true},
		{name: "proxy 200", code: "error", apply: html(200, false, tidyPage), lasts: forLong, passes: true},
		{name: "proxy 200, not XML", code: "error", apply: html(200, false, usualPage), lasts: forLong, passes: true},
		{name: "proxy 200, nothing", code: "error", apply: html(200, false, ""), lasts: forLong, passes: true},
		{name: "empty list", apply: emptyList, lasts: withinLag, passes: true, only: "Describe"},
		{name: "clock", code: "RequestExpired", apply: refuse(400, "RequestExpired", "Request has expired.", time.Hour), lasts: forLong, passes: true},
	}
	seen := map[eni.ErrorRow]bool{}
	for i, row := range eni.ErrorRows(action) {
		meaning := row
		if row.Code != "UnsupportedOperation" && row.Code != "Ipv6AddressLimitExceeded" {
			meaning.Code = "" // the package does not ask for other codes
		}
		if seen[meaning] && (i+turn)%4 != 0 && !*every {
			continue
		}
		seen[meaning] = true
		d := disturbance{name: row.Code, code: row.Code, lasts: forLong}
		if row.Text != "" {
			d.name += " " + row.Text
		}
		switch row.Reason {
		case eni.ReasonNotFound, eni.ReasonInUse:
			d.lasts, d.passes = withinLag, true
		case eni.ReasonThrottled, eni.ReasonUnreachable:
			d.passes = true
		case eni.ReasonUnauthorized:
			d.passes = !row.Rest
		}
		status := 400
		if row.Reason == eni.ReasonUnreachable || row.Reason == eni.ReasonThrottled {
			status = 503
		}
		d.apply = refuse(status, row.Code, "because "+row.Text, 0)
		out = append(out, d)
	}
	return slices.DeleteFunc(out, func(d disturbance) bool { return !strings.HasPrefix(action, d.only) })
}

// faultNode is a node that has disturbed calls of one action.
type faultNode struct {
	*world
	inst   enitest.Instance
	m      *eni.Manager
	rt     http.RoundTripper
	cancel context.CancelFunc // of the operation
	base   eni.ENI            // with an address in use
	used   netip.Prefix
	target string // the ENI that the operation is about
	blocks []netip.Prefix
	branch eni.Branch

	disturb   *disturbance
	begin     time.Time // of the disturbance
	action    string
	disturbed int            // calls
	latest    bool           // whether the latest call was disturbed
	counted   map[string]int // calls of the action, by Call.Code
	at        []time.Time    // of calls that change something
	deletes   int
}

// RoundTrip disturbs the calls of the action.
func (x *faultNode) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost {
		return x.rt.RoundTrip(r) // for the metadata service
	}
	action := x.form(r).Get("Action")
	if mutates(action) {
		x.at = append(x.at, time.Now())
	}
	if action == "DeleteNetworkInterface" {
		x.deletes++
	}
	if x.latest = x.disturb != nil && action == x.action && time.Since(x.begin) <= x.disturb.lasts; !x.latest {
		return x.rt.RoundTrip(r)
	}
	x.disturbed++
	return x.disturb.apply(x, r)
}

// disturbedOp is an operation that makes calls of an action.
type disturbedOp struct {
	subnets eni.SubnetSelector
	kind    string // of the instance
	prepare func(x *faultNode)
	do      func(x *faultNode, ctx context.Context) error
	// done returns what is missing at EC2 after do has succeeded.
	done func(x *faultNode) string
	// adds is how many ENIs there are more at the end.
	adds int
	// creates says that the operation creates an ENI.
	creates bool
}

// opOf holds the operation for each action.
var opOf = map[string]disturbedOp{
	"DescribeNetworkInterfaces":          {do: (*faultNode).discover, done: (*faultNode).unchanged},
	"CreateNetworkInterface":             {do: (*faultNode).addENI, done: (*faultNode).complete, adds: 1, creates: true},
	"AttachNetworkInterface":             {do: (*faultNode).addENI, done: (*faultNode).complete, adds: 1, creates: true},
	"ModifyNetworkInterfaceAttribute":    {do: (*faultNode).addENI, done: (*faultNode).complete, adds: 1, creates: true},
	"DescribeSubnets":                    {do: (*faultNode).addENI, done: (*faultNode).complete, adds: 1, creates: true, subnets: eni.SubnetsByTag{}},
	"DescribeInstanceTypes":              {do: (*faultNode).addENI, done: (*faultNode).complete, adds: 1, creates: true, kind: "zz1.large"},
	"DetachNetworkInterface":             {prepare: (*faultNode).second, do: (*faultNode).retire, done: (*faultNode).gone},
	"DeleteNetworkInterface":             {prepare: (*faultNode).second, do: (*faultNode).retire, done: (*faultNode).gone},
	"AssignPrivateIpAddresses":           {do: assignTo(eni.IPv4), done: (*faultNode).assigned},
	"AssignIpv6Addresses":                {do: assignTo(eni.IPv6), done: (*faultNode).assigned},
	"UnassignPrivateIpAddresses":         {prepare: assignBefore(eni.IPv4), do: (*faultNode).unassign, done: (*faultNode).unassigned},
	"UnassignIpv6Addresses":              {prepare: assignBefore(eni.IPv6), do: (*faultNode).unassign, done: (*faultNode).unassigned},
	"CreateTags":                         {prepare: (*faultNode).foreign, do: (*faultNode).adopt, done: (*faultNode).tagged, adds: 1},
	"AssociateTrunkInterface":            {prepare: (*faultNode).trunk, do: (*faultNode).addBranch, done: (*faultNode).associated, adds: 2, creates: true},
	"DescribeTrunkInterfaceAssociations": {prepare: (*faultNode).trunk, do: (*faultNode).addBranch, done: (*faultNode).associated, adds: 2, creates: true},
	"DisassociateTrunkInterface":         {prepare: (*faultNode).branched, do: (*faultNode).retireBranch, done: (*faultNode).gone, adds: 1},
	"DescribeSecurityGroups":             {prepare: (*faultNode).group, do: (*faultNode).checkGroup, done: (*faultNode).unchanged},
	"DescribeRouteTables":                {prepare: (*faultNode).uncheck, do: (*faultNode).route, done: (*faultNode).routed},
	"CreateRoute":                        {prepare: (*faultNode).uncheck, do: (*faultNode).route, done: (*faultNode).routed},
	"ReplaceRoute":                       {prepare: (*faultNode).blackhole, do: (*faultNode).route, done: (*faultNode).routed, adds: 1},
}

// group makes a security group the target.
func (x *faultNode) group() {
	g, err := x.AddSecurityGroup(x.vpc.ID, "pods", nil)
	x.check(err)
	x.target = g.ID
}

func (x *faultNode) checkGroup(ctx context.Context) error {
	return x.m.CheckPlacement(ctx, nil, eni.FixedGroups{x.target})
}

// routedPrefix is the prefix of the node.
var routedPrefix = netip.MustParsePrefix("100.65.129.0/24")

// uncheck switches off the source/destination check of the primary ENI.
func (x *faultNode) uncheck() { x.check(x.m.RoutePrefix(x.t.Context(), routedPrefix, nil)) }

// blackhole adds a route for the prefix of the node to an ENI that is not attached.
func (x *faultNode) blackhole() {
	x.uncheck()
	api := ec2.NewFromConfig(x.config(x.inst.ID, nil))
	lone, err := api.CreateNetworkInterface(x.t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &x.subnet.ID})
	x.check(err)
	_, err = api.CreateRoute(x.t.Context(), &ec2.CreateRouteInput{
		RouteTableId: aws.String(x.RouteTables()[0].ID), DestinationCidrBlock: aws.String(routedPrefix.String()), NetworkInterfaceId: lone.NetworkInterface.NetworkInterfaceId,
	})
	x.check(err)
}

func (x *faultNode) route(ctx context.Context) error {
	return x.m.RoutePrefix(ctx, routedPrefix, []string{x.RouteTables()[0].ID})
}

// routed returns what is missing of the route to the primary ENI.
func (x *faultNode) routed() string {
	primary := x.primary(x.inst).ID
	for _, r := range x.RouteTables()[0].Routes {
		if r.Destination == routedPrefix && r.Target == primary {
			return ""
		}
	}
	return fmt.Sprintf("no route to %s: %+v", primary, x.RouteTables()[0].Routes)
}

func (x *faultNode) discover(ctx context.Context) error {
	inv, err := x.m.Discover(ctx)
	if err == nil {
		err = inv.EC2Err
	}
	return err
}

// addENI provisions an ENI, unless an earlier try has led to one.
func (x *faultNode) addENI(ctx context.Context) error {
	for _, e := range x.m.Inventory().ENIs {
		if e.Managed && !e.Primary && e.ID != x.base.ID && !e.InFlight {
			x.target = e.ID
			return nil
		}
	}
	e, err := x.m.Provision(ctx, eni.ProvisionInput{Slots: 2})
	x.target = e.ID
	return err
}

func (x *faultNode) second() {
	x.target = x.provision(x.m, eni.ProvisionInput{Slots: 1}).ID
	time.Sleep(10 * time.Minute)
}

func (x *faultNode) retire(ctx context.Context) error { return x.m.Retire(ctx, x.target) }

// assignTo assigns an address, unless an earlier try has led to one.
func assignTo(f eni.Family) func(*faultNode, context.Context) error {
	return func(x *faultNode, ctx context.Context) error {
		if err := x.discover(ctx); err != nil {
			return err
		}
		e, _ := x.m.Inventory().ENI(x.base.ID)
		if x.blocks = slices.DeleteFunc(e.Blocks(), func(b netip.Prefix) bool { return slices.Contains(x.base.Blocks(), b) }); len(x.blocks) > 0 {
			return nil
		}
		got, err := x.m.Assign(ctx, eni.AssignInput{ENI: x.base.ID, Slots: 1, Family: f})
		if err == nil {
			x.blocks = got
		}
		return err
	}
}

func assignBefore(f eni.Family) func(*faultNode) {
	return func(x *faultNode) {
		got, err := x.m.Assign(x.t.Context(), eni.AssignInput{ENI: x.base.ID, Slots: 2, Family: f})
		x.check(err)
		x.blocks = got
		time.Sleep(10 * time.Minute)
	}
}

func (x *faultNode) unassign(ctx context.Context) error {
	return x.m.Unassign(ctx, eni.UnassignInput{ENI: x.base.ID, Blocks: x.blocks})
}

// foreign attaches an ENI of another program.
func (x *faultNode) foreign() {
	api := ec2.NewFromConfig(x.config(x.inst.ID, nil))
	out, err := api.CreateNetworkInterface(x.t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: &x.subnet.ID})
	x.check(err)
	x.target = *out.NetworkInterface.NetworkInterfaceId
	_, err = api.AttachNetworkInterface(x.t.Context(), &ec2.AttachNetworkInterfaceInput{
		NetworkInterfaceId: &x.target, InstanceId: &x.inst.ID, DeviceIndex: aws.Int32(2),
	})
	x.check(err)
	time.Sleep(5 * time.Minute)
	_, err = x.m.Discover(x.t.Context())
	x.check(err)
}

func (x *faultNode) adopt(ctx context.Context) error { return x.m.Adopt(ctx, x.target) }

func (x *faultNode) trunk() {
	x.branch.Trunk = x.provision(x.m, eni.ProvisionInput{Kind: eni.KindTrunk}).ID
	time.Sleep(5 * time.Minute)
}

// addBranch creates a branch, unless an earlier try has led to one.
func (x *faultNode) addBranch(ctx context.Context) error {
	if open, err := x.m.Unfinished(ctx); len(open) > 0 || err != nil {
		return errors.Join(eni.NewOpError("branch", eni.ReasonStillInFlight, nil), err)
	}
	for _, e := range x.ENIs() {
		if e.Trunk != nil {
			x.branch.ENI, x.branch.VLANID, x.target = e.ID, e.Trunk.VLANID, e.ID
			return nil
		}
	}
	_, b, err := x.m.CreateBranch(ctx, eni.BranchInput{Trunk: x.branch.Trunk})
	if err == nil {
		x.branch, x.target = b, b.ENI
	}
	return err
}

func (x *faultNode) branched() {
	x.trunk()
	x.check(x.addBranch(x.t.Context()))
	time.Sleep(5 * time.Minute)
}

// retireBranch retires the branch and resumes after its cooldown.
func (x *faultNode) retireBranch(ctx context.Context) error {
	if err := x.m.RetireBranch(ctx, x.branch); err != nil {
		return err
	}
	time.Sleep(61 * time.Second)
	return x.m.Resume(ctx)
}

func (x *faultNode) unchanged() string { return "" }

func (x *faultNode) complete() string {
	e, ok := x.ENI(x.target)
	if !ok || e.Attachment == nil || !e.Attachment.DeleteOnTermination || e.Attachment.Instance != x.inst.ID {
		return fmt.Sprintf("the ENI %q is not complete: %+v", x.target, e)
	}
	return ""
}

func (x *faultNode) gone() string {
	if e, ok := x.ENI(x.target); ok {
		return fmt.Sprintf("the ENI exists: %+v", e)
	}
	return ""
}

func (x *faultNode) assigned() string {
	e, _ := x.ENI(x.base.ID)
	have := allBlocks(e)
	for _, b := range x.blocks {
		if !slices.Contains(have, b) {
			return fmt.Sprintf("%s is not on the ENI", b)
		}
	}
	if len(x.blocks) == 0 {
		return "nothing was assigned"
	}
	return ""
}

// allBlocks returns the secondary addresses and prefixes of an ENI of both families.
func allBlocks(e enitest.ENI) []netip.Prefix {
	out := blocks(e)
	for _, a := range e.IPv6Addrs {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

func (x *faultNode) unassigned() string {
	e, _ := x.ENI(x.base.ID)
	have := allBlocks(e)
	for _, b := range x.blocks {
		if slices.Contains(have, b) {
			return fmt.Sprintf("%s is still on the ENI", b)
		}
	}
	return ""
}

func (x *faultNode) tagged() string {
	if e, _ := x.ENI(x.target); e.Tags[eni.TagInstance] != x.inst.ID {
		return fmt.Sprintf("the tags are %v", e.Tags)
	}
	return ""
}

func (x *faultNode) associated() string {
	if e, _ := x.ENI(x.target); e.Trunk == nil || e.Trunk.VLANID != x.branch.VLANID {
		return fmt.Sprintf("the branch is not associated: %+v", e)
	}
	return ""
}

// newFaultNode starts a node with an ENI that a pod uses.
func newFaultNode(t *testing.T, action string, op disturbedOp) *faultNode {
	x := &faultNode{
		world: newWorld(t, enitest.Config{Types: []enitest.InstanceType{
			{Name: "zz1.large", ENIs: []int{4}, IPv4PerENI: 6, IPv6PerENI: 6, Hypervisor: "nitro"},
		}}),
		action: action, counted: map[string]int{},
	}
	kind := op.kind
	if kind == "" {
		kind = "m5.xlarge"
	}
	x.inst = x.world.run(kind)
	x.check(x.AddTags(x.subnet.ID, map[string]string{eni.TagSubnetRole: "1"}))
	cfg := fast
	cfg.OnCall = func(c eni.Call) {
		if c.Action == action && x.latest && c.Code != "" {
			x.counted[c.Code]++
		}
	}
	awsConfig := x.config(x.inst.ID, func(rt http.RoundTripper) http.RoundTripper {
		x.rt = rt
		return x
	})
	first := x.manager(x.inst, eni.Config{})
	x.base = x.provision(first, eni.ProvisionInput{Slots: 2})
	x.used = x.base.Blocks()[0]
	time.Sleep(5 * time.Minute)
	x.m = x.manager(x.inst, eni.Config{
		Client: eni.NewClient(awsConfig, cfg), Subnets: op.subnets,
		InUse: inUse(func(id string, b netip.Prefix) bool { return id == x.base.ID && b == x.used }),
	})
	_, err := x.m.Discover(t.Context())
	x.check(err)
	if op.prepare != nil {
		op.prepare(x)
	}
	x.deletes, x.at = 0, nil
	return x
}

// try does the operation once. An operation that reports success must be done.
func (x *faultNode) try(op disturbedOp) (ok bool) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), 5*time.Minute)
	defer cancel()
	x.cancel = cancel
	err := op.do(x, ctx)
	var failed *eni.OpError
	switch {
	case err == nil:
		if missing := op.done(x); missing != "" {
			x.t.Errorf("reported as done: %s", missing)
		}
		return true
	case !errors.As(err, &failed):
		x.t.Errorf("error without a reason: %v", err)
	default:
		time.Sleep(max(failed.RetryAfter(), 5*time.Second))
	}
	return false
}

// keepsBase checks that the ENI that a pod uses is unchanged.
func (x *faultNode) keepsBase() {
	x.t.Helper()
	if e, ok := x.ENI(x.base.ID); !ok || e.Attachment == nil || !slices.Contains(blocks(e), x.used) {
		x.t.Errorf("the ENI in use is now %+v", e)
	}
	if e, ok := x.m.Inventory().ENI(x.base.ID); !ok || !e.ForPods() || !slices.Contains(e.Blocks(), x.used) {
		x.t.Errorf("the inventory has the ENI in use as %+v", e)
	}
}

// maxMutating is how many calls in a minute may change something while EC2 refuses
// them.
const maxMutating = 12

// run disturbs the operation until the fault ends, and then finishes it.
func (x *faultNode) run(op disturbedOp, d disturbance) {
	x.disturb, x.begin = &d, time.Now()
	ok := false
	for !ok && time.Since(x.begin) < d.lasts {
		ok = x.try(op)
		x.keepsBase()
		_ = x.m.Resume(x.t.Context())
	}
	if n := busiestMinute(x.at); n > maxMutating {
		x.t.Errorf("%d calls in a minute change something, want at most %d: %v", n, maxMutating, x.Calls())
	}
	x.disturb = nil
	if n := x.counted[d.code]; d.code != "" && (n != x.disturbed || len(x.counted) > 1) {
		x.t.Errorf("the metric counts %v for %d calls, want all as %q", x.counted, x.disturbed, d.code)
	}
	if x.disturbed == 0 {
		x.t.Error("no call was disturbed")
	}
	for begin := time.Now(); !ok; ok = x.try(op) {
		if time.Since(begin) > 30*time.Minute {
			x.t.Fatal("the operation fails after the fault has ended")
		}
		_ = x.m.Resume(x.t.Context())
	}
	if d.passes && op.creates && x.deletes > 0 {
		x.t.Errorf("%d ENIs were deleted, want none", x.deletes)
	}
	for range 2 {
		time.Sleep(5 * time.Minute)
		x.check(x.m.Resume(x.t.Context()))
		x.check(x.discover(x.t.Context()))
	}
	x.keepsBase()
	if open, err := x.m.Unfinished(x.t.Context()); len(open) > 0 || err != nil {
		x.t.Errorf("unfinished at the end: %+v, %v", open, err)
	}
	if have, want := len(x.ENIs()), 2+op.adds; have != want {
		x.t.Errorf("%d ENIs at the end, want %d", have, want)
	}
}

// busiestMinute returns the largest number of times within a minute.
func busiestMinute(at []time.Time) int {
	most := 0
	for i := range at {
		n := 0
		for _, other := range at[i:] {
			if other.Sub(at[i]) < time.Minute {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// TestEveryCallEveryFault disturbs each call that the package makes in each way. In
// all cases no ENI leaks, a good one survives, nothing is reported as done that is not,
// the calls are few, and OnCall reports each try by its code.
func TestEveryCallEveryFault(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range regexp.MustCompile(`"([A-Z]\w+)", (?:read|repeatable|once),`).FindAllStringSubmatch(string(source), -1) {
			if _, ok := opOf[call[1]]; !ok {
				t.Errorf("no operation for %s in %s", call[1], file)
			}
		}
	}
	for turn, action := range slices.Sorted(maps.Keys(opOf)) {
		if race.Enabled && turn%4 != 0 {
			continue
		}
		op := opOf[action]
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			for _, d := range disturbances(action, turn) {
				t.Run(d.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { newFaultNode(t, action, op).run(op, d) })
				})
			}
		})
	}
}
