package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// slack is what a tick, a proposal and a poll of the test may add to a deadline.
const slack = 1500 * time.Millisecond

// founded waits for a cluster with the nodes n1 to n3, and returns its leader.
func founded(t *testing.T, n *network) *node {
	t.Helper()
	n.ready()
	l := n.leader("")
	for i := range 3 {
		mustPropose(t, l, setNode(i+1))
	}
	return l
}

// openSession opens the session "<id>-s" of a node.
func openSession(t *testing.T, via *node, id string) string {
	t.Helper()
	hash := sha256.Sum256([]byte(id))
	mustPropose(t, via, fsm.Envelope{Command: &fsm.OpenSession{Node: id, Session: id + "-s", Identity: id + "-disk", TokenHash: hash[:],
		Incarnation: 1, IncarnationTag: "c1", View: via.reg.State().Index()}})
	return id + "-s"
}

func declare(t *testing.T, via *node, prefix, writer, fallback string) {
	t.Helper()
	mustPropose(t, via, fsm.Envelope{Command: &fsm.Declare{Prefix: []byte(prefix), Writer: writer, Fallback: fallback}})
}

func renewOnce(via *node, session string) (api.Renewed, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return via.reg.Renew(ctx, api.Renewal{Session: session, View: via.reg.State().Index()})
}

// holder renews a session as its node would, until it is stopped.
type holder struct {
	stop func()
	mu   sync.Mutex // guards last and err
	last time.Time  // when the newest renewal that was granted was sent
	err  error      // of the newest renewal
}

func hold(t *testing.T, via *node, session string) *holder {
	h, done, over := &holder{}, make(chan struct{}), make(chan struct{})
	h.stop = sync.OnceFunc(func() { close(done); <-over })
	t.Cleanup(h.stop)
	go func() {
		defer close(over)
		for {
			sent := time.Now()
			_, err := renewOnce(via, session)
			h.mu.Lock()
			if h.err = err; err == nil {
				h.last = sent
			}
			h.mu.Unlock()
			select {
			case <-done:
				return
			case <-time.After(api.DefaultLeases().Renew):
			}
		}
	}()
	return h
}

func (h *holder) newest() (granted time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last, h.err
}

func lives(s *node, session string) bool {
	_, ok := s.reg.State().Holder(session)
	return ok
}

func wantOwner(t *testing.T, s *node, prefix, want string) {
	t.Helper()
	if sc, ok := s.reg.State().Scopes().Get(scope.Prefix(prefix)); !ok || string(sc.Owner) != want {
		t.Fatalf("%s: scope %q is %+v, want it owned by %s", s.id, prefix, sc, want)
	}
}

// wantGone waits until the session is gone, which must be within a deadline and the slack of since, and not earlier.
func wantGone(t *testing.T, n *network, s *node, session string, since time.Time) {
	t.Helper()
	deadline := api.DefaultLeases().Deadline
	n.until(session+" to expire", func() bool { return !lives(s, session) })
	if took := time.Since(since); took < deadline || took > deadline+slack {
		t.Fatalf("%s expired %v after it should have begun to count, want %v", session, took, deadline)
	}
}

// A node that renews, through any server, keeps its session; one that stops loses it a deadline after its last renewal,
// and its scope goes to the fallback. The leader arms the scope when a renewal says that its owner knows it.
func TestSessionLivesAsLongAsItIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		l := founded(t, n)
		follower := n.others(l.id)[0]
		one, two := openSession(t, l, "n1"), openSession(t, follower, "n2")
		declare(t, l, "app:", "n1", "n2")
		writer := hold(t, follower, one)
		hold(t, n.others(l.id)[1], two)
		<-time.After(time.Minute)
		if sc, _ := follower.reg.State().Scopes().Get("app:"); !sc.Armed {
			t.Fatal("the owner's view has passed the declare, and the scope is not armed")
		}
		renewed, err := renewOnce(follower, one)
		if err != nil || renewed.LeaseMS != 8_000 || renewed.Index < l.reg.State().Index() {
			t.Fatalf("a renewal is answered %+v, %v", renewed, err)
		}
		writer.stop()
		last, err := writer.newest()
		if last.Before(time.Now().Add(-2*time.Second)) || err != nil {
			t.Fatalf("the last renewal was at %v: %v", last, err)
		}
		wantGone(t, n, follower, one, time.Now())
		wantOwner(t, follower, "app:", "n2")
		_, err = renewOnce(follower, one)
		wantCode(t, err, api.SessionExpired)
		stats := l.reg.LeaseStats()
		if stats.Granted < 60 || stats.Refused != 1 || stats.Expiries != 1 || stats.Live != 1 {
			t.Fatalf("counted are %+v", stats)
		}
	})
}

