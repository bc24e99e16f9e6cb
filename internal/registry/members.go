package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/peer"
)

// upWithin is how many entries a server may lack and still count as one of a majority: it has them within a second or so.
// One that lacks more answers, and cannot confirm an entry for as long as it catches up.
const upWithin = 4096

// membersCall asks the leader to let a server join or leave.
type membersCall struct {
	ID         string `json:"id"`
	Addr       string `json:"addr,omitempty"` // of one that joins; "" for one that leaves
	NoMajority bool   `json:"accept_no_majority,omitempty"`
	// Who asks, see fsm.Envelope.
	Actor  string      `json:"actor,omitempty"`
	Origin *fsm.Origin `json:"origin,omitempty"`
}

// Join lets a server become a member, gives a member another address, or lets one stay that is leaving, and returns when
// that is on record. The leader then goes on by itself, whoever that is: it brings the server in as a non-voter, and promotes it when it has caught up.
// Actor and origin of by say who asks. From any server, and as often as one likes. The error is INVALID, FORBIDDEN, EXISTS, MEMBERS_CHANGING, WRONG_PHASE, LIMIT,
// UNAVAILABLE when nobody answers at addr, NO_LEADER or TIMEOUT.
func (r *Registry) Join(ctx context.Context, by fsm.Envelope, id, addr string) (api.ServerChange, error) {
	if err := checkPeers([]Peer{{ID: id, Addr: addr}}); err != nil {
		return api.ServerChange{}, &api.Error{Code: api.Invalid, Detail: err.Error()}
	}
	return r.askForMembers(ctx, "joining server "+id, membersCall{ID: id, Addr: addr, Actor: by.Actor, Origin: by.Origin})
}

// Remove lets a server leave for good and returns when it has. Its id is not used again. A voter leaves only if those of
// the remaining voters that are up are a majority of them, or if acceptNoMajority says that this does not matter. Actor and
// origin of by say who asks. From any server, also the one that leaves. The error is NOT_FOUND, FORBIDDEN, INVALID for the last voter, MEMBERS_CHANGING, NO_MAJORITY,
// NO_LEADER, WRONG_PHASE when it was joined again meanwhile, or TIMEOUT, after which the leader goes on by itself.
func (r *Registry) Remove(ctx context.Context, by fsm.Envelope, id string, acceptNoMajority bool) (api.ServerChange, error) {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	change, err := r.askForMembers(ctx, "removing server "+id, membersCall{ID: id, NoMajority: acceptNoMajority, Actor: by.Actor, Origin: by.Origin})
	if err != nil {
		return change, err
	}
	if id == r.cfg.ID { // whose log will lack the end of it
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		defer stop()
		defer r.whenRemoved(stop)()
	}
	return r.awaitGone(ctx, id, change)
}

// awaitGone waits for the end of a removal, that of this server too.
func (r *Registry) awaitGone(ctx context.Context, id string, change api.ServerChange) (api.ServerChange, error) {
	for {
		s := r.fsm.State()
		server, ok := s.Server(id)
		switch {
		case ok && server.Phase == fsm.ServerGone:
			return shownChange(server), nil
		case ok && server.Phase != fsm.ServerLeaving && server.Since > change.Since:
			return shownChange(server), &api.Error{Code: api.WrongPhase, Index: s.Index(), Detail: fmt.Sprintf(
				"server %q was joined again at index %d, by which it stays; remove it again if it is to go", id, server.Since)}
		}
		if r.waitIndex(ctx, s.Index()+1) == nil {
			continue
		}
		if r.isRemoved() {
			change.Phase = string(fsm.ServerGone)
			return change, nil
		}
		return change, &api.Error{Code: api.Timeout, Index: s.Index(), Detail: fmt.Sprintf(
			"server %q is on its way out since index %d, and has not gone in the time given; that goes on by itself: see cluster status", id, change.Since)}
	}
}

// whenRemoved calls f when this server is known to be removed. The function it returns ends that, and waits for it.
func (r *Registry) whenRemoved(f func()) (end func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-r.removed:
			f()
		case <-over:
		}
	}()
	return func() {
		close(over)
		<-done
	}
}

func (r *Registry) askForMembers(ctx context.Context, doing string, q membersCall) (change api.ServerChange, err error) {
	var c fsm.Command = &fsm.RemoveServer{}
	if q.Addr != "" {
		c = &fsm.JoinServer{}
	}
	if err := r.leaderUnderstands(ctx, c); err != nil {
		return change, err
	}
	err = r.askOffice(ctx, doing, func(ctx context.Context, l leader) (err error) {
		if !l.self {
			return r.askJSON(ctx, l, peer.KindMembers, q, &change)
		}
		change, err = r.membersHere(ctx, q)
		if err != nil && api.CodeOf(err) == api.OutcomeUnknown {
			err = &definite{errors.New(err.Error())} // each of it may be done twice
		}
		return err
	})
	return change, err
}

