package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// State returns the newest state of this server. It is one atomic load.
func (r *Registry) State() fsm.State { return r.fsm.State() }

// Newest is the same without a copy: read only.
func (r *Registry) Newest() *fsm.State { return r.fsm.Newest() }

// Local is what a local Read returns, without a copy: read only. The error is UNAVAILABLE, as Read's.
func (r *Registry) Local() (*fsm.State, error) {
	if err := r.caughtUp(); err != nil {
		return nil, err
	}
	return r.fsm.Newest(), nil
}

// WaitIndex waits until the state of this server has reached an index. The error is TIMEOUT, or UNAVAILABLE when this
// server stops.
func (r *Registry) WaitIndex(ctx context.Context, index uint64) error {
	if err := r.waitIndex(ctx, index); err != nil {
		if errors.Is(err, errClosing) {
			return r.stopping()
		}
		now := r.fsm.State().Index()
		return &api.Error{Code: api.Timeout, Index: now, Detail: fmt.Sprintf(
			"this server has index %d and %d was asked for: %v; try again, or another server", now, index, err)}
	}
	return nil
}

// waitIndex also ends with this server: no index is reached any more then, and nobody may be left waiting for one.
func (r *Registry) waitIndex(ctx context.Context, index uint64) error {
	if r.fsm.State().Index() >= index {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.ctx, func() { cancel(errClosing) })()
	if r.fsm.WaitIndex(ctx, index) != nil {
		return context.Cause(ctx)
	}
	return nil
}

// waitCaughtUp also ends with this server, but not for one that has caught up.
func (r *Registry) waitCaughtUp(ctx context.Context) error {
	select {
	case <-r.caught:
		return nil
	default:
	}
	select {
	case <-r.caught:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return errClosing
	}
}

// stopping is the error of a server that is being closed.
func (r *Registry) stopping() *api.Error {
	return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("server %q is stopping; ask another one", r.cfg.ID)}
}

// Watch follows the changes of this server's state, see fsm.FSM.Watch. Like a local read it is refused with
// UNAVAILABLE until this server has caught up: a snapshot from before that may be older than what the watcher, or
// anybody, has seen already.
func (r *Registry) Watch(from uint64) (*fsm.Watcher, error) {
	if err := r.caughtUp(); err != nil {
		return nil, err
	}
	return r.fsm.Watch(from)
}

// Read returns a state as fresh as asked. The error is INVALID, UNAVAILABLE while this server has not caught up since
// it started, STALE, TIMEOUT, NO_LEADER or LIMIT.
func (r *Registry) Read(ctx context.Context, o api.ReadOptions) (fsm.State, error) {
	if o.MaxStale < 0 {
		return fsm.State{}, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("max_stale %v is negative; give a duration from 0", o.MaxStale)}
	}
	switch o.Consistency {
	case "", "local":
		if err := r.caughtUp(); err != nil {
			return fsm.State{}, err
		}
	case "linearizable":
		if err := r.alarm.stopped(r.cfg.ID); err != nil {
			return fsm.State{}, err
		}
		if _, err := r.Confirm(ctx); err != nil {
			return fsm.State{}, err
		}
	default:
		return fsm.State{}, &api.Error{Code: api.Invalid, Detail: fmt.Sprintf("consistency %q is unknown; choose local or linearizable", o.Consistency)}
	}
	if o.MinIndex > 0 {
		ctx, cancel := r.bound(ctx)
		defer cancel()
		if err := r.WaitIndex(ctx, o.MinIndex); err != nil {
			return fsm.State{}, err
		}
	}
	if o.MaxStale > 0 && o.Consistency != "linearizable" {
		if err := r.checkStale(ctx, o.MaxStale); err != nil {
			return fsm.State{}, err
		}
	}
	return r.fsm.State(), nil
}

// checkStale refuses when this server may have missed what happened longer ago than the bound. A leader that was stopped,
// or hangs, takes itself for the leader still; so it is believed only for the bound after a majority last followed it, and is
// asked to show it again then.
func (r *Registry) checkStale(ctx context.Context, bound time.Duration) error {
	_, known := r.leaderNow()
	age, leads := r.contact()
	if leads {
		if age = r.confirms.age(); age > bound {
			ctx, cancel := r.bound(ctx)
			defer cancel()
			if _, err := r.confirms.confirm(ctx); err == nil {
				return nil
			}
		}
	}
	if known && age <= bound {
		return nil
	}
	return &api.Error{Code: api.Stale, Index: r.fsm.State().Index(), Detail: fmt.Sprintf(
		"server %q last heard of the leader %v ago (leader known now: %v), more than max_stale %v; ask another server", r.cfg.ID, age, known, bound)}
}

// Leader returns the leader's id, how long ago it was heard of (0 on the leader itself), and whether it is known.
func (r *Registry) Leader() (id string, lastContact time.Duration, known bool) {
	l, known := r.leaderNow()
	lastContact, _ = r.contact()
	return l.id, lastContact, known
}

// contact is how long ago the leader was heard of, 0 where that is this server.
func (r *Registry) contact() (age time.Duration, leads bool) {
	if r.raft.State() == raft.Leader {
		return 0, true
	}
	heard := r.raft.LastContact()
	if heard.IsZero() { // never since the start
		heard = r.started
	}
	return time.Since(heard), false
}

// Ready is nil once this server has caught up and while it knows the leader and its disk answers.
func (r *Registry) Ready() error {
	if err := r.caughtUp(); err != nil {
		return err
	}
	if doing, age := r.dog.stalled(); age > 0 {
		return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("the disk of server %q hangs: %s has not returned for %v; look at the disk", r.cfg.ID, doing, age.Round(time.Second))}
	}
	if _, ok := r.leaderNow(); !ok {
		return &api.Error{Code: api.NoLeader, Detail: fmt.Sprintf("server %q knows no leader; wait for an election, or check that a majority of the servers is up", r.cfg.ID)}
	}
	return nil
}

func (r *Registry) caughtUp() error {
	if err := r.alarm.stopped(r.cfg.ID); err != nil {
		return err
	}
	if r.isRemoved() {
		return &api.Error{Code: api.Unavailable, Detail: removedText(r.cfg.ID) + "; ask another server"}
	}
	if r.ready.Load() && !r.closing.Load() {
		return nil
	}
	if r.closing.Load() {
		return r.stopping()
	}
	return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("server %q has not caught up since it started; ask another one, or wait", r.cfg.ID)}
}

// catchUp confirms once: before that the state may be from before this server was down, and serving it would take
// answers back that others already gave.
func (r *Registry) catchUp() {
	for r.ctx.Err() == nil {
		if _, err := r.Confirm(r.ctx); err == nil {
			close(r.caught)
			r.ready.Store(true)
			r.log.Info("caught up", "index", r.fsm.State().Index())
			return
		}
		wait(r.ctx, retryPause) // an error may come at once
	}
}
