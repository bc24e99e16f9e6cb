package main

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"
	"github.com/prometheus/client_golang/prometheus"
)

// keptSink keeps what it is handed.
type keptSink struct {
	metrics.BlackholeSink
	mu  sync.Mutex // guards got
	got []string
}

func (*keptSink) Describe(chan<- *prometheus.Desc) {}
func (*keptSink) Collect(chan<- prometheus.Metric) {}

func (s *keptSink) keep(kind string, key []string, val float32, labels []metrics.Label) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, fmt.Sprint(kind, key, val, labels))
}

func (s *keptSink) has() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *keptSink) SetGaugeWithLabels(key []string, val float32, labels []metrics.Label) {
	s.keep("gauge", key, val, labels)
}

func (s *keptSink) IncrCounterWithLabels(key []string, val float32, labels []metrics.Label) {
	s.keep("counter", key, val, labels)
}

func (s *keptSink) AddSampleWithLabels(key []string, val float32, labels []metrics.Label) {
	s.keep("sample", key, val, labels)
}

// All that is measured is handed on as it was, in its order: after a while, when metrics are asked for, and when very much waits.
func TestLaterSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := &keptSink{}
		s := &laterSink{collectedSink: kept}
		label := []metrics.Label{{Name: "peer", Value: "s2"}}
		s.AddSample([]string{"a"}, 1)
		s.AddSampleWithLabels([]string{"a"}, 2, label)
		s.SetGauge([]string{"b"}, 3)
		s.SetGaugeWithLabels([]string{"b"}, 4, label)
		s.IncrCounter([]string{"c", "d"}, 5)
		s.IncrCounterWithLabels([]string{"c"}, 6, label)
		want := []string{"sample[a] 1 []", "sample[a] 2 [{peer s2}]", "gauge[b] 3 []", "gauge[b] 4 [{peer s2}]", "counter[c d] 5 []", "counter[c] 6 [{peer s2}]"}
		if got := kept.has(); len(got) > 0 {
			t.Errorf("handed on at once: %q", got)
		}
		time.Sleep(sinkDelay)
		synctest.Wait()
		if got := kept.has(); !slices.Equal(got, want) {
			t.Errorf("after %v: %q, want %q", sinkDelay, got, want)
		}
		s.AddSample([]string{"e"}, 7)
		s.Collect(nil)
		if want = append(want, "sample[e] 7 []"); !slices.Equal(kept.has(), want) {
			t.Errorf("asked for: %q, want %q", kept.has(), want)
		}
		for range maxMeasured {
			s.AddSample([]string{"f"}, 8)
		}
		if got := len(kept.has()); got != len(want)+maxMeasured {
			t.Errorf("%d handed on when %d waited", got-len(want), maxMeasured)
		}
	})
}

// Measuring and handing on at the same time loses nothing, and no more waits than may, but for one of each who measures:
// also where what it is handed on to is slow.
func TestLaterSinkBusy(t *testing.T) {
	kept := &keptSink{}
	s := &laterSink{collectedSink: kept}
	const each, who = 3 * maxMeasured, 4
	var all sync.WaitGroup
	for range who {
		all.Go(func() {
			for i := range each {
				s.AddSample([]string{"a"}, 1)
				if i%1000 != 0 {
					continue
				}
				s.mu.Lock()
				if n := len(s.waiting); n > maxMeasured+who {
					t.Errorf("%d wait, the limit is %d", n, maxMeasured)
				}
				s.mu.Unlock()
			}
		})
	}
	all.Wait()
	s.flush()
	if got := len(kept.has()); got != who*each {
		t.Errorf("%d of %d handed on", got, who*each)
	}
}
