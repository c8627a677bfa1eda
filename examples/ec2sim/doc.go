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
//	GET /events       a stream of the changes of ENIs and of the network, one line of JSON for each
//	PUT /lag          change the lags: {"Describe": "5s", "Write": "2s", "Metadata": "1s"}
//	PUT /delays       change the durations: {"Attach": "3s", "Stop": "20s", "Call": "50ms"}
//	POST /faults      add a fault: {"Action": "CreateNetworkInterface", "Delay": "2s"}
//	GET /faults       the faults with their IDs; DELETE /faults/1 removes one
//	POST /denials     deny an action: {"Action": "CreateTags"}; DELETE allows it
//	GET /denials      the denied actions
//	POST /foreign-enis  add an ENI of a service: {"Subnet": "subnet-1", "Service": "nat"}
//
// The stream of events begins with one event for each ENI that is attached now, so that
// a data plane can follow from any time. The events are those of enitest.Event: attached,
// detached, assigned, unassigned, modified and network-changed. A stream with a reader that falls behind by more than
// 1,024 events ends.
//
// To try it, start it on fixed ports and use the AWS CLI with any credentials:
//
//	go run ./examples/ec2sim -listen 127.0.0.1:8800 -control 127.0.0.1:8801 -metadata 127.0.0.1:8900
//	export AWS_ENDPOINT_URL=http://127.0.0.1:8800 AWS_REGION=us-west-2
//	export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
//	aws ec2 describe-network-interfaces
//	curl -sN http://127.0.0.1:8801/events
package main
