package registry

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/api"
)

func TestReadLevels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		s := n.others(l.id)[0]
		made := mustPropose(t, l, setNode(1))
		for _, o := range []api.ReadOptions{{MinIndex: made.GetIndex()}, {Consistency: "linearizable"}, {Consistency: "local", MinIndex: made.GetIndex(), MaxStale: time.Second}} {
			st, err := s.reg.Read(t.Context(), o)
			if err != nil || st.Index() < made.GetIndex() {
				t.Fatalf("%+v: index %d, %v; want %d", o, st.Index(), err, made.GetIndex())
			}
		}
		for _, o := range []api.ReadOptions{{Consistency: "strong"}, {MaxStale: -1}} {
			_, err := s.reg.Read(t.Context(), o)
			wantCode(t, err, api.Invalid)
		}
		start := time.Now()
		_, err := s.reg.Read(t.Context(), api.ReadOptions{MinIndex: made.GetIndex() + 1000})
		wantCode(t, err, api.Timeout)
		var e *api.Error
		if errors.As(err, &e); e.Index != s.reg.State().Index() || time.Since(start) != defaultPatience {
			t.Fatalf("after %v: %v with index %d; want %v and %d", time.Since(start), err, e.Index, defaultPatience, s.reg.State().Index())
		}
	})
}

func TestStaleFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bound = 3 * time.Second
		n := newNetwork(t, nil)
		n.ready()
		s := n.others(n.leader("").id)[0]
		read := func() error {
			_, err := s.reg.Read(t.Context(), api.ReadOptions{MaxStale: bound})
			return err
		}
		if err := read(); err != nil {
			t.Fatal(err)
		}
		n.isolate(s.id)
		n.until("the follower to lose its leader", func() bool { return s.reg.Ready() != nil })
		wantCode(t, read(), api.Stale)
		wantCode(t, s.reg.Ready(), api.NoLeader)
		if _, err := s.reg.Read(t.Context(), api.ReadOptions{}); err != nil {
			t.Fatalf("a read without a bound: %v", err)
		}
		n.heal()
		n.until("a fresh state", func() bool { return read() == nil })
	})
}

// A leader whose own loop hangs, here on its disk, does not notice that it was replaced, and takes itself for fresh. The same
// happens to one that was stopped and goes on.
func TestStaleLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		old := n.leader("")
		<-time.After(time.Minute) // nothing to do is no reason to be stale
		if _, err := old.reg.Read(t.Context(), api.ReadOptions{MaxStale: time.Second}); err != nil {
			t.Fatal(err)
		}
		release := old.store.hang()
		defer release()
		_, err := old.reg.Propose(t.Context(), setNode(1))
		wantCode(t, err, api.OutcomeUnknown)
		n.isolate(old.id)
		made := mustPropose(t, n.leader(old.id), setNode(2))
		<-time.After(2 * time.Second) // less than it takes until this server gives up
		if _, ok := old.reg.State().Node("n2"); ok || old.reg.raft.State() != raft.Leader {
			t.Fatal("this is not the old leader with its old state")
		}
		st, err := old.reg.Read(t.Context(), api.ReadOptions{MaxStale: time.Second})
		if wantCode(t, err, api.Stale); st.Index() >= made.GetIndex() {
			t.Fatalf("state at %d", st.Index())
		}
		release()
		n.heal()
		n.until("the old leader to follow", func() bool {
			st, err := old.reg.Read(t.Context(), api.ReadOptions{MaxStale: time.Second})
			return err == nil && st.Index() >= made.GetIndex()
		})
	})
}

