package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// joining starts a server with an empty directory that is to be joined, and returns when it has been.
func (r *rig) joining(p Peer) (opened func()) {
	cfg := r.config(p.ID)
	cfg.Peers = append([]Peer{p}, r.peers...)
	type result struct {
		reg *Registry
		err error
	}
	ch := make(chan result, 1)
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	go func() {
		reg, err := Open(ctx, cfg)
		ch <- result{reg, err}
	}()
	return func() {
		r.t.Helper()
		defer cancel()
		got := <-ch
		if got.err != nil {
			r.t.Fatalf("%s: %v", p.ID, got.err)
		}
		r.open[p.ID] = got.reg
	}
}

// until waits for something of real servers.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		wait(ctx, 20*time.Millisecond)
		if ctx.Err() != nil {
			r.t.Fatalf("a minute was not enough for: %s", what)
		}
	}
}

// join asks until the server waits at its address, and then until it votes.
func (r *rig) join(via string, p Peer) {
	r.t.Helper()
	r.until("the join of "+p.ID+" to be taken", func() bool {
		_, err := r.open[via].Join(r.t.Context(), fsm.Envelope{}, p.ID, p.Addr)
		if code := api.CodeOf(err); err != nil && code != api.Unavailable && code != api.WrongPhase && code != api.Timeout && code != api.NoLeader {
			r.t.Fatal(err)
		}
		return err == nil
	})
	r.until(p.ID+" to vote at "+p.Addr, func() bool {
		s, _ := find(r.open[via].servers(), p.ID)
		got, _ := r.open[via].State().Server(p.ID)
		return s.Suffrage == raft.Voter && string(s.Address) == p.Addr && got.Phase == fsm.ServerMember
	})
}

func (r *rig) gone(id string) {
	r.t.Helper()
	select {
	case err := <-r.open[id].Fatal():
		var removed *RemovedError
		if !errors.As(err, &removed) || removed.ID != id {
			r.t.Fatalf("%s ended with %v", id, err)
		}
	case <-time.After(time.Minute):
		r.t.Fatalf("%s did not notice that it was removed", id)
	}
	r.close(id)
}

// Each of three servers is replaced, and what was acknowledged before, between and after is on those that are left.
func TestReplaceEveryServer(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	next, count := freePeers(t, "s4", "s5", "s6"), 0
	put := func(id string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := r.open[id].Propose(ctx, setNode(count)); err != nil {
			t.Fatal(err)
		}
		count++
	}
	put("s1")
	for i, old := range []string{"s1", "s2", "s3"} {
		p := next[i]
		opened := r.joining(p)
		via := []string{"s3", "s3", "s4"}[i]
		r.join(via, p)
		opened()
		r.until(p.ID+" to be ready", func() bool { return r.open[p.ID].Ready() == nil })
		put(p.ID)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := r.open[via].Remove(ctx, fsm.Envelope{}, old, false); err != nil {
			t.Fatal(err)
		}
		cancel()
		r.gone(old)
		put(via)
	}
	for _, p := range next {
		reg := r.open[p.ID]
		if _, err := reg.Confirm(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range count {
			if _, ok := reg.State().Node(scope.NodeID(fmt.Sprintf("n%d", i))); !ok {
				t.Errorf("%s lost node %d of %d", p.ID, i, count)
			}
		}
		if got := showServers(reg.servers()); got != showPeers(next) {
			t.Errorf("%s has the servers %s, want %s", p.ID, got, showPeers(next))
		}
	}

	t.Log("a removed server stays off, on its data and without")
	_ = r.refused(r.config("s1"), "was removed from cluster")
	if err := os.RemoveAll(r.dir("s2")); err != nil {
		t.Fatal(err)
	}
	cfg := r.config("s2")
	cfg.Peers = append([]Peer{r.peers[1]}, next...)
	_ = r.refused(cfg, "an id is used once")

	t.Log("a joined server that was wiped stays off")
	r.close("s6")
	if err := os.RemoveAll(r.dir("s6")); err != nil {
		t.Fatal(err)
	}
	cfg = r.config("s6")
	cfg.Peers = next
	var wiped *WipedError
	if err := r.refused(cfg, "cluster remove s6"); !errors.As(err, &wiped) {
		t.Fatalf("got %T", err)
	}
	put("s4")
}

// A server that was removed while it was off learns of it at its next start, and marks its directory.
func TestRemovedWhileItWasOff(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.close("s3")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := r.open["s1"].Remove(ctx, fsm.Envelope{}, "s3", false); err != nil {
		t.Fatal(err)
	}
	r.start("s3")
	r.gone("s3")
	if r.identity("s3").Removed == "" {
		t.Error("its directory is not marked")
	}
	_ = r.refused(r.config("s3"), "was removed from cluster")
}

// A member moves to another address on its own data. The list that a server is started with says nothing of the others.
func TestMemberMovesToAnotherAddress(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.close("s3")
	moved := freePeers(t, "s3")[0]
	cfg := r.config("s3")
	cfg.Peers = []Peer{moved}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	reg, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.open["s3"] = reg
	r.join("s1", moved)
	r.until("s3 to be ready", func() bool { return reg.Ready() == nil })
	if _, err := reg.Propose(ctx, setNode(1)); err != nil {
		t.Fatal(err)
	}
	r.close("s1") // s3 is needed for a majority now
	if _, err := r.open["s2"].Propose(ctx, setNode(2)); err != nil {
		t.Fatal(err)
	}
}

// The process of a joining server may end at any point of its way in.
func TestJoiningServerIsKilled(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	p := freePeers(t, "s4")[0]
	opened := r.joining(p)
	r.until("the join to be taken", func() bool { _, err := r.open["s1"].Join(t.Context(), fsm.Envelope{}, p.ID, p.Addr); return err == nil })
	opened()
	cfg := r.open["s4"].cfg
	for i := range 20 {
		if _, err := r.open["s1"].Propose(t.Context(), setNode(i)); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			r.close("s4")
			reg, err := Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			r.open["s4"] = reg
		}
	}
	r.join("s1", p)
	r.until("s4 to be ready", func() bool { return r.open["s4"].Ready() == nil })
	if _, err := r.open["s4"].Propose(t.Context(), setNode(99)); err != nil {
		t.Fatal(err)
	}
}

