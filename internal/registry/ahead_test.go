package registry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/api"
)

func entry(index, term uint64) *raft.Log { return &raft.Log{Index: index, Term: term} }

func after(prev, term uint64, entries ...*raft.Log) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: prev, PrevLogTerm: term, Entries: entries}
}

// known is a leader of term 4 whose follower s2 has the entries up to 8.
func known(t *testing.T) (*notices, *recorded) {
	t.Helper()
	inner := &recorded{answer: func() (bool, error) { return true, nil }}
	n := noticesBefore(t, inner, nil)
	n.of(leads{7, 4, 8}, no)
	request := after(7, 4, entry(8, 4))
	request.LeaderCommitIndex = 7
	if err := n.AppendEntries("s2", "s2:1", request, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	inner.sent = nil
	return n, inner
}

// Raft gets the answer to what was sent ahead where that says what it asks, once and while it is fresh, and else asks itself.
func TestAheadAnswersRaft(t *testing.T) {
	for _, c := range []struct {
		what   string
		stored []*raft.Log
		asks   *raft.AppendEntriesRequest
		late   time.Duration
		sent   int // requests, one of them ahead unless there is none
	}{
		{"the same entry", []*raft.Log{entry(9, 4)}, after(8, 4, entry(9, 4)), 0, 1},
		{"the same entries", []*raft.Log{entry(9, 4), entry(10, 4)}, after(8, 4, entry(9, 4), entry(10, 4)), 0, 1},
		{"more entries", []*raft.Log{entry(9, 4)}, after(8, 4, entry(9, 4), entry(10, 4)), 0, 2},
		{"fewer entries", []*raft.Log{entry(9, 4), entry(10, 4)}, after(8, 4, entry(9, 4)), 0, 2},
		{"an earlier one too", []*raft.Log{entry(9, 4)}, after(7, 4, entry(8, 4), entry(9, 4)), 0, 2},
		{"a later term's", []*raft.Log{entry(9, 4)}, &raft.AppendEntriesRequest{Term: 6, PrevLogEntry: 8, PrevLogTerm: 4, Entries: []*raft.Log{entry(9, 6)}}, 0, 2},
		{"another leader's", []*raft.Log{entry(9, 4)}, after(8, 5, entry(9, 5)), 0, 2},
		{"much later", []*raft.Log{entry(9, 4)}, after(8, 4, entry(9, 4)), staleAnswer + 1, 2},
		{"the follower lacks one before", []*raft.Log{entry(10, 4)}, after(9, 4, entry(10, 4)), 0, 1},
		{"the entry before", []*raft.Log{entry(9, 4)}, after(7, 4, entry(8, 4)), 0, 2},
		{"stored in a later term", []*raft.Log{entry(9, 6)}, &raft.AppendEntriesRequest{Term: 6, PrevLogEntry: 8, PrevLogTerm: 4, Entries: []*raft.Log{entry(9, 6)}}, 0, 1},
		{"a change of the members", []*raft.Log{{Index: 9, Term: 4, Type: raft.LogConfiguration}}, after(8, 4, entry(9, 4)), 0, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			n, inner := known(t)
			n.sendAhead(c.stored)
			<-time.After(c.late)
			synctest.Wait()
			var resp raft.AppendEntriesResponse
			if err := n.AppendEntries("s2", "s2:1", c.asks, &resp); err != nil || !resp.Success {
				t.Errorf("%s: raft got %+v, %v", c.what, resp, err)
			}
			n.wg.Wait()
			if len(inner.sent) != c.sent {
				t.Errorf("%s: %d requests, want %d: %+v", c.what, len(inner.sent), c.sent, inner.sent)
			}
			if err := n.AppendEntries("s2", "s2:1", c.asks, &resp); err != nil || len(inner.sent) != c.sent+1 {
				t.Errorf("%s: when raft asked again there were %d requests, want %d", c.what, len(inner.sent), c.sent+1)
			}
		})
	}
}

// Raft's requests without entries leave the answer to that which asks for it; one to another address does not get it.
func TestAheadIsOfOneAddress(t *testing.T) {
	for target, want := range map[raft.ServerAddress]int{"s2:1": 2, "s2:2": 3} {
		n, inner := known(t)
		n.sendAhead([]*raft.Log{entry(9, 4)})
		n.wg.Wait()
		for _, asks := range []*raft.AppendEntriesRequest{after(8, 4), after(8, 4, entry(9, 4))} {
			if err := n.AppendEntries("s2", target, asks, &raft.AppendEntriesResponse{}); err != nil {
				t.Fatal(err)
			}
		}
		if len(inner.sent) != want {
			t.Errorf("%s: %d requests, want %d", target, len(inner.sent), want)
		}
	}
}

// What goes ahead is committed no further than this leader knows it, and than the follower has it.
func TestAheadCarriesTheCommitIndex(t *testing.T) {
	for commit, want := range map[uint64]uint64{6: 6, 8: 8, 9: 8} {
		n, inner := known(t)
		n.of(leads{commit, 4, 8}, yes)
		n.sendAhead([]*raft.Log{entry(9, 4)})
		n.wg.Wait()
		if len(inner.sent) != 1 || inner.sent[0].LeaderCommitIndex != want {
			t.Errorf("with %d committed: sent %+v, want one with commit index %d", commit, inner.sent, want)
		}
	}
}

