package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/peer"
)

const (
	// statusTimeout bounds how long a server that is down holds up the status of the others.
	statusTimeout = 2 * time.Second

	// statusWithHash asks for the state's hash, which takes time in proportion to the state.
	statusWithHash = "hash"

	// roleNonVoter is the role of a server that has the log and no vote.
	roleNonVoter = "non-voter"

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
		LogIndex: r.raft.LastIndex(), LogFormat: logFormat,
	}
	if text := r.waits.Load(); text != nil {
		m.Waits = *text
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
	// In this order: a state that says that a server has its vote comes after the configuration that gave it.
	s := r.fsm.State()
	members := r.askMembers(ctx, r.servers(), hash)
	l, _ := r.leaderNow()
	hold := ""
	if s.Cluster().Hold {
		hold = s.HoldText()
	}
	return api.Cluster{
		ID: s.Cluster().ID, Incarnation: s.Cluster().Incarnation, Tag: s.Cluster().Tag, Hold: hold, Leader: l.id, Self: r.cfg.ID,
		Index: s.Index(), ConfigIndex: s.ConfigIndex(),
		Scopes: s.Scopes().Len(), NoFallback: s.Scopes().NoFallbackLen(), Nodes: s.NodesLen(),
		Moves: s.Moves().RunningLen(), Cleanups: s.CleanupsLen(), Members: members, Change: changeIn(s, members),
	}, nil
}

// askVoters asks all that vote for their status, this server among them.
func (r *Registry) askVoters(ctx context.Context) []api.Member {
	return r.askMembers(ctx, votersOf(r.servers()), false)
}

// askMembers asks servers for their status, all at once, and puts it beside what the configuration says of them.
func (r *Registry) askMembers(ctx context.Context, servers []raft.Server, hash bool) []api.Member {
	servers = slices.SortedFunc(slices.Values(servers), func(a, b raft.Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
	members := make([]api.Member, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			m, err := api.Member{}, error(nil)
			if string(s.ID) == r.cfg.ID {
				m = r.member(hash)
			} else if m, err = r.askMember(ctx, Peer{ID: string(s.ID), Addr: string(s.Address)}, hash); err != nil {
				m.Error = err.Error()
			}
			m.ID, m.Peer, m.Voter = string(s.ID), string(s.Address), s.Suffrage == raft.Voter
			if !m.Voter && m.Error == "" {
				m.Role = roleNonVoter
			}
			members[i] = m
		})
	}
	wg.Wait()
	// A server of release 0.1 does not tell of its log.
	last := func(m api.Member) uint64 { return cmp.Or(m.LogIndex, m.Index) }
	longest := uint64(0)
	for _, m := range members {
		longest = max(longest, last(m))
	}
	for i, m := range members {
		if m.Error == "" {
			members[i].Behind = longest - last(m)
		}
	}
	return members
}

// changeIn is the change of servers under way in a state, with what the leader said of it.
func changeIn(s fsm.State, members []api.Member) *api.ServerChange {
	server, ok := s.ServerChanging()
	if !ok {
		return nil
	}
	out := shownChange(server)
	for _, m := range members {
		out.Waits += m.Waits // of the leader alone
	}
	return &out
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
	if err := r.checkTransfer(to); err != nil {
		return err
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

// checkTransfer refuses a server that cannot lead; "" is any that can.
func (r *Registry) checkTransfer(to string) error {
	servers := r.servers()
	s, ok := find(servers, to)
	switch {
	case to == "":
		return nil
	case !ok:
		return &api.Error{Code: api.NotFound, Detail: fmt.Sprintf("server %q is not one of %s; name one of them", to, showServers(servers))}
	case s.Suffrage != raft.Voter:
		return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("server %q does not vote yet, so that it cannot lead; name another one of %s", to, showServers(servers))}
	}
	return nil
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
	if r.raft.State() != raft.Leader {
		return &definite{raft.ErrNotLeader}
	}
	if err := r.checkTransfer(to); err != nil {
		return err
	}
	servers := r.servers()
	switch {
	case to == r.cfg.ID:
		return nil
	case votersIn(servers) == 1:
		return &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("server %q is the only one that votes; there is nobody to transfer leadership to", r.cfg.ID)}
	}
	target, _ := find(servers, to)
	done := make(chan error, 1)
	ok := r.await(func() { // the future has no deadline of ours; raft answers it after an election timeout at the latest
		if to == "" {
			done <- r.raft.LeadershipTransfer().Error()
		} else {
			done <- r.raft.LeadershipTransferToServer(target.ID, target.Address).Error()
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
