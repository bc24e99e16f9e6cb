package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/transport"
	"github.com/scope-registry/scope-registry/transport/httpapi"
	"github.com/scope-registry/scope-registry/transport/respapi"
)

// insecureEvery is how often a server on an open address says so.
const insecureEvery = time.Minute

// readyEvery is how often a starting server looks whether it is ready.
const readyEvery = 50 * time.Millisecond

// serverConfig is one server: the registry's own facts and what stands before it.
type serverConfig struct {
	registry.Config
	HTTPListen string
	RESPListen string // "" is no Redis-protocol front end
	Insecure   bool
	// Listening is told the bound addresses before the server waits for the
	// others; nil is nobody. resp is "" if there is none.
	Listening func(http, resp string) error
}

// server is a running registry with its front ends.
type server struct {
	reg        *registry.Registry
	log        hclog.Logger
	http, resp string // addresses that were bound; resp is "" without one
	cancel     context.CancelFunc
	tally      *tally
	running    sync.WaitGroup // front ends, the tally, and the reminder of --insecure
	failed     chan error     // of front ends that stopped by themselves
}

// checkListeners refuses open addresses and reports whether --insecure was needed.
func checkListeners(cfg serverConfig) (bool, error) {
	peer := cfg.PeerListen
	if peer == "" {
		for _, p := range cfg.Peers {
			if p.ID == cfg.ID {
				peer = p.Addr
			}
		}
	}
	needed := false
	for _, l := range []struct{ flag, addr string }{{"--peer", peer}, {"--http", cfg.HTTPListen}, {"--resp", cfg.RESPListen}} {
		if l.addr == "" {
			continue
		}
		if err := transport.CheckListener(l.flag, l.addr, cfg.Insecure); err != nil {
			return false, invalid("%v", err)
		}
		needed = needed || cfg.Insecure && transport.CheckListener(l.flag, l.addr, false) != nil
	}
	return needed, nil
}

// startServer opens the ports for clients, then the registry, and serves until
// Close. ctx bounds the start alone: a first start waits for the other servers.
func startServer(ctx context.Context, cfg serverConfig) (_ *server, err error) {
	exposed, err := checkListeners(cfg)
	if err != nil {
		return nil, err
	}
	shared, err := raftMetrics()
	if err != nil {
		return nil, err
	}
	s := &server{log: cfg.Logger, failed: make(chan error, 2)}
	var run context.Context
	run, s.cancel = context.WithCancel(context.Background())
	var open []net.Listener
	defer func() {
		if err != nil {
			s.cancel()
			s.running.Wait()
			for _, ln := range open {
				_ = ln.Close()
			}
		}
	}()
	for _, p := range []struct {
		flag, addr string
		bound      *string
	}{{"--http", cfg.HTTPListen, &s.http}, {"--resp", cfg.RESPListen, &s.resp}} {
		if p.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", p.addr)
		if err != nil {
			return nil, invalid("%s %s cannot be listened on: %v; is another server running there?", p.flag, p.addr, err)
		}
		open, *p.bound = append(open, ln), ln.Addr().String()
	}
	if exposed {
		s.running.Go(func() { s.remind(run) })
	}
	if cfg.Listening != nil {
		if err := cfg.Listening(s.http, s.resp); err != nil {
			return nil, err
		}
	}
	cfg.HTTPAddr, cfg.Version = s.http, version()
	if s.reg, err = registry.Open(ctx, cfg.Config); err != nil {
		return nil, openError(err)
	}
	s.serve(run, cfg, shared, open)
	return s, nil
}

// serve starts the front ends on the listeners, HTTP first.
func (s *server) serve(run context.Context, cfg serverConfig, shared prometheus.Gatherer, open []net.Listener) {
	own := prometheus.NewRegistry()
	metrics := httpapi.Collector(s.reg)
	s.tally = newTally(s.reg)
	s.running.Go(func() { s.tally.run(run) })
	s.running.Go(func() { s.remindAnonymous(run) })
	own.MustRegister(metrics, s.tally)
	h := httpapi.New(httpapi.Config{Registry: s.reg, Logger: cfg.Logger, Gatherer: prometheus.Gatherers{shared, own}, Metrics: metrics, Version: cfg.Version, Spool: cfg.DataDir})
	s.front("HTTP", func() error { return httpapi.Serve(run, open[0], h, nil, cfg.Logger) })
	if s.resp == "" {
		return
	}
	counts := respapi.Collector()
	own.MustRegister(counts)
	door := respapi.New(respapi.Config{Registry: s.reg, Logger: cfg.Logger, Version: cfg.Version, Metrics: counts})
	s.front("RESP", func() error { return door.Serve(run, open[1]) })
}

