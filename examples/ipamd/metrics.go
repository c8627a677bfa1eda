// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vpcnet/vpcnet/datapath"
	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
)

// metrics are what Prometheus scrapes. Every label has a closed set of values.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	repairs  *prometheus.CounterVec
	took     prometheus.Histogram
}

func newMetrics(pool *ipam.Pool) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vpcnet_ec2_calls_total", Help: "Tries of calls to EC2, by action and EC2's error code; empty is success.",
		}, []string{"action", "code"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "vpcnet_datapath_repairs_total", Help: "Repairs of what others changed of the node's network: repaired, failed, or fighting while the same thing is changed again and again.",
		}, []string{"result"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "vpcnet_datapath_repair_seconds", Help: "Time from the kernel's report of a change to the end of its repair.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}),
	}
	m.registry.MustRegister(m.calls, m.repairs, m.took, poolCollector{pool})
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// called counts a try of a call to EC2.
func (m *metrics) called(c eni.Call) { m.calls.WithLabelValues(c.Action, c.Code).Inc() }

// repaired counts a repair of the node's network.
func (m *metrics) repaired(r datapath.Repair) {
	result := "repaired"
	switch {
	case r.Err != nil:
		result = "failed"
	case r.Fighting:
		result = "fighting"
	}
	m.repairs.WithLabelValues(result).Inc()
	m.took.Observe(r.Took.Seconds())
}

// poolCollector reads the pool when it is scraped, so that no gauge can go stale.
type poolCollector struct{ pool *ipam.Pool }

var (
	descAddresses = prometheus.NewDesc("vpcnet_addresses", "Addresses of the pool, by ENI and state: used by pods, cooling after use, free, or held back because their ENI is not ready.", []string{"eni", "state"}, nil)
	descWaiting   = prometheus.NewDesc("vpcnet_waiting_requests", "Pods that wait for an address.", nil, nil)
)

// Describe implements prometheus.Collector.
func (poolCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descAddresses
	ch <- descWaiting
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	v := c.pool.View()
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	gauge(descWaiting, len(v.Waiting))
	for _, e := range v.ENIs {
		var used, cooling, free, held int
		for _, b := range e.Blocks {
			used, cooling = used+b.Used, cooling+b.Cooling
			if e.Ready && !b.Doubted {
				free += b.Free
			} else {
				held += b.Free
			}
		}
		gauge(descAddresses, used, e.ID, "used")
		gauge(descAddresses, cooling, e.ID, "cooling")
		gauge(descAddresses, free, e.ID, "free")
		gauge(descAddresses, held, e.ID, "held")
	}
}
