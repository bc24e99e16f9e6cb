package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	statusHeaderTime = 5 * time.Second
	statusTime       = 30 * time.Second
)

// gateReady is what /readyz answers.
type gateReady struct {
	Ready   bool   `json:"ready"`
	Why     string `json:"why,omitempty"`
	Session any    `json:"session"`
	Store   any    `json:"store"`
}

// ready is whether clients can be sent here: the session is open and the store answers.
func (p *gateProcess) ready() gateReady {
	session, store := p.session.Status(), p.store.State()
	out := gateReady{Ready: session.Ready && store.Answers && p.store.LostError() == nil, Session: session, Store: struct {
		Answers bool      `json:"answers"`
		Since   time.Time `json:"since"`
		Trouble string    `json:"trouble,omitempty"`
	}{store.Answers, store.Since.UTC(), store.Trouble}}
	switch {
	case p.store.LostError() != nil:
		out.Why = p.store.LostError().Error()
	case !store.Answers:
		out.Why = "the store does not answer: " + store.Trouble
	case !session.Ready:
		out.Why = session.Waiting
	}
	return out
}

// status serves what a supervisor and a monitoring system ask for.
func (p *gateProcess) status() (http.Handler, error) {
	reg := prometheus.NewRegistry()
	for _, m := range append(p.metrics(), gateStats{p.gate.Stats}, gateMoves{p.cfg.node, p.session.Moves}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})) {
		if err := reg.Register(m); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		is := p.ready()
		w.Header().Set("Content-Type", "application/json")
		if !is.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(is)
	})
	return mux, nil
}

// metrics are those of the session and of the store.
func (p *gateProcess) metrics() []prometheus.Collector {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "scope_registry_gate_" + name, Help: help}, value)
	}
	counter := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "scope_registry_gate_" + name, Help: help}, value)
	}
	return []prometheus.Collector{
		gauge("ready", "1 if writes can be admitted: the session is open and the store answers.", func() float64 { return oneIf(p.ready().Ready) }),
		gauge("session_ready", "1 if the session is open and the gate's table shows it.", func() float64 { return oneIf(p.session.Status().Ready) }),
		gauge("lease_left_seconds", "What is left of the lease without a renewal; 0 is none.", func() float64 { return float64(p.session.Status().LeaseMS) / 1000 }),
		gauge("table_index", "Log index that the gate's table shows.", func() float64 { return float64(p.session.View().Index()) }),
		gauge("table_age_seconds", "Time since a server last confirmed the gate's table; before the first, since the start.", func() float64 { return float64(p.session.Status().AgeMS) / 1000 }),
		gauge("table_scopes", "Scopes in the gate's table.", func() float64 { return float64(p.session.View().Len()) }),
		gauge("store_answers", "1 if the store answered when it was looked at last, about a second ago.", func() float64 { return oneIf(p.store.State().Answers) }),
		counter("store_lock_retaken_total", "Times that the store came back without the gate's lock, which is without its data.", func() float64 { return float64(p.store.State().Retaken) }),
	}
}

// serveStatus serves h until ctx ends, and closes l.
func serveStatus(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: statusHeaderTime, ReadTimeout: statusTime, WriteTimeout: statusTime}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
