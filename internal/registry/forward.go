package registry

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/transport/peer"
)

const (
	// defaultPatience bounds calls whose context has no deadline: a few elections of the slowest profile.
	defaultPatience = 5 * time.Second

	// retryPause is the pause before the leader is looked for again.
	retryPause = 20 * time.Millisecond
)

// Status bytes of answers between servers.
const (
	replyDone    byte = iota // what follows is the answer
	replyRetry               // not applied, look for the leader again; what follows is the reason
	replyUnknown             // may have been applied; what follows is the reason
	replyRefused             // not applied, final; what follows is an api.Error as JSON
)

// caller reaches other servers; a *peer.Mux, or a switchboard in tests.
type caller interface {
	Call(ctx context.Context, addr string, kind peer.Kind, payload []byte) ([]byte, error)
}

// leader is where the leader was just now.
type leader struct {
	id, addr string
	self     bool
}

var errNoLeader = errors.New("no leader is known")

// leaderNow returns the leader as this server knows it. A candidate knows none, whatever raft says: a heartbeat that comes
// beside the leader's word to take over sets the old leader again, and nothing takes that back until somebody is elected.
func (r *Registry) leaderNow() (leader, bool) {
	if r.raft.State() == raft.Candidate {
		return leader{}, false
	}
	addr, id := r.raft.LeaderWithID()
	self := string(id) == r.cfg.ID
	if self && r.alarm.stopped(r.cfg.ID) != nil {
		return leader{}, false // a leader that must not go on is none, whatever raft says meanwhile
	}
	return leader{id: string(id), addr: string(addr), self: self}, id != ""
}

// bound gives a call the default patience where its context has no deadline.
func (r *Registry) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultPatience)
}

// onLeader repeats a read at the leader until it works or ctx ends. An *api.Error of do is final.
func (r *Registry) onLeader(ctx context.Context, doing string, do func(context.Context, leader) error) error {
	last := errNoLeader
	met := false
	for {
		if l, ok := r.leaderNow(); ok {
			err := do(ctx, l)
			if err == nil {
				return nil
			}
			var final *api.Error
			if errors.As(err, &final) {
				return final
			}
			last, met = err, true
		}
		if stop := r.pause(ctx); stop != nil {
			if _, ok := r.leaderNow(); ok && met {
				return &api.Error{Code: api.Timeout, Detail: fmt.Sprintf("%s: %v; the last try ended with: %v; try again", doing, stop, last)}
			}
			return noLeader(doing, stop, last)
		}
	}
}

func noLeader(doing string, stop, last error) *api.Error {
	return &api.Error{Code: api.NoLeader, Detail: fmt.Sprintf(
		"%s: no leader could be reached (%v; the last try ended with: %v); try again, and check that a majority of the servers is up", doing, stop, last)}
}

// pause waits before the next try; the error says why there is none.
func (r *Registry) pause(ctx context.Context) error {
	t := time.NewTimer(retryPause)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return errClosing
	}
}

// askLeader is one call to the leader, one hop: a server that is not the leader says so and does not pass it on
// (RAFT trap 17), and the port dials afresh when its pooled connection was dead. It ends early when this server hears of
// another leader, or of none. The error is *definite, an
// *api.Error that is final, or OUTCOME_UNKNOWN.
func (r *Registry) askLeader(ctx context.Context, l leader, kind peer.Kind, payload []byte) ([]byte, error) {
	ctx, cancel := r.following.during(ctx)
	defer cancel()
	if now, ok := r.leaderNow(); !ok || now.id != l.id { // it may have changed before during began to look
		return nil, &definite{fmt.Errorf("server %q is not the leader any more", l.id)}
	}
	raw, err := r.calls.Call(ctx, l.addr, kind, payload)
	switch {
	case errors.Is(err, peer.ErrNotSent):
		return nil, &definite{err}
	case err != nil:
		return nil, unknown("%v", err)
	case len(raw) == 0:
		return nil, unknown("server %q sent an empty answer to %v", l.id, kind)
	}
	switch body := raw[1:]; raw[0] {
	case replyDone:
		return body, nil
	case replyRetry:
		return nil, &definite{fmt.Errorf("server %q: %s", l.id, body)}
	case replyRefused:
		refusal := new(api.Error)
		if err := json.Unmarshal(body, refusal); err != nil {
			return nil, unknown("server %q sent a refusal that does not decode: %v", l.id, err)
		}
		return nil, refusal
	default:
		return nil, unknown("server %q: %s", l.id, body)
	}
}

