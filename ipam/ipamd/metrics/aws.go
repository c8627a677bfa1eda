// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/vpcnet/vpcnet/eni"
	"github.com/vpcnet/vpcnet/ipam"
	"github.com/vpcnet/vpcnet/ipam/ipamd"
	"github.com/vpcnet/vpcnet/ipam/ipamd/introspect"
)

// awsMetrics are metrics under the names of amazon-vpc-cni-k8s, for its dashboards and
// alerts. Their labels have closed sets of values, also where that program has texts of
// errors. Gauges have the sum of all network cards.
type awsMetrics struct {
	calls, failedCalls *prometheus.CounterVec
	apiErrors          *prometheus.CounterVec
	latency            *prometheus.SummaryVec
	errors             *prometheus.CounterVec
	utilErrors         *prometheus.CounterVec
	branchErrors       *prometheus.CounterVec
	translations       *prometheus.CounterVec
	adds, exhausted    prometheus.Counter
	dels               *prometheus.CounterVec
	started            *prometheus.HistogramVec
	initialized        *prometheus.HistogramVec
}

// newAWSMetrics registers the metrics.
func newAWSMetrics(r prometheus.Registerer, version string) *awsMetrics {
	counter := func(name, help string) prometheus.CounterOpts { return prometheus.CounterOpts{Name: name, Help: help} }
	seconds := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0625, 2, 12)}
	}
	m := &awsMetrics{
		calls:       prometheus.NewCounterVec(counter("awscni_ec2api_req_count", "Attempts of calls to EC2."), []string{"fn"}),
		failedCalls: prometheus.NewCounterVec(counter("awscni_ec2api_error_count", "Attempts of calls to EC2 that failed."), []string{"fn"}),
		apiErrors:   prometheus.NewCounterVec(counter("awscni_aws_api_error_count", "Attempts of calls to EC2 that failed, by EC2's error code."), []string{"api", "error"}),
		latency: prometheus.NewSummaryVec(prometheus.SummaryOpts{
			Name: "awscni_aws_api_latency_ms", Help: "Time of attempts of calls to EC2 in milliseconds.", Objectives: map[float64]float64{0.5: 0.05, 0.99: 0.001},
		}, []string{"api", "error", "status"}),
		errors:     prometheus.NewCounterVec(counter("awscni_ipamd_error_count", "Errors of the agent, by the function of amazon-vpc-cni-k8s that has them."), []string{"fn"}),
		utilErrors: prometheus.NewCounterVec(counter("awscni_aws_utils_error_count", "Attempts of calls to EC2 that failed, by EC2's error code."), []string{"fn", "error"}),
		branchErrors: prometheus.NewCounterVec(
			counter("awscni_pod_eni_error_count", "Attempts of calls to EC2 for branch ENIs that failed."), []string{"fn"}),
		translations: prometheus.NewCounterVec(
			counter("awscni_connmark_reconcile_total", "Repairs of the source translation, which marks connections."), []string{"result"}),
		adds:      prometheus.NewCounter(counter("awscni_add_ip_req_count", "Requests for the addresses of a pod.")),
		exhausted: prometheus.NewCounter(counter("awscni_no_available_ip_addresses", "Requests for which there was no address.")),
		dels:      prometheus.NewCounterVec(counter("awscni_del_ip_req_count", "Requests to release the addresses of a pod."), []string{"reason"}),
		started: prometheus.NewHistogramVec(
			seconds("awscni_ipamd_startup_duration_seconds", "Time from the start of the program until it can serve pods."),
			[]string{"success", "with_api_server", "failure_reason"}),
		initialized: prometheus.NewHistogramVec(
			seconds("awscni_ipamd_node_initialization_duration_seconds", "The same time: the program does nothing before it initializes the node."), []string{"success"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "awscni_build_info", Help: "The version of the agent.", ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	info.Set(1)
	r.MustRegister(m.calls, m.failedCalls, m.apiErrors, m.latency, m.errors, m.utilErrors, m.branchErrors, m.translations, m.adds, m.exhausted, m.dels,
		m.started, m.initialized, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// branchActions are the actions of EC2 that concern branch ENIs only.
var branchActions = map[string]bool{"AssociateTrunkInterface": true, "DisassociateTrunkInterface": true}

// functions has the functions of amazon-vpc-cni-k8s with errors that
// awscni_ipamd_error_count counts, by the action of EC2.
var functions = map[string]string{
	"CreateNetworkInterface":          "increaseIPPoolAllocENI",
	"AttachNetworkInterface":          "increaseIPPoolwaitENIAttachedFailed",
	"AssignPrivateIpAddresses":        "increaseIPPoolAllocIPAddressesFailed",
	"AssignIpv6Addresses":             "increaseIPPoolAllocIPAddressesFailed",
	"UnassignPrivateIpAddresses":      "decreaseIPPool",
	"DetachNetworkInterface":          "decreaseIPPoolFreeENIFailed",
	"DeleteNetworkInterface":          "decreaseIPPoolFreeENIFailed",
	"DescribeNetworkInterfaces":       "reconcileFailedGetENIs",
	"ModifyNetworkInterfaceAttribute": "increaseIPPoolAllocENI",
}

func (m *awsMetrics) called(c eni.Call) {
	m.calls.WithLabelValues(c.Action).Inc()
	status := "200"
	if c.Code != "" {
		status = "error"
		m.failedCalls.WithLabelValues(c.Action).Inc()
		m.apiErrors.WithLabelValues(c.Action, c.Code).Inc()
		m.utilErrors.WithLabelValues(c.Action, c.Code).Inc()
		if branchActions[c.Action] {
			m.branchErrors.WithLabelValues(c.Action).Inc()
		}
		if fn, ok := functions[c.Action]; ok {
			m.errors.WithLabelValues(fn).Inc()
		}
	}
	m.latency.WithLabelValues(c.Action, c.Code, status).Observe(float64(c.Took.Microseconds()) / 1000)
}

func (m *awsMetrics) requested(r ipamd.Request) {
	if r.Call == "del" {
		m.dels.WithLabelValues("PodDeleted").Inc()
		return
	}
	m.adds.Inc()
	if r.Exhausted {
		m.exhausted.Inc()
	}
}

func (m *awsMetrics) translated(err error) {
	result := "success"
	if err != nil {
		result = "error"
	}
	m.translations.WithLabelValues(result).Inc()
}

// Started measures the time from start until ready is closed, see [ipamd.Agent.Ready], and
// returns then. If ctx ends first, the start has failed.
func (m *Metrics) Started(ctx context.Context, start time.Time, ready <-chan struct{}) {
	select {
	case <-ready:
	case <-ctx.Done():
		m.aws.initialized.WithLabelValues("false").Observe(time.Since(start).Seconds())
		m.aws.started.WithLabelValues("false", "false", "node_initialization").Observe(time.Since(start).Seconds())
		return
	}
	m.aws.initialized.WithLabelValues("true").Observe(time.Since(start).Seconds())
	m.aws.started.WithLabelValues("true", "false", "").Observe(time.Since(start).Seconds())
}

var (
	descENIMax      = prometheus.NewDesc("awscni_eni_max", "ENIs that the instance can have for pods.", nil, nil)
	descIPMax       = prometheus.NewDesc("awscni_ip_max", "Addresses that the instance can have for pods.", nil, nil)
	descENIs        = prometheus.NewDesc("awscni_eni_allocated", "ENIs for pods.", nil, nil)
	descTotal       = prometheus.NewDesc("awscni_total_ip_addresses", "IPv4 addresses for pods.", nil, nil)
	descAssigned    = prometheus.NewDesc("awscni_assigned_ip_addresses", "Addresses that pods hold.", nil, nil)
	descPrefixes    = prometheus.NewDesc("awscni_total_ipv4_prefixes", "IPv4 prefixes of the ENIs.", nil, nil)
	descPerCIDR     = prometheus.NewDesc("awscni_assigned_ip_per_cidr", "Addresses that pods hold, by block.", []string{"cidr"}, nil)
	descPerENI      = prometheus.NewDesc("awscni_assigned_ip_per_eni", "Addresses that pods hold, by ENI.", []string{"eni"}, nil)
	descInProgress  = prometheus.NewDesc("awscni_ipamd_action_inprogress", "Tasks under way.", []string{"fn"}, nil)
	descMarkBackend = prometheus.NewDesc("awscni_connmark_backend", "The part of the kernel that marks connections.", []string{"backend"}, nil)
)

// awsDescs are the gauges of gaugesOfAWS.
var awsDescs = []*prometheus.Desc{
	descENIMax, descIPMax, descENIs, descTotal, descAssigned, descPrefixes, descPerCIDR, descPerENI, descInProgress, descMarkBackend,
}

// gaugesOfAWS calls gauge for each gauge under a name of amazon-vpc-cni-k8s.
func gaugesOfAWS(v ipam.View, st ipamd.Status, gauge func(d *prometheus.Desc, n int, labels ...string)) {
	var maxENIs, maxAddrs, addrs, prefixes, assigned int
	for _, card := range st.Cards {
		maxENIs += card.MaxENIs
		maxAddrs += card.MaxENIs * card.SlotsPerENI * card.AddressesPerSlot
	}
	for _, t := range introspect.TotalsOf(v) {
		addrs, prefixes = addrs+t.Addrs, prefixes+t.Prefixes
	}
	for _, e := range v.ENIs {
		of := 0
		for _, b := range e.Blocks {
			of += b.Used
			gauge(descPerCIDR, b.Used, b.Prefix.String())
		}
		assigned += of
		gauge(descPerENI, of, e.ID)
	}
	gauge(descENIMax, maxENIs)
	gauge(descIPMax, maxAddrs)
	gauge(descENIs, len(v.ENIs))
	gauge(descTotal, addrs)
	gauge(descAssigned, assigned)
	gauge(descPrefixes, prefixes)
	for fn, n := range inProgress(st) {
		gauge(descInProgress, n, fn)
	}
	if backend := st.Network.SNATBackend; backend != "" {
		family, _, _ := strings.Cut(backend, "-")
		gauge(descMarkBackend, 1, family)
	}
}

// inProgress counts the tasks under way by the functions of amazon-vpc-cni-k8s.
func inProgress(st ipamd.Status) map[string]int {
	n := map[string]int{"nodeInit": 0, "increaseDatastorePool": 0, "decreaseDatastorePool": 0, "nodeIPPoolReconcile": 0}
	if len(st.Cards) == 0 {
		n["nodeInit"] = 1
	}
	for _, task := range st.InFlight {
		switch kind, _, _ := strings.Cut(task, " "); kind {
		case "assign", "create":
			n["increaseDatastorePool"]++
		case "unassign", "delete":
			n["decreaseDatastorePool"]++
		case "observe":
			n["nodeIPPoolReconcile"]++
		}
	}
	return n
}
