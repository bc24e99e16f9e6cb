package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/transport/peer"
)

const (
	// followEvery is the pause between two looks at a change of servers that waits for something.
	followEvery = 100 * time.Millisecond

	// lookAgain is how often the servers on record are compared with raft's configuration while none of them changes.
	lookAgain = time.Second

	// roundLimit is within what a server that joins must reach what the leader's log had at the beginning of a round. One
	// that takes longer would make the cluster wait as long for a majority, once it votes.
	roundLimit = time.Second

	// inviteTimeout bounds an invitation: the server decides between two rounds of its own asking.
	inviteTimeout = 2 * helloTimeout
)

// round is one try of a joining server to reach the end of the leader's log.
type round struct {
	server string
	goal   uint64
	began  time.Time
}

// followMembers is a duty of the leader: it makes raft's configuration what the log says of the servers. So a change goes
// on whatever becomes of the leader that it was asked of, and of the one who asked.
func (r *Registry) followMembers(ctx context.Context) {
	defer r.waits.Store(nil)
	var catching round
	said := ""
	for ctx.Err() == nil {
		s := r.fsm.State()
		server, ok := toFollow(s, r.servers())
		if !ok {
			r.waits.Store(nil)
			resting, cancel := context.WithTimeout(ctx, lookAgain)
			_ = r.fsm.WaitIndex(resting, s.Index()+1) // either way it is time to look again
			cancel()
			continue
		}
		why := r.followOne(ctx, server, &catching)
		r.waits.Store(&why)
		if why == "" {
			continue
		}
		if why != said {
			said = why
			r.log.Info("a change of the servers waits", "server", server.ID, "phase", server.Phase, "for", why)
		}
		wait(ctx, followEvery)
	}
}

// toFollow is the server whose change is under way, or else one that is over and is not what raft's configuration says. A
// step that a leader had handed to raft can be taken late, when the same server leads again, and the log has gone on since.
func toFollow(s fsm.State, servers []raft.Server) (fsm.Server, bool) {
	if server, ok := s.ServerChanging(); ok {
		return server, true
	}
	for _, server := range s.Servers() {
		in, member := find(servers, server.ID)
		switch {
		case server.Phase == fsm.ServerGone && member:
			server.Phase = fsm.ServerLeaving
			return server, true
		case server.Phase == fsm.ServerMember && (in.Suffrage != raft.Voter || string(in.Address) != server.Addr):
			server.Phase = fsm.ServerJoining
			return server, true
		}
	}
	return fsm.Server{}, false
}

