package registry

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

// outage is how long no change may go through while one server after the other is restarted, each after the one before is
// ready: a transfer of leadership takes milliseconds, and a machine that is busy with other tests seconds.
const outage = 10 * time.Second

// running are the servers that writers may ask. Each is used under the read lock, so that it is not closed meanwhile by the test
// itself; what a writer meets otherwise is up to the servers.
type running struct {
	mu  sync.RWMutex // guards all
	all map[string]*Registry
}

func (r *running) set(id string, reg *Registry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[id] = reg
}

func (r *running) get(id string) *Registry {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.all[id]
}

// Every server is restarted, one at a time and each once the last is ready, under load: what was acknowledged is there, and
// changes are never stopped for long.
func TestRollingRestart(t *testing.T) {
	r := newRig(t)
	ids := []string{"s1", "s2", "s3"}
	r.start(ids...)
	now := &running{all: map[string]*Registry{}}
	for _, id := range ids {
		reg := r.open[id]
		r.until(id+" to be ready", func() bool { return reg.Ready() == nil })
		now.set(id, reg)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	defer writers.Wait()
	defer cancel()
	var mu sync.Mutex // guards the next three
	var acked []int
	last, longest := time.Now(), time.Duration(0)
	var next atomic.Int64
	for w := range 3 {
		writers.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				reg, n := now.get(ids[(w+k)%3]), int(next.Add(1))
				if reg == nil {
					wait(ctx, time.Millisecond)
					continue
				}
				if _, err := reg.Propose(ctx, setNode(n)); err != nil {
					continue // a server that stops; what became of it nobody was told
				}
				mu.Lock()
				acked = append(acked, n)
				longest, last = max(longest, time.Since(last)), time.Now()
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	for _, id := range ids {
		before := count()
		r.until("changes to go through", func() bool { return count() > before+20 })
		now.set(id, nil)
		r.close(id)
		before = count()
		r.until("changes to go through without "+id, func() bool { return count() > before+20 })
		r.start(id)
		reg := r.open[id]
		r.until(id+" to be ready again", func() bool { return reg.Ready() == nil })
		now.set(id, reg)
	}
	cancel()
	writers.Wait()
	for id := range r.open {
		r.has(id, acked)
	}
	t.Logf("%d acknowledged, the longest time without one was %v", len(acked), longest)
	if longest > outage {
		t.Errorf("no change went through for %v, at most %v are allowed", longest, outage)
	}
}

// has checks that a server has these nodes.
func (r *rig) has(id string, nodes []int) {
	r.t.Helper()
	reg := r.open[id]
	if _, err := reg.Confirm(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	for _, n := range nodes {
		if _, ok := reg.State().Node(scope.NodeID(fmt.Sprintf("n%d", n))); !ok {
			r.t.Errorf("%s lost node %d, which was acknowledged", id, n)
		}
	}
}

const releases = "testdata/release-0.1"

// copyRelease copies a data directory of an older release, as a server writes to the one it is started on.
func copyRelease(t *testing.T, from string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	err := filepath.WalkDir(filepath.Join(releases, from), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(filepath.Join(releases, from), path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(dir, rel), 0o700)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rel), raw, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// A server of today starts from what one of the release before left on its disk, with the same state.
func TestStartFromRelease01(t *testing.T) {
	cfg := Config{ID: "s1", DataDir: copyRelease(t, "one/s1"), Peers: []Peer{{"s1", "127.83.1.9:7482"}}, PeerListen: "127.0.0.1:0", Timing: "fast"}
	r := &rig{t: t, root: cfg.DataDir, open: map[string]*Registry{}}
	t.Cleanup(r.closeAll)
	for _, when := range []string{"first", "second"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		reg, err := Open(ctx, cfg)
		if err != nil {
			t.Fatalf("%s start: %v", when, err)
		}
		r.open["s1"] = reg
		r.until("it to be ready", func() bool { return reg.Ready() == nil && reg.State().LogFormat() == logFormat })
		if hash := hashBefore(t, reg.State(), 29); hash != "830718ebcd6ad34534535d239209d61ccddf9ac0b18e9617c2844d62af773812" {
			t.Errorf("%s start: hash %s", when, hash)
		}
		r.close("s1")
		cancel()
	}
}

// hashBefore is the hash that the state had at an index, after which nothing was put on record but that all servers know
// the newest format of the log.
func hashBefore(t *testing.T, s fsm.State, index uint64) string {
	t.Helper()
	l := fsm.NewLoader()
	for r := range s.Records() {
		switch k := r.GetKind().(type) {
		case *pb.Record_Cluster:
			k.Cluster.Index, k.Cluster.LogFormat = index, 0
		case *pb.Record_Dedup:
			if k.Dedup.GetResult().GetIndex() > index {
				continue
			}
		}
		if err := l.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	was, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	return was.Hash()
}

// The same of three, one of which is replaced then: the log of the old release goes on with records that it did not know.
func TestUpgradeOfRelease01(t *testing.T) {
	var peers []Peer
	for i := range 3 {
		peers = append(peers, Peer{fmt.Sprintf("s%d", i+1), fmt.Sprintf("127.83.1.%d:7482", i+1)})
	}
	awaitPorts(t, peers)
	r := &rig{t: t, root: copyRelease(t, "three"), open: map[string]*Registry{}, peers: peers}
	t.Cleanup(r.closeAll)
	r.start("s1", "s2", "s3")
	for id, reg := range r.open {
		r.until(id+" to be ready", func() bool { return reg.Ready() == nil && reg.State().LogFormat() == logFormat })
		if hash := hashBefore(t, reg.State(), 30); hash != "be9936e0c4583836eb5d7015fb92d36a46e50c09d489dd6b460e2837a6cf5f82" {
			t.Errorf("%s: hash %s", id, hash)
		}
	}
	p := freePeers(t, "s4")[0]
	opened := r.joining(p)
	r.join("s2", p)
	opened()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := r.open["s2"].Remove(ctx, fsm.Envelope{}, "s1", false); err != nil {
		t.Fatal(err)
	}
	r.gone("s1")
	r.until("all to agree", func() bool {
		c, err := r.open["s4"].Status(ctx, true)
		return err == nil && len(c.Members) == 3 && agree(c)
	})
}

func agree(c api.Cluster) bool {
	for _, m := range c.Members {
		if m.StateHash == "" || m.StateHash != c.Members[0].StateHash {
			return false
		}
	}
	return len(c.Members) > 0
}

// awaitPorts waits until nobody else uses these fixed addresses, such as the same test of another process.
func awaitPorts(t *testing.T, peers []Peer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, p := range peers {
		for {
			ln, err := net.Listen("tcp", p.Addr)
			if err == nil {
				if err := ln.Close(); err != nil {
					t.Error(err)
				}
				break
			}
			if wait(ctx, 100*time.Millisecond); ctx.Err() != nil {
				t.Fatalf("%s cannot be had: %v; free it, and on a system other than Linux add it to the loopback interface", p.Addr, err)
			}
		}
	}
}
