package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/peer"
)

const (
	// helloEvery is the pause between two rounds of asking.
	helloEvery = 100 * time.Millisecond

	// helloTimeout bounds one round: a server that does not answer must not hide what another one says.
	helloTimeout = 2 * time.Second

	// waitLogEvery bounds how often the log says what is waited for.
	waitLogEvery = 2 * time.Second
)

// WipedError says that the other servers know this one by another instance: its data directory was lost.
type WipedError struct {
	// ID is this server, Witness the one that knows better.
	ID, Witness string
	// Cluster is the cluster this server founded.
	Cluster string
}

// Error implements error.
func (e *WipedError) Error() string {
	return fmt.Sprintf("server %q is of cluster %s with another data directory, says server %q; this one is empty or new. "+
		"A server that forgot its votes and votes again can lose acknowledged writes, so it does not rejoin under this id: "+
		"put back the directory as it was when the server last stopped, or start with an empty one under another id, say: scope-registry cluster join NEW-ID=HOST:PORT, "+
		"and then: scope-registry cluster remove %s (docs/operations.md)", e.ID, e.Cluster, e.Witness, e.ID)
}

// founding brings a server with an empty data directory into its cluster.
//
// The first configuration is written only when every server of the list answers, has the same list and is as new
// as this one, or already knows this one's instance as a founder. Raft's transport must not run before that: a
// wiped server that votes again under its old id has been seen to elect a leader without an acknowledged write.
type founding struct {
	cfg   Config
	dir   *dataDir
	calls caller
	log   hclog.Logger

	invites  chan *invitation
	releases knownReleases          // what the servers say of theirs: all of them answer here, and later one may be down
	cluster  atomic.Pointer[string] // founded without this server, as the last round found; nil if none
}

func newFounding(cfg Config, dir *dataDir, calls caller) *founding {
	return &founding{cfg: cfg, dir: dir, calls: calls, log: cfg.Logger, invites: make(chan *invitation)}
}

// bothStores is what raft keeps its log and its votes in.
type bothStores interface {
	raft.LogStore
	raft.StableStore
}

// found waits until the cluster can be founded, and returns with the decision on disk. store and snaps get raft's
// first configuration.
func (f *founding) found(ctx context.Context, conf *raft.Config, s bothStores, snaps raft.SnapshotStore) error {
	var logged time.Time
	for {
		founders, waiting, err := f.ask(ctx)
		if err != nil {
			return err
		}
		if waiting == "" {
			return f.decide(founders, conf, s, snaps)
		}
		if time.Since(logged) >= waitLogEvery {
			logged = time.Now()
			f.log.Info("bootstrap is waiting for " + waiting)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("bootstrap of server %q ended while it was waiting for %s: %w; start every server of %s",
				f.cfg.ID, waiting, ctx.Err(), showPeers(f.cfg.Peers))
		case inv := <-f.invites:
			err := f.accept(inv, s, snaps)
			inv.done <- err
			if err == nil {
				return nil
			}
		case <-time.After(helloEvery):
		}
	}
}

// decide writes raft's first configuration, then the identity. In this order a crash in between leaves a server
// that asks again; in the other it would find its raft state missing and refuse to start.
func (f *founding) decide(founders map[string]string, conf *raft.Config, s bothStores, snaps raft.SnapshotStore) error {
	if err := f.clear(s, snaps); err != nil {
		return err
	}
	if err := raft.BootstrapCluster(conf, s, s, snaps, nil, f.cfg.voters()); err != nil {
		return fmt.Errorf("writing the first configuration %s: %w; check the disk", showPeers(f.cfg.Peers), err)
	}
	who := f.dir.identity()
	who.Founders, who.Cluster, who.Bootstrapped = founders, clusterID(founders), true
	if err := f.dir.set(who); err != nil {
		return err
	}
	f.log.Info("founded", "cluster", who.Cluster, "servers", showPeers(f.cfg.Peers))
	return nil
}

