package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/gate"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/slices"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

const (
	// gateDrain bounds the end: first the writes under way, then the replies.
	gateDrain = 10 * time.Second
	// declareAgain is the pause between two tries to declare the node.
	declareAgain = time.Second
	// storeLook is how often it is looked whether the store has been gone for too long.
	storeLook = 200 * time.Millisecond
)

// gateProcess is a gate and what it stands on.
type gateProcess struct {
	cfg      gateConfig
	registry *client.Client
	store    *upstream.Store
	slices   *slices.Store
	session  *client.Session
	gate     *gate.Gate
	working  sync.WaitGroup
	failed   chan error // of parts that stopped by themselves
}

// gate runs until ctx ends or the gate must not go on.
func (c *cli) gate(ctx context.Context, cfg gateConfig) (err error) {
	p := &gateProcess{cfg: cfg, failed: make(chan error, 3)}
	ports, err := p.listen()
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range ports {
			_ = l.Close()
		}
	}()
	p.registry = c.dial()
	defer p.registry.Close()
	if err := p.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // ended while it waited for the store
		}
		return err
	}
	serving, stop := context.WithCancel(context.Background())
	defer stop()
	if err := p.serve(serving, ports); err != nil {
		return errors.Join(err, p.close(stop))
	}
	if err := c.printf("gate %s listening: %s\n", cfg.node, ports[0].Addr()); err != nil {
		return errors.Join(err, p.close(stop))
	}
	p.working.Go(func() { p.begin(serving, c, ports[0].Addr().String()) })
	return errors.Join(p.wait(ctx), p.close(stop))
}

// listen opens the ports, that of clients first. With port 0 only now is it known what the node's address is.
func (p *gateProcess) listen() (open []net.Listener, err error) {
	for _, at := range []struct{ flag, addr string }{{"--listen", p.cfg.listen}, {"--http", p.cfg.http}, {"--pprof", p.cfg.pprof}} {
		var l net.Listener
		if at.addr != "" {
			if l, err = net.Listen("tcp", at.addr); err != nil {
				for _, before := range open {
					_ = before.Close()
				}
				return nil, invalid("%s %s cannot be listened on: %v; does another gate run there?", at.flag, at.addr, err)
			}
			open = append(open, l)
		}
	}
	return open, nil
}

// open takes the data dir, then the store, then begins the session.
func (p *gateProcess) open(ctx context.Context) error {
	known, err := p.startSession(ctx)
	if err != nil {
		if p.slices != nil {
			p.slices.Close()
		}
		if p.store != nil {
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), gateDrain)
			defer cancel()
			err = errors.Join(err, p.store.Undo(ending))
		}
		return gateStartError(err)
	}
	var secure *tls.Config
	if p.cfg.certs != nil {
		secure = p.cfg.certs.Listen(p.cfg.requireCerts)
	}
	p.gate = gate.New(gate.Config{Store: p.store, Guard: p.session.Guard(), Changed: p.session.Changed, Commands: known, Slices: p.session.Handler(), Holds: p.slices.Holds,
		TLS: secure, TLSOnly: secure != nil && !p.cfg.plain, Limits: gate.Limits{Clients: p.cfg.clients, Drain: gateDrain}, Pipes: p.cfg.pipes, Log: p.cfg.log})
	return nil
}

func (p *gateProcess) startSession(ctx context.Context) (known *commands.Checked, err error) {
	send, err := p.send()
	if err != nil {
		return nil, err
	}
	p.session, err = client.StartSession(p.registry, client.SessionConfig{Node: p.cfg.node, DataDir: filepath.Join(p.cfg.dataDir, "session"), Send: send,
		Grace: p.cfg.grace, RefuseUnscoped: p.cfg.unscoped == "refuse", Log: p.cfg.log,
		OpenStore: func(identity string) (client.Store, error) {
			at := p.cfg.store
			at.Node, at.Identity = p.cfg.node, identity
			if p.store, err = upstream.Open(ctx, at, p.cfg.log); err != nil {
				return nil, err
			}
			if known, err = p.readCommands(ctx); err != nil {
				return nil, err
			}
			p.slices, err = slices.Open(ctx, p.store, slices.Config{Dir: filepath.Join(p.cfg.dataDir, "slices"), Replace: p.cfg.replace, Rate: p.cfg.rate, Log: p.cfg.log})
			return p.slices, err
		}})
	return known, err
}

