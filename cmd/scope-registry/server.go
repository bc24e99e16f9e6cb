package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/transport"
	"github.com/scope-registry/scope-registry/transport/httpapi"
	"github.com/scope-registry/scope-registry/transport/respapi"
)

// remindEvery is how often a server on an open address, or with a certificate that ends soon, says so.
const remindEvery = time.Minute

// readyEvery is how often a starting server looks whether it is ready.
const readyEvery = 50 * time.Millisecond

// serverConfig is one server: the registry's own facts and what stands before it.
type serverConfig struct {
	registry.Config
	HTTPListen string
	RESPListen string // "" is no Redis-protocol front end
	Insecure   bool
	// CertsRequired keeps everybody out who has no client certificate.
	CertsRequired bool
	// Profile is where Go's profiles are served, host:port on loopback; "" is nowhere.
	Profile string
	// Listening is told the bound addresses before the server waits for the
	// others; nil is nobody. resp is "" if there is none.
	Listening func(http, resp string) error
}

// server is a running registry with its front ends.
type server struct {
	reg        *registry.Registry
	log        hclog.Logger
	http, resp string // addresses that were bound; resp is "" without one
	profile    string // as resp
	cancel     context.CancelFunc
	tally      *tally
	running    sync.WaitGroup // front ends, the tally, the profiles, and the reminder
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
		if err := transport.CheckListener(l.flag, l.addr, cfg.Insecure || cfg.Certs != nil); err != nil {
			return false, invalid("%v", err)
		}
		needed = needed || cfg.Insecure && cfg.Certs == nil && transport.CheckListener(l.flag, l.addr, false) != nil
	}
	if cfg.Profile == "" {
		return needed, nil
	}
	// Nobody is asked who they are there, whatever the other ports do.
	if err := transport.CheckListener("--pprof", cfg.Profile, false); err != nil {
		return false, invalid("--pprof %s: profiles are for this machine alone; give a loopback address such as 127.0.0.1:6060", cfg.Profile)
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
	s := &server{log: cfg.Logger, failed: make(chan error, 3)}
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
	}{{"--http", cfg.HTTPListen, &s.http}, {"--resp", cfg.RESPListen, &s.resp}, {"--pprof", cfg.Profile, &s.profile}} {
		if p.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", p.addr)
		if err != nil {
			return nil, invalid("%s %s cannot be listened on: %v; is another server running there?", p.flag, p.addr, err)
		}
		open, *p.bound = append(open, ln), ln.Addr().String()
	}
	if exposed || cfg.Certs != nil {
		s.running.Go(func() { s.remind(run, exposed, cfg.Certs) })
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
	if !cfg.CertsRequired {
		s.running.Go(func() { s.remindAnonymous(run) })
	}
	own.MustRegister(metrics, s.tally, dropped(s.reg))
	var secure *tls.Config
	if cfg.Certs != nil {
		own.MustRegister(certificateEnd(cfg.Certs))
		secure = cfg.Certs.Listen(cfg.CertsRequired)
	}
	h := httpapi.New(httpapi.Config{Registry: s.reg, Logger: cfg.Logger, Gatherer: prometheus.Gatherers{shared, own}, Metrics: metrics, Version: cfg.Version, Spool: cfg.DataDir,
		Certs: cfg.Certs, CertsRequired: cfg.CertsRequired})
	s.front("HTTP", func() error { return httpapi.Serve(run, open[0], h, secure, cfg.Logger) })
	if s.profile != "" {
		s.front("profile", func() error { return serveProfiles(run, open[len(open)-1], cfg.Logger) })
	}
	if s.resp == "" {
		return
	}
	counts := respapi.Collector()
	own.MustRegister(counts)
	door := respapi.New(respapi.Config{Registry: s.reg, Logger: cfg.Logger, Version: cfg.Version, Metrics: counts, Certs: cfg.Certs, CertsRequired: cfg.CertsRequired})
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

// remind says every minute that the ports are open to everybody, if they are, and that the certificate is to be renewed.
func (s *server) remind(ctx context.Context, exposed bool, own *certs.Source) {
	t := time.NewTicker(remindEvery)
	defer t.Stop()
	for {
		if exposed {
			s.log.Warn("running with --insecure: everybody who can reach these addresses controls the cluster", "http", s.http, "resp", s.resp)
		}
		if own != nil && own.Due() {
			s.log.Warn("the certificate has less than a third of its life left; renew it, it is read anew by itself", "until", own.Expires().UTC().Format(time.RFC3339))
		}
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
		case !s.reg.Newest().AdmitsAnonymous():
			return
		default:
			s.log.Warn("anonymous callers are admitted: everybody who can reach these addresses may do everything, until the first token is made (scope-registry cluster bootstrap-token)", "http", s.http, "resp", s.resp)
			t.Reset(remindEvery)
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