// A server that joins a cluster with a long history gets a snapshot, and starts from it again.
func TestJoinTakesASnapshot(t *testing.T) {
	r := newRig(t)
	r.threshold = 8
	r.start("s1", "s2", "s3")
	for i := range 200 {
		if _, err := r.open["s1"].Propose(t.Context(), setNode(i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, reg := range r.open {
		if err := reg.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		s := reg.raft.Stats()
		if s["last_snapshot_index"] == "0" {
			t.Fatal("no snapshot was taken")
		}
	}
	p := freePeers(t, "s4")[0]
	opened := r.joining(p)
	r.join("s1", p)
	opened()
	cfg := r.open["s4"].cfg
	r.until("s4 to be ready", func() bool { return r.open["s4"].Ready() == nil })
	if list, err := r.open["s4"].snaps.List(); err != nil || len(list) == 0 {
		t.Fatalf("it got no snapshot: %v", err)
	}
	r.close("s4")
	reg, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.open["s4"] = reg
	r.until("all to agree", func() bool {
		c, err := reg.Status(t.Context(), true)
		return err == nil && len(c.Members) == 4 && agree(c)
	})
	if got, want := showServers(reg.servers()), showPeers(append(r.peers, p)); got != want {
		t.Errorf("it has the servers %s, want %s", got, want)
	}
}

// The leader ends without a word between the record of a join and its end, at one moment or another.
func TestLeaderIsKilledInTheMiddleOfAJoin(t *testing.T) {
	for pause := range 4 {
		r := newRig(t)
		r.start("s1", "s2", "s3")
		p := freePeers(t, "s4")[0]
		opened := r.joining(p)
		r.until("the join to be taken", func() bool { _, err := r.open["s1"].Join(t.Context(), fsm.Envelope{}, p.ID, p.Addr); return err == nil })
		wait(t.Context(), time.Duration(pause)*followEvery/2)
		id, _, _ := r.open["s1"].Leader()
		leader := r.open[id]
		if leader == nil { // between two leaders
			id, leader = "s2", r.open["s2"]
		}
		if err := leader.raft.Shutdown().Error(); err != nil { // so that Close finds no leadership to hand over
			t.Fatal(err)
		}
		r.close(id)
		via := map[string]string{"s1": "s2", "s2": "s3", "s3": "s1"}[id]
		r.join(via, p)
		opened()
		r.start(id)
		for _, reg := range r.open {
			r.until(reg.ID()+" to be ready", func() bool { return reg.Ready() == nil })
		}
		if got, want := showServers(r.open[id].servers()), showPeers(append(r.peers, p)); got != want {
			t.Errorf("the killed leader has the servers %s, want %s", got, want)
		}
		r.closeAll()
	}
}

// A crash between the first term on disk and the identity leaves a server that waits again.
func TestCrashWhileBeingInvited(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	p := freePeers(t, "s4")[0]
	if err := os.MkdirAll(r.dir("s4"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, _ := mustOpen(t, r.dir("s4"))
	if err := s.SetUint64([]byte(raftTermKey), 1); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	who, err := json.Marshal(identity{Format: identityFormat, ID: "s4", Instance: "made-before-the-crash", Peers: []Peer{p}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir("s4"), identityFile), who, 0o600); err != nil {
		t.Fatal(err)
	}
	opened := r.joining(p)
	r.join("s2", p)
	opened()
}

// An invitation is taken only by a server that asked around and found just that cluster.
func TestInvitationsThatAreRefused(t *testing.T) {
	f := newFounding(Config{ID: "s4", Peers: []Peer{{"s4", "d:1"}}}, &dataDir{path: t.TempDir(), who: identity{ID: "s4", Instance: "i4"}}, nil)
	cluster := "c1"
	good := invitation{ID: "s4", Instance: "i4", Cluster: cluster}
	for name, change := range map[string]func(*invitation){
		"another id":           func(i *invitation) { i.ID = "s5" },
		"another instance":     func(i *invitation) { i.Instance = "i5" },
		"another cluster":      func(i *invitation) { i.Cluster = "c2" },
		"no cluster":           func(i *invitation) { i.Cluster = "" },
		"nobody was asked yet": func(*invitation) { f.cluster.Store(nil) },
	} {
		f.cluster.Store(&cluster)
		inv := good
		change(&inv)
		if err := f.accept(&inv, nil, nil); !errors.Is(err, errNotWaiting) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if says := f.noteCluster([]helloAnswer{{identity: identity{ID: "a", Cluster: "c1"}}, {identity: identity{ID: "b", Cluster: "c2"}}}); !strings.Contains(says, "servers of one cluster") || f.waitsFor() != "" {
		t.Errorf("a list of two clusters: %q, waits for %q", says, f.waitsFor())
	}
}