// What a server has on its disk may be older than what it answered before it stopped, so it answers nothing from it.
func TestNothingIsServedBeforeCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		s := n.others(l.id)[0]
		made := mustPropose(t, s, setNode(1))
		s.restart()
		<-time.After(time.Minute)
		_, err := s.reg.Read(t.Context(), api.ReadOptions{})
		wantCode(t, err, api.Unavailable)
		_, err = s.reg.Read(t.Context(), api.ReadOptions{MinIndex: made.GetIndex()})
		wantCode(t, err, api.Unavailable)
		_, err = s.reg.Read(t.Context(), api.ReadOptions{Consistency: "linearizable"})
		wantCode(t, err, api.NoLeader)
		_, err = s.reg.Watch(0)
		wantCode(t, err, api.Unavailable)
		wantCode(t, s.reg.Ready(), api.Unavailable)
		n.heal()
		n.ready()
		if st, err := s.reg.Read(t.Context(), api.ReadOptions{}); err != nil || st.Index() < made.GetIndex() {
			t.Fatalf("index %d, %v; want %d", st.Index(), err, made.GetIndex())
		}
		if _, err := s.reg.Watch(0); err != nil {
			t.Fatal(err)
		}
	})
}

// Nor is a retry answered from it, whose first try had a lower index than what this server has shown before it was started.
func TestRetryAtAServerThatHasNotCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		s := n.others(n.leader("").id)[0]
		e := setNode(1)
		e.RequestID = s.reg.requestID()
		first := mustPropose(t, s, e)
		caught := s.reg.caught
		s.reg.caught = make(chan struct{}) // as of one that was just started, and has applied so much
		_, err := s.reg.Propose(t.Context(), e)
		var unknown *api.Error
		if wantCode(t, err, api.OutcomeUnknown); errors.As(err, &unknown) && unknown.Index != first.GetIndex() {
			t.Errorf("%v names index %d, want %d", err, unknown.Index, first.GetIndex())
		}
		time.AfterFunc(time.Second, func() { close(s.reg.caught) })
		began := time.Now()
		if again := mustPropose(t, s, e); again.GetIndex() != first.GetIndex() || time.Since(began) < time.Second {
			t.Errorf("the retry has index %d after %v, the first try %d", again.GetIndex(), time.Since(began), first.GetIndex())
		}
		s.reg.caught = caught
		// Whoever has stopped waiting is not told that it may have been applied.
		ended, end := context.WithCancel(t.Context())
		end()
		for range 100 {
			if err := s.reg.waitCaughtUp(ended); err != nil {
				t.Fatalf("at a server that has caught up: %v", err)
			}
		}
	})
}

// A server that takes connections and says nothing costs the others' status its own bound and no more.
func TestStatusOfAServerThatHangs(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.formed()
	r.close("s3")
	ln, err := net.Listen("tcp", r.config("s3").addrOf("s3"))
	if err != nil {
		t.Fatal(err)
	}
	held := make(chan net.Conn, 1000)
	go func() {
		defer close(held)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			held <- conn
		}
	}()
	defer func() {
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		for conn := range held {
			_ = conn.Close()
		}
	}()
	start := time.Now()
	status, err := r.open["s1"].Status(t.Context(), true)
	if took := time.Since(start); err != nil || took > 2*statusTimeout {
		t.Fatalf("after %v: %v; the bound is %v", took, err, statusTimeout)
	}
	for _, m := range status.Members {
		if hangs := m.ID == "s3"; hangs != (m.Error != "") || hangs == (m.StateHash != "") {
			t.Errorf("%s: hash %q, error %q", m.ID, m.StateHash, m.Error)
		}
	}
}

// The same when the other side takes the call, and only its answer is missing.
func TestStatusOfAServerThatNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		s := n.others(l.id)[0]
		n.hang(s.id)
		start := time.Now()
		status, err := l.reg.Status(t.Context(), false)
		if took := time.Since(start); err != nil || took != statusTimeout {
			t.Fatalf("after %v: %v; want %v", took, err, statusTimeout)
		}
		for _, m := range status.Members {
			if hangs := m.ID == s.id; hangs != strings.Contains(m.Error, "deadline exceeded") || m.Ready == hangs {
				t.Errorf("%s: ready %v, error %q", m.ID, m.Ready, m.Error)
			}
		}
	})
}
