// SPDX-License-Identifier: Apache-2.0

// Package enitest is an EC2 API and an instance metadata service in one
// process, for tests of anything that manages network interfaces.
//
// It is to EC2 what net/http/httptest is to HTTP. A [Cloud] holds VPCs,
// subnets, instances and elastic network interfaces, and answers over the real
// wire protocol: the EC2 Query API with its XML and its error codes, and IMDSv2
// with session tokens. The unmodified AWS SDK, the AWS CLI or another network
// agent can be pointed at it. No answer is canned; each one is derived from the
// state, and each call changes the state under the rules that EC2 documents:
// five reserved addresses a subnet, aligned /28 blocks, the limits of the
// instance type, attachment states, security groups, tags.
//
// # Two ways in
//
// [Cloud.Listen] opens loopback listeners, one for EC2 and one for the metadata
// of each instance. [Cloud.Transport] is an [net/http.RoundTripper] that
// answers in the caller's goroutine without a socket. Inside a
// [testing/synctest] bubble use the transport: a goroutine blocked on a socket
// would stop the fake clock.
//
// # Time
//
// But for the listeners the package starts no goroutine, and it reads time only through package time.
// An attachment that takes five seconds is attached when somebody looks five
// seconds later. What describes and metadata show can lag behind by an amount
// of its own for each, see [Lag].
//
// # Trouble on request
//
// [Cloud.AddFault] scripts errors, delays, lost answers and hangs;
// [Cloud.SetThrottle] puts token buckets in front of the API; [Cloud.Deny]
// takes away permissions. [Cloud.Audit] and [Cloud.Calls] tell afterwards who
// asked for what.
package enitest