// What an old leader counted is worth nothing to the next one: it gives every session a full deadline, and no more. The
// old one, cut off, renews nobody and expires nobody.
func TestNewLeaderGivesFullDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		old := founded(t, n)
		session := openSession(t, old, "n1")
		<-time.After(8 * time.Second)
		office := old.reg.office.Load()
		n.isolate(old.id)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // it takes itself for the leader all that time
		defer cancel()
		_, err := old.reg.Renew(ctx, api.Renewal{Session: session})
		wantCode(t, err, api.Timeout)
		next := n.leader(old.id)
		n.until("the new leader's office", func() bool { return next.reg.office.Load() != nil })
		wantGone(t, n, next, session, time.Now().Add(-10*time.Millisecond))
		_, err = renewOnce(old, session)
		wantCode(t, err, api.NoLeader)
		<-time.After(time.Minute)
		if !lives(old, session) || old.reg.LeaseStats().Granted != 0 {
			t.Fatalf("the leader that was cut off: the session lives there %v, counted are %+v", lives(old, session), old.reg.LeaseStats())
		}
		if _, _, err := office.leading(); err == nil || old.reg.office.Load() != nil {
			t.Fatal("the old leader is in office still")
		}
		n.heal()
		n.until("the old leader to follow", func() bool { return !lives(old, session) })
	})
}

// A renewal that waits for a leader which was cut off, and takes itself for the leader still, is answered by the next.
func TestRenewalIsGrantedByWhoConfirms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		old := founded(t, n)
		follower := n.others(old.id)[0]
		session := openSession(t, old, "n1")
		n.isolate(old.id)
		n.mu.Lock()
		clear(n.cut) // calls pass, raft does not
		n.mu.Unlock()
		if _, err := renewOnce(follower, session); err != nil {
			t.Fatal(err)
		}
		next := n.leader(old.id)
		if granted := old.reg.LeaseStats().Granted; granted != 0 || next.reg.LeaseStats().Granted != 1 {
			t.Fatalf("the old leader granted %d, the new one %d", granted, next.reg.LeaseStats().Granted)
		}
		n.heal()
	})
}

// A leader whose clock has passed every deadline while it did not run gives them anew: the nodes may have tried to renew
// all that time.
func TestPausedLeaderGivesFullDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		l := founded(t, n)
		silent := openSession(t, l, "n1")
		held := openSession(t, l, "n2")
		hold(t, n.others(l.id)[0], held)
		<-time.After(9 * time.Second)
		l.slept.Add(int64(time.Minute))
		since := time.Now()
		wantGone(t, n, l, silent, since)
		if !lives(l, held) || l.reg.LeaseStats().Expiries != 1 {
			t.Fatalf("the session that was renewed lives: %v; counted are %+v", lives(l, held), l.reg.LeaseStats())
		}
	})
}

// A late leader confirms before it starts anew: it may be the leader no more.
func TestLateLeaderConfirmsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		l := founded(t, n)
		openSession(t, l, "n1")
		<-time.After(3 * time.Second)
		office := l.reg.office.Load()
		n.isolate(l.id)
		office.mu.Lock()
		l.slept.Add(int64(time.Minute))
		office.stir() // it looks at once, and takes itself for the leader
		office.mu.Unlock()
		<-time.After(100 * time.Millisecond)
		if _, out, _, late := office.reconcile(); !late || len(out) > 0 {
			t.Fatalf("a leader that could not confirm: late %v, and proposes %v", late, out)
		}
		n.heal()
		n.ready()
	})
}

