// Command store is a small durable key-value store whose keys have one writer each, which the registry names. It shows
// all that a store of your own needs: a data directory, a session, writes through the guard, and slices that move.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// headerTime and requestTime bound a request, so that nobody can hold connections by sending slowly.
	headerTime  = 5 * time.Second
	requestTime = time.Minute
	idleTime    = 2 * time.Minute
	// maxHeader leaves room for a key of which each byte is escaped twice, as \xNN and then as %5CxNN.
	maxHeader = 256 << 10
	// closing bounds the end: the drain of the writes under way, and then of the requests.
	closing = 10 * time.Second
	// again is the pause between two tries to declare the node.
	again = time.Second
)

// config is what the flags say.
type config struct {
	node, listen, addr, data, endpoints, log string
	cacert, cert, key, token                 string // files
	grace                                    time.Duration
	register, refuse, insecure               bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	cfg, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, cfg, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (config, error) {
	var c config
	f := flag.NewFlagSet("store", flag.ContinueOnError)
	f.SetOutput(stderr)
	endpoints := os.Getenv("SCOPE_REGISTRY_ENDPOINTS")
	if endpoints == "" {
		endpoints = "http://127.0.0.1:7481"
	}
	f.StringVar(&c.node, "node", "", "id of this node in the registry")
	f.StringVar(&c.listen, "listen", "127.0.0.1:6101", "address to listen on")
	f.StringVar(&c.addr, "addr", "", "host:port at which clients and other nodes reach this one (default: the one it listens on)")
	f.StringVar(&c.data, "data", "", "directory of this node alone")
	f.StringVar(&c.endpoints, "endpoints", endpoints, "the registry's servers, separated by commas (env SCOPE_REGISTRY_ENDPOINTS)")
	f.StringVar(&c.cacert, "cacert", os.Getenv("SCOPE_REGISTRY_CACERT"), "authorities that the registry's servers may have their certificates of (env SCOPE_REGISTRY_CACERT)")
	f.StringVar(&c.cert, "cert", os.Getenv("SCOPE_REGISTRY_CERT"), "certificate to show them (env SCOPE_REGISTRY_CERT)")
	f.StringVar(&c.key, "key", os.Getenv("SCOPE_REGISTRY_KEY"), "its private key (env SCOPE_REGISTRY_KEY)")
	f.StringVar(&c.token, "token-file", os.Getenv("SCOPE_REGISTRY_TOKEN_FILE"), "file with the token to show them (env SCOPE_REGISTRY_TOKEN_FILE)")
	f.DurationVar(&c.grace, "grace", time.Hour, "how long an old copy is kept after a move")
	f.BoolVar(&c.register, "register", true, "declare the node with its address")
	f.BoolVar(&c.refuse, "refuse-unscoped", false, "refuse writes of keys that no scope holds")
	f.StringVar(&c.log, "log", "text", "text or json")
	f.BoolVar(&c.insecure, "insecure", false, "listen where others can reach it: this port has no access control and no TLS")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	switch {
	case f.NArg() > 0:
		return c, fmt.Errorf("%q is no flag; see --help", f.Arg(0))
	case c.data == "":
		return c, errors.New("give a directory with --data; it belongs to this node alone")
	case c.log != "text" && c.log != "json":
		return c, fmt.Errorf("--log %q is neither text nor json", c.log)
	}
	if err := scope.NodeID(c.node).Check(); err != nil {
		return c, fmt.Errorf("--node: %w", err)
	}
	return c, c.checkListen()
}

// options are how the registry is asked. Certificate and token are read anew when their files change.
func (c config) options() []client.Option {
	opts := []client.Option{client.WithActor(c.node)}
	if files := (client.TLS{CA: c.cacert, Cert: c.cert, Key: c.key}); files != (client.TLS{}) {
		opts = append(opts, client.WithTLS(files))
	}
	if c.token != "" {
		opts = append(opts, client.WithToken(client.TokenFile(c.token)))
	}
	return opts
}

// checkListen refuses addresses that others can reach.
func (c config) checkListen() error {
	host, _, err := net.SplitHostPort(c.listen)
	if err != nil {
		return fmt.Errorf("--listen %q is not host:port, like 127.0.0.1:6101", c.listen)
	}
	if ip := net.ParseIP(host); c.insecure || host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("--listen %s is not a loopback address; use one, or add --insecure if everybody who can reach it may write", c.listen)
}

// run is the life of the store: what is opened first is closed last.
func run(ctx context.Context, cfg config, stdout, stderr io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if cfg.log == "json" {
		log = slog.New(slog.NewJSONHandler(stderr, nil))
	}

	disk, err := OpenDisk(cfg.data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()

	// Listening comes before the session: with port 0 only now is it known what the node's address is.
	listener, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer listener.Close()
	if cfg.addr == "" {
		cfg.addr = listener.Addr().String()
	}

	registry := client.New(strings.Split(cfg.endpoints, ","), cfg.options()...)
	defer registry.Close()
	session, err := client.StartSession(registry, client.SessionConfig{Node: cfg.node, DataDir: filepath.Join(cfg.data, "session"),
		Store: disk, Grace: cfg.grace, RefuseUnscoped: cfg.refuse, Log: log})
	if err != nil {
		return err
	}
	server := &Server{Node: cfg.node, Disk: disk, Guard: session.Guard(), Slices: session.Handler(), Log: log,
		Owner: func(key []byte) (scope.NodeID, string, bool) {
			view := session.View()
			in, _ := view.Scope(view.Route(key, "").Prefix)
			return in.Owner, view.Addr(in.Owner), view.Index() > 0
		},
		Status: func() (any, bool) {
			status := session.Status()
			return status, status.Ready
		},
	}
	web := &http.Server{Handler: server.Handler(), ReadHeaderTimeout: headerTime, ReadTimeout: requestTime, WriteTimeout: requestTime,
		IdleTimeout: idleTime, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	var working sync.WaitGroup
	failed := make(chan error, 1)
	working.Go(func() { failed <- web.Serve(listener) })
	fmt.Fprintf(stdout, "store %s listens on %s\n", cfg.node, listener.Addr())
	begun, stop := context.WithCancel(ctx)
	working.Go(func() { begin(begun, cfg, registry, session, log, stdout) })

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	// The session first: from here on writes are refused, and those under way end. Then their answers go out.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	err = errors.Join(err, session.Close(ending), web.Shutdown(ending))
	stop()
	working.Wait()
	return err
}

// begin declares the node, and tells when it can take writes.
func begin(ctx context.Context, cfg config, registry *client.Client, session *client.Session, log *slog.Logger, stdout io.Writer) {
	for cfg.register {
		err := declare(ctx, registry, cfg.node, cfg.addr)
		if err == nil {
			break
		}
		log.Warn("the node is not declared yet", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
	}
	if err := session.WaitReady(ctx); err == nil {
		fmt.Fprintf(stdout, "store %s is ready\n", cfg.node)
	} else if ctx.Err() == nil {
		log.Error("the session does not begin", "err", err)
	}
}

// declare sets the node's address in the registry, if it is another one there.
func declare(ctx context.Context, registry *client.Client, id, addr string) error {
	n, err := registry.Node(ctx, id)
	if err != nil && !errors.Is(err, &client.Error{Code: "NOT_FOUND"}) || err == nil && n.Addr == addr {
		return err
	}
	_, err = registry.SetNode(ctx, client.Node{ID: id, Addr: addr})
	return err
}
