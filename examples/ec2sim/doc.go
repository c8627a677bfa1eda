// SPDX-License-Identifier: Apache-2.0

// Ec2sim runs package enitest as a standalone server: an EC2 API and instance
// metadata services on loopback ports, with a VPC, a subnet and running instances.
// Any client of EC2 can use it:
//
//	go run ./examples/ec2sim -instances 2 -state /tmp/ec2.json
//	aws ec2 describe-instances --endpoint-url http://127.0.0.1:PORT
//
// It prints one line of JSON with the URLs of the services and the IDs of the
// resources, and serves until it is interrupted. With -state it loads the state from
// that file if it exists, and saves the state there when it ends.
//
// With -control it serves a control endpoint for tests in any language:
//
//	GET /             the URLs and IDs, also of instances made over the API
//	GET /calls        the number of calls by action; DELETE /calls resets them
//	GET /audit        the last calls
//	GET /events       a stream of the changes of ENIs, one line of JSON for each
//	POST /faults      add a fault: {"Action": "CreateNetworkInterface", "Delay": "2s"}
//	DELETE /faults/1  remove the fault with that ID
//	POST /denials     deny an action: {"Action": "CreateTags"}; DELETE allows it
package main
