package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/peer"
)

// network is servers in memory, to run inside a synctest bubble (RAFT trap 19).
type network struct {
	t       *testing.T
	edit    func(*Config)
	began   time.Time
	peers   []Peer           // the founders
	servers map[string]*node // of the test's goroutine

	mu   sync.Mutex // guards the rest
	all  []*node
	cut  map[string]bool
	hung string          // a server that answers no call
	old  map[string]bool // servers that say they are of the release before
}

// node is one server and what it stands on, which outlives a restart.
type node struct {
	net  *network
	id   string
	reg  *Registry
	dir  *dataDir
	door atomic.Pointer[door] // nil while it does not run

	started chan struct{} // closed when one that waited to be joined runs; nil for a founder
	trans   *raft.InmemTransport
	store   *disk
	snaps   *raft.InmemSnapshotStore
	slept   atomic.Int64 // how far the leader's clock is ahead of virtual time, in nanoseconds
}

// clock is the server's, in virtual time.
func (s *node) clock() time.Duration { return time.Since(s.net.began) + time.Duration(s.slept.Load()) }

// disk is a raft store in memory that may hang.
type disk struct {
	*raft.InmemStore
	mu     sync.Mutex    // guards the rest
	stuck  chan struct{} // nil while it works
	broken error         // of every write
}

// breaks makes every write fail, until it is called with nil.
func (d *disk) breaks(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = err
}

// hang makes every write wait until the function it returns is called.
func (d *disk) hang() (release func()) {
	stuck := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stuck = stuck
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.stuck = nil
		close(stuck)
	})
}

// StoreLogs implements raft.LogStore.
func (d *disk) StoreLogs(logs []*raft.Log) error {
	d.mu.Lock()
	stuck, broken := d.stuck, d.broken
	d.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	if broken != nil {
		return broken
	}
	return d.InmemStore.StoreLogs(logs)
}

// newNetwork starts three servers. edit may be nil.
func newNetwork(t *testing.T, edit func(*Config)) *network {
	t.Helper()
	return newNetworkOf(t, 3, edit)
}

func newNetworkOf(t *testing.T, size int, edit func(*Config)) *network {
	t.Helper()
	n := unstarted(t, size, edit)
	n.begin()
	return n
}

// unstarted is a network whose servers do not run yet.
func unstarted(t *testing.T, size int, edit func(*Config)) *network {
	t.Helper()
	n := &network{t: t, edit: edit, began: time.Now(), servers: map[string]*node{}, cut: map[string]bool{}, old: map[string]bool{}}
	for i := range size {
		id := fmt.Sprintf("s%d", i+1)
		n.peers = append(n.peers, Peer{ID: id, Addr: id + ":1"})
	}
	for _, p := range n.peers {
		n.add(p.ID)
	}
	for _, p := range n.peers {
		who := identity{Format: identityFormat, ID: p.ID, Instance: p.ID + "-dir", Peers: n.peers, Founders: map[string]string{}, Cluster: "c1", Bootstrapped: true}
		for _, q := range n.peers {
			who.Founders[q.ID] = q.ID + "-dir"
		}
		n.servers[p.ID].dir.who = who
	}
	return n
}

// begin starts the servers.
func (n *network) begin() {
	t := n.t
	t.Helper()
	n.heal()
	for _, p := range n.peers {
		n.servers[p.ID].start()
	}
	t.Cleanup(func() {
		for _, s := range n.servers {
			if s.reg == nil {
				continue
			}
			if err := s.reg.Close(); err != nil {
				t.Error(err)
			}
		}
		// A transfer that was under way leaves a goroutine of raft behind, until its request times out.
		<-time.After(20 * time.Second)
	})
}

// add puts a server into the network, which does not run yet.
func (n *network) add(id string) *node {
	s := &node{net: n, id: id, store: &disk{InmemStore: raft.NewInmemStore()}, snaps: raft.NewInmemSnapshotStore(), dir: &dataDir{path: n.t.TempDir()}}
	s.plug()
	n.servers[id] = s
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, s)
	return s
}

// plug gives the server a transport, as raft closes the one it had.
func (s *node) plug() { _, s.trans = raft.NewInmemTransport(raft.ServerAddress(s.id + ":1")) }

// restart starts a server anew on what it had stored. It is cut off until the network heals.
func (s *node) restart() {
	s.net.t.Helper()
	if err := s.reg.Close(); err != nil {
		s.net.t.Error(err)
	}
	s.door.Store(nil)
	s.plug()
	s.net.isolate(s.id)
	if _, founder := s.dir.identity().Founders[s.id]; founder {
		s.start()
	} else {
		s.run(s.config())
	}
}

func (s *node) config() Config {
	s.net.t.Helper()
	cfg := Config{ID: s.id, DataDir: "memory", Peers: s.net.peers, OnFatal: func(err error) { s.net.t.Error(err) }, clock: s.clock}
	if s.net.servers[s.id] == s && s.dir.identity().Founders[s.id] == "" {
		cfg.Peers = append([]Peer{{ID: s.id, Addr: s.id + ":1"}}, s.net.peers[:min(len(s.net.peers), maxPeers-1)]...)
	}
	if s.net.edit != nil {
		s.net.edit(&cfg)
	}
	cfg, err := cfg.complete()
	if err != nil {
		s.net.t.Fatal(err)
	}
	return cfg
}

