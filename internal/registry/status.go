package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/peer"
)

const (
	// statusTimeout bounds how long a server that is down holds up the status of the others.
	statusTimeout = 2 * time.Second

	// statusWithHash asks for the state's hash, which takes time in proportion to the state.
	statusWithHash = "hash"

	// transferTries and transferTimeout bound handing over leadership on the way out.
	transferTries   = 3
	transferTimeout = time.Second
)

// ID returns this server's id.
func (r *Registry) ID() string { return r.cfg.ID }

// member is this server as it sees itself.
func (r *Registry) member(hash bool) api.Member {
	s := r.fsm.State()
	m := api.Member{
		ID: r.cfg.ID, Peer: r.cfg.addrOf(r.cfg.ID), HTTP: r.cfg.HTTPAddr, Version: r.cfg.Version,
		Role: strings.ToLower(r.raft.State().String()), Index: s.Index(), Term: r.raft.CurrentTerm(), Ready: r.Ready() == nil,
	}
	checked := r.checks.newest()
	m.CheckIndex, m.CheckHash = checked.index, checked.hash
	disk := r.Storage()
	m.DiskFree, m.DiskLow, m.DiskStalledMS = disk.Free, disk.Low, uint64(disk.Stalled.Milliseconds())
	if hash {
		m.StateHash = s.Hash()
	}
	return m
}

// Status returns the cluster as this server sees it, and what every member says of itself. A member that does not
// answer within 2 s has an Error. hash asks each for the hash of its state too.
func (r *Registry) Status(ctx context.Context, hash bool) (api.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	members := make([]api.Member, len(r.cfg.Peers))
	var wg sync.WaitGroup
	for i, p := range r.cfg.Peers {
		wg.Go(func() {
			if p.ID == r.cfg.ID {
				members[i] = r.member(hash)
				return
			}
			m, err := r.askMember(ctx, p, hash)
			if err != nil {
				m.Error = err.Error()
			}
			m.ID, m.Peer = p.ID, p.Addr
			members[i] = m
		})
	}
	wg.Wait()
	s := r.fsm.State()
	l, _ := r.leaderNow()
	hold := ""
	if s.Cluster().Hold {
		hold = s.HoldText()
	}
	return api.Cluster{
		ID: s.Cluster().ID, Incarnation: s.Cluster().Incarnation, Tag: s.Cluster().Tag, Hold: hold, Leader: l.id, Self: r.cfg.ID,
		Index: s.Index(), ConfigIndex: s.ConfigIndex(),
		Scopes: s.Scopes().Len(), NoFallback: s.Scopes().NoFallbackLen(), Nodes: s.NodesLen(),
		Moves: s.Moves().RunningLen(), Cleanups: s.CleanupsLen(), Members: members,
	}, nil
}

func (r *Registry) askMember(ctx context.Context, p Peer, hash bool) (m api.Member, err error) {
	var payload []byte
	if hash {
		payload = []byte(statusWithHash)
	}
	raw, err := r.calls.Call(ctx, p.Addr, peer.KindStatus, payload)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return api.Member{}, fmt.Errorf("the status of server %q does not decode: %w; run the same version on all servers", p.ID, err)
	}
	return m, nil
}

// Transfer hands leadership to a server, "" to any other, and returns when that one leads, as this server sees it. It may
// be asked of any server. The error is NOT_FOUND, INVALID,
// NO_LEADER or TIMEOUT.
func (r *Registry) Transfer(ctx context.Context, to string) error {
	if to != "" && r.cfg.addrOf(to) == "" {
		return &api.Error{Code: api.NotFound, Detail: fmt.Sprintf("server %q is not one of %s; name one of them", to, showPeers(r.cfg.Peers))}
	}
	ctx, cancel := r.bound(ctx)
	defer cancel()
	gone := "" // the leader that has let go
	return r.onLeader(ctx, fmt.Sprintf("transferring leadership to %q", to), func(ctx context.Context, l leader) error {
		switch {
		case l.id == to || to == "" && gone != "" && l.id != gone:
			return nil
		case l.id == gone: // this server does not know the next one yet
			return &definite{errNoLeader}
		}
		if err := r.transferFrom(ctx, l, to); err != nil {
			return err
		}
		gone = l.id
		return &definite{errNoLeader} // until the next one leads
	})
}

func (r *Registry) transferFrom(ctx context.Context, l leader, to string) error {
	if l.self {
		return r.transferHere(ctx, to)
	}
	_, err := r.askAgain(ctx, l, peer.KindTransfer, []byte(to)) // whoever leads then
	return err
}

// transferHere transfers from this server, the leader.
func (r *Registry) transferHere(ctx context.Context, to string) error {
	addr := r.cfg.addrOf(to)
	switch {
	case r.raft.State() != raft.Leader:
		return &definite{raft.ErrNotLeader}
	case to != "" && addr == "":
		return &api.Error{Code: api.NotFound, Detail: fmt.Sprintf("server %q is not one of %s; name one of them", to, showPeers(r.cfg.Peers))}
	case to == r.cfg.ID:
		return nil
	case len(r.cfg.Peers) == 1:
		return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("server %q is the only one; there is nobody to transfer leadership to", r.cfg.ID)}
	}
	done := make(chan error, 1)
	ok := r.await(func() { // the future has no deadline of ours; raft answers it after an election timeout at the latest
		if to == "" {
			done <- r.raft.LeadershipTransfer().Error()
		} else {
			done <- r.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(addr)).Error()
		}
	})
	if !ok {
		return &definite{errClosing}
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
