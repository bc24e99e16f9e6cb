package main

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate"
)

// gateStats are the metrics of what a gate has counted.
type gateStats struct{ of func() gate.Stats }

// gateMetric is one of them, of a single value.
type gateMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(gate.Stats) float64
}

func gateDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("scope_registry_gate_"+name, help, labels, nil)
}

var (
	gateCommands = gateDesc("commands_total", "Commands of clients, by what they do to keys and what became of them.", "class", "verdict")
	gateLatency  = gateDesc("added_seconds", "Time that the gate adds to a batch of commands, apart from waiting for the store.", "direction")
	gateMetrics  = []gateMetric{
		{gateDesc("clients", "Clients that are connected."), prometheus.GaugeValue, func(s gate.Stats) float64 { return float64(s.Clients) }},
		{gateDesc("store_connections", "Connections to the store, apart from the gate's own."), prometheus.GaugeValue, func(s gate.Stats) float64 { return float64(s.Pipes) }},
		{gateDesc("in_flight", "Commands that the store has not answered yet."), prometheus.GaugeValue, func(s gate.Stats) float64 { return float64(s.InFlight) }},
		{gateDesc("parked", "Commands that may wait in the store, such as BLPOP."), prometheus.GaugeValue, func(s gate.Stats) float64 { return float64(s.Parked) }},
		{gateDesc("limbo", "Writes of broken connections that may still execute; a move of their scope waits for them."), prometheus.GaugeValue, func(s gate.Stats) float64 { return float64(s.Limbo) }},
		{gateDesc("unsure_total", "Writes that executed and were not acknowledged, as the node did not own the key all along."), prometheus.CounterValue, func(s gate.Stats) float64 { return float64(s.Unsure) }},
	}
)

// Describe implements prometheus.Collector.
func (g gateStats) Describe(to chan<- *prometheus.Desc) {
	to <- gateCommands
	to <- gateLatency
	for _, m := range gateMetrics {
		to <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (g gateStats) Collect(to chan<- prometheus.Metric) {
	s := g.of()
	for c, of := range s.Commands {
		for v, n := range of {
			to <- prometheus.MustNewConstMetric(gateCommands, prometheus.CounterValue, float64(n), gate.Class(c).String(), gate.Verdict(v).String())
		}
	}
	for direction, l := range map[string]gate.Latency{"inward": s.Inward, "outward": s.Outward} {
		to <- gateHistogram(l, direction)
	}
	for _, m := range gateMetrics {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s))
	}
}

// gateHistogram is a latency in the buckets of Prometheus, which count all below a bound.
func gateHistogram(l gate.Latency, direction string) prometheus.Metric {
	buckets, sum := map[float64]uint64{}, uint64(0)
	for i, n := range l.Below {
		sum += n
		bound := gate.LatencyBound(i).Seconds()
		if bound == 0 {
			bound = math.Inf(1)
		}
		buckets[bound] = sum
	}
	return prometheus.MustNewConstHistogram(gateLatency, sum, l.Sum.Seconds(), buckets, direction)
}

// gateMoves are the metrics of the moves that a gate takes part in.
type gateMoves struct {
	node string
	of   func() []client.MoveStatus
}

var (
	gatePhase     = gateDesc("move_phase", "1 for the phase of each running move from or to this node.", "scope", "role", "phase")
	gateMoved     = gateDesc("move_keys", "Records of a running move that were sent (role source) or staged (role target) by this process; one that changes meanwhile counts again.", "scope", "role")
	gateMovedSize = gateDesc("move_bytes", "Bytes of these records.", "scope", "role")
	gateLeft      = gateDesc("move_left_keys", "Records that the source of a running move has still to look at, about, as it has told the registry last.", "scope", "role")
	gateLeftSize  = gateDesc("move_left_bytes", "Bytes of these records.", "scope", "role")
)

// Describe implements prometheus.Collector.
func (g gateMoves) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{gatePhase, gateMoved, gateMovedSize, gateLeft, gateLeftSize} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (g gateMoves) Collect(to chan<- prometheus.Metric) {
	for _, m := range g.of() {
		role := "target"
		if string(m.From) == g.node {
			role = "source"
		}
		gauge := func(d *prometheus.Desc, value uint64, labels ...string) {
			to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), append([]string{m.Prefix.Text(), role}, labels...)...)
		}
		gauge(gatePhase, 1, m.Phase)
		gauge(gateMoved, m.Keys)
		gauge(gateMovedSize, m.Bytes)
		if m.LeftKnown {
			gauge(gateLeft, m.KeysLeft)
			gauge(gateLeftSize, m.BytesLeft)
		}
	}
}