func (s *server) front(name string, serve func() error) {
	s.running.Go(func() {
		if err := serve(); err != nil {
			s.failed <- fmt.Errorf("the %s front end stopped: %w", name, err)
		}
	})
}

// openError gives an error of the registry that has no code one: what fails at the start is what was configured.
func openError(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	code := api.Internal
	var damaged *registry.CorruptError
	var removed *registry.RemovedError
	var port *net.OpError
	switch {
	case errors.As(err, &damaged):
		code = api.Corrupt
	case errors.As(err, &removed):
		code = api.Forbidden
	case errors.As(err, &port) && port.Op == "listen":
		code = api.Invalid
	}
	return &api.Error{Code: code, Detail: fmt.Sprintf("the server did not start: %v", err)}
}

// remind says every minute that the ports are open to everybody.
func (s *server) remind(ctx context.Context) {
	t := time.NewTicker(insecureEvery)
	defer t.Stop()
	for {
		s.log.Warn("running with --insecure: everybody who can reach these addresses controls the cluster", "http", s.http, "resp", s.resp)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// remindAnonymous says every minute that everybody is admitted, until that ends. A server that has not caught up yet does
// not know.
func (s *server) remindAnonymous(ctx context.Context) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		switch {
		case s.reg.Ready() != nil:
			t.Reset(readyEvery)
		case !s.reg.State().AdmitsAnonymous():
			return
		default:
			s.log.Warn("anonymous callers are admitted: everybody who can reach these addresses may do everything, until the first token is made (scope-registry cluster bootstrap-token)", "http", s.http, "resp", s.resp)
			t.Reset(insecureEvery)
		}
	}
}

// waitReady returns nil when the server is ready, or why it cannot be.
func (s *server) waitReady(ctx context.Context) error {
	t := time.NewTicker(readyEvery)
	defer t.Stop()
	for {
		err := s.reg.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case fatal := <-s.reg.Fatal():
			return fatalError(fatal)
		case <-t.C:
		}
	}
}

// fatalError is the error a server ends with: CORRUPT keeps its exit code.
func fatalError(err error) error {
	code := api.Internal
	var damaged *registry.CorruptError
	var removed *registry.RemovedError
	if errors.As(err, &removed) {
		return &api.Error{Code: api.Forbidden, Detail: err.Error()}
	}
	if errors.Is(err, &api.Error{Code: api.Corrupt}) || errors.As(err, &damaged) {
		code = api.Corrupt
	}
	return &api.Error{Code: code, Detail: fmt.Sprintf("the server must not go on: %v", err)}
}

// closeAfterFatal bounds how long a server that must not go on waits for what it stands on: a disk that hangs gives
// nothing back.
const closeAfterFatal = 5 * time.Second

// CloseWithin is Close, but for closeAfterFatal at most once the registry must not go on; fatal says that it must not
// already. The process has to end then.
func (s *server) CloseWithin(fatal bool) error {
	done := make(chan error, 1)
	go func() { done <- s.Close() }()
	late := make(<-chan time.Time)
	if fatal {
		late = time.After(closeAfterFatal)
	}
	var cause error
	for {
		select {
		case err := <-done:
			return errors.Join(cause, err)
		case err := <-s.reg.Fatal():
			cause, late = fatalError(err), time.After(closeAfterFatal)
		case <-late:
			return errors.Join(cause, fmt.Errorf("what it stands on did not end within %v", closeAfterFatal))
		}
	}
}

// Close ends the front ends and then the registry.
func (s *server) Close() error {
	s.cancel()
	s.running.Wait()
	err := s.reg.Close()
	for len(s.failed) > 0 { // nobody adds any more
		err = errors.Join(<-s.failed, err)
	}
	return err
}