// followOne takes the next step of a change, or says why it cannot be taken now.
func (r *Registry) followOne(ctx context.Context, server fsm.Server, catching *round) (why string) {
	s, in := find(r.servers(), server.ID)
	var err error
	switch {
	case server.Phase == fsm.ServerLeaving && !in:
		err = r.settle(ctx, server, fsm.ServerGone)
	case server.Phase == fsm.ServerLeaving:
		err = r.expelServer(ctx, server, s.Suffrage == raft.Voter)
	case !in:
		err = r.admit(ctx, server)
	case string(s.Address) != server.Addr:
		err = r.readdress(ctx, server, s.Suffrage)
	case s.Suffrage != raft.Voter:
		err = r.promote(ctx, server, catching)
	default:
		err = r.settle(ctx, server, fsm.ServerMember)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func (r *Registry) settle(ctx context.Context, server fsm.Server, phase fsm.ServerPhase) error {
	if err := r.proposeOne(ctx, &fsm.SettleServer{Id: server.ID, Phase: string(phase), Addr: server.Addr}); err != nil {
		return err
	}
	r.log.Info("a change of the servers is over", "server", server.ID, "address", server.Addr, "phase", phase)
	return nil
}

// admit brings a server in as one that does not vote: until it has the log it would only raise what a majority is.
func (r *Registry) admit(ctx context.Context, server fsm.Server) error {
	servers := r.servers()
	if len(servers) >= maxPeers {
		return fmt.Errorf("the cluster has %d servers, the limit is %d; remove another one, after this one", len(servers), maxPeers)
	}
	who, err := r.recognise(ctx, server)
	if err != nil {
		return err
	}
	if !who.Bootstrapped {
		if err := r.invite(ctx, server, servers); err != nil {
			return err
		}
	}
	return r.reconfigure(ctx, func() raft.IndexFuture {
		return r.raft.AddNonvoter(raft.ServerID(server.ID), raft.ServerAddress(server.Addr), 0, enqueueTimeout)
	})
}

// recognise makes sure that the server at its address is the one on record.
func (r *Registry) recognise(ctx context.Context, server fsm.Server) (who helloAnswer, err error) {
	if who, err = r.askHello(ctx, Peer{ID: server.ID, Addr: server.Addr}); err != nil {
		return who, err
	}
	if who.ID != server.ID || who.Instance != server.Instance || who.Bootstrapped && who.Cluster != r.clusterID {
		return who, fmt.Errorf("the server at %s is %q, with another data directory than the one that was to join; give up with: scope-registry cluster remove %s", server.Addr, who.ID, server.ID)
	}
	return who, nil
}

func (r *Registry) invite(ctx context.Context, server fsm.Server, servers []raft.Server) error {
	payload, err := json.Marshal(invitation{ID: server.ID, Instance: server.Instance, Cluster: r.clusterID, Founders: r.dir.identity().Founders, Servers: peersOf(servers)})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, inviteTimeout)
	defer cancel()
	raw, err := r.calls.Call(ctx, server.Addr, peer.KindInvite, payload)
	switch {
	case err != nil:
		return fmt.Errorf("inviting server %q: %w", server.ID, err)
	case len(raw) == 0 || raw[0] != replyDone:
		return fmt.Errorf("server %q does not take the invitation: %.300q", server.ID, raw)
	}
	return nil
}

// readdress gives a member its new address. Its vote, or that it has none, stays.
func (r *Registry) readdress(ctx context.Context, server fsm.Server, suffrage raft.ServerSuffrage) error {
	if server.ID != r.cfg.ID {
		if _, err := r.recognise(ctx, server); err != nil {
			return err
		}
	}
	add := r.raft.AddNonvoter
	if suffrage == raft.Voter {
		add = r.raft.AddVoter
	}
	return r.reconfigure(ctx, func() raft.IndexFuture {
		return add(raft.ServerID(server.ID), raft.ServerAddress(server.Addr), 0, enqueueTimeout)
	})
}

// promote gives a server its vote once it has reached, within one short round, what the log had when that round began.
func (r *Registry) promote(ctx context.Context, server fsm.Server, catching *round) error {
	if catching.server != server.ID {
		*catching = round{server.ID, r.raft.LastIndex(), time.Now()}
	}
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	m, err := r.askMember(asking, Peer{ID: server.ID, Addr: server.Addr}, false)
	if err != nil {
		*catching = round{}
		return fmt.Errorf("it does not answer: %w", err)
	}
	last := r.raft.LastIndex()
	switch {
	case m.LogIndex < catching.goal:
		return fmt.Errorf("it catches up: %d of %d entries", m.LogIndex, last)
	case !m.Ready:
		return fmt.Errorf("it has %d of %d entries, and is not ready: it has yet to apply them, or does not reach the leader", m.LogIndex, last)
	}
	took := time.Since(catching.began)
	*catching = round{}
	if took > roundLimit {
		return fmt.Errorf("it catches up: %d of %d entries, the last round took %v", m.LogIndex, last, took.Round(time.Millisecond))
	}
	after := append(without(r.servers(), server.ID), raft.Server{ID: raft.ServerID(server.ID), Address: raft.ServerAddress(server.Addr), Suffrage: raft.Voter})
	if lacks := r.lacksMajority(ctx, after); lacks != "" {
		return fmt.Errorf("it has caught up, but with its vote %s", lacks)
	}
	return r.reconfigure(ctx, func() raft.IndexFuture {
		return r.raft.AddVoter(raft.ServerID(server.ID), raft.ServerAddress(server.Addr), 0, enqueueTimeout)
	})
}

// expelServer takes a server out of the configuration. The leader hands over first: one that removes itself has to commit
// that in a majority it is no part of, and leaves the others to wait for an election.
func (r *Registry) expelServer(ctx context.Context, server fsm.Server, votes bool) error {
	if votes {
		rest := without(r.servers(), server.ID)
		if votersIn(rest) == 0 {
			return errors.New("it is the last that votes; join another one")
		}
		if lacks := r.lacksMajority(ctx, rest); lacks != "" && !server.NoMajority {
			return fmt.Errorf("without it %s", lacks)
		}
	}
	if server.ID == r.cfg.ID {
		ctx, cancel := context.WithTimeout(ctx, transferTimeout)
		defer cancel()
		if err := r.transferHere(ctx, ""); err != nil {
			return fmt.Errorf("handing over leadership: %w", err)
		}
		wait(ctx, transferTimeout) // until this server hears of it, which ends ctx
		return errors.New("another server leads next")
	}
	return r.reconfigure(ctx, func() raft.IndexFuture { return r.raft.RemoveServer(raft.ServerID(server.ID), 0, enqueueTimeout) })
}

// nudgeAfter is how long a change of raft's configuration may take before something is written behind it.
const nudgeAfter = time.Second

// reconfigure waits for one change of raft's configuration. Raft itself takes one at a time.
//
// If it takes long a barrier is written behind it: the new voter may have acknowledged the entry before raft counted it as
// one, which is forgotten, and raft sends it nothing again until there is more to send.
func (r *Registry) reconfigure(ctx context.Context, change func() raft.IndexFuture) error {
	done := make(chan error, 1)
	if !r.await(func() { done <- change().Error() }) {
		return errClosing
	}
	nudge := time.NewTimer(nudgeAfter)
	defer nudge.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-nudge.C:
			r.nudge(ctx)
		}
	}
}

// nudge gives up as soon as nobody confirms: the change goes on waiting anyway.
func (r *Registry) nudge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()
	if _, err := r.confirms.confirm(ctx); err != nil {
		r.log.Debug("nothing could be written behind a change of the servers", "error", err)
	}
}
