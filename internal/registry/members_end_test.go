package registry

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// Steps that raft takes late, after the change was over for the log: the leader that handed them over had lost its office, and
// leads again. They are undone: a server that is gone has no vote, and a member has one.
func TestStepsTakenLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ended := memberNetwork(t, 3)
		l := n.leader("")
		gone := n.others(l.id)[0]
		s4 := n.waiting("s4")
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); err != nil {
			t.Fatal(err)
		}
		n.votes("s4")
		if _, err := l.reg.Remove(t.Context(), fsm.Envelope{}, gone.id, false); err != nil {
			t.Fatal(err)
		}
		n.until("it to notice", func() bool { return ended.of(gone.id) != nil })
		if err := l.reg.raft.AddNonvoter(raft.ServerID(gone.id), gone.trans.LocalAddr(), 0, 0).Error(); err != nil {
			t.Fatal(err)
		}
		n.until("the server that is gone to be out again", func() bool { _, in := find(l.reg.servers(), gone.id); return !in })
		if err := l.reg.raft.RemoveServer("s4", 0, 0).Error(); err != nil {
			t.Fatal(err)
		}
		n.until("the member to vote again", func() bool { in, _ := find(l.reg.servers(), "s4"); return in.ID == "s4" && in.Suffrage == raft.Voter })
		n.until("it to be ready", func() bool { return s4.now().Ready() == nil })
	})
}

// A removal that waits, as another server was lost meanwhile, would keep that one from being replaced. It can be given up.
func TestRemovalIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		lost, leaving := n.others(l.id)[0], n.others(l.id)[1]
		n.waiting("s4")
		n.isolate(lost.id)
		// As if it had been lost right after the removal was accepted.
		if err := l.reg.proposeOne(t.Context(), &fsm.RemoveServer{Id: leaving.id, Addr: leaving.id + ":1", Instance: leaving.id + "-dir"}); err != nil {
			t.Fatal(err)
		}
		since := l.reg.State().Index()
		_, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1")
		wantCode(t, err, api.MembersChanging)
		if !strings.Contains(err.Error(), "cluster join "+leaving.id+"="+leaving.id+":1") {
			t.Errorf("%v does not say how the removal is given up", err)
		}
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, leaving.id, leaving.id+":1"); err != nil {
			t.Fatal(err)
		}
		n.until("it to be a member again", func() bool {
			s, _ := l.reg.State().Server(leaving.id)
			return s.Phase == fsm.ServerMember
		})
		_, err = l.reg.awaitGone(t.Context(), leaving.id, api.ServerChange{ID: leaving.id, Since: since}) // who had asked for it
		wantCode(t, err, api.WrongPhase)
		if _, err := l.reg.Join(t.Context(), fsm.Envelope{}, "s4", "s4:1"); err != nil {
			t.Fatal(err)
		}
		n.votes("s4")
		if _, err := l.reg.Remove(t.Context(), fsm.Envelope{}, lost.id, false); err != nil {
			t.Fatal(err)
		}
	})
}

// That all know one format says nothing of the next.
func TestKnownReleasesAreByFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l knownReleases
		l.allKnow(1)
		if !l.recent(1) || l.recent(2) {
			t.Errorf("format 1: %v, format 2: %v", l.recent(1), l.recent(2))
		}
		<-time.After(releasesFor)
		if l.recent(1) {
			t.Error("it holds for ever")
		}
	})
}

// A caller that stopped waiting has heard nobody: that says nothing of the releases to those who come after.
func TestReleasesOfACallerThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := unstarted(t, 3, func(cfg *Config) { cfg.checkEvery = 1 << 40 })
		n.older("s1", "s2", "s3")
		n.begin()
		n.ready()
		l := n.leader("")
		n.older()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		c := &fsm.RemoveServer{}
		if err := l.reg.understood(gone, c); err == nil || l.reg.releases.recent(formatOf(c)) {
			t.Errorf("understood without asking: %v", err)
		}
		if err := l.reg.understood(t.Context(), c); err != nil || !l.reg.releases.recent(formatOf(c)) {
			t.Errorf("all are new: %v", err)
		}
	})
}

// held is a change of the configuration that raft commits only with what is written behind it.
type held struct {
	raft.IndexFuture
	behind func()
}

func (h held) Error() error {
	h.behind()
	return nil
}

func TestChangeThatWaitsForTheNextEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := memberNetwork(t, 3)
		l := n.leader("")
		last := l.reg.raft.LastIndex()
		ctx, cancel := context.WithTimeout(t.Context(), 10*nudgeAfter)
		defer cancel()
		if err := l.reg.reconfigure(ctx, func() raft.IndexFuture {
			return held{behind: func() {
				n.until("something to be written behind it", func() bool { return l.reg.raft.LastIndex() > last })
			}}
		}); err != nil {
			t.Fatal(err)
		}
	})
}
