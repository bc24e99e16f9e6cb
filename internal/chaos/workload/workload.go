// Package workload is what clients do while faults are done to the servers:
// declares with compare-and-set, moves from start to end, retires, reads and
// watches, each client at one server. Everything is recorded. The choices follow
// from a seed; what the servers answer, and when, does not.
package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	library "github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/direct"
)

const (
	// clientsPerServer is two, so that a server has concurrent clients of its own.
	clientsPerServer = 2
	// prefixes is few enough for clients to meet, and many enough for moves to get through.
	prefixes = 12
	// stores is how many nodes scopes are moved between.
	stores = 4
	// values is how many nodes serve as values of the fallback. A value comes back
	// to a prefix after many others, so that a stale or lost one is told apart.
	values = 64
	// callTime bounds one try: above an election, and below what a server waits for
	// a leader, so that some outcomes stay open.
	callTime = 3 * time.Second
	// localTime bounds a local read, which waits for nobody: short, so that a
	// server that comes back is soon asked.
	localTime = 500 * time.Millisecond
	// sampleEvery is the pause between two questions for the servers' state hashes.
	sampleEvery = 2 * time.Second
)

// Config is what a workload needs.
type Config struct {
	Servers []*direct.Server
	TLS     library.TLS // to reach them for their watches, if they are https
	Log     *history.Log
	Seed    uint64
}

// Workload is running clients.
type Workload struct {
	cfg      Config
	stop     chan struct{} // closed when clients shall end
	clients  sync.WaitGroup
	cancel   context.CancelFunc // ends the watches
	watches  sync.WaitGroup
	reached  map[string]*atomic.Uint64 // server → index its watch has told
	prefixes []string
}

// Begin declares the nodes and starts watches and clients. They run until Stop
// and Close, or until ctx ends.
func Begin(ctx context.Context, cfg Config) (*Workload, error) {
	w := &Workload{cfg: cfg, stop: make(chan struct{}), reached: map[string]*atomic.Uint64{}}
	for i := range prefixes {
		w.prefixes = append(w.prefixes, fmt.Sprintf("chaos:%02d:", i))
	}
	watching, cancel := context.WithCancel(ctx)
	w.cancel = cancel
	for _, s := range cfg.Servers {
		at := &atomic.Uint64{}
		w.reached[s.ID()] = at
		w.watches.Go(func() { follow(watching, s, cfg.TLS, cfg.Log, at) })
	}
	if err := w.declareNodes(ctx); err != nil {
		w.Close()
		return nil, err
	}
	for i, s := range cfg.Servers {
		for k := range clientsPerServer {
			c := w.client(fmt.Sprintf("c%d", i*clientsPerServer+k+1), s, uint64(i*clientsPerServer+k))
			w.clients.Go(func() { c.work(ctx) })
		}
		for k, kind := range []history.Kind{history.Local, history.Read} {
			reader := w.client(fmt.Sprintf("%s-%s", kind, s.ID()), s, uint64(100+2*i+k))
			w.clients.Go(func() { reader.readOnly(ctx, kind) })
		}
	}
	w.clients.Go(func() { w.sample(ctx) })
	return w, nil
}

// client makes a client of one server with choices of its own.
func (w *Workload) client(name string, s *direct.Server, stream uint64) *client {
	return &client{name: name, srv: s, log: w.cfg.Log, stop: w.stop, prefixes: w.prefixes, lossy: lostReplies, believes: map[string]belief{},
		rng: rand.New(rand.NewPCG(w.cfg.Seed, stream))}
}

func store(i int) string { return fmt.Sprintf("n%d", i+1) }
func value(i int) string { return fmt.Sprintf("v%02d", i) }

func (w *Workload) declareNodes(ctx context.Context) error {
	var b api.Batch
	for i := range stores {
		b.Nodes = append(b.Nodes, api.Node{ID: store(i), Addr: fmt.Sprintf("10.0.0.%d:6004", i+1)})
	}
	for i := range values {
		b.Nodes = append(b.Nodes, api.Node{ID: value(i), Addr: fmt.Sprintf("10.0.1.%d:6004", i+1)})
	}
	s := w.cfg.Servers[0]
	ctx, cancel := context.WithTimeout(ctx, 10*callTime)
	defer cancel()
	if _, err := s.Do(ctx, direct.Request{Method: http.MethodPost, Path: "/v1/apply", Body: b}, nil); err != nil {
		return fmt.Errorf("nodes cannot be declared at %s: %w", s.ID(), err)
	}
	return nil
}

// sample asks the servers in turn for the hashes of all states.
func (w *Workload) sample(ctx context.Context) {
	for i := 0; pause(ctx, w.stop, sampleEvery); i++ {
		s := w.cfg.Servers[i%len(w.cfg.Servers)]
		once, cancel := context.WithTimeout(ctx, callTime)
		if c, err := s.Status(once); err == nil {
			w.cfg.Log.Sample(history.Sample{Server: s.ID(), At: w.cfg.Log.Now(), Cluster: c})
		}
		cancel()
	}
}

// Stop ends the clients; each finishes the operation it is in. Watches go on.
func (w *Workload) Stop() {
	close(w.stop)
	w.clients.Wait()
}

// Close ends the watches. Stop comes before.
func (w *Workload) Close() {
	w.cancel()
	w.watches.Wait()
}

// pause waits for d and reports whether to go on: not after ctx or stop ended.
func pause(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-stop:
		return false
	case <-t.C:
		return true
	}
}
