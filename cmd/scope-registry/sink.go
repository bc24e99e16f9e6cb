package main

import (
	"sync"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// sinkDelay is how long what Raft measures waits, unless somebody asks for metrics before.
	sinkDelay = 250 * time.Millisecond
	// maxMeasured bounds what waits: several times what the busiest server measures in sinkDelay. Beyond it, who measures pays.
	maxMeasured = 16 << 10
)

// collectedSink is a sink that Prometheus collects from.
type collectedSink interface {
	metrics.MetricSink
	prometheus.Collector
}

// laterSink takes what Raft measures, and hands it on a little later. Raft measures a dozen things for each entry in the
// goroutines that bring it to a majority, and the sink for Prometheus takes 20 to 30 µs for each on a server that was idle
// before, which the answer to a change would wait for.
type laterSink struct {
	collectedSink // what it is handed on to

	handing sync.Mutex // one hands on at a time, so that gauges end with their last value

	mu      sync.Mutex // guards the rest
	waiting []measured
}

// measured is one call of the sink. The library makes its key and labels anew for each.
type measured struct {
	hand   func(sink metrics.MetricSink, key []string, val float32, labels []metrics.Label)
	key    []string
	val    float32
	labels []metrics.Label
}

func (s *laterSink) add(m measured) {
	s.mu.Lock()
	s.waiting = append(s.waiting, m)
	n := len(s.waiting)
	s.mu.Unlock()
	switch {
	case n == 1:
		time.AfterFunc(sinkDelay, s.flush)
	case n >= maxMeasured:
		s.flush()
	}
}

// flush hands on what was measured before.
func (s *laterSink) flush() {
	s.handing.Lock()
	defer s.handing.Unlock()
	s.mu.Lock()
	waiting := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	for _, m := range waiting {
		m.hand(s.collectedSink, m.key, m.val, m.labels)
	}
}

// Collect implements prometheus.Collector: all that was measured before is there.
func (s *laterSink) Collect(out chan<- prometheus.Metric) {
	s.flush()
	s.collectedSink.Collect(out)
}

// SetGauge implements metrics.MetricSink.
func (s *laterSink) SetGauge(key []string, val float32) { s.SetGaugeWithLabels(key, val, nil) }

// SetGaugeWithLabels implements metrics.MetricSink.
func (s *laterSink) SetGaugeWithLabels(key []string, val float32, labels []metrics.Label) {
	s.add(measured{metrics.MetricSink.SetGaugeWithLabels, key, val, labels})
}

// IncrCounter implements metrics.MetricSink.
func (s *laterSink) IncrCounter(key []string, val float32) { s.IncrCounterWithLabels(key, val, nil) }

// IncrCounterWithLabels implements metrics.MetricSink.
func (s *laterSink) IncrCounterWithLabels(key []string, val float32, labels []metrics.Label) {
	s.add(measured{metrics.MetricSink.IncrCounterWithLabels, key, val, labels})
}

// AddSample implements metrics.MetricSink.
func (s *laterSink) AddSample(key []string, val float32) { s.AddSampleWithLabels(key, val, nil) }

// AddSampleWithLabels implements metrics.MetricSink.
func (s *laterSink) AddSampleWithLabels(key []string, val float32, labels []metrics.Label) {
	s.add(measured{metrics.MetricSink.AddSampleWithLabels, key, val, labels})
}