func (r *Registry) serveMembers(ctx context.Context, from string, payload []byte) []byte {
	var q membersCall
	if err := json.Unmarshal(payload, &q); err != nil {
		return reply(&api.Error{Code: api.Invalid, Detail: fmt.Sprintf("a %v call of server %q does not decode: %v; run the same version on all servers", peer.KindMembers, from, err)})
	}
	change, err := r.membersHere(ctx, q)
	if err != nil {
		return reply(err)
	}
	body, err := json.Marshal(change)
	if err != nil {
		return reply(&definite{err})
	}
	return append([]byte{replyDone}, body...)
}

// proposeBy writes the record in the name of whoever asked. It has no request id that could be repeated, and needs no room
// on the disk, as the leader's own commands do not.
func (r *Registry) proposeBy(ctx context.Context, q membersCall, c fsm.Command) error {
	e := fsm.Envelope{RequestID: r.requestID(), Actor: q.Actor, Origin: q.Origin, Command: c}
	envelope, err := e.Encode()
	if err == nil {
		envelope, err = r.fit(ctx, e, envelope)
	}
	if err != nil {
		return err
	}
	return r.submitOne(ctx, envelope, askerOf(e.Origin))
}

// membersHere puts a change of servers on record. It looks at what the log cannot know, which the leader looks at again
// before it does anything about it.
func (r *Registry) membersHere(ctx context.Context, q membersCall) (api.ServerChange, error) {
	if r.office.Load() == nil {
		return api.ServerChange{}, &definite{errNotInOffice}
	}
	var c fsm.Command
	var err error
	if q.Addr != "" {
		c, err = r.joinCommand(ctx, q)
	} else {
		c, err = r.removeCommand(ctx, q)
	}
	if err != nil {
		return api.ServerChange{}, err
	}
	if c != nil {
		if err := r.understood(ctx, c); err != nil {
			return api.ServerChange{}, err
		}
		if err := r.proposeBy(ctx, q, c); err != nil {
			var refusal *refusedError
			if errors.As(err, &refusal) {
				return api.ServerChange{}, refusal.cause
			}
			return api.ServerChange{}, err
		}
	}
	server, ok := r.fsm.State().Server(q.ID)
	if !ok { // a founder that joins where it is
		return api.ServerChange{ID: q.ID, Addr: q.Addr, Phase: string(fsm.ServerMember)}, nil
	}
	return shownChange(server), nil
}

// joinCommand is nil where there is nothing to do.
func (r *Registry) joinCommand(ctx context.Context, q membersCall) (fsm.Command, error) {
	servers := r.servers()
	was, member := find(servers, q.ID)
	for _, s := range servers {
		if string(s.ID) != q.ID && string(s.Address) == q.Addr {
			return nil, &api.Error{Code: api.Exists, Detail: fmt.Sprintf("address %s is that of server %q; give each server its own", q.Addr, s.ID)}
		}
	}
	if err := r.refusedUse(q.ID); err != nil {
		return nil, err
	}
	if !member && len(servers) >= maxPeers {
		return nil, &api.Error{Code: api.Limit, Detail: fmt.Sprintf("the cluster has %d servers, the limit is %d; remove one first", len(servers), maxPeers)}
	}
	stays := member && string(was.Address) == q.Addr
	instance, err := r.joiner(ctx, q.ID, q.Addr)
	var final *api.Error
	switch {
	case stays && (err == nil || errors.As(err, &final) && final.Code == api.Unavailable):
		s, ok := r.fsm.State().Server(q.ID)
		switch {
		case !ok || s.Addr == q.Addr && s.Phase != fsm.ServerLeaving:
			return nil, nil //nolint:nilnil // nothing to do is no error
		case err != nil: // it cannot be told by whom the record would be
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	return &fsm.JoinServer{Id: q.ID, Addr: q.Addr, Instance: instance}, nil
}

// refusedUse turns away an id that is used up before its server is asked for anything: it may be long gone.
func (r *Registry) refusedUse(id string) error {
	if s, ok := r.fsm.State().Server(id); ok && s.Phase == fsm.ServerGone {
		return &api.Error{Code: api.Exists, Detail: removedText(id)}
	}
	return nil
}

// joiner asks the server that is to join, or to move, who it is, and returns the instance of its data directory.
func (r *Registry) joiner(ctx context.Context, id, addr string) (instance string, err error) {
	known := r.instanceOf(id)
	if id == r.cfg.ID {
		if own := r.cfg.addrOf(id); own != addr {
			return "", &api.Error{Code: api.WrongPhase, Detail: fmt.Sprintf("server %q runs as %s, not as %s; start it with the latter in --cluster first", id, own, addr)}
		}
		return r.dir.identity().Instance, nil
	}
	who, err := r.askHello(ctx, Peer{ID: id, Addr: addr})
	if err != nil {
		return "", err
	}
	_, member := find(r.servers(), id)
	var final *api.Error
	switch {
	case who.ID != id:
		final = &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("the server at %s is %q, not %q; name it as it was started", addr, who.ID, id)}
	case who.Cluster != "" && who.Cluster != r.clusterID:
		final = &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("server %q at %s is of cluster %s, this is %s; start it with an empty data directory, and at least one server of this cluster in its --cluster", id, addr, who.Cluster, r.clusterID)}
	case known != "" && known != who.Instance, known == "" && member, who.Bootstrapped && !member && !r.recorded(id):
		final = &api.Error{Code: api.Exists, Detail: fmt.Sprintf("server id %q is of another data directory than that of the server at %s. A server that forgot its votes can lose acknowledged writes, so it does not come back under this id: "+
			"start it under another id, with an empty data directory, join that one, then: scope-registry cluster remove %s", id, addr, id)}
	case !r.readable(who.LogFormat):
		final = &api.Error{Code: api.WrongPhase, Detail: fmt.Sprintf("server %q at %s runs a release that knows log format %d, and the log of this cluster has %d, at which it would stop; upgrade it first",
			id, addr, who.LogFormat, r.fsm.State().LogFormat())}
	case !who.Bootstrapped && known == "" && who.Waits != r.clusterID:
		final = &api.Error{Code: api.WrongPhase, Detail: fmt.Sprintf("server %q at %s does not wait to be joined to cluster %s; start it with at least one running server of this cluster in its --cluster, beside itself, and wait until its log says so", id, addr, r.clusterID)}
	default:
		return who.Instance, nil
	}
	return "", final
}

