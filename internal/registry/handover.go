package registry

import (
	"context"

	"github.com/scope-registry/scope-registry/transport/peer"
)

// facts are what the guard of raft's requests goes by.
func (r *Registry) facts() peer.Facts {
	return peer.Facts{
		Self: r.cfg.ID, Term: r.raft.CurrentTerm, Confirm: r.askHandsTo,
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
