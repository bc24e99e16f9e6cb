package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
)

const (
	// reconcilePause is the pause after a directive that could not be written.
	reconcilePause = 100 * time.Millisecond

	// reconcileTimeout bounds writing one directive.
	reconcileTimeout = 5 * time.Second

	// proposeTogether is how many directives are written at a time: enough to share a log entry. They wait beside maxWaiting
	// commands of others.
	proposeTogether = 256

	// actor is who the leader's own commands are from.
	actor = "registry"
)

// drainNotify takes every change of leadership from raft and does nothing else: raft's main loop waits for the
// channel to be read (RAFT trap 6), so that anything slow here would cost an election. LeaderCh is not used, it
// drops changes.
func (r *Registry) drainNotify(notify <-chan bool) {
	for {
		select {
		case leads := <-notify:
			r.leads.Store(leads)
			signal(r.leadership)
		case <-r.drained:
			return
		}
	}
}

// reconcileLoop does the leader's duties while this server is the leader.
func (r *Registry) reconcileLoop() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.leadership:
		}
		for r.leads.Load() && r.ctx.Err() == nil {
			r.lead()
		}
	}
}

// lead is one term. A new leader starts with an empty ledger: leases and budgets are measured on the clock of one leader only.
func (r *Registry) lead() {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	done := make(chan struct{})
	defer func() { <-done }()
	defer cancel()
	go func() { // ends the term's work when leadership changes; lead waits for it
		defer close(done)
		select {
		case <-r.leadership:
			cancel()
		case <-ctx.Done():
		}
	}()
	// Read first ◆: leadership may be lost, and won again in a later term, at any moment from here on, and an expiry that
	// was counted before that must not count after it.
	term := r.raft.CurrentTerm()
	// The state of a new leader may lack entries that were committed before. After this also no renewal that an earlier
	// leader grants can have been sent later than now.
	if _, err := r.confirms.confirm(ctx); err != nil {
		wait(ctx, reconcilePause)
		return
	}
	o := newOffice(fsm.NewLedger(r.cfg.Leases, term), r.fsm.State, r.cfg.clock)
	r.office.Store(o)
	defer func() {
		r.office.Store(nil)
		o.end()
	}()
	var beside sync.WaitGroup // of the duties: these ask other servers
	defer beside.Wait()
	defer cancel()
	beside.Go(func() { r.checkStates(ctx) })
	beside.Go(func() { r.askSpace(ctx) })
	beside.Go(func() { r.followMembers(ctx) })
	beside.Go(func() { r.followFormat(ctx) })
	for ctx.Err() == nil && r.leads.Load() {
		r.duty(ctx, o)
	}
}

// duty is one round of the leader's work, and the rest until there may be more.
func (r *Registry) duty(ctx context.Context, o *office) {
	s, directives, due, late := o.reconcile()
	if late {
		// This process was paused, or its log hung. Nodes may have tried to renew all that time.
		r.log.Warn("the leader is late; every lease and budget starts anew")
		if _, err := r.confirms.confirm(ctx); err != nil {
			wait(ctx, reconcilePause)
			return
		}
		o.restart()
		return
	}
	commands := make([]fsm.Command, 0, len(directives)+1)
	if s.Cluster().ID == "" {
		commands = append(commands, r.initCommand(ctx))
	}
	for _, d := range directives {
		commands = append(commands, d.Command())
	}
	switch {
	case len(commands) == 0:
		o.rest(ctx, r.fsm, s.Index()+1, due)
	case !r.proposeAll(ctx, commands):
		wait(ctx, reconcilePause)
	}
}

// proposeAll writes the leader's own commands, many at a time: when a whole network fails, thousands of sessions expire at
// once, and one after the other their expiries would take minutes. It is false when one could not be written, or was
// refused, as an operator or a node was faster.
func (r *Registry) proposeAll(ctx context.Context, commands []fsm.Command) bool {
	for some := range slices.Chunk(commands, proposeTogether) {
		errs, refused := make([]error, len(some)), false
		var wg sync.WaitGroup
		for i, c := range some {
			if _, expires := c.(*fsm.Expire); expires {
				r.counts.expiries.Add(1)
			}
			wg.Go(func() { errs[i] = r.proposeOne(ctx, c) })
		}
		wg.Wait()
		for i, err := range errs {
			var refusal *refusedError
			switch {
			case err == nil:
			case errors.As(err, &refusal):
				r.log.Debug("a directive was refused", "command", fmt.Sprintf("%T", some[i]), "error", err)
				refused = true
			default:
				if !errors.Is(err, context.Canceled) {
					r.log.Warn("a directive was not written", "command", fmt.Sprintf("%T", some[i]), "error", err)
				}
				return false // the others fared no better
			}
		}
		if refused {
			return false
		}
	}
	return true
}

// refusedError is what the state said to a directive.
type refusedError struct{ cause error }

func (e *refusedError) Error() string { return e.cause.Error() }

// proposeOne writes a command of the leader's own: nobody is asked whether it may be.
func (r *Registry) proposeOne(ctx context.Context, c fsm.Command) error {
	envelope, err := fsm.Envelope{RequestID: r.requestID(), Actor: actor, Command: c}.Encode()
	if err != nil {
		return err
	}
	return r.submitOne(ctx, envelope, asker{own: true})
}

func (r *Registry) submitOne(ctx context.Context, envelope []byte, by asker) error {
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()
	result, err := r.commits.submit(ctx, envelope, by)
	if err != nil {
		return err
	}
	if refusal := fsm.ResultError(result); refusal != nil {
		return &refusedError{refusal}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
