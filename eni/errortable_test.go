// SPDX-License-Identifier: Apache-2.0

package eni

import (
	"errors"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
)

// TestErrorRows checks that each row has a known reason, that no earlier row hides
// it, and that each group of rows names its source.
func TestErrorRows(t *testing.T) {
	for i, r := range errorRows {
		if !slices.Contains(Reasons(), r.reason) || r.reason == ReasonUnknown {
			t.Errorf("%s has the reason %q", r.code, r.reason)
		}
		action := "Any"
		if len(r.calls) > 0 {
			action = r.calls[0]
		}
		if got := rowOf(action, r.code, "the text: "+r.text, false); got.reason != r.reason || got.text != r.text {
			t.Errorf("row %d, %s %q, is hidden by %q", i, r.code, r.text, got.text)
		}
	}
	source, err := os.ReadFile("errortable.go")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(source), "var errorRows = []errorRow{\n")
	table, _, _ = strings.Cut(table, "\n}\n")
	for _, group := range strings.Split(table, "\n\n") {
		if !strings.Contains(group, "// https://") && !strings.Contains(group, ": https://") {
			t.Errorf("no source is named for\n%s", group)
		}
	}
}

// TestErrorRowsOfSDK checks that the table covers the codes that the SDK's own
// retries recognize, because the Client replaces them.
func TestErrorRowsOfSDK(t *testing.T) {
	for reason, codes := range map[Reason]map[string]struct{}{
		ReasonThrottled:   retry.DefaultThrottleErrorCodes,
		ReasonUnreachable: retry.DefaultRetryableErrorCodes,
	} {
		for _, code := range slices.Sorted(maps.Keys(codes)) {
			if got := rowOf("AssignPrivateIpAddresses", code, "", false).reason; got != reason {
				t.Errorf("%s means %s, want %s", code, got, reason)
			}
		}
	}
}

// TestHints checks that errors of credentials name the token or the region.
func TestHints(t *testing.T) {
	for code, want := range map[string]string{
		"ExpiredToken": "session token", "InvalidClientTokenId": "session token", "AuthFailure": "region", "OptInRequired": "region",
	} {
		err := translate("a", &smithy.GenericAPIError{Code: code, Message: "because"})
		if got := err.Error(); !strings.Contains(got, want) || !strings.Contains(got, "because") || !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: %s, want %q in it", code, got, want)
		}
	}
}

// TestRowOf checks the choice of a row by code, text and action.
func TestRowOf(t *testing.T) {
	full := "There aren't sufficient free Ipv4 addresses or prefixes"
	for _, c := range []struct {
		action, code, text string
		server             bool
		reason             Reason
		lost               bool
	}{
		{"CreateNetworkInterface", "InvalidParameterValue", full, false, ReasonSubnetFull, false},
		{"AttachNetworkInterface", "Client.InvalidParameterValue", full, false, ReasonSubnetFull, false},
		{"AssignPrivateIpAddresses", "InvalidParameterValue", full + ".", false, ReasonSubnetFull, false},
		{"DescribeNetworkInterfaces", "InvalidParameterValue", full, false, ReasonInvalid, false},
		{"AssignPrivateIpAddresses", "InvalidParameterValue", "because", false, ReasonInvalid, false},
		{"AssignPrivateIpAddresses", "invalidNetworkInterfaceId.NotFound", "", false, ReasonNotFound, false},
		{"UnassignPrivateIpAddresses", "InvalidParameterValue", "Some of the specified addresses are not assigned to interface eni-1", false, ReasonNotFound, false},
		{"AssignPrivateIpAddresses", "Server.InternalError", "", true, ReasonUnreachable, true},
		{"AssignPrivateIpAddresses", "NewsToUs", "", false, ReasonUnknown, true},
		{"AssignPrivateIpAddresses", "NewsToUs", "", true, ReasonUnreachable, true},
	} {
		if got := rowOf(c.action, c.code, c.text, c.server); got.reason != c.reason || got.effect == effectUnknown != c.lost {
			t.Errorf("%s %s %q: %s, effect %d, want %s", c.action, c.code, c.text, got.reason, got.effect, c.reason)
		}
	}
}

