package registry

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/transport/peer"
)

// notices tells followers of a commit at once. Raft tells them with its next request, and where no entry follows it sends
// that after CommitTimeout or twice of it: so late a quiet follower would show every change, and answer for what was
// proposed through it.
//
// A notice is a request as raft itself would send it next: in the leader's term, after the entry that the follower said it
// has, with no entries and the commit index. Raft sees neither the notice nor its answer, so the leader concludes nothing
// from them; a follower cannot tell a notice from raft's own request. It is safe for what [notices.due] checks.
//
// It stands between raft and its transport, from whose answers it learns what followers have.
type notices struct {
	peer.Transport
	wires    *wires      // under it
	couriers *couriers   // with the requests that raft has not asked for
	patience *time.Timer // of sendAhead

	mu      sync.Mutex // guards the rest
	raft    leading    // nil before there is one
	more    func() bool
	to      map[raft.ServerID]*follower
	closing bool
	wg      sync.WaitGroup
}

// leading is what is asked of this server's raft.
type leading interface {
	State() raft.RaftState
	CurrentTerm() uint64
	CommitIndex() uint64
	LastIndex() uint64
}

// follower is what a leader knows of one, in its term.
type follower struct {
	request  raft.AppendEntriesRequest // the next notice: what follows, but for the commit index
	target   raft.ServerAddress
	told     uint64 // the commit index that it has heard of
	raftAsks int    // requests of raft on their way, or of entries ahead of it; the answer to one makes us look again
	telling  bool   // a notice is on its way
	ahead    *ahead // entries that went out before raft has asked for it; nil once it has
}

// newNotices stands before a transport, which is over these wires; nil if it has none.
func newNotices(inner peer.Transport, w *wires) *notices {
	return &notices{Transport: inner, wires: w, couriers: newCouriers(), patience: time.NewTimer(0), to: map[raft.ServerID]*follower{}}
}

// of makes them follow a raft, before any are told. more says that entries are about to follow those there are.
func (n *notices) of(r leading, more func() bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.raft, n.more = r, more
}

// tellingFSM is raft's state machine. Of what it is about to apply, which is committed, followers are told first: they apply
// it while this server does.
type tellingFSM struct {
	*fsm.FSM
	told *notices
}

// Apply implements raft.FSM.
func (f tellingFSM) Apply(log *raft.Log) any {
	f.told.tellAll()
	return f.FSM.Apply(log)
}

// ApplyBatch implements raft.BatchingFSM.
func (f tellingFSM) ApplyBatch(logs []*raft.Log) []any {
	f.told.tellAll()
	return f.FSM.ApplyBatch(logs)
}

// AppendEntries implements raft.Transport.
func (n *notices) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if heartbeat := args.PrevLogEntry == 0 && len(args.Entries) == 0; heartbeat {
		return n.Transport.AppendEntries(id, target, args, resp)
	}
	n.asks(id, 1)
	var err error
	if a := n.sentAhead(id, target, args); a != nil {
		args, *resp, err = &a.args, a.resp, a.err
	} else {
		err = n.Transport.AppendEntries(id, target, args, resp)
	}
	n.asks(id, -1)
	if err == nil && resp.Success {
		n.has(id, target, args)
	}
	return err
}

// AppendEntriesPipeline implements raft.Transport: answers to a pipeline would not pass here. The port has none either, as
// it takes one request at a time.
func (n *notices) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// Close implements raft.WithClose.
func (n *notices) Close() error {
	n.mu.Lock()
	first := !n.closing // raft closes it as often as somebody asks how its end went
	n.closing = true
	n.mu.Unlock()
	err := n.Transport.Close()
	n.wg.Wait()
	if first {
		n.couriers.end()
	}
	return err
}

func (n *notices) asks(id raft.ServerID, more int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.to[id]
	if f == nil {
		f = &follower{}
		n.to[id] = f
	}
	f.raftAsks += more
}

// has notes that a follower has taken a request of raft. What was committed meanwhile it is told now.
func (n *notices) has(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.to[id]
	if args.Term < f.request.Term {
		return
	}
	if args.Term > f.request.Term {
		f.told = 0
	}
	next := raft.AppendEntriesRequest{RPCHeader: args.RPCHeader, Term: args.Term, Leader: args.Leader, PrevLogEntry: args.PrevLogEntry, PrevLogTerm: args.PrevLogTerm} //nolint:staticcheck // what raft sets, a notice sets
	if k := len(args.Entries); k > 0 {
		next.PrevLogEntry, next.PrevLogTerm = args.Entries[k-1].Index, args.Entries[k-1].Term
	}
	f.request, f.target, f.told = next, target, max(f.told, min(args.LeaderCommitIndex, next.PrevLogEntry))
	n.tell(id, f)
}

func (n *notices) tellAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, f := range n.to {
		n.tell(id, f)
	}
}

// tell sends a follower a notice if one is due, and then the next. mu is held.
func (n *notices) tell(id raft.ServerID, f *follower) {
	args, due := n.due(f)
	if !due {
		return
	}
	f.telling = true
	target := f.target
	n.wg.Add(1)
	n.couriers.send(func() {
		defer n.wg.Done()
		var resp raft.AppendEntriesResponse
		err := n.Transport.AppendEntries(id, target, &args, &resp)
		n.mu.Lock()
		defer n.mu.Unlock()
		f.telling = false
		if err != nil || !resp.Success {
			return // raft's next request does without us
		}
		if args.Term == f.request.Term {
			f.told = max(f.told, args.LeaderCommitIndex)
		}
		n.tell(id, f)
	})
}

// due is the notice that a follower should get, if any. mu is held.
//
// It names no commit index above the last entry that the follower has of this leader: raft at the other side takes what it
// has in its log up to the index for committed, and beyond that entry it may have others of an earlier leader. And it is
// sent only while raft is still in the term in which the follower took that entry. Else this server may know of commits of
// a later leader, in whose place that entry is another one; the commit index is read before the term for the same reason.
func (n *notices) due(f *follower) (args raft.AppendEntriesRequest, due bool) {
	if n.closing || n.raft == nil || f.telling || f.raftAsks > 0 {
		return args, false
	}
	commit := n.raft.CommitIndex() // before the term
	term := n.raft.CurrentTerm()
	args = f.request
	if n.more() || n.raft.LastIndex() > args.PrevLogEntry {
		return args, false // the next entry takes it along
	}
	args.LeaderCommitIndex = min(commit, args.PrevLogEntry)
	return args, args.Term == term && args.PrevLogTerm <= term && args.LeaderCommitIndex > f.told
}
