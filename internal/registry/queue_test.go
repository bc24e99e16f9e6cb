package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// stuckLeader is a leader whose next entry cannot reach a majority, though it does not know yet; callers reach it.
func stuckLeader(t *testing.T) (*network, *node) {
	t.Helper()
	n := newNetwork(t, nil)
	n.ready()
	l := n.leader("")
	n.until("a leader with nothing to do", func() bool { return l.reg.State().Cluster().ID != "" })
	n.isolate(l.id)
	n.mu.Lock()
	clear(n.cut) // calls pass, raft does not
	n.mu.Unlock()
	return n, l
}

// from is a command of somebody unknown at one of many addresses.
func from(e fsm.Envelope, host int) fsm.Envelope {
	e.Origin = fsm.OriginOf(access.Who{Role: access.Anonymous}, fmt.Sprintf("10.0.0.%d", host), "")
	return e
}

func TestCommitQueueLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const over = 50
		n, l := stuckLeader(t)
		errs := make([]error, 1+maxWaiting+over)
		done := make(chan int, len(errs))
		propose := func(i int) {
			_, errs[i] = l.reg.Propose(t.Context(), from(setNode(i), i%16))
			done <- i
		}
		go propose(0)
		synctest.Wait() // it is the entry in flight, the others will wait for it
		for i := range maxWaiting + over {
			go propose(1 + i)
		}
		synctest.Wait()
		if len(done) != over {
			t.Fatalf("%d of %d commands ended while the log was stuck, want those over the limit of %d", len(done), len(errs), maxWaiting)
		}
		refused := map[int]bool{}
		for range over {
			i := <-done
			refused[i] = true
			if wantCode(t, errs[i], api.Limit); !strings.Contains(errs[i].Error(), fmt.Sprintf("the limit is %d", maxWaiting)) {
				t.Fatalf("%q does not name the limit", errs[i])
			}
		}
		n.heal()
		for range len(errs) - over {
			if i := <-done; errs[i] != nil {
				t.Fatalf("command %d, which was taken: %v", i, errs[i])
			}
		}
		for i := range errs {
			_, found := l.reg.State().Node(scope.NodeID(fmt.Sprintf("n%d", i)))
			if found == refused[i] {
				t.Fatalf("command %d: refused %v, applied %v", i, refused[i], found)
			}
		}
	})
}

func TestConfirmQueueLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const over = 50
		n, l := stuckLeader(t)
		errs := make(chan error, 1+maxWaiting+over)
		confirm := func() {
			_, err := l.reg.Confirm(t.Context())
			errs <- err
		}
		go confirm()
		synctest.Wait() // its barrier is in flight
		for range maxWaiting + over {
			go confirm()
		}
		synctest.Wait()
		if len(errs) != over {
			t.Fatalf("%d calls ended while the log was stuck, want those over the limit of %d", len(errs), maxWaiting)
		}
		_, forwarded := n.others(l.id)[0].reg.Confirm(t.Context())
		for _, err := range append(receive(errs, over), forwarded) {
			if wantCode(t, err, api.Limit); !strings.Contains(err.Error(), fmt.Sprintf("the limit is %d", maxWaiting)) {
				t.Fatalf("%q does not name the limit", err)
			}
		}
		n.heal()
		for _, err := range receive(errs, 1+maxWaiting) {
			if err != nil {
				t.Fatalf("a call that was taken: %v", err)
			}
		}
	})
}

func receive(from <-chan error, n int) (out []error) {
	for range n {
		out = append(out, <-from)
	}
	return out
}

// Who stops waiting leaves the queue at once, also while the log is stuck: else callers with little patience would fill it,
// and memory, with what nobody waits for.
func TestWhoGivesUpLeavesTheQueue(t *testing.T) {
	c := newCommitter(nil) // nobody runs it
	confirms := newConfirmer(nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range maxWaiting + 1 {
		_, err := c.submit(ctx, []byte("x"), asker{name: "a"})
		var notApplied *definite
		if !errors.As(err, &notApplied) || !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want a definite error", err)
		}
		if _, err := confirms.confirm(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want that of the context", err)
		}
	}
	if len(c.waiting)+len(c.by)+len(confirms.waiting)+confirms.reads > 0 {
		t.Fatalf("%d commands and %d reads are held that nobody waits for", len(c.waiting), len(confirms.waiting))
	}
	if got := c.take(); got != nil {
		t.Fatalf("packed %v, which was given up", got)
	}
}

// A disk that hangs stops raft's loop and no caller for longer than it waits: what was not handed to raft was surely not
// applied, of the entry in flight nobody knows, and a read is not answered from what may be old.
func TestHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetworkOf(t, 1, nil)
		n.ready()
		s := n.servers["s1"]
		n.until("a leader with nothing to do", func() bool { return s.reg.State().Cluster().ID != "" })
		release := s.store.hang()
		defer release()
		flying, queued, read := make(chan error, 1), make(chan error, 1), make(chan error, 1)
		start := time.Now()
		go func() {
			_, err := s.reg.Propose(t.Context(), setNode(1))
			flying <- err
		}()
		synctest.Wait()
		go func() {
			_, err := s.reg.Propose(t.Context(), setNode(2))
			queued <- err
		}()
		go func() {
			_, err := s.reg.Read(t.Context(), api.ReadOptions{Consistency: "linearizable"})
			read <- err
		}()
		wantCode(t, <-flying, api.OutcomeUnknown)
		wantCode(t, <-queued, api.NoLeader)
		wantCode(t, <-read, api.Timeout)
		if took := time.Since(start); took != defaultPatience {
			t.Fatalf("they waited for %v, want %v", took, defaultPatience)
		}
		if _, err := s.reg.confirms.confirm(t.Context()); !errors.Is(err, raft.ErrEnqueueTimeout) {
			t.Fatalf("got %v, want to be told after %v that raft takes no entry", err, enqueueTimeout)
		}
		release()
		mustPropose(t, s, setNode(3))
		for i, want := range []bool{1: true, 2: false, 3: true} {
			if _, ok := s.reg.State().Node(scope.NodeID(fmt.Sprintf("n%d", i))); i > 0 && ok != want {
				t.Errorf("command %d applied: %v", i, ok)
			}
		}
	})
}