// clear takes back what a start before this one wrote. A crash may have cut that off before the configuration, and then
// raft would wait for ever; or it had another list, and raft would go on with the servers of that one, perhaps alone.
// Nothing is lost: raft runs only after the identity is written, and both its vote and its log would show that it did.
func (f *founding) clear(s bothStores, snaps raft.SnapshotStore) error {
	term, err := s.GetUint64([]byte(raftTermKey))
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		err = nil
	}
	last, lastErr := s.LastIndex()
	list, listErr := snaps.List()
	if err := errors.Join(err, lastErr, listErr); err != nil {
		return fmt.Errorf("looking for what an earlier start left in %s: %w; check the disk", f.cfg.DataDir, err)
	}
	if term > 1 || last > 1 || len(list) > 0 {
		return fmt.Errorf("data directory %s has a raft store that was in use (term %d, log up to %d), but its %s says that server %q never took part "+
			"in a cluster; put back the directory as it was when it last stopped, or leave the server off (docs/operations.md)",
			f.cfg.DataDir, term, last, identityFile, f.cfg.ID)
	}
	if last > 0 {
		err = s.DeleteRange(1, last)
	}
	if err == nil && term > 0 {
		err = s.SetUint64([]byte(raftTermKey), 0)
	}
	if err != nil {
		return fmt.Errorf("clearing what an earlier start left in %s: %w; check the disk", f.cfg.DataDir, err)
	}
	return nil
}

// ask goes round once. waiting says who is missing and why, "" when the founders are complete; the error is final.
func (f *founding) ask(ctx context.Context) (founders map[string]string, waiting string, err error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	self := f.dir.identity()
	f.releases.note(self.ID, logFormat)
	type answer struct {
		peer Peer
		who  helloAnswer
		err  error
	}
	answers := make(chan answer, len(f.cfg.Peers))
	asked := 0
	for _, p := range f.cfg.Peers {
		if p.ID != f.cfg.ID {
			asked++
			go func() {
				who, err := hello(ctx, f.calls, p)
				answers <- answer{p, who, err}
			}()
		}
	}
	founders = map[string]string{self.ID: self.Instance}
	var known map[string]string // what a server that is already founded has recorded
	var without []helloAnswer   // those of a cluster that was founded without this server
	for range asked {
		a := <-answers
		if a.err != nil {
			waiting = fmt.Sprintf("%s at %s: %v", a.peer.ID, a.peer.Addr, a.err)
			continue
		}
		if e := f.judge(self, a.peer, a.who); e != nil && (err == nil || a.who.You.Removed) { // which rules out most
			err = e // all answers are still taken, so that no goroutine stays behind
		}
		if a.who.Bootstrapped && a.who.Founders[self.ID] != self.Instance {
			without = append(without, a.who)
			continue
		}
		founders[a.peer.ID] = a.who.Instance
		f.releases.note(a.peer.ID, a.who.LogFormat)
		if a.who.Bootstrapped {
			known = a.who.Founders
		}
	}
	if joins := f.noteCluster(without); err == nil && joins != "" {
		return nil, joins, nil
	}
	if err != nil || waiting != "" {
		return nil, waiting, err
	}
	if known != nil && !maps.Equal(known, founders) {
		return nil, fmt.Sprintf("servers with the instances %v that founded the cluster, found %v", known, founders), nil
	}
	return founders, "", nil
}

// judge says whether an answer rules out that this server ever joins.
func (f *founding) judge(self identity, p Peer, who helloAnswer) error {
	founder := who.Founders[self.ID]
	switch {
	case who.You.Removed:
		return &api.Error{Code: api.Forbidden, Detail: fmt.Sprintf("%s, says server %q", removedText(self.ID), p.ID)}
	case who.ID != p.ID:
		return fmt.Errorf("the server at %s is %q, not %q as in %s; correct the list", p.Addr, who.ID, p.ID, showPeers(f.cfg.Peers))
	case who.Bootstrapped && founder != self.Instance:
		if founder != "" || who.You.Member || who.You.Instance != "" && who.You.Instance != self.Instance {
			return &WipedError{ID: self.ID, Witness: p.ID, Cluster: who.Cluster}
		}
		return nil // it may join
	case showPeers(who.Peers) != showPeers(f.cfg.Peers):
		return fmt.Errorf("server %q was started with the servers %s, this one with %s; give every server the same list",
			p.ID, showPeers(who.Peers), showPeers(f.cfg.Peers))
	}
	return nil
}

// hello asks one server who it is.
func hello(ctx context.Context, calls caller, p Peer) (helloAnswer, error) {
	raw, err := calls.Call(ctx, p.Addr, peer.KindHello, nil)
	if err != nil {
		return helloAnswer{}, err
	}
	var who helloAnswer
	if err := json.Unmarshal(raw, &who); err != nil {
		return helloAnswer{}, fmt.Errorf("its answer %.100q does not decode: %w; run the same version on all servers", raw, err)
	}
	return who, nil
}
