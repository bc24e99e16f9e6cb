package main

import (
	"fmt"
	"sync"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"
	raftprometheus "github.com/hashicorp/go-metrics/compat/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/registry"
)

// perPeer are raft's series that have a server's id in their name. The same
// numbers come with a label too; names that grow with ids fill a monitoring
// system.
var perPeer = []string{"raft.replication.heartbeat", "raft.replication.appendEntries.rpc", "raft.replication.appendEntries.logs",
	"raft.replication.installSnapshot"}

// sinkOnce guards the process's one sink of raft's metrics: the library writes
// to a global, so that the servers of a dev cluster share it.
var (
	sinkOnce sync.Once
	sinkReg  *prometheus.Registry
	sinkErr  error
)

// raftMetrics starts the sink, once, and returns the registry it fills together
// with Go's and the process's own series. It must be called before raft starts.
func raftMetrics() (*prometheus.Registry, error) {
	sinkOnce.Do(func() {
		reg := prometheus.NewRegistry()
		reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		own := prometheus.NewRegistry() // the sink registers itself, and is collected by way of later alone
		sink, err := raftprometheus.NewPrometheusSinkFrom(raftprometheus.PrometheusOpts{Expiration: time.Minute, Registerer: own, Name: "raft"})
		if err != nil {
			sinkErr = &api.Error{Code: api.Internal, Detail: fmt.Sprintf("the metrics sink did not start: %v", err)}
			return
		}
		conf := metrics.DefaultConfig("scope_registry")
		conf.EnableHostname = false
		conf.EnableRuntimeMetrics = false
		conf.BlockedPrefixes = blocked()
		later := &laterSink{collectedSink: sink}
		reg.MustRegister(later)
		if _, err := metrics.NewGlobal(conf, later); err != nil {
			sinkErr = &api.Error{Code: api.Internal, Detail: fmt.Sprintf("raft's metrics did not start: %v", err)}
			return
		}
		sinkReg = reg
	})
	return sinkReg, sinkErr
}

// certificateEnd is the metric of when the certificate in use ends.
func certificateEnd(own *certs.Source) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "scope_registry_certificate_end_timestamp_seconds",
		Help: "When the certificate that this server shows ends, in seconds since 1970."}, func() float64 { return float64(own.Expires().Unix()) })
}

// dropped is the metric of what servers sent that no server of Raft sends.
func dropped(reg *registry.Registry) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "scope_registry_peer_dropped_total",
		Help: "Requests and answers of other servers that were kept from Raft, as none that is sound sends them."}, func() float64 { return float64(reg.Dropped()) })
}

// blocked are the prefixes with the service name that the library puts before
// them. The dot at the end spares the series of the same name without an id.
func blocked() []string {
	out := make([]string, 0, len(perPeer))
	for _, p := range perPeer {
		out = append(out, "scope_registry."+p+".")
	}
	return out
}
