// SPDX-License-Identifier: Apache-2.0

// Ec2sim is package enitest as a standalone server: an EC2 API and instance
// metadata services on loopback ports, with a VPC, a subnet and instances ready
// to use. Anything that speaks to EC2 can be pointed at it:
//
//	go run ./examples/ec2sim -instances 2 -state /tmp/ec2.json
//	aws ec2 describe-instances --endpoint-url http://127.0.0.1:PORT
//
// It prints one line of JSON that says where everything is, and serves until it
// is interrupted. With -state it starts from that file if it exists, and writes
// the state there when it ends.
package main
