package registry

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/transport/peer"
)

// Followers show a change as soon as the leader does: no time passes in a network that takes none, where raft by itself
// would let commitTimeout pass.
func TestFollowersLearnOfCommitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		mustPropose(t, l, setNode(1)) // answers of all followers have passed in this term
		synctest.Wait()
		for i := 2; i < 20; i++ {
			began := time.Now()
			mustPropose(t, n.others(l.id)[i%2], setNode(i)) // through a follower, which answers when its own state has it
			index := l.reg.State().Index()
			for _, f := range n.others(l.id) {
				if err := f.reg.WaitIndex(t.Context(), index); err != nil {
					t.Fatal(err)
				}
			}
			if late := time.Since(began); late > 0 {
				t.Errorf("change %d was at all followers after %v", i, late)
			}
			<-time.After(time.Duration(i) * time.Millisecond)
		}
	})
}

// recorded is a transport whose answers are told, and that keeps what was sent.
type recorded struct {
	peer.Transport
	mu     sync.Mutex
	sent   []raft.AppendEntriesRequest
	answer func() (success bool, err error)
}

func (r *recorded) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, *args)
	resp.Success, err = r.answer()
	return err
}

func (r *recorded) Close() error { return nil }

// noticesBefore a transport, until the end of the test.
func noticesBefore(t *testing.T, inner peer.Transport, w *wires) *notices {
	t.Helper()
	n := newNotices(inner, w)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// leads is a raft that leads in a term.
type leads struct{ commit, term, last uint64 }

func (l leads) State() raft.RaftState { return raft.Leader }
func (l leads) CommitIndex() uint64   { return l.commit }
func (l leads) CurrentTerm() uint64   { return l.term }
func (l leads) LastIndex() uint64     { return l.last }

func no() bool  { return false }
func yes() bool { return true }

// A notice says what raft would say next: no more than the follower is known to have, and only in the term in which it took it.
func TestNotices(t *testing.T) {
	entries := []*raft.Log{{Index: 8, Term: 3}, {Index: 9, Term: 4}}
	request := raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: []byte("s1"), Addr: []byte("s1:1")}, Term: 4, PrevLogEntry: 7, PrevLogTerm: 3, Entries: entries, LeaderCommitIndex: 7}
	notice := func(commit uint64) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{RPCHeader: request.RPCHeader, Term: 4, PrevLogEntry: 9, PrevLogTerm: 4, LeaderCommitIndex: commit}
	}
	later := request
	later.Entries = []*raft.Log{{Index: 8, Term: 5}}
	for _, c := range []struct {
		what         string
		request      raft.AppendEntriesRequest
		commit, term uint64
		want         *raft.AppendEntriesRequest
	}{
		{"committed", request, 9, 4, notice(9)},
		{"part of it is committed", request, 8, 4, notice(8)},
		{"more is committed than this follower has", request, 12, 4, notice(9)},
		{"nothing new", request, 7, 4, nil},
		{"another leads", request, 9, 5, nil},
		{"the entry is of a later leader", later, 9, 4, nil},
		{"a heartbeat tells nothing of the log", raft.AppendEntriesRequest{Term: 4}, 9, 4, nil},
	} {
		for _, fails := range []string{"", "refused", "lost"} {
			synctest.Test(t, func(t *testing.T) {
				inner := &recorded{answer: func() (bool, error) { return true, nil }}
				n := noticesBefore(t, inner, nil)
				n.of(leads{0, c.term, 9}, no) // nothing is committed before it is answered
				if err := n.AppendEntries("s2", "s2:1", &c.request, &raft.AppendEntriesResponse{}); err != nil {
					t.Fatal(err)
				}
				n.of(leads{c.commit, c.term, 9}, no)
				if fails != "" {
					inner.answer = func() (bool, error) { return false, map[string]error{"lost": errors.New("cut")}[fails] }
				}
				for range 2 { // the second finds that it was told, or tries again
					n.tellAll()
					synctest.Wait()
				}
				got := inner.sent[1:]
				want := map[bool]int{true: 1, false: 2}[fails == ""]
				if c.want == nil {
					want = 0
				}
				if len(got) != want {
					t.Fatalf("%s: %d notices, want %d", c.what, len(got), want)
				}
				for _, g := range got {
					w := c.want
					if g.Term != w.Term || g.PrevLogEntry != w.PrevLogEntry || g.PrevLogTerm != w.PrevLogTerm || g.LeaderCommitIndex != w.LeaderCommitIndex ||
						len(g.Entries) != 0 || string(g.ID) != "s1" || string(g.Addr) != "s1:1" {
						t.Errorf("%s: notice %+v, want %+v", c.what, g, w)
					}
				}
				if err := n.Close(); err != nil {
					t.Error(err)
				}
				n.tellAll()
				synctest.Wait()
				if len(inner.sent) != 1+want {
					t.Errorf("%s: a notice after the end", c.what)
				}
			})
		}
	}
}

// While raft's own request is on its way nothing is said beside it: its answer is looked at, and it may tell the commit itself.
func TestNoNoticeBesideARequest(t *testing.T) {
	inner := &recorded{}
	n := noticesBefore(t, inner, nil)
	first := raft.AppendEntriesRequest{Term: 4, Entries: []*raft.Log{{Index: 1, Term: 4}}}
	second := raft.AppendEntriesRequest{Term: 4, PrevLogEntry: 1, PrevLogTerm: 4, Entries: []*raft.Log{{Index: 2, Term: 4}}, LeaderCommitIndex: 1}
	inner.answer = func() (bool, error) { return true, nil }
	n.of(leads{0, 4, 1}, no)
	if err := n.AppendEntries("s2", "s2:1", &first, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	n.of(leads{1, 4, 2}, no)
	inner.answer = func() (bool, error) { n.tellAll(); return true, nil } // in the middle of the second
	if err := n.AppendEntries("s2", "s2:1", &second, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
	n.wg.Wait()
	if len(inner.sent) != 2 {
		t.Errorf("%d requests, want the two of raft: %+v", len(inner.sent), inner.sent)
	}
}

// What follows carries the commit index, so that no notice goes out where an entry waits, or stands in the log already.
func TestNoNoticeBeforeAnEntry(t *testing.T) {
	request := raft.AppendEntriesRequest{Term: 4, Entries: []*raft.Log{{Index: 1, Term: 4}}}
	for what, c := range map[string]struct {
		last uint64
		more func() bool
		want int
	}{"nothing follows": {1, no, 1}, "a command waits": {1, yes, 0}, "an entry is in the log": {2, no, 0}} {
		inner := &recorded{answer: func() (bool, error) { return true, nil }}
		n := noticesBefore(t, inner, nil)
		n.of(leads{0, 4, c.last}, c.more)
		if err := n.AppendEntries("s2", "s2:1", &request, &raft.AppendEntriesResponse{}); err != nil {
			t.Fatal(err)
		}
		n.of(leads{1, 4, c.last}, c.more)
		n.tellAll()
		n.wg.Wait()
		if got := len(inner.sent) - 1; got != c.want {
			t.Errorf("%s: %d notices, want %d", what, got, c.want)
		}
	}
}
