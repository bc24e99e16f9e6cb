package registry

import (
	"context"

	"github.com/scope-registry/scope-registry/transport/peer"
)

// anyTerm is the least that counts as the term of a server whose log is empty. Having joined, it is in term 1, and takes the
// term that the others are in, whatever that is.
const anyTerm = 1 << 40

// facts are what the guard of raft's requests goes by.
func (r *Registry) facts() peer.Facts {
	return peer.Facts{
		Self: r.cfg.ID, Confirm: r.askHandsTo,
		Term: func() uint64 {
			if r.raft.LastIndex() == 0 {
				return max(r.raft.CurrentTerm(), anyTerm)
			}
			return r.raft.CurrentTerm()
		},
		Leader: func() (addr, id string) {
			a, i := r.raft.LeaderWithID()
			return string(a), string(i)
		},
	}
}

// askHandsTo asks the leader whether it is handing over to a server. Without an answer it is not.
func (r *Registry) askHandsTo(ctx context.Context, leader, candidate string) bool {
	raw, err := r.calls.Call(ctx, leader, peer.KindHandsTo, []byte(candidate))
	if err != nil {
		r.log.Debug("asking the leader whether it hands over failed", "leader", leader, "server", candidate, "error", err)
		return false
	}
	return len(raw) == 2 && raw[0] == replyDone && raw[1] == 1
}

func (r *Registry) serveHandsTo(candidate []byte) []byte {
	if r.guard.HandsTo(string(candidate)) {
		return []byte{replyDone, 1}
	}
	return []byte{replyDone, 0}
}
