package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// Propose brings a command into the log, from any server, and returns its result once the state of this server has
// reached it, and has caught up since it started. An empty request id, and the empty id of a move, are filled in.
//
// Every error is an *api.Error. OUTCOME_UNKNOWN says that the command may have been applied; all others that it was
// not. It is tried until ctx ends, 5 s where ctx has no deadline, always with the same bytes: the request id in them
// makes the state apply it once. A command without an origin is of somebody unknown.
func (r *Registry) Propose(ctx context.Context, e fsm.Envelope) (*fsm.Result, error) {
	if err := r.alarm.stopped(r.cfg.ID); err != nil {
		return nil, err
	}
	if r.closing.Load() {
		return nil, r.stopping()
	}
	ctx, cancel := r.bound(ctx)
	defer cancel()
	e, err := r.sendable(ctx, e)
	if err != nil {
		return nil, err
	}
	result, err := r.send(ctx, r.stamp(e))
	if e.RequestID == "" && err == nil && result.GetCode() == string(api.RequestExpired) {
		// The id was ours and older than the ring, as this server lags. Nothing was ever applied under it.
		e.RequestID = requestIDAt(result.GetIndex())
		result, err = r.send(ctx, r.stamp(e))
	}
	if err != nil {
		return nil, err
	}
	err = r.waitIndex(ctx, result.GetIndex())
	if err == nil {
		// A retry has the index of the first try, and before this server was started it may have shown later ones.
		err = r.waitCaughtUp(ctx)
	}
	if err != nil {
		e := unknown("it was applied at index %d, which this server has not reached since it started (%v)", result.GetIndex(), err)
		e.Index = result.GetIndex()
		return nil, e
	}
	if err := fsm.ResultError(result); err != nil {
		return nil, err
	}
	return result, nil
}

func (r *Registry) send(ctx context.Context, e fsm.Envelope) (*fsm.Result, error) {
	envelope, err := e.Encode()
	if err != nil {
		return nil, err
	}
	return r.deliver(ctx, e, envelope)
}

// deliver tries until there is a result. envelope is e, encoded.
func (r *Registry) deliver(ctx context.Context, e fsm.Envelope, envelope []byte) (*fsm.Result, error) {
	last := errNoLeader
	var doubt *api.Error // the last try of which nobody knows how it ended
	for {
		if l, ok := r.leaderNow(); ok {
			result, err := r.try(ctx, l, e, envelope)
			if err == nil {
				if doubt != nil && result.GetCode() == string(api.RequestExpired) {
					return nil, doubt // expired now says nothing about the try before
				}
				return result, nil
			}
			var final *api.Error
			switch {
			case !errors.As(err, &final):
			case final.Code == api.OutcomeUnknown:
				doubt = final
			case doubt == nil:
				return nil, final
			}
			last = err
		}
		if stop := r.pause(ctx); stop != nil {
			if doubt != nil {
				return nil, doubt
			}
			return nil, noLeader("proposing a command", stop, last)
		}
	}
}

func (r *Registry) try(ctx context.Context, l leader, e fsm.Envelope, envelope []byte) (*fsm.Result, error) {
	if l.self {
		return r.commit(ctx, e, envelope)
	}
	return r.askPropose(ctx, l, envelope)
}

// commitFrom brings a command that another server has encoded into the log of this one, the leader.
func (r *Registry) commitFrom(ctx context.Context, envelope []byte) (*fsm.Result, error) {
	e, err := fsm.DecodeEnvelope(envelope) // everything in the log must decode: an entry that does not stops every server
	if err != nil {
		return nil, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("a command of %d bytes: %v", len(envelope), err)}
	}
	return r.commit(ctx, e, envelope)
}

// commit brings a command, and its encoding, into the log of this server, the leader.
func (r *Registry) commit(ctx context.Context, e fsm.Envelope, envelope []byte) (*fsm.Result, error) {
	if err := r.room(e.Command); err != nil {
		return nil, err
	}
	if err := r.understood(ctx, e.Command); err != nil {
		return nil, err
	}
	envelope, err := r.fit(ctx, e, envelope)
	if err != nil {
		return nil, err
	}
	return r.commits.submit(ctx, envelope, askerOf(e.Origin))
}

// stamp fills in the ids that the caller left out. The caller's command is not changed.
func (r *Registry) stamp(e fsm.Envelope) fsm.Envelope {
	if e.RequestID == "" {
		e.RequestID = r.requestID()
	}
	switch c := e.Command.(type) {
	case *fsm.StartMove:
		if c.GetId() == "" {
			c = proto.CloneOf(c)
			c.Id = moveID(e.RequestID)
			e.Command = c
		}
	case *fsm.Force:
		if c.GetId() == "" {
			c = proto.CloneOf(c)
			c.Id = moveID(e.RequestID)
			e.Command = c
		}
	}
	return e
}

func (r *Registry) requestID() string { return requestIDAt(r.fsm.State().Index()) }

// requestIDAt is "<index at first proposal>-<128 random bits>".
func requestIDAt(index uint64) string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, it ends the process instead
	id := strconv.AppendUint(make([]byte, 0, 20+1+2*len(random)), index, 10)
	return string(hex.AppendEncode(append(id, '-'), random[:]))
}

// moveID is the id of a move for which the caller gave none. It follows from the request id: a retry, which another
// server may get, must be the same command.
func moveID(requestID string) string {
	sum := sha256.Sum256([]byte(requestID))
	return "mv-" + hex.EncodeToString(sum[:8])
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, it ends the process instead
	return hex.EncodeToString(b)
}
