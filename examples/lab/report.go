// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
)

// report is the object that -json prints.
type report struct {
	Checks         []check        `json:"checks"`
	Nodes          []nodeReport   `json:"nodes"`
	EC2Calls       map[string]int `json:"ec2Calls"`
	ElapsedSeconds float64        `json:"elapsedSeconds"`
}

// check is the outcome of one check. Detail is the evidence, or the error.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

type nodeReport struct {
	Name         string      `json:"name"`
	InstanceType string      `json:"instanceType"`
	ENIs         []eniReport `json:"enis"`
	Pods         []podReport `json:"pods"`
}

type eniReport struct {
	ID        string   `json:"id"`
	MAC       string   `json:"mac"`
	Device    int      `json:"device"`
	Table     int      `json:"table"`
	Primary   bool     `json:"primary"`
	Addresses []string `json:"addresses"`
}

type podReport struct {
	Name   string `json:"name"`
	IP     string `json:"ip"`
	ENI    string `json:"eni"`
	Node   string `json:"node"`
	IfName string `json:"ifname"`
}

// checkNames returns the names of all checks, in the order of the report. A lab that
// stops early reports the checks that it did not reach as failed.
func checkNames() []string {
	return []string{
		"pod-to-pod-same-node",
		"pod-to-pod-across-nodes",
		"no-nat-inside-vpc",
		"second-eni-egress",
		"snat-to-node-primary",
		"host-to-pod",
		"spoofed-source-dropped",
		"warm-pool-refilled",
		"agent-restart-keeps-pods",
		"delete-leaves-nothing",
	}
}

// finish adds the missing checks as failed, sorts the checks, and reports whether
// all of them succeeded.
func (r *report) finish(stopped error) bool {
	for _, name := range checkNames() {
		known := slices.ContainsFunc(r.Checks, func(c check) bool { return c.Name == name })
		if !known {
			r.Checks = append(r.Checks, check{Name: name, Detail: fmt.Sprintf("not reached: %v", stopped)})
		}
	}
	slices.SortStableFunc(r.Checks, func(a, b check) int {
		return slices.Index(checkNames(), a.Name) - slices.Index(checkNames(), b.Name)
	})
	return stopped == nil && !slices.ContainsFunc(r.Checks, func(c check) bool { return !c.OK })
}