// A refusal, or a lost answer, is raft's to deal with: it gets that, and asks again itself.
func TestAheadFails(t *testing.T) {
	for what, failure := range map[string]error{"refused": nil, "lost": errors.New("cut")} {
		n, inner := known(t)
		inner.answer = func() (bool, error) { return false, failure }
		n.sendAhead([]*raft.Log{entry(9, 4)})
		n.wg.Wait()
		inner.answer = func() (bool, error) { return true, nil }
		var resp raft.AppendEntriesResponse
		if err := n.AppendEntries("s2", "s2:1", after(8, 4, entry(9, 4)), &resp); resp.Success || !errors.Is(err, failure) {
			t.Errorf("%s: raft got %+v, %v", what, resp, err)
		}
		if got := n.to["s2"].request.PrevLogEntry; got != 8 {
			t.Errorf("%s: the follower counts as having entry %d, want 8", what, got)
		}
		if err := n.AppendEntries("s2", "s2:1", after(8, 4, entry(9, 4)), &resp); err != nil || !resp.Success || len(inner.sent) != 2 {
			t.Errorf("%s: raft asked again and got %+v, %v after %d requests", what, resp, err, len(inner.sent))
		}
	}
}

// Only a leader sends ahead.
func TestFollowerSendsNothingAhead(t *testing.T) {
	n, inner := known(t)
	n.of(follows{leads{8, 4, 8}}, no)
	n.sendAhead([]*raft.Log{entry(9, 4)})
	n.wg.Wait()
	if len(inner.sent) != 0 {
		t.Errorf("a follower sent %+v", inner.sent)
	}
}

type follows struct{ leads }

func (follows) State() raft.RaftState { return raft.Follower }

// A leader whose disk hangs has its followers store meanwhile, and says nothing is done before it has stored too.
func TestFollowersStoreWhileTheLeaderDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		index := mustPropose(t, l, setNode(1)).GetIndex()
		synctest.Wait()
		release := l.store.hang()
		defer release()
		answered := make(chan error, 1)
		go func() {
			_, err := l.reg.Propose(t.Context(), setNode(2))
			answered <- err
		}()
		synctest.Wait()
		for _, s := range n.servers {
			has, err := s.store.LastIndex()
			if want := map[bool]uint64{true: index, false: index + 1}[s == l]; err != nil || has != want {
				t.Errorf("%s has stored up to entry %d (%v), want %d", s.id, has, err, want)
			}
			if got := s.reg.State().Index(); got != index {
				t.Errorf("the state of %s is at %d, want %d", s.id, got, index)
			}
		}
		select {
		case err := <-answered:
			t.Errorf("answered while the disk hangs: %v", err)
		default:
		}
		release()
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

// An entry that its leader never stored is committed by a later leader that has it, or replaced by another's: on all
// servers alike, whether the leader is back or not. Who proposed it is told that the outcome is not known.
func TestEntryThatItsLeaderNeverStored(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t, nil)
			n.ready()
			first := n.leader("")
			mustPropose(t, first, setNode(1))
			synctest.Wait()
			has, lacks := n.others(first.id)[0], n.others(first.id)[1]
			n.isolate(lacks.id)
			first.store.breaks(errors.New("no space left on device"))
			ctx, giveUp := context.WithCancel(t.Context()) // or it would be proposed again
			answered := make(chan error, 1)
			go func() {
				_, err := first.reg.Propose(ctx, setNode(2))
				answered <- err
			}()
			synctest.Wait()
			giveUp()
			wantCode(t, <-answered, api.OutcomeUnknown)
			if a, b := lastStored(t, has), lastStored(t, first); a != b+1 {
				t.Fatalf("%s has stored up to entry %d, and its leader up to %d, want one less", has.id, a, b)
			}
			first.store.breaks(nil)
			if replaced { // by who never had it, and a leader that has forgotten it
				n.heal()
				n.isolate(has.id)
			}
			not := first.id
			if replaced {
				not = has.id
			}
			mustPropose(t, n.leader(not), setNode(3))
			n.heal()
			n.ready()
			last := mustPropose(t, n.leader(""), setNode(4)).GetIndex()
			for _, s := range n.servers {
				if err := s.reg.WaitIndex(t.Context(), last); err != nil {
					t.Fatal(err)
				}
				if _, ok := s.reg.State().Node("n2"); ok == replaced {
					t.Errorf("replaced %v: %s has the change: %v", replaced, s.id, ok)
				}
				n.until("the same state on "+s.id, func() bool { return s.reg.State().Hash() == first.reg.State().Hash() })
			}
		})
	}
}

func lastStored(t *testing.T, s *node) uint64 {
	t.Helper()
	last, err := s.store.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// A change of the members that a leader could not store leaves the others as they were, who elect another.
func TestMembersStayWhenTheirChangeIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, func(c *Config) { c.OnFatal = func(error) {} }) // the disk
		n.ready()
		l := n.leader("")
		mustPropose(t, l, setNode(1))
		synctest.Wait()
		release := l.store.hang()
		defer release()
		l.reg.raft.RemoveServer(raft.ServerID(n.others(l.id)[0].id), 0, 0)
		synctest.Wait()
		n.isolate(l.id)
		mustPropose(t, n.leader(l.id), setNode(2))
	})
}