// What the state refuses, here since the ledger's term is not that of the log, is proposed again, with a pause.
func TestRefusedDirectivesArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		l := founded(t, n)
		session := openSession(t, l, "n1")
		o := l.reg.office.Load()
		o.mu.Lock()
		o.ledger = fsm.NewLedger(api.DefaultLeases(), 999)
		o.mu.Unlock()
		<-time.After(15 * time.Second)
		if tries := l.reg.LeaseStats().Expiries; tries < 10 || tries > 60 || !lives(l, session) {
			t.Fatalf("%d tries within 5 s, %v between two; the session lives: %v", tries, reconcilePause, lives(l, session))
		}
	})
}

// An expiry that a leader had on its way when it hung is the next leader's to commit, as its followers have it, before that one
// renews a lease. One that comes into the log later is void, as the next leader has renewed since.
func TestExpiryOfAnEarlierTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		old := founded(t, n)
		session := openSession(t, old, "n1")
		term := old.reg.raft.CurrentTerm()
		<-time.After(9 * time.Second)
		release := old.store.hang()
		defer release()
		n.until("the expiry to be proposed", func() bool { return old.reg.LeaseStats().Expiries > 0 })
		n.isolate(old.id)
		next := n.leader(old.id)
		other := openSession(t, next, "n2")
		holds := hold(t, next, other)
		<-time.After(5 * time.Second)
		release()
		n.heal()
		<-time.After(time.Minute)
		for _, s := range n.servers {
			if lives(s, session) || !lives(s, other) {
				t.Errorf("on %s the session that expired lives: %v, and the other one: %v", s.id, lives(s, session), lives(s, other))
			}
		}
		if _, err := holds.newest(); err != nil {
			t.Error(err)
		}
		err := next.reg.proposeOne(t.Context(), &fsm.Expire{Session: other, Term: term})
		var refusal *refusedError
		if !errors.As(err, &refusal) {
			t.Fatalf("got %v, want a refusal of the state", err)
		}
		wantCode(t, refusal.cause, api.StaleEpoch)
	})
}

// A cluster that was down has heard no renewals, which is not the nodes' fault.
func TestSessionsOutliveTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		l := founded(t, n)
		silent, held := openSession(t, l, "n1"), openSession(t, l, "n2")
		for _, s := range n.servers {
			if err := s.reg.Close(); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Hour)
		for _, s := range n.servers {
			s.plug()
		}
		n.heal()
		for _, s := range n.servers {
			s.start()
		}
		n.until("an office", func() bool {
			for _, s := range n.servers {
				if s.reg.office.Load() != nil {
					l = s
					return true
				}
			}
			return false
		})
		since := time.Now()
		hold(t, n.others(l.id)[0], held)
		wantGone(t, n, l, silent, since.Add(-10*time.Millisecond))
		if !lives(l, held) {
			t.Fatal("the session that is renewed again is gone")
		}
	})
}

// A node whose view stands still while something concerns it is told so, and expires.
func TestNodeThatDoesNotFollowExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		l := founded(t, n)
		follower := n.others(l.id)[0]
		session := openSession(t, follower, "n1")
		view := l.reg.State().Index()
		declare(t, l, "app:", "n1", "")
		granted, told := 0, 0
		for lives(follower, session) {
			_, err := follower.reg.Renew(t.Context(), api.Renewal{Session: session, View: view})
			if err == nil {
				granted++
			} else if api.CodeOf(err) == api.Stale {
				told++
			}
			<-time.After(2 * time.Second)
		}
		if granted != 4 || told < 4 || told > 6 {
			t.Fatalf("granted were %d renewals, within a lease of the first, and %d refused", granted, told)
		}
	})
}

