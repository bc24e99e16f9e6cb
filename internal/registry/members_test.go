package registry

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// endings are the errors by which servers of a network ended.
type endings struct {
	mu  sync.Mutex // guards all
	all map[string]error
}

func (e *endings) of(id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.all[id]
}

// memberNetwork is a network in which a server may end because it was removed.
func memberNetwork(t *testing.T, size int, old ...string) (*network, *endings) {
	t.Helper()
	e := &endings{all: map[string]error{}}
	n := unstarted(t, size, func(cfg *Config) {
		id := cfg.ID
		cfg.OnFatal = func(err error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.all[id] = err
			var removed *RemovedError
			if !errors.As(err, &removed) {
				t.Errorf("%s: %v", id, err)
			}
		}
	})
	n.older(old...)
	n.begin()
	n.ready()
	return n, e
}

// waiting adds a server that waits to be joined, and starts it when it is.
func (n *network) waiting(id string) *node {
	n.t.Helper()
	s := n.add(id)
	s.dir.who = identity{Format: identityFormat, ID: id, Instance: id + "-dir"}
	n.heal()
	cfg := s.config()
	s.dir.who.Peers = cfg.Peers
	conf, err := cfg.raftConfig(nil)
	if err != nil {
		n.t.Fatal(err)
	}
	f := newFounding(cfg, s.dir, s)
	f.log = hclog.NewNullLogger()
	d := &door{dir: s.dir}
	d.founding.Store(f)
	s.door.Store(d)
	s.started = make(chan struct{})
	go func() {
		defer close(s.started)
		if err := f.found(n.t.Context(), conf, s.store, s.snaps); err != nil {
			n.t.Logf("%s: %v", id, err)
			return
		}
		s.run(cfg)
	}()
	n.t.Cleanup(func() { <-s.started })
	n.until(id+" to wait", func() bool { return f.waitsFor() == "c1" })
	return s
}

func (s *node) rename(id string) {
	s.dir.mu.Lock()
	defer s.dir.mu.Unlock()
	s.dir.who.ID = id
}

// votes waits until a server has its vote, and is started.
func (n *network) votes(id string) {
	n.t.Helper()
	n.until(id+" to vote", func() bool {
		for _, s := range n.everybody() {
			r := s.now()
			if r == nil {
				continue
			}
			if got, ok := r.fsm.State().Server(id); r.raft.State() == raft.Leader && ok && got.Phase == fsm.ServerMember {
				in, _ := find(r.servers(), id)
				return in.Suffrage == raft.Voter
			}
		}
		return false
	})
	<-n.servers[id].started
}

// other is a server that runs, and is none of these.
func (n *network) other(not ...string) *node {
	for _, id := range []string{"s1", "s2", "s3"} {
		if !slices.Contains(not, id) {
			return n.servers[id]
		}
	}
	n.t.Fatal("no other server")
	return nil
}

func (n *network) member(at *node, id string) api.Member {
	n.t.Helper()
	c, err := at.reg.Status(n.t.Context(), false)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, m := range c.Members {
		if m.ID == id {
			return m
		}
	}
	return api.Member{}
}

func TestJoinThenRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ended := memberNetwork(t, 3)
		l := n.leader("")
		for i := range 20 {
			mustPropose(t, l, setNode(i))
		}
		s4 := n.waiting("s4")
		out := n.other(l.id)
		_, err := out.reg.Join(t.Context(), as(operator, nil), "s4", "s4:1") // asked of a follower
		wantCode(t, err, api.Forbidden)
		change, err := out.reg.Join(t.Context(), as(admin, nil), "s4", "s4:1")
		if err != nil || change.Phase != "joining" {
			t.Fatalf("%+v, %v", change, err)
		}
		n.votes("s4")
		n.until("s4 to be ready", func() bool { return s4.now().Ready() == nil })
		if m := n.member(s4, "s4"); !m.Voter || m.Role != "follower" || m.Behind > 1 {
			t.Fatalf("%+v", m)
		}
		if again, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); err != nil || again.Phase != "member" {
			t.Fatalf("joining it again: %+v, %v", again, err)
		}
		if gone, err := s4.reg.Remove(t.Context(), as(admin, nil), out.id, false); err != nil || gone.Phase != "gone" {
			t.Fatalf("%+v, %v", gone, err)
		}
		told := ""
		for r := range s4.reg.State().Audit(1) {
			if r.GetAction() != "setNode" {
				told += r.GetActor() + " " + r.GetAction() + " " + r.GetSubject() + " " + r.GetCode() + "; "
			}
		}
		if want := "operator/bob joinServer s4 FORBIDDEN; admin/ann joinServer s4 ; admin/ann removeServer " + out.id + " ; "; told != want {
			t.Errorf("the audit tells %q, want %q", told, want)
		}
		n.until("the removed server to notice", func() bool { return ended.of(out.id) != nil })
		if who := out.dir.identity(); who.Removed == "" {
			t.Error("its data directory is not marked")
		}
		if err := out.reg.Ready(); err == nil {
			t.Error("it is ready")
		}
		if _, err := out.reg.Propose(t.Context(), setNode(99)); err == nil {
			t.Error("it takes changes")
		}
		mustPropose(t, s4, setNode(21))
		voters, non, votes := s4.reg.Members()
		if voters != 3 || non != 0 || !votes {
			t.Errorf("%d voters, %d others", voters, non)
		}
		_, err = l.reg.Join(t.Context(), fsm.Envelope{}, out.id, out.id+":1")
		wantCode(t, err, api.Exists)
	})
}

// With one of three down, three of four are a majority and a server may join; with two of four down none may.
func TestJoinNeedsAMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		s4 := n.waiting("s4")
		a, b := n.others(l.id)[0], n.others(l.id)[1]
		n.isolate(a.id)
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); err != nil {
			t.Fatal(err)
		}
		n.votes("s4") // three of four are up: a majority
		n.heal()
		n.waiting("s5")
		n.until("all of the four to be ready", func() bool { return a.reg.Ready() == nil && s4.now().Ready() == nil })
		n.isolate(s4.id)
		n.isolate(a.id)
		if _, err := b.reg.Join(t.Context(), fsm.Envelope{}, "s5", "s5:1"); err == nil { // two of four
			t.Error("a server joined without a majority")
		}
		n.heal()
		n.until("the cluster to go on", func() bool { _, err := b.reg.Join(t.Context(), fsm.Envelope{}, "s5", "s5:1"); return err == nil })
		n.votes("s5")
	})
}

func TestJoinGoesOnUnderTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		s4 := n.waiting("s4")
		n.hang("s4") // the first leader gets no further than the record
		ask := make(chan error, 1)
		go func() { _, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); ask <- err }()
		wantCode(t, <-ask, api.Unavailable)
		n.hang("")
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); err != nil {
			t.Fatal(err)
		}
		n.isolate(l.id)
		next := n.leader(l.id)
		n.until("the next leader to have it in", func() bool {
			_, ok := find(next.reg.servers(), "s4")
			return ok
		})
		n.votes("s4")
		n.heal()
		n.until("the old leader to follow", func() bool {
			s, _ := find(l.reg.servers(), "s4")
			return s.Suffrage == raft.Voter && l.reg.Ready() == nil
		})
		n.until("s4 to be ready", func() bool { return s4.now().Ready() == nil })
	})
}

func TestTwoJoinsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		n.waiting("s4")
		n.waiting("s5")
		type answer struct {
			id  string
			err error
		}
		answers := make(chan answer, 2)
		for i, id := range []string{"s4", "s5"} {
			go func() {
				_, err := n.others(l.id)[i].reg.Join(t.Context(), fsm.Envelope{}, id, id+":1")
				answers <- answer{id, err}
			}()
		}
		refused := ""
		for range 2 {
			if a := <-answers; a.err != nil {
				wantCode(t, a.err, api.MembersChanging)
				if !strings.Contains(a.err.Error(), "cluster remove") {
					t.Errorf("%v does not say what to do", a.err)
				}
				refused = a.id
			}
		}
		first := map[string]string{"s4": "s5", "s5": "s4"}[refused]
		if first == "" {
			t.Fatal("both were taken at once")
		}
		n.votes(first)
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, refused, refused+":1"); err != nil {
			t.Fatal(err)
		}
		n.votes(refused)
	})
}

func TestJoinsAndRemovalsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		join := func(id, addr string) error {
			_, err := n.other(l.id).reg.Join(t.Context(), fsm.Envelope{}, id, addr)
			return err
		}
		if err := join("s1", "s1:1"); err != nil { // it is one already
			t.Error(err)
		}
		wantCode(t, join("s4", "s2:1"), api.Exists)
		wantCode(t, join("s4", "nowhere"), api.Invalid)
		wantCode(t, join("", "s4:1"), api.Invalid)
		wantCode(t, join("s4", "s4:1"), api.Unavailable)
		n.waiting("s4")
		wantCode(t, join("s5", "s4:1"), api.Invalid) // another server is there
		wiped := n.waiting("s6")
		founder := n.other(l.id).id
		wiped.rename(founder) // as if it had come back at another address with an empty directory
		wantCode(t, join(founder, "s6:1"), api.Exists)
		wiped.rename("s6")
		_, err := l.reg.Remove(t.Context(), fsm.Envelope{}, "s9", false)
		wantCode(t, err, api.NotFound)
		if n.member(l, "s4").ID != "" || len(l.reg.State().Servers()) != 0 {
			t.Error("something was put on record")
		}
	})
}

// A server of the release before would stop at the first record of a change.
func TestOldReleasesAreUpgradedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3, "s1", "s2", "s3")
		l := n.leader("")
		old := n.others(l.id)[0].id
		n.waiting("s4")
		n.older(old)
		_, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1")
		wantCode(t, err, api.WrongPhase)
		if !strings.Contains(err.Error(), old) {
			t.Errorf("%v does not name %s", err, old)
		}
		_, err = l.reg.Remove(t.Context(), fsm.Envelope{}, n.others(l.id)[1].id, false)
		wantCode(t, err, api.WrongPhase)
		// An older leader would not even know the call, so that it is not asked.
		n.older(l.id, old)
		asked := n.others(l.id)[0].reg
		for _, ask := range []func() error{
			func() error { _, err := asked.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); return err },
			func() error {
				_, err := asked.Remove(t.Context(), fsm.Envelope{}, n.others(l.id)[1].id, false)
				return err
			},
			func() error {
				_, err := asked.Propose(t.Context(), fsm.Envelope{Command: &fsm.StageBackup{}})
				return err
			},
		} {
			err := ask()
			wantCode(t, err, api.WrongPhase)
			if !strings.Contains(err.Error(), l.id) {
				t.Errorf("%v does not name %s", err, l.id)
			}
		}
		if len(l.reg.State().Servers()) != 0 {
			t.Error("something was put on record")
		}
	})
}

// A founder that raft's configuration lacks without a record was left out when the cluster was recovered. It does not come
// back, and can be put on record as gone.
func TestFounderThatWasLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		for _, s := range n.servers {
			s.dir.mu.Lock()
			s.dir.who.Founders["s9"] = "s9-dir"
			s.dir.who.Peers = append(slices.Clone(s.dir.who.Peers), Peer{"s9", "s9:1"})
			s.dir.mu.Unlock()
		}
		s9 := n.add("s9")
		s9.dir.who = identity{Format: identityFormat, ID: "s9", Instance: "s9-dir", Cluster: "c1", Bootstrapped: true}
		s9.door.Store(&door{dir: s9.dir})
		n.heal()
		_, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s9", "s9:1")
		wantCode(t, err, api.Exists)
		if gone, err := l.reg.Remove(t.Context(), fsm.Envelope{}, "s9", false); err != nil || gone.Phase != "gone" {
			t.Fatalf("%+v, %v", gone, err)
		}
	})
}

func TestLastVoterStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 1)
		_, err := n.leader("").reg.Remove(t.Context(), fsm.Envelope{}, "s1", true)
		wantCode(t, err, api.Invalid)
	})
}

func TestRemovalOfTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ended := memberNetwork(t, 3)
		l := n.leader("")
		change, err := l.reg.Remove(t.Context(), fsm.Envelope{}, l.id, false)
		if err != nil || change.Phase != "gone" {
			t.Fatalf("%+v, %v", change, err)
		}
		next := n.leader(l.id)
		mustPropose(t, next, setNode(1))
		n.until("it to notice", func() bool { return ended.of(l.id) != nil })
		if voters, _, _ := next.reg.Members(); voters != 2 {
			t.Errorf("%d voters are left", voters)
		}
	})
}

func TestRemovalNeedsAMajorityOfTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ended := memberNetwork(t, 3)
		l := n.leader("")
		down, up := n.others(l.id)[0], n.others(l.id)[1]
		n.isolate(down.id)
		_, err := l.reg.Remove(t.Context(), fsm.Envelope{}, up.id, false)
		wantCode(t, err, api.NoMajority)
		if !strings.Contains(err.Error(), down.id+" does not answer") {
			t.Errorf("%v does not name %s", err, down.id)
		}
		_, err = l.reg.Remove(t.Context(), fsm.Envelope{}, up.id, true) // it cannot be committed, and is forced
		wantCode(t, err, api.Timeout, api.NoLeader)
		n.heal()
		n.until("it to be over", func() bool {
			s, _ := l.reg.State().Server(up.id)
			return s.Phase == fsm.ServerGone
		})
		n.until("it to notice", func() bool { return ended.of(up.id) != nil })
		mustPropose(t, down, setNode(1))
	})
}

// The removal of a dead server is what makes room for its replacement.
func TestRemovalOfAServerThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ended := memberNetwork(t, 3)
		l := n.leader("")
		out := n.others(l.id)[0]
		n.isolate(out.id)
		if _, err := l.reg.Remove(t.Context(), fsm.Envelope{}, out.id, false); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		if err := ended.of(out.id); err != nil {
			t.Fatalf("nobody told it: %v", err)
		}
		before := l.reg.raft.CurrentTerm()
		n.heal()
		n.until("it to notice", func() bool { return ended.of(out.id) != nil })
		if after := l.reg.raft.CurrentTerm(); after != before {
			t.Errorf("it disturbed the others: term %d, before %d", after, before)
		}
		mustPropose(t, l, setNode(1))
	})
}

func TestJoiningServerThatIsCutOffAndRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ended := memberNetwork(t, 3)
		l := n.leader("")
		s4 := n.waiting("s4")
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); err != nil {
			t.Fatal(err)
		}
		n.until("it to be in", func() bool { _, ok := find(l.reg.servers(), "s4"); return ok })
		<-s4.started
		s4.restart() // which cuts it off
		for i := range 50 {
			mustPropose(t, l, setNode(i))
		}
		if m := n.member(l, "s4"); m.Voter && m.Error == "" {
			t.Fatalf("%+v", m)
		}
		n.heal()
		n.votes("s4")
		n.until("it to be ready", func() bool { return s4.now().Ready() == nil })

		t.Log("one that never comes is given up")
		s5 := n.waiting("s5")
		n.isolate("s5")
		_, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s5", "s5:1")
		wantCode(t, err, api.Unavailable)
		n.heal()
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s5", "s5:1"); err != nil {
			t.Fatal(err)
		}
		if _, err := l.reg.Remove(t.Context(), fsm.Envelope{}, "s5", false); err != nil {
			t.Fatal(err)
		}
		n.until("s5 to hear of it, or to go on waiting", func() bool { return ended.of("s5") != nil || !s5.dir.identity().Bootstrapped })
	})
}

func TestTenthServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, maxPeers)
		l := n.leader("")
		n.waiting("s10")
		_, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s10", "s10:1")
		wantCode(t, err, api.Limit)
	})
}