// askHello is hello with a deadline and in words for an operator.
func (r *Registry) askHello(ctx context.Context, p Peer) (helloAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	who, err := hello(ctx, r.calls, p)
	if err != nil {
		return who, &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("server %q does not answer at %s: %v; start it there, with an empty data directory and --cluster with a server of this cluster and itself", p.ID, p.Addr, err)}
	}
	return who, nil
}

// removeCommand is nil where there is nothing to do.
func (r *Registry) removeCommand(ctx context.Context, q membersCall) (fsm.Command, error) {
	servers := r.servers()
	record, recorded := r.fsm.State().Server(q.ID)
	s, member := find(servers, q.ID)
	switch {
	case recorded && record.Phase == fsm.ServerGone:
		return nil, nil //nolint:nilnil // nothing to do is no error
	case !recorded && !member && r.founderAt(q.ID) == "":
		return nil, &api.Error{Code: api.NotFound, Detail: fmt.Sprintf("server %q is not one of %s; name one of them", q.ID, showServers(servers))}
	case member && s.Suffrage == raft.Voter && votersIn(servers) == 1:
		return nil, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("server %q is the last that votes; join another one first, or stop it for good", q.ID)}
	}
	if member && s.Suffrage == raft.Voter && !q.NoMajority {
		if lacks := r.lacksMajority(ctx, without(servers, q.ID)); lacks != "" {
			return nil, &api.Error{Code: api.NoMajority, Detail: fmt.Sprintf("without server %q %s; start those first, or say --accept-no-majority, after which nothing can be changed until they are up", q.ID, lacks)}
		}
	}
	c := &fsm.RemoveServer{Id: q.ID, Addr: string(s.Address), Instance: r.instanceOf(q.ID), AcceptNoMajority: q.NoMajority}
	switch {
	case recorded:
		c.Addr = record.Addr
	case !member:
		c.Addr = r.founderAt(q.ID)
	}
	return c, nil
}

// recorded is whether the log says anything of a server. Of one that is neither in the log nor in the configuration, and
// took part all the same, nobody knows what became of its votes: the cluster was recovered without it.
func (r *Registry) recorded(id string) bool {
	_, ok := r.fsm.State().Server(id)
	return ok
}

// founderAt is the address of a founder at the founding, "" for another server.
func (r *Registry) founderAt(id string) string {
	who := r.dir.identity()
	if _, ok := who.Founders[id]; !ok {
		return ""
	}
	for _, p := range who.Peers {
		if p.ID == id {
			return p.Addr
		}
	}
	return ""
}

// lacksMajority says why those of the servers that vote and are up would be no majority, "" where they would.
func (r *Registry) lacksMajority(ctx context.Context, servers []raft.Server) string {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	voters := votersOf(servers)
	up, down := 0, []string(nil)
	for _, m := range r.askMembers(ctx, voters, false) {
		switch {
		case m.Error != "":
			down = append(down, m.ID+" does not answer")
		case m.Behind > upWithin:
			down = append(down, fmt.Sprintf("%s is %d entries behind", m.ID, m.Behind))
		default:
			up++
		}
	}
	if need := len(voters)/2 + 1; up < need {
		return fmt.Sprintf("%d of %d voters would be up, and %d are needed: %s", up, len(voters), need, strings.Join(down, ", "))
	}
	return ""
}

func shownChange(s fsm.Server) api.ServerChange {
	return api.ServerChange{ID: s.ID, Addr: s.Addr, Phase: string(s.Phase), Since: s.Since}
}
