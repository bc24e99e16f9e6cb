// Package rig runs the whole system as real processes on loopback, three servers,
// three stores and the command line, has clients write all the time, and ends or
// stops any of the processes at a step of a move that the log has reached. What the
// clients were told is judged by package writes.
package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/link"
	"github.com/scope-registry/scope-registry/internal/load"
	"github.com/scope-registry/scope-registry/internal/process"
)

// The scopes of a rig, both of node n1 at first.
const (
	// Plain has no fallback and needs no lease.
	Plain = "plain:"
	// Heir has the fallback n3, and so its owner needs a lease.
	Heir     = "heir:"
	fallback = "n3"
)

const (
	// openTime bounds the start of all processes and the first records.
	openTime = time.Minute
	// grace is what passes between a flip and the deletion of the old copy: enough for a look at it.
	grace = "500ms"
)

// Config is what a rig is made of.
type Config struct {
	Programs load.Programs
	Dir      string // of data and logs; Close leaves it
	Seed     uint64
	Bulk     int // MiB that each scope holds from the beginning
}

// Rig is the running system. It is for one goroutine. Close it when done.
type Rig struct {
	Config
	Servers   *crash.Cluster
	Tracker   *Tracker
	endpoints string   // of the servers
	nodes     []string // that scopes move between, and then the fallback
	stores    *load.Nodes
	running   map[string]*process.Program // nodes
	net       *link.Net                   // from nodes to servers
	cables    []*link.Cable
	book      *book
	client    *client.Client
	rnd       *rand.Rand
	work      *load.Load
	clients   int // writers that were ever started
	moves     int // that were ever started
	cancel    context.CancelFunc
	all       sync.WaitGroup
	watch     error // that ended the watch
}

// Open starts all of it and returns when the scopes are served and hold their first
// records.
func Open(ctx context.Context, cfg Config) (*Rig, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	r := &Rig{Config: cfg, nodes: []string{"n1", "n2", fallback}, running: map[string]*process.Program{}, net: link.New(), rnd: rand.New(rand.NewPCG(cfg.Seed, 1))}
	if err := r.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting a rig in %s: %w", cfg.Dir, err), r.Close())
	}
	return r, nil
}

func (r *Rig) open(ctx context.Context) (err error) {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return err
	}
	if r.book, err = newBook(filepath.Join(r.Dir, "writes.jsonl")); err != nil {
		return err
	}
	if r.Servers, err = crash.Open(crash.Config{Bin: r.Programs.Registry, Dir: r.Dir}); err != nil {
		return err
	}
	r.endpoints = r.Servers.Endpoints()
	if err := r.Servers.WaitReady(ctx); err != nil {
		return err
	}
	r.client = client.New(strings.Split(r.endpoints, ","), client.WithActor("crash"))
	r.Tracker = NewTracker(r.book.tenure)
	following, stop := context.WithCancel(context.Background())
	r.cancel = stop
	r.all.Go(func() { r.watch = r.Tracker.Follow(following, r.client) })
	if err := r.startNodes(ctx); err != nil {
		return err
	}
	for _, args := range [][]string{{Plain}, {Heir, "--fallback", fallback}} {
		if err := r.command(ctx, append([]string{"scope", "declare", args[0], "--writer", "n1"}, args[1:]...)...); err != nil {
			return err
		}
	}
	for _, scope := range []string{Plain, Heir} {
		if err := r.preload(ctx, scope); err != nil {
			return err
		}
	}
	// Until then nobody may take it over.
	_, err = r.Tracker.Await(ctx, "the owner to know that it needs a lease", func(w World) string {
		if !w.Scopes[Heir].Armed {
			return "it has not said so"
		}
		return ""
	})
	return err
}

func (r *Rig) startNodes(ctx context.Context) error {
	addrs, err := freeport.Addrs(len(r.nodes))
	if err != nil {
		return err
	}
	at := map[string]string{}
	for i, node := range r.nodes {
		at[node] = addrs[i]
		var endpoints []string
		for _, id := range r.Servers.IDs() {
			c, err := r.net.Lay(link.Named(node), id, r.Servers.HTTP(id))
			if err != nil {
				return err
			}
			r.cables = append(r.cables, c)
			endpoints = append(endpoints, "http://"+c.Addr())
		}
		data := filepath.Join(r.Dir, node)
		r.running[node] = process.New("node "+node, data+".log", r.Programs.Store, "--node", node, "--listen", addrs[i], "--data", data,
			"--endpoints", strings.Join(endpoints, ","), "--grace", grace)
		if err := r.running[node].Start(); err != nil {
			return err
		}
	}
	r.stores = load.NewNodes(at)
	return r.nodesReady(ctx)
}