func TestTakePacksUpToABound(t *testing.T) {
	c := newCommitter(nil)
	for _, size := range []int{fsm.PackEntry / 2, fsm.PackEntry / 2, 1, fsm.PackEntry + 1, 1} {
		if err := c.enqueue(&proposal{envelope: make([]byte, size), done: make(chan outcome, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []int{2, 1, 1, 1, 0} {
		if got := len(c.take()); got != want {
			t.Fatalf("entry %d packs %d commands, want %d", i, got, want)
		}
	}
}

// A command may wait for a leader for longer than the ring of results remembers: here a partition lasts while others
// fill the ring. The request id that this server drew for it has expired then, and nothing was ever applied under it.
func TestOwnRequestIDIsDrawnAnewWhenItExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		late := n.others(n.leader("").id)[0]
		n.isolate(late.id)
		l := n.leader(late.id)
		n.until("a follower without a leader", func() bool { return late.reg.Ready() != nil })
		result := make(chan error, 1)
		go func() {
			r, err := late.reg.Propose(t.Context(), fsm.Envelope{Command: &fsm.SetNode{Id: "late", Addr: "h:1"}})
			if err == nil && late.reg.State().Index() < r.GetIndex() {
				err = errors.New("answered before its own state was there")
			}
			result <- err
		}()
		synctest.Wait()
		fillRing(t, l)
		n.heal()
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		if _, ok := late.reg.State().Node("late"); !ok {
			t.Fatal("the command has a result and was not applied")
		}
	})
}

// fillRing makes the state forget every earlier result.
func fillRing(t *testing.T, l *node) {
	t.Helper()
	for range 17 {
		var envelopes [][]byte
		for range 4096 {
			raw, err := l.reg.stamp(setNode(1)).Encode()
			if err != nil {
				t.Fatal(err)
			}
			envelopes = append(envelopes, raw)
		}
		entry, err := fsm.EncodeEntry(1, envelopes)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.reg.raft.Apply(entry, time.Second).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

// A flood of reads keeps no session from being renewed: a renewal of one that lives waits beside them, and one barrier is for
// all. What is made up waits with the reads.
func TestRenewalsHaveRoomOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		mustPropose(t, l, setNode(1))
		session := openSession(t, l, "n1")
		n.isolate(l.id)
		n.mu.Lock()
		clear(n.cut) // calls pass, raft does not
		n.mu.Unlock()
		errs := make(chan error, maxWaiting+1)
		confirm := func() {
			_, err := l.reg.Confirm(t.Context())
			errs <- err
		}
		go confirm()
		synctest.Wait() // its barrier is in flight
		for range maxWaiting {
			go confirm()
		}
		synctest.Wait()
		renewed := make(chan error, renewalsOfOne)
		for range renewalsOfOne {
			go func() {
				_, err := renewOnce(l, session)
				renewed <- err
			}()
		}
		synctest.Wait()
		for _, more := range []string{session, "made-up"} {
			_, err := renewOnce(l, more)
			wantCode(t, err, api.Limit)
		}
		n.heal()
		for _, err := range append(receive(renewed, renewalsOfOne), receive(errs, maxWaiting+1)...) {
			if err != nil {
				t.Fatalf("a call that was taken: %v", err)
			}
		}
		_, err := renewOnce(l, "made-up")
		wantCode(t, err, api.SessionExpired)
		if c := l.reg.confirms; len(c.waiting)+c.reads+len(c.renewals) > 0 {
			t.Errorf("counted are %d calls, %d reads and %v, and nobody waits", len(c.waiting), c.reads, c.renewals)
		}
	})
}

// A node renews its own session, and reports its own moves, and nobody else's.
func TestNodesSpeakForThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		f := n.others(l.id)[0]
		mustPropose(t, l, setNode(1))
		mustPropose(t, l, setNode(2))
		session := openSession(t, l, "n1")
		declare(t, l, "a:", "n1", "")
		openSession(t, l, "n2")
		mustPropose(t, l, fsm.Envelope{Command: &fsm.StartMove{Id: "m1", Prefix: []byte("a:"), From: "n1", To: "n2", Precopy: true}})
		for _, s := range []*node{l, f} {
			for who, code := range map[string]api.Code{"n1": "", "": "", "n2": api.Forbidden} {
				_, renewal := s.reg.Renew(t.Context(), api.Renewal{Session: session, As: who})
				report := s.reg.Report(t.Context(), api.Report{Session: session, Move: "m1", As: who})
				if code == "" {
					if renewal != nil || report != nil {
						t.Errorf("%q: %v, %v", who, renewal, report)
					}
					continue
				}
				wantCode(t, renewal, code)
				wantCode(t, report, code)
			}
		}
	})
}
