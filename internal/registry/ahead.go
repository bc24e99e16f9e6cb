package registry

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// staleAnswer is the age from which raft does not get the answer to what was sent ahead, but asks again: it takes an answer
// for a sign of life at the time it gets it, and a leader whose disk hung meanwhile has to hear from its followers anew.
const staleAnswer = 50 * time.Millisecond

// sendPatience bounds how long a leader waits, before it stores entries, until they are on their way to a follower. A
// follower that reads takes them at once.
const sendPatience = time.Millisecond

// ahead is a request with a leader's new entries that goes to one follower while the leader itself stores them, and its answer.
type ahead struct {
	target   raft.ServerAddress
	args     raft.AppendEntriesRequest
	done     chan struct{} // closed once the rest stands
	resp     raft.AppendEntriesResponse
	err      error
	answered time.Time

	id raft.ServerID
	of *follower
}

// is whether the request says what raft now asks of a server: the entries of a leader in its term are known by their
// indexes, and what is before them follows. Its commit index may be lower, which raft's next request or a notice makes up for.
func (a *ahead) is(target raft.ServerAddress, args *raft.AppendEntriesRequest) bool {
	k := len(args.Entries)
	return target == a.target && args.Term == a.args.Term && k == len(a.args.Entries) && args.Entries[k-1].Index == a.args.Entries[k-1].Index
}

// leadingLogs is the log store of raft, whose leader stores new entries and has its followers store them at the same time.
//
// Raft writes entries to its own disk and sends them when that is done. A leader may do both at once (Ongaro's thesis,
// 10.2.1): raft counts this server for an entry when StoreLogs has returned, as ever, and a follower when it has answered. What
// is new is that followers may have an entry that its leader never stored. No other entry can take its index in its term: a
// leader that fails to store, or ends, makes no more in that term. A later leader that has the entry commits it, or
// another's replaces it, as with each entry that was not committed when its leader ended.
type leadingLogs struct {
	raft.LogStore
	told *notices
}

// StoreLogs implements raft.LogStore.
func (s leadingLogs) StoreLogs(logs []*raft.Log) error {
	s.told.sendAhead(logs)
	return s.LogStore.StoreLogs(logs)
}

// sendAhead sends new entries of this server, if it leads, to all followers that have all entries before them. Raft calls it
// from its main loop, in which alone a server begins to lead. A heartbeat of a later leader may end that meanwhile: what
// goes out then is of the term that has ended, and is refused or counts for nothing.
//
// A change of the members is left to raft. A server goes by one as soon as it has it: had the leader never stored it, and
// those it leaves were too few to elect another, nobody could.
//
// A follower that has left the cluster since gets one such request at most: only an answer that raft has asked for counts
// as having an entry.
//
// They go out one after the other, and before this server stores: a write to a socket takes microseconds, and a store that has
// begun keeps what else waits for its processor until Go's scheduler notices, 20 µs to 10 ms later. A follower that does not
// take what is sent is not waited for beyond sendPatience, and gets nothing ahead again until it has answered. A heartbeat that is
// written in between ends the wait too: then the store begins a little earlier.
func (n *notices) sendAhead(logs []*raft.Log) {
	for _, a := range n.takeAhead(logs) {
		written := n.wires.next(a.target)
		n.couriers.send(func() { // counted by wg already
			defer n.wg.Done()
			n.deliver(a)
		})
		if written == nil {
			continue
		}
		n.patience.Reset(sendPatience)
		select {
		case <-written:
		case <-n.patience.C:
		}
		n.patience.Stop()
	}
}

// takeAhead are the requests to send ahead. Each is counted by wg.
func (n *notices) takeAhead(logs []*raft.Log) (all []*ahead) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing || n.raft == nil || n.raft.State() != raft.Leader || slices.ContainsFunc(logs, changesMembers) {
		return nil
	}
	for id, f := range n.to {
		if f.request.Term != logs[0].Term || f.request.PrevLogEntry != logs[0].Index-1 {
			continue
		}
		a := &ahead{target: f.target, args: f.request, done: make(chan struct{}), id: id, of: f}
		a.args.LeaderCommitIndex = min(n.raft.CommitIndex(), a.args.PrevLogEntry)
		a.args.Entries = logs
		f.ahead = a
		f.raftAsks++
		all = append(all, a)
	}
	n.wg.Add(len(all))
	return all
}

func changesMembers(l *raft.Log) bool { return l.Type == raft.LogConfiguration }

func (n *notices) deliver(a *ahead) {
	a.err = n.Transport.AppendEntries(a.id, a.target, &a.args, &a.resp)
	a.answered = time.Now()
	n.wires.wrote(a.target) // it has ended, whether or not anything was written; and before raft can have the next one sent
	close(a.done)
	n.mu.Lock()
	defer n.mu.Unlock()
	f := a.of
	f.raftAsks--
	if a.err == nil && a.resp.Success && a.args.Term == f.request.Term {
		f.told = max(f.told, a.args.LeaderCommitIndex)
	}
	n.tell(a.id, f)
}

// sentAhead is the request sent ahead that is what raft asks now, nil if there is none. It is given once: when raft asks
// again, its answer was of no use.
func (n *notices) sentAhead(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest) *ahead {
	if len(args.Entries) == 0 {
		return nil
	}
	n.mu.Lock()
	f := n.to[id]
	if f == nil || f.ahead == nil {
		n.mu.Unlock()
		return nil
	}
	a := f.ahead
	f.ahead = nil
	n.mu.Unlock()
	if !a.is(target, args) {
		return nil
	}
	if <-a.done; time.Since(a.answered) > staleAnswer {
		return nil
	}
	return a
}
