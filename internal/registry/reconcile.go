package registry

import (
	"context"
	"errors"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// reconcilePause is the pause after a directive that could not be written.
	reconcilePause = 100 * time.Millisecond

	// reconcileTimeout bounds writing one directive.
	reconcileTimeout = 5 * time.Second

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

// lead is one term. A new leader starts with an empty ledger: budgets are measured on the clock of one leader only.
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
	term := r.raft.CurrentTerm() // read first: what is counted from now on counts in this term only
	// The state of a new leader may lack entries that were committed before.
	if _, err := r.confirms.confirm(ctx); err != nil {
		wait(ctx, reconcilePause)
		return
	}
	ledger := fsm.NewLedger(api.DefaultLeases(), term)
	var next time.Duration
	origin := time.Now()
	for ctx.Err() == nil && r.leads.Load() {
		s := r.fsm.State()
		var directives []fsm.Directive
		ledger, directives, next = fsm.Reconcile(s, ledger, time.Since(origin))
		commands := make([]fsm.Command, 0, len(directives)+1)
		if s.Cluster().ID == "" {
			commands = append(commands, &fsm.InitCluster{Id: r.clusterID})
		}
		for _, d := range directives {
			commands = append(commands, d.Command())
		}
		if !r.proposeAll(ctx, commands) {
			wait(ctx, reconcilePause)
			continue
		}
		if len(commands) == 0 {
			r.waitChange(ctx, s.Index()+1, next-time.Since(origin), next > 0)
		}
	}
}

// proposeAll writes the leader's own commands; false when one could not be written. A refusal is not one: then an
// operator or a node was faster.
func (r *Registry) proposeAll(ctx context.Context, commands []fsm.Command) bool {
	for _, c := range commands {
		envelope, err := fsm.Envelope{RequestID: r.requestID(), Actor: actor, Command: c}.Encode()
		if err != nil {
			r.log.Error("a directive does not encode", "error", err)
			return false
		}
		bounded, cancel := context.WithTimeout(ctx, reconcileTimeout)
		result, err := r.commits.submit(bounded, envelope)
		cancel()
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				r.log.Warn("a directive was not written", "error", err)
			}
			return false
		}
		if refusal := fsm.ResultError(result); refusal != nil {
			r.log.Debug("a directive was refused", "error", refusal)
			return false
		}
	}
	return true
}

// waitChange waits for the state to move on, at most for d where bounded.
func (r *Registry) waitChange(ctx context.Context, index uint64, d time.Duration, bounded bool) {
	if bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(d, time.Millisecond))
		defer cancel()
	}
	_ = r.fsm.WaitIndex(ctx, index) // either way it is time to look again
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
