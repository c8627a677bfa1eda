// SPDX-License-Identifier: Apache-2.0

// Package metrics has the metrics of a node agent for Prometheus: its own ones, named
// vpcnet_*, and those of amazon-vpc-cni-k8s under the names of that program, awscni_*.
package metrics

import (
	"cmp"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/agent"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/snat"
)

// Metrics are the metrics of an agent. Every label has a closed set of values. It is safe for
// concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	repairs  *prometheus.CounterVec
	took     prometheus.Histogram
	// translations are the repairs of package snat's table.
	translations *prometheus.CounterVec
	events       *prometheus.CounterVec
	requests     *prometheus.CounterVec
	answered     *prometheus.HistogramVec
	// aws are the metrics under the names of amazon-vpc-cni-k8s.
	aws *awsMetrics
}

// New returns the metrics of a program of the given version.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vpcnet_ec2_calls_total", Help: "Attempts of calls to EC2, by action and EC2's error code; empty is success.",
		}, []string{"action", "code"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vpcnet_datapath_repairs_total", Help: "Repairs of changes that other programs made to the node's network: repaired, failed, or fighting while the same change comes back again and again.",
		}, []string{"result"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "vpcnet_datapath_repair_seconds", Help: "Time from the kernel's report of a change to the end of its repair.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}),
		translations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vpcnet_snat_repairs_total", Help: "Repairs of changes that other programs made to the source translation: repaired, failed, or fighting while the same change comes back again and again.",
		}, []string{"result"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vpcnet_events_total", Help: "Events other than the requests of pods, by kind, such as an address that is in use in the kernel but not in the journal.",
		}, []string{"kind"}),
	}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vpcnet_requests_total", Help: "Requests of the CNI plugin, by call (add or del) and result: ok, the reason why a pod got no address, or error.",
	}, []string{"call", "result"})
	m.answered = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "vpcnet_request_seconds", Help: "Time from a request of the CNI plugin to the answer, which includes the wait for an address.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10),
	}, []string{"call"})
	m.aws = newAWSMetrics(m.registry, version)
	m.registry.MustRegister(m.calls, m.repairs, m.took, m.translations, m.events, m.requests, m.answered)
	return m
}

// Handler returns the page that Prometheus reads.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Watch adds the metrics of the pool of an agent. It is called once.
func (m *Metrics) Watch(a Agent) { m.registry.MustRegister(collector{a}) }

// Hooks returns the hooks by which an agent counts. It passes calls to EC2 on to called.
func (m *Metrics) Hooks(called func(eni.Call)) ipamd.Hooks {
	return ipamd.Hooks{
		Requested: m.requested, Repaired: m.repaired, Translated: m.translated,
		Called: func(c eni.Call) {
			m.called(c)
			called(c)
		},
		Event: func(e agent.Event) { m.events.WithLabelValues(string(e.Kind)).Inc() },
	}
}

// called counts an attempt of a call to EC2.
func (m *Metrics) called(c eni.Call) {
	m.calls.WithLabelValues(c.Action, c.Code).Inc()
	m.aws.called(c)
}

// requested counts an ADD or DEL.
func (m *Metrics) requested(r ipamd.Request) {
	m.requests.WithLabelValues(r.Call, resultText(r)).Inc()
	m.answered.WithLabelValues(r.Call).Observe(r.Took.Seconds())
	m.aws.requested(r)
}

// resultText returns the label of a request: ok, the reason of an error, or error.
func resultText(r ipamd.Request) string {
	if !r.Failed {
		return "ok"
	}
	return cmp.Or(r.Reason, "error")
}

// repaired counts a repair of the node's network.
func (m *Metrics) repaired(r datapath.Repair) {
	m.repairs.WithLabelValues(resultOf(r.Err, r.Fighting)).Inc()
	m.took.Observe(r.Took.Seconds())
}

// translated counts a repair of the source translation.
func (m *Metrics) translated(r snat.Repair) {
	m.translations.WithLabelValues(resultOf(r.Err, r.Fighting)).Inc()
	m.aws.translated(r.Err)
}

// resultOf returns the label of a repair.
func resultOf(err error, fighting bool) string {
	switch {
	case err != nil:
		return "failed"
	case fighting:
		return "fighting"
	}
	return "repaired"
}

// Agent is the part of an [ipamd.Agent] of which gauges are made.
type Agent interface {
	Status() ipamd.Status
	View() ipam.View
}

// collector reads the pool and the status at each scrape, so that no gauge can become stale.
// It reads them once, because a status costs a look at all links.
type collector struct{ agent Agent }

var (
	descAddresses = prometheus.NewDesc("vpcnet_addresses", "Addresses of the pool, by ENI and state: used by pods, quarantined because they are in use in the kernel but not in the journal, cooling after use, free, or held back because their ENI is not ready.", []string{"eni", "state"}, nil)
	descDenied    = prometheus.NewDesc("vpcnet_policy_denied_packets_total", "Packets that network policies have denied, replies included, by class and direction.", []string{"class", "direction"}, nil)
	descWaiting   = prometheus.NewDesc("vpcnet_waiting_requests", "Pods that wait for an address.", nil, nil)
)

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range append([]*prometheus.Desc{descAddresses, descDenied, descWaiting}, awsDescs...) {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	v, st := c.agent.View(), c.agent.Status()
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	gaugesOfAWS(v, st, gauge)
	gauge(descWaiting, len(v.Waiting))
	for _, d := range st.Denied {
		ch <- prometheus.MustNewConstMetric(descDenied, prometheus.CounterValue, float64(d.Packets), d.Class, d.Direction.String())
	}
	for _, e := range v.ENIs {
		var used, quarantined, cooling, free, held int
		for _, b := range e.Blocks {
			used, cooling, quarantined = used+b.Used-b.Quarantined, cooling+b.Cooling, quarantined+b.Quarantined
			if e.Ready && !b.Doubted {
				free += b.Free
			} else {
				held += b.Free
			}
		}
		gauge(descAddresses, used, e.ID, "used")
		gauge(descAddresses, quarantined, e.ID, "quarantined")
		gauge(descAddresses, cooling, e.ID, "cooling")
		gauge(descAddresses, free, e.ID, "free")
		gauge(descAddresses, held, e.ID, "held")
	}
}
