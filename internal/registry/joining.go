package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// invitation is the leader's word to a server that waits to be joined.
type invitation struct {
	ID       string            `json:"id"`
	Instance string            `json:"instance"`
	Cluster  string            `json:"cluster"`
	Founders map[string]string `json:"founders"`
	Servers  []Peer            `json:"servers"`

	done chan error // buffered
}

// errNotWaiting turns an invitation away.
var errNotWaiting = errors.New("this server does not wait to be joined to that cluster")

// noteCluster notes by which cluster this server may be joined, and says what is waited for; "" if there is none.
func (f *founding) noteCluster(without []helloAnswer) string {
	if len(without) == 0 {
		f.cluster.Store(nil)
		return ""
	}
	first := without[0]
	for _, who := range without {
		if who.Cluster != first.Cluster {
			f.cluster.Store(nil)
			return fmt.Sprintf("a list of servers of one cluster: %q is of cluster %s and %q of %s", first.ID, first.Cluster, who.ID, who.Cluster)
		}
	}
	f.cluster.Store(&first.Cluster)
	return fmt.Sprintf("being joined to cluster %s, which was founded without it; say: scope-registry cluster join %s=%s",
		first.Cluster, f.cfg.ID, f.cfg.addrOf(f.cfg.ID))
}

// waitsFor is the cluster that this server waits to be joined to.
func (f *founding) waitsFor() string {
	if c := f.cluster.Load(); c != nil {
		return *c
	}
	return ""
}

// invited hands an invitation to the loop that asks around, which alone decides, and waits for what it says.
func (f *founding) invited(ctx context.Context, payload []byte) []byte {
	inv := &invitation{done: make(chan error, 1)}
	if err := json.Unmarshal(payload, inv); err != nil {
		return reply(&definite{fmt.Errorf("an invitation does not decode: %w; run the same version on all servers", err)})
	}
	select {
	case f.invites <- inv:
	case <-ctx.Done():
		return reply(&definite{ctx.Err()})
	}
	if err := <-inv.done; err != nil {
		return reply(&definite{err})
	}
	return []byte{replyDone}
}

// accept makes this server one of a cluster: without a configuration, so that raft stays quiet until the leader's log
// arrives. A term is written before the identity, as a directory that says it took part and has no raft state is one that
// lost it; a crash in between leaves a server that waits again.
func (f *founding) accept(inv *invitation, s bothStores, snaps raft.SnapshotStore) error {
	who := f.dir.identity()
	if inv.ID != who.ID || inv.Instance != who.Instance || inv.Cluster == "" || inv.Cluster != f.waitsFor() {
		return errNotWaiting
	}
	if err := f.clear(s, snaps); err != nil {
		return err
	}
	if err := s.SetUint64([]byte(raftTermKey), 1); err != nil {
		return fmt.Errorf("writing the first term: %w; check the disk", err)
	}
	who.Founders, who.Cluster, who.Peers, who.Bootstrapped = inv.Founders, inv.Cluster, inv.Servers, true
	if err := f.dir.set(who); err != nil {
		return err
	}
	f.log.Info("invited", "cluster", who.Cluster, "servers", showPeers(inv.Servers))
	return nil
}