// start starts a founder.
func (s *node) start() {
	t := s.net.t
	t.Helper()
	cfg := s.config()
	conf, err := cfg.raftConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := raft.BootstrapCluster(conf, s.store, s.store, s.snaps, s.trans, cfg.voters()); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		t.Fatal(err)
	}
	s.run(cfg)
}

func (s *node) run(cfg Config) {
	t := s.net.t
	t.Helper()
	d := &door{dir: s.dir}
	var err error
	s.reg, err = start(cfg, plumbing{
		logs: s.store, stable: s.store, snaps: s.snaps, transport: s.trans, calls: s, clusterID: "c1", alarm: newAlarm(cfg.OnFatal),
		dir: s.dir, expel: func(string) {}, releases: new(knownReleases), opened: func(r *Registry) {
			d.registry.Store(r)
			s.door.Store(d)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Call implements caller.
func (s *node) Call(ctx context.Context, addr string, kind peer.Kind, payload []byte) ([]byte, error) {
	if addr == s.id+":1" {
		s.net.t.Errorf("%s calls itself: %v", s.id, kind)
	}
	for _, to := range s.net.everybody() {
		if to.id+":1" == addr && s.net.hangs(to.id) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		if d := to.door.Load(); to.id+":1" == addr && !s.net.isCut(s.id) && !s.net.isCut(to.id) && d != nil {
			if kind == peer.KindStatus && s.net.isOld(to.id) {
				return []byte(`{"id":"` + to.id + `","version":"0.1"}`), nil
			}
			answer, err := d.serve(ctx, s.id, kind, payload)
			if kind == peer.KindHello && s.net.isOld(to.id) {
				answer = bytes.Replace(answer, fmt.Appendf(nil, `"log_format":%d`, logFormat), []byte(`"log_format":1`), 1)
			}
			return answer, err
		}
	}
	return nil, peer.ErrNotSent
}

// now is the registry that runs, nil if none does.
func (s *node) now() *Registry {
	if d := s.door.Load(); d != nil {
		return d.registry.Load()
	}
	return nil
}

func (n *network) everybody() []*node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all[:len(n.all):len(n.all)]
}

func (n *network) isCut(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[id]
}

func (n *network) hangs(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hung == id
}

func (n *network) isOld(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.old[id]
}

// older makes these servers, and no others, say that they are of the release before.
func (n *network) older(ids ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.old)
	for _, id := range ids {
		n.old[id] = true
	}
}

// hang lets a server take calls and answer none.
func (n *network) hang(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hung = id
}

// isolate cuts one server off.
func (n *network) isolate(id string) {
	n.mu.Lock()
	n.cut[id] = true
	n.mu.Unlock()
	for _, s := range n.servers {
		if s.id != id {
			s.trans.Disconnect(n.servers[id].trans.LocalAddr())
			n.servers[id].trans.Disconnect(s.trans.LocalAddr())
		}
	}
}

func (n *network) heal() {
	n.mu.Lock()
	clear(n.cut)
	n.mu.Unlock()
	for _, a := range n.servers {
		for _, b := range n.servers {
			if a != b {
				a.trans.Connect(b.trans.LocalAddr(), b.trans)
			}
		}
	}
}

// until waits in virtual time.
func (n *network) until(what string, ok func() bool) {
	n.t.Helper()
	for range 12_000 {
		if ok() {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	n.t.Fatalf("2 min were not enough for: %s", what)
}

// leader waits for a leader other than not, and for it to be known by all that are reachable.
func (n *network) leader(not string) *node {
	n.t.Helper()
	var found *node
	n.until("a leader", func() bool {
		for _, s := range n.servers {
			if r := s.now(); s.id != not && r != nil && r.raft.State() == raft.Leader && r.Ready() == nil {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

func (n *network) others(id string) (out []*node) {
	for _, p := range n.peers {
		if p.ID != id {
			out = append(out, n.servers[p.ID])
		}
	}
	return out
}

func (n *network) ready() {
	n.t.Helper()
	n.until("all servers to be ready", func() bool {
		for _, s := range n.servers {
			if r := s.now(); r == nil || r.Ready() != nil {
				return false
			}
		}
		return true
	})
}

func setNode(i int) fsm.Envelope {
	return fsm.Envelope{Actor: "test", Command: &fsm.SetNode{Id: fmt.Sprintf("n%d", i), Addr: fmt.Sprintf("n%d:6379", i)}}
}

func mustPropose(t *testing.T, s *node, e fsm.Envelope) *fsm.Result {
	t.Helper()
	r, err := s.reg.Propose(t.Context(), e)
	if err != nil {
		t.Fatalf("%s: %v", s.id, err)
	}
	return r
}

func wantCode(t *testing.T, err error, codes ...api.Code) {
	t.Helper()
	for _, c := range codes {
		if err != nil && api.CodeOf(err) == c {
			return
		}
	}
	t.Fatalf("got %v, want one of %v", err, codes)
}
