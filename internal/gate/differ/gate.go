package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/gate"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/internal/registry"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport/httpapi"
)

const (
	node   = "differ"
	prefix = "d:" // all keys of programs
	// startLimit bounds how long registry, session and gate take to start.
	startLimit = time.Minute
)

// startGate starts a registry of one server, declares the scope of all keys, and puts the gate of its owner in front
// of the store. Stop ends all of it.
func startGate(ctx context.Context, store, dir string, checked *commands.Checked) (addr string, stop func(), err error) {
	var undo []func()
	stop = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	starting, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	endpoint, end, err := startRegistry(starting, filepath.Join(dir, "registry"))
	if err != nil {
		return "", nil, fmt.Errorf("starting a registry: %w", err)
	}
	undo = append(undo, end)
	c := client.New([]string{endpoint})
	undo = append(undo, c.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	session, err := own(starting, c, l.Addr().String(), filepath.Join(dir, "node"))
	if err != nil {
		return "", nil, errors.Join(err, l.Close())
	}
	undo = append(undo, func() { _ = session.Close(context.WithoutCancel(ctx)) }) // the registry ends with it
	up, err := upstream.Open(starting, upstream.Config{Addr: store, Node: node, Identity: node}, log)
	if err != nil {
		return "", nil, errors.Join(err, l.Close())
	}
	undo = append(undo, func() { _ = up.Close() }) // the store ends with it
	g := gate.New(gate.Config{Store: up, Guard: session.Guard(), Changed: session.Changed, Commands: checked, Log: log})
	serving, halt := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- g.Serve(serving, l) }()
	undo = append(undo, func() {
		halt()
		if err := <-served; err != nil {
			log.Error("the gate ended otherwise than it was told to", "error", err)
		}
	})
	return l.Addr().String(), stop, nil
}

// startRegistry starts a registry of one server in this process.
func startRegistry(ctx context.Context, dir string) (endpoint string, stop func(), err error) {
	addrs, err := freeport.Addrs(1)
	if err != nil {
		return "", nil, err
	}
	r, err := registry.Open(ctx, registry.Config{ID: "s1", DataDir: dir, Peers: []registry.Peer{{ID: "s1", Addr: addrs[0]}}, Timing: "fast"})
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, errors.Join(err, r.Close())
	}
	front := &http.Server{Handler: httpapi.New(httpapi.Config{Registry: r}), ReadHeaderTimeout: startLimit}
	served := make(chan error, 1)
	go func() { served <- front.Serve(l) }()
	stop = func() {
		// The session's last word may still be under way.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if front.Shutdown(last) != nil {
			_ = front.Close() // of connections that end with it
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			slog.Error("the registry's front end", "error", err)
		}
		_ = r.Close() // of a directory that is thrown away
	}
	return "http://" + l.Addr().String(), stop, nil
}

// own declares node and scope, and opens the node's session.
func own(ctx context.Context, c *client.Client, addr, dir string) (*client.Session, error) {
	if _, err := c.SetNode(ctx, api.Node{ID: node, Addr: addr}); err != nil {
		return nil, fmt.Errorf("declaring the node: %w", err)
	}
	p, err := scope.ParsePrefix(prefix)
	if err != nil {
		return nil, err
	}
	if _, err := c.Declare(ctx, p, api.Declare{Writer: node}, 0); err != nil {
		return nil, fmt.Errorf("declaring the scope: %w", err)
	}
	s, err := client.StartSession(c, client.SessionConfig{Node: node, DataDir: dir, Store: client.NoData{}})
	if err != nil {
		return nil, err
	}
	if err := s.WaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}