// Reports that come to any server reach the leader, which closes the move when little is left, though not while its source
// says that it is early, and gives it up when it is closed for too long.
func TestReportsCloseTheMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		l := founded(t, n)
		follower := n.others(l.id)[0]
		source := openSession(t, l, "n1")
		hold(t, follower, source)
		hold(t, follower, openSession(t, l, "n2"))
		declare(t, l, "app:", "n1", "")
		id := mustPropose(t, l, fsm.Envelope{Command: &fsm.StartMove{Prefix: []byte("app:"), From: "n1", To: "n2", Mode: "agent", Precopy: true}}).GetMove()
		for keys := range uint64(6) {
			r := api.Report{Move: id, Session: source, Keys: 100 * keys, Bytes: 1000 * keys, KeysLeft: 100 * (5 - keys), BytesLeft: 1000 * (5 - keys),
				Early: keys == 4} // 1 s is left then, of a window of 5 s; it comes through the follower
			if err := []*node{follower, l}[keys%2].reg.Report(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			leading, err := follower.reg.Leading(t.Context())
			if err != nil || leading.Leader != l.id || len(leading.Leases) != 2 || leading.Progress[id].KeysLeft != r.KeysLeft {
				t.Fatalf("leading is %+v, %v", leading, err)
			}
			<-time.After(time.Second)
			if m, _ := l.reg.State().Moves().Get(id); m.Quiesced() != (keys == 5) {
				t.Fatalf("after report %d the move is %s", keys, m.Phase)
			}
		}
		closed := time.Now()
		n.until("the window", func() bool { m, _ := l.reg.State().Moves().Get(id); return !m.Running() })
		if m, _ := l.reg.State().Moves().Get(id); m.Cause != fsm.CauseWindow || time.Since(closed) > fsm.AgentWindow {
			t.Fatalf("the move is %s, cause %q, %v after it was closed", m.Phase, m.Cause, time.Since(closed))
		}
		wantCode(t, follower.reg.Report(t.Context(), api.Report{Move: id, Session: source}), api.WrongPhase)
	})
}

// More sessions than one page holds are shown, and expire, together.
func TestLeadingOfManySessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 2*leadingPage + 5
		n := newNetwork(t, nil)
		l := founded(t, n)
		batch := &fsm.Batch{}
		for i := range many {
			batch.Nodes = append(batch.Nodes, &fsm.SetNode{Id: fmt.Sprintf("m%05d", i), Addr: "h:1"})
		}
		mustPropose(t, l, fsm.Envelope{Command: batch})
		var wg sync.WaitGroup
		for i := range many {
			wg.Go(func() { openSession(t, l, fmt.Sprintf("m%05d", i)) })
		}
		wg.Wait()
		for _, s := range n.servers {
			leading, err := s.reg.Leading(t.Context())
			if err != nil || len(leading.Leases) != many {
				t.Fatalf("%s: %d leases, %v", s.id, len(leading.Leases), err)
			}
			for i, held := range leading.Leases {
				if held.Node != fmt.Sprintf("m%05d", i) {
					t.Fatalf("lease %d is of node %s", i, held.Node)
				}
			}
		}
		if page, err := l.reg.leadingHere("m00004-s"); err != nil || page.Progress != nil || page.Leases[0].Node != "m00005" {
			t.Fatalf("the page after m00004-s begins with %+v and has progress %v: %v", page.Leases[0], page.Progress, err)
		}
		since := time.Now()
		n.until("all to expire", func() bool { return l.reg.State().SessionsLen() == 0 })
		if took := time.Since(since); took > api.DefaultLeases().Deadline+slack || l.reg.LeaseStats().Expiries != many {
			t.Fatalf("took %v and %d proposals", took, l.reg.LeaseStats().Expiries)
		}
	})
}

// A server that is cut off knows no leader, and does not wait for one to say what a local read can do without.
func TestLeadingWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		n.isolate(l.id)
		n.until("the old leader to know none", func() bool { _, known := l.reg.leaderNow(); return !known })
		began := time.Now()
		_, err := l.reg.Leading(t.Context())
		wantCode(t, err, api.NoLeader)
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v to say that nobody leads", took)
		}
	})
}