// meanings holds the codes of EC2 by their reason, without those that depend on the text.
var meanings = map[Reason]string{
	ReasonThrottled: `
		RequestLimitExceeded Throttling ThrottlingException ThrottledException RequestThrottled
		RequestThrottledException EC2ThrottledException TooManyRequestsException
		ProvisionedThroughputExceededException TransactionInProgressException BandwidthLimitExceeded
		LimitExceededException PriorRequestNotComplete SlowDown ConcurrentTagAccess`,
	ReasonUnreachable: `
		InternalError InternalFailure Unavailable ServiceUnavailable RequestTimeout RequestTimeoutException`,
	ReasonUnauthorized: `
		UnauthorizedOperation AuthFailure AccessDenied AccessDeniedException InvalidClientTokenId
		MissingAuthenticationToken UnrecognizedClientException ExpiredToken ExpiredTokenException RequestExpired
		RequestInTheFuture RequestTimeTooSkewed SignatureDoesNotMatch InvalidSignatureException IncompleteSignature
		OptInRequired PendingVerification Blocked`,
	ReasonSubnetFull: `
		InsufficientFreeAddressesInSubnet`,
	ReasonNoFreePrefix: `
		InsufficientCidrBlocks`,
	ReasonENILimit: `
		AttachmentLimitExceeded BranchInterfaceLimitExceeded`,
	ReasonQuota: `
		NetworkInterfaceLimitExceeded RouteLimitExceeded ResourceLimitExceeded SecurityGroupsPerInterfaceLimitExceeded`,
	ReasonSlotLimit: `
		PrivateIpAddressLimitExceeded Ipv6AddressLimitExceeded`,
	ReasonNotFound: `
		InvalidNetworkInterfaceID.NotFound InvalidNetworkInterface.NotFound InvalidAttachmentID.NotFound
		InvalidAttachment.NotFound InvalidSubnetID.NotFound InvalidInstanceID.NotFound InvalidGroup.NotFound
		InvalidSecurityGroupID.NotFound InvalidVpcID.NotFound InvalidAssociationID.NotFound InvalidRouteTableID.NotFound
		InvalidInterfaceAssociationID.NotFound`,
	ReasonInUse: `
		InvalidNetworkInterface.InUse IncorrectState IncorrectInstanceState DependencyViolation
		Resource.AlreadyAssociated RouteAlreadyExists`,
	ReasonNotManaged: `
		OperationNotPermitted`,
	ReasonInvalid: `
		InvalidParameterValue InvalidParameter InvalidParameterCombination InvalidParameterDependency
		MissingParameter UnknownParameter ValidationError MalformedQueryString InvalidQueryParameter InvalidRequest
		InvalidAction MissingAction NoSuchVersion UnsupportedOperation Unsupported IdempotentParameterMismatch
		InvalidIPAddress.InUse InvalidInstanceType InvalidNetworkInterfaceId.Malformed
		InvalidNetworkInterfaceAttachmentId.Malformed InvalidInstanceID.Malformed InvalidSubnetID.Malformed
		InvalidRouteTableId.Malformed InvalidVpcID.Malformed InvalidGroupId.Malformed InvalidSecurityGroupID.Malformed InvalidID
		InvalidTagKey.Malformed TagLimitExceeded FilterLimitExceeded InvalidFilter InvalidNextToken
		InvalidPaginationToken`,
}

// TestMeanings checks the whole meaning of every code. Apart from the reason it follows
// from rules: what is looked at, what EC2 may have executed, what rests, what a clock can
// explain, and what has a hint.
func TestMeanings(t *testing.T) {
	in := func(code, list string) bool { return slices.Contains(strings.Fields(list), code) }
	codes := 0
	for reason, list := range meanings {
		for _, code := range strings.Fields(list) {
			codes++
			want := errorRow{code: code, reason: reason}
			want.look = in(string(reason), "slot-limit ec2-unreachable not-found in-use not-managed invalid")
			if reason == ReasonUnreachable {
				want.effect = effectUnknown
			}
			want.rest = in(code, "UnauthorizedOperation AccessDenied AccessDeniedException OptInRequired PendingVerification Blocked")
			want.clock = in(code, `AuthFailure AccessDeniedException RequestExpired RequestInTheFuture RequestTimeTooSkewed
				SignatureDoesNotMatch InvalidSignatureException`)
			switch {
			case in(code, "InvalidClientTokenId UnrecognizedClientException ExpiredToken ExpiredTokenException"):
				want.hint = hintToken
			case in(code, "AuthFailure OptInRequired"):
				want.hint = hintRegion
			}
			for _, action := range []string{"DescribeSubnets", "CreateNetworkInterface", "UnassignPrivateIpAddresses", "DeleteNetworkInterface"} {
				for _, spelling := range []string{code, "Client." + code, strings.ToUpper(code)} {
					if got := rowOf(action, spelling, "because", false); !reflect.DeepEqual(got, want) {
						t.Errorf("%s %s is %+v, want %+v", action, spelling, got, want)
					}
				}
			}
		}
	}
	byText := slices.DeleteFunc(slices.Clone(errorRows), func(r errorRow) bool { return r.text == "" })
	if codes != len(errorRows)-len(byText) {
		t.Errorf("%d codes have a meaning here, %d in the table", codes, len(errorRows)-len(byText))
	}
	want := []errorRow{
		{code: "InvalidParameterValue", text: "sufficient free", calls: []string{"Create", "Attach", "Assign"}, reason: ReasonSubnetFull},
		{code: "InvalidParameterValue", text: "not assigned to interface", calls: []string{"Unassign"}, reason: ReasonNotFound, look: true},
		{code: "InvalidParameterValue", text: "currently in use", calls: []string{"Delete"}, reason: ReasonInUse, look: true},
	}
	if !reflect.DeepEqual(byText, want) {
		t.Errorf("rows with a text: %+v, want %+v", byText, want)
	}
}