// nodesReady waits until every node says that it is.
func (r *Rig) nodesReady(ctx context.Context) error {
	for _, node := range r.nodes {
		if err := r.Servers.Wait(ctx, node+" to be ready", func(ctx context.Context) error {
			if err := r.running[node].Crashed(); err != nil {
				return err
			}
			return r.stores.Ready(ctx, node)
		}); err != nil {
			return err
		}
	}
	return nil
}

// program is one run of the command line.
func (r *Rig) program(name string, args ...string) *process.Program {
	return process.New("command "+name, filepath.Join(r.Dir, "command-"+name+".log"), r.Programs.Registry,
		append([]string{"--endpoints", r.endpoints}, args...)...)
}

// command runs the command line and waits for its good end.
func (r *Rig) command(ctx context.Context, args ...string) error {
	p := r.program(args[0]+"-"+args[1], args...)
	if err := p.Start(); err != nil {
		return err
	}
	code, err := p.Wait(ctx)
	if err == nil && code != 0 {
		err = fmt.Errorf("scope-registry %s ended with exit status %d:\n%s", strings.Join(args, " "), code, p.Logs())
	}
	return errors.Join(err, p.Close())
}

// Work has clients write to both scopes until Close, so many to each scope and
// with such a pause between two writes of one.
func (r *Rig) Work(writers int, pause time.Duration) {
	r.work = r.writers(r.nodes, []string{Plain, Heir}, writers, pause, nil)
}

// writers starts clients of each scope, which know these nodes and take the first for the owner. seen may be nil.
func (r *Rig) writers(nodes, scopes []string, n int, pause time.Duration, seen func(writes.Op)) *load.Load {
	cfg := r.loading(nodes, scopes)
	cfg.Writers, cfg.Pause = n, pause
	if seen != nil {
		cfg.Seen = func(op writes.Op) {
			r.book.add(op)
			seen(op)
		}
	}
	r.clients += len(scopes) * n
	return load.Begin(cfg)
}

func (r *Rig) loading(nodes, scopes []string) load.Config {
	return load.Config{Nodes: r.stores, Owners: nodes, Scopes: scopes, First: r.clients, Seed: r.Seed, Seen: r.book.add}
}

// preload writes the records that a scope holds from the beginning.
func (r *Rig) preload(ctx context.Context, scope string) error {
	err := load.Preload(ctx, r.loading(r.nodes, []string{scope}), r.Bulk)
	r.clients++
	return err
}

// Counts are how all attempts to write ended so far, with some of the strange answers.
func (r *Rig) Counts() (Counts, []string) { return r.book.total() }

// scope is a scope as the watch last told.
func (r *Rig) scope(prefix string) api.Scope { return r.Tracker.World().Scopes[prefix] }

// Crashed is an error when a process has ended that nobody ended.
func (r *Rig) Crashed() error {
	errs := []error{r.Servers.Crashed()}
	for _, node := range r.nodes {
		errs = append(errs, r.running[node].Crashed())
	}
	return errors.Join(errs...)
}

// Close ends all processes and leaves what they wrote.
func (r *Rig) Close() error {
	var errs []error
	if r.work != nil {
		r.work.Stop()
	}
	if r.cancel != nil {
		r.cancel()
		r.all.Wait()
		errs = append(errs, r.watch)
	}
	var all sync.WaitGroup
	ended := make([]error, len(r.nodes))
	for i, node := range r.nodes {
		if p := r.running[node]; p != nil {
			all.Go(func() { ended[i] = p.Close() })
		}
	}
	all.Wait()
	errs = append(errs, slices.Clone(ended)...)
	for _, c := range r.cables {
		errs = append(errs, c.Close())
	}
	if r.Servers != nil {
		errs = append(errs, r.Servers.Close())
	}
	if r.stores != nil {
		r.stores.Close()
	}
	if r.client != nil {
		r.client.Close()
	}
	if r.book != nil {
		errs = append(errs, r.book.close())
	}
	return errors.Join(errs...)
}
