package httpapi

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/scope-registry/scope-registry/internal/api"
)

// Metrics counts requests and watchers and reads the sizes of the state when
// it is collected. It is a prometheus.Collector.
type Metrics struct {
	reg      Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	watchers prometheus.Gauge
	renewals *prometheus.CounterVec
	gauges   []gauge
}

// gauge is one value read from the registry.
type gauge struct {
	desc *prometheus.Desc
	read func(r Registry) float64
}

// Collector makes the metrics of one server. Register it where the Gatherer of
// Config reads, and give it to Config as Metrics.
func Collector(reg Registry) *Metrics {
	named := func(name, help string, read func(Registry) float64) gauge {
		return gauge{prometheus.NewDesc("scope_registry_"+name, help, nil, nil), read}
	}
	return &Metrics{
		reg: reg,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scope_registry_http_requests_total",
			Help: "HTTP requests by operation and status code."}, []string{"operation", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "scope_registry_http_request_duration_seconds",
			Help:    "Duration of HTTP requests by operation; that of a watch is the life of the stream.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12)}, []string{"operation"}),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scope_registry_session_renewals_total",
			Help: "Renewals of sessions that this server was asked for, by outcome: ok or an error's code."}, []string{"outcome"}),
		watchers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "scope_registry_watchers", Help: "Open watch streams."}),
		gauges: []gauge{
			named("index", "Log index that this server has applied.", func(r Registry) float64 { return float64(r.State().Index()) }),
			named("scopes", "Declared scopes.", func(r Registry) float64 { return float64(r.State().Scopes().Len()) }),
			named("scopes_without_fallback", "Scopes that take no writes while their writer is down.",
				func(r Registry) float64 { return float64(r.State().Scopes().NoFallbackLen()) }),
			named("nodes", "Declared nodes.", func(r Registry) float64 { return float64(r.State().NodesLen()) }),
			named("sessions", "Live sessions of nodes.", func(r Registry) float64 {
				n := 0
				for range r.State().Sessions() {
					n++
				}
				return float64(n)
			}),
			named("moves_running", "Moves that have not ended.", func(r Registry) float64 { return float64(r.State().Moves().RunningLen()) }),
			named("cleanups_pending", "Old copies that their node has still to delete.",
				func(r Registry) float64 { return float64(r.State().CleanupsLen()) }),
			named("is_voter", "1 if this server votes, 0 while it catches up after it joined.", func(r Registry) float64 {
				_, _, votes := r.Members()
				return truth(votes)
			}),
			named("voters", "Servers that vote, as this one knows them.", func(r Registry) float64 {
				voters, _, _ := r.Members()
				return float64(voters)
			}),
			named("non_voters", "Servers that catch up and do not vote yet.", func(r Registry) float64 {
				_, others, _ := r.Members()
				return float64(others)
			}),
			named("server_changing", "1 while a server is joining, moving or leaving.", func(r Registry) float64 {
				_, ok := r.State().ServerChanging()
				return truth(ok)
			}),
			named("is_ready", "1 if this server has caught up once and knows a leader.",
				func(r Registry) float64 { return truth(r.Ready() == nil) }),
			named("disk_free_bytes", "Space left for the data directory.", func(r Registry) float64 { return float64(r.Storage().Free) }),
			named("disk_is_low", "1 while there is too little space for commands.", func(r Registry) float64 { return truth(r.Storage().Low) }),
			named("disk_stalled_seconds", "For how long a write of the raft store has not returned, once that is 3 s; else 0.",
				func(r Registry) float64 { return r.Storage().Stalled.Seconds() }),
			named("state_checked_index", "Log index of the last state that was found to be that of a majority.",
				func(r Registry) float64 { return float64(r.Storage().Checked) }),
			named("has_leader", "1 if this server knows a leader.", func(r Registry) float64 {
				_, _, known := r.Leader()
				return truth(known)
			}),
		},
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range m.gauges {
		ch <- g.desc
	}
	m.requests.Describe(ch)
	m.duration.Describe(ch)
	m.watchers.Describe(ch)
	m.renewals.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, g := range m.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.read(m.reg))
	}
	m.requests.Collect(ch)
	m.duration.Collect(ch)
	m.watchers.Collect(ch)
	m.renewals.Collect(ch)
}

func (m *Metrics) observe(operation string, status int, took time.Duration) {
	m.requests.WithLabelValues(operation, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(operation).Observe(took.Seconds())
}

// renewed counts a renewal by how it ended.
func (m *Metrics) renewed(err error) {
	outcome := "ok"
	if err != nil {
		outcome = string(api.CodeOf(err))
	}
	m.renewals.WithLabelValues(outcome).Inc()
}