// send is how slices go to other gates: over TLS where this one has a certificate, as they have then.
func (p *gateProcess) send() (client.Send, error) {
	if p.cfg.certs == nil {
		return client.HTTPSend(nil), nil
	}
	return client.TLSSend(p.cfg.files)
}

// readCommands compares the store's commands with the table.
func (p *gateProcess) readCommands(ctx context.Context) (*commands.Checked, error) {
	reply, err := p.store.Ask(ctx, "COMMAND")
	if err != nil {
		return nil, err
	}
	all, err := commands.Describe(reply.Any())
	if err != nil {
		return nil, err
	}
	known, differ := commands.Check(all)
	p.cfg.log.Info("the store's commands are checked", "commands", len(all), "differences", differ.String())
	return known, nil
}

// gateStartError says which code a start fails with.
func gateStartError(err error) error {
	var held *upstream.HeldError
	var no *upstream.RefusedError
	var unfit *upstream.UnfitError
	switch {
	case errors.As(err, &held):
		return gateError(api.Exists, err)
	case errors.As(err, &no):
		return gateError(api.Forbidden, err)
	case errors.As(err, &unfit):
		return gateError(api.Invalid, err)
	}
	return gateError(api.Invalid, fmt.Errorf("the gate did not start: %w", err))
}

// serve starts what listens.
func (p *gateProcess) serve(ctx context.Context, ports []net.Listener) error {
	p.part("gate", func() error { return p.gate.Serve(ctx, ports[0]) })
	rest := ports[1:]
	if p.cfg.http != "" {
		h, err := p.status()
		if err != nil {
			return err
		}
		at := rest[0]
		rest = rest[1:]
		p.part("HTTP", func() error { return serveStatus(ctx, at, h) })
	}
	if p.cfg.pprof != "" {
		p.part("profile", func() error { return serveProfiles(ctx, rest[0], hclog.NewNullLogger()) })
	}
	return nil
}

func (p *gateProcess) part(name string, serve func() error) {
	p.working.Go(func() {
		if err := serve(); err != nil {
			p.failed <- fmt.Errorf("the %s port stopped: %w", name, err)
		}
	})
}

// begin declares the node, and tells when it takes writes.
func (p *gateProcess) begin(ctx context.Context, c *cli, addr string) {
	if p.cfg.addr != "" {
		addr = p.cfg.addr
	}
	for p.cfg.register {
		err := p.declare(ctx, addr)
		if err == nil {
			break
		}
		p.cfg.log.Warn("the node is not declared yet", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(declareAgain):
		}
	}
	if err := p.session.WaitReady(ctx); err == nil {
		_ = c.printf("gate %s ready\n", p.cfg.node)
	} else if ctx.Err() == nil {
		p.cfg.log.Error("the session does not begin", "error", err)
	}
}

// declare sets the node's address in the registry, if it is another one there.
func (p *gateProcess) declare(ctx context.Context, addr string) error {
	n, err := p.registry.Node(ctx, p.cfg.node)
	if err != nil && !errors.Is(err, &api.Error{Code: api.NotFound}) || err == nil && n.Addr == addr {
		return err
	}
	_, err = p.registry.SetNode(ctx, client.Node{ID: p.cfg.node, Addr: addr})
	return err
}

// wait returns when the gate has to end, and why.
func (p *gateProcess) wait(ctx context.Context) error {
	look := time.NewTicker(storeLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.store.Lost():
			return gateError(api.Exists, p.store.LostError())
		case err := <-p.failed:
			return gateError(api.Internal, err)
		case <-look.C:
			if is := p.store.State(); p.cfg.giveUp > 0 && !is.Answers && time.Since(is.Since) >= p.cfg.giveUp {
				return gateError(api.Unavailable, fmt.Errorf("the store at %s has not answered for %v (--give-up-after), and the session is given up: %s", p.cfg.store.Addr, p.cfg.giveUp, is.Trouble))
			}
		}
	}
}

// close ends in the order in which nothing is lost: the session admits nothing more and waits for the writes under way, whose
// replies the gate still sends; then the clients; the store last.
func (p *gateProcess) close(stop context.CancelFunc) error {
	ending, cancel := context.WithTimeout(context.Background(), gateDrain)
	defer cancel()
	err := p.session.Close(ending)
	stop()
	p.working.Wait()
	p.slices.Close()
	if err = errors.Join(err, p.store.Close()); err != nil {
		return gateError(api.Internal, fmt.Errorf("the gate did not stop cleanly: %w", err))
	}
	return nil
}
