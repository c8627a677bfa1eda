// SPDX-License-Identifier: Apache-2.0

// Package enitest provides an EC2 API and an instance metadata service in
// process, for tests of programs that manage network interfaces.
//
// It is to EC2 what net/http/httptest is to HTTP. A [Cloud] holds VPCs,
// subnets, instances and elastic network interfaces, and answers over the real
// wire protocol: the EC2 Query API with its XML and its error codes, and IMDSv2
// with session tokens. The unmodified AWS SDK, the AWS CLI and other network
// agents work with it. It computes each answer from its state, and each call
// changes the state under the rules that EC2 documents: five reserved addresses
// a subnet, aligned /28 blocks, the limits of the instance type, attachment
// states, security groups, tags.
//
// # Access
//
// [Cloud.Listen] opens loopback listeners, one for EC2 and one for the metadata
// of each instance. [Cloud.Transport] is an [net/http.RoundTripper] that
// answers in the caller's goroutine without a socket. Inside a
// [testing/synctest] bubble use the transport: a goroutine blocked on a socket
// would stop the fake clock.
//
// # Time
//
// The package starts no goroutine except for the listeners, and it reads time
// only through package time. An attachment that takes five seconds is in the
// state "attached" for every request that arrives five seconds later. The answers
// of Describe calls and of each metadata key can lag behind the state, see [Lag].
//
// # Faults
//
// [Cloud.AddFault] makes calls fail, wait, hang or lose their answer;
// [Cloud.SetThrottle] puts token buckets in front of the API; [Cloud.Deny]
// takes away permissions. [Cloud.Audit] returns the log of all calls with their
// callers, [Cloud.Calls] their number.
package enitest
