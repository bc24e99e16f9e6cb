package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/transport"
	"github.com/scope-registry/scope-registry/transport/httpapi"
)

// insecureEvery is how often a server on an open address says so.
const insecureEvery = time.Minute

// readyEvery is how often a starting server looks whether it is ready.
const readyEvery = 50 * time.Millisecond

// serverConfig is one server: the registry's own facts and what stands before it.
type serverConfig struct {
	registry.Config
	HTTPListen string
	HTTP       net.Listener // given instead of HTTPListen; the server closes it
	Insecure   bool
}

// server is a running registry with its HTTP front end.
type server struct {
	reg    *registry.Registry
	log    hclog.Logger
	http   string // address that was bound
	cancel context.CancelFunc
	served chan error
	open   chan struct{} // closed when the reminder of --insecure has ended
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
	for _, l := range []struct{ flag, addr string }{{"--peer", peer}, {"--http", cfg.HTTPListen}} {
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

// startServer opens the HTTP port, then the registry, and serves until Close.
// ctx bounds the start alone: a first start waits for the other servers.
func startServer(ctx context.Context, cfg serverConfig) (*server, error) {
	needed, err := checkListeners(cfg)
	if err != nil {
		return nil, err
	}
	shared, err := raftMetrics()
	if err != nil {
		return nil, err
	}
	ln := cfg.HTTP
	if ln == nil {
		if ln, err = net.Listen("tcp", cfg.HTTPListen); err != nil {
			return nil, invalid("--http %s cannot be listened on: %v; is another server running there?", cfg.HTTPListen, err)
		}
	}
	cfg.HTTPAddr = ln.Addr().String()
	cfg.Version = version()
	reg, err := registry.Open(ctx, cfg.Config)
	if err != nil {
		_ = ln.Close()
		return nil, openError(err)
	}
	own := prometheus.NewRegistry()
	m := httpapi.Collector(reg)
	own.MustRegister(m)
	h := httpapi.New(httpapi.Config{Registry: reg, Logger: cfg.Logger, Gatherer: prometheus.Gatherers{shared, own}, Metrics: m, Version: cfg.Version})
	run, cancel := context.WithCancel(context.Background())
	s := &server{reg: reg, log: cfg.Logger, http: cfg.HTTPAddr, cancel: cancel, served: make(chan error, 1), open: make(chan struct{})}
	go func() { s.served <- httpapi.Serve(run, ln, h, cfg.Logger) }()
	go s.remind(run, needed)
	return s, nil
}

// openError gives an error of the registry that has no code one: what fails at the start is what was configured.
func openError(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	code := api.Internal
	var damaged *registry.CorruptError
	if errors.As(err, &damaged) {
		code = api.Corrupt
	}
	return &api.Error{Code: code, Detail: fmt.Sprintf("the server did not start: %v", err)}
}

// remind says every minute that the ports are open to everybody.
func (s *server) remind(ctx context.Context, needed bool) {
	defer close(s.open)
	if !needed {
		return
	}
	t := time.NewTicker(insecureEvery)
	defer t.Stop()
	for {
		s.log.Warn("running with --insecure: everybody who can reach these addresses controls the cluster", "http", s.http)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
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
	if errors.Is(err, &api.Error{Code: api.Corrupt}) || errors.As(err, &damaged) {
		code = api.Corrupt
	}
	return &api.Error{Code: code, Detail: fmt.Sprintf("the server must not go on: %v", err)}
}

// Close ends the front end and then the registry.
func (s *server) Close() error {
	s.cancel()
	err := <-s.served
	<-s.open
	return errors.Join(err, s.reg.Close())
}