func (r *Registry) askPropose(ctx context.Context, l leader, envelope []byte) (*fsm.Result, error) {
	body, err := r.askLeader(ctx, l, peer.KindPropose, envelope)
	if err != nil {
		return nil, err
	}
	result := new(fsm.Result)
	if err := proto.Unmarshal(body, result); err != nil {
		return nil, unknown("server %q sent a result that does not decode: %v", l.id, err)
	}
	return result, nil
}

// askAgain is askLeader for what has no unknown outcome: asking again harms nothing.
func (r *Registry) askAgain(ctx context.Context, l leader, kind peer.Kind, payload []byte) ([]byte, error) {
	body, err := r.askLeader(ctx, l, kind, payload)
	if err != nil && api.CodeOf(err) == api.OutcomeUnknown {
		return nil, &definite{errors.New(err.Error())}
	}
	return body, err
}

func (r *Registry) askConfirm(ctx context.Context, l leader) (uint64, error) {
	body, err := r.askAgain(ctx, l, peer.KindConfirm, nil)
	if err != nil {
		return 0, err
	}
	if len(body) != 8 {
		return 0, &definite{fmt.Errorf("server %q confirmed an index of %d bytes, 8 belong there", l.id, len(body))}
	}
	return binary.BigEndian.Uint64(body), nil
}

// serve answers the other servers' calls.
func (r *Registry) serve(ctx context.Context, from string, kind peer.Kind, payload []byte) ([]byte, error) {
	if failed := r.alarm.stopped(r.cfg.ID); failed != nil {
		if kind == peer.KindStatus {
			return nil, failed
		}
		return reply(&definite{failed}), nil
	}
	if r.standing(from).Removed {
		err := &api.Error{Code: api.Forbidden, Detail: removedText(from)}
		if kind == peer.KindStatus {
			return nil, err
		}
		return reply(err), nil
	}
	if kind != peer.KindStatus { // by which a server learns where it stands
		if why := r.refuses(from); why != "" {
			return reply(&definite{errors.New(why)}), nil
		}
	}
	switch kind {
	case peer.KindPropose:
		return r.servePropose(ctx, from, payload), nil
	case peer.KindConfirm:
		index, err := r.confirms.confirm(ctx)
		if err != nil {
			return reply(err), nil
		}
		return binary.BigEndian.AppendUint64([]byte{replyDone}, index), nil
	case peer.KindTransfer:
		if err := r.transferHere(ctx, string(payload)); err != nil {
			return reply(err), nil
		}
		return []byte{replyDone}, nil
	case peer.KindRenew, peer.KindReport, peer.KindLeading:
		return r.serveLeases(ctx, from, kind, payload), nil
	case peer.KindHandsTo:
		return r.serveHandsTo(payload), nil
	case peer.KindMembers:
		return r.serveMembers(ctx, from, payload), nil
	case peer.KindStatus:
		return json.Marshal(r.member(string(payload) == statusWithHash))
	default:
		return nil, fmt.Errorf("call %v from server %q is unknown here; run the same version on all servers", kind, from)
	}
}

func (r *Registry) servePropose(ctx context.Context, from string, envelope []byte) []byte {
	if r.closing.Load() {
		return reply(&definite{errClosing})
	}
	result, err := r.commitFrom(ctx, envelope)
	if err != nil {
		return reply(err)
	}
	body, err := proto.Marshal(result)
	if err != nil {
		return reply(unknown("its result does not encode: %v", err))
	}
	return append([]byte{replyDone}, body...)
}

// reply encodes what was not done.
func reply(err error) []byte {
	var final *api.Error
	switch {
	case !errors.As(err, &final):
		return append([]byte{replyRetry}, err.Error()...)
	case final.Code == api.OutcomeUnknown:
		return append([]byte{replyUnknown}, final.Detail...)
	}
	body, jsonErr := json.Marshal(final)
	if jsonErr != nil {
		return append([]byte{replyRetry}, jsonErr.Error()...)
	}
	return append([]byte{replyRefused}, body...)
}
