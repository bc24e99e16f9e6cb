package rig

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/process"
)

// The rules about what comes to an end, beside those about writes.
const (
	RuleMove    = "a move does not end"
	RuleSettle  = "does not settle" // a node without session, a cleanup pending, a scope that is not served, servers that differ
	RuleCopy    = "old copy"        // left after its cleanup
	RuleCommand = "command"         // the command line told another outcome than the log has
	RuleCrash   = "crash"           // a process ended by itself
)

// settleTime bounds everything that is awaited after a fault: several elections,
// expiries and budgets of the times that Faster gives.
const settleTime = 45 * time.Second

func broken(rule, format string, args ...any) []writes.Finding {
	return []writes.Finding{{Rule: rule, What: fmt.Sprintf(format, args...)}}
}

// settle waits until all is in order again, lets the writers pause, and compares
// what the owners have with what was acknowledged. It returns what is wrong; the
// error is that the comparison could not be made.
func (r *Rig) settle(ctx context.Context) ([]writes.Finding, error) {
	if err := r.calm(ctx); err != nil {
		if crashed := r.Crashed(); crashed != nil {
			return broken(RuleCrash, "%v", crashed), nil
		}
		return broken(RuleSettle, "%v", err), ctx.Err()
	}
	r.work.Hold()
	defer r.work.Release()
	var out []writes.Finding
	for _, scope := range []string{Plain, Heir} {
		found, err := r.compare(ctx, scope)
		if err != nil {
			return out, fmt.Errorf("comparing %q: %w", scope, err)
		}
		out = append(out, found...)
	}
	return out, nil
}

// calm waits until every node has a session, nothing moves or is to be deleted, the
// servers are equal and each scope takes writes.
func (r *Rig) calm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := r.nodesReady(ctx); err != nil {
		return err
	}
	if _, err := r.Tracker.Await(ctx, "moves and cleanups to end, and a scope to be armed", func(w World) string {
		for _, m := range w.Moves {
			if !w.Ended(m.ID) {
				return fmt.Sprintf("move %s is %s", m.ID, m.Phase)
			}
		}
		for _, c := range w.Cleanups {
			return fmt.Sprintf("%s has not deleted its copy of %q of epoch %d", c.Node, c.Prefix, c.Epoch)
		}
		if !w.Scopes[Heir].Armed {
			return fmt.Sprintf("the owner of %q has not said that it knows that it needs a lease", Heir)
		}
		return ""
	}); err != nil {
		return err
	}
	for _, scope := range []string{Plain, Heir} {
		before := r.book.acknowledged(scope)
		if err := r.Servers.Wait(ctx, "a write of "+scope, func(context.Context) error {
			if r.book.acknowledged(scope) == before {
				return fmt.Errorf("none was acknowledged; the owner is %s", r.scope(scope).Owner)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if _, err := r.Servers.WaitEqual(ctx); err != nil {
		return err
	}
	return r.unstaged(ctx)
}

// unstaged waits until no node has anything staged: no move runs.
func (r *Rig) unstaged(ctx context.Context) error {
	for _, node := range r.nodes {
		if err := r.Servers.Wait(ctx, node+" to discard what it has staged", func(ctx context.Context) error {
			staged, err := r.stores.Staged(ctx, node)
			if err != nil {
				return err
			}
			if len(staged) > 0 {
				return fmt.Errorf("it has slices of the moves %v", staged)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// compare compares what a scope's owner has with what was acknowledged, and looks
// for copies that nobody should have. No write is under way.
func (r *Rig) compare(ctx context.Context, scope string) ([]writes.Finding, error) {
	const tries = 5 // an owner that changes while it is asked is asked again
	for range tries {
		if err := r.catchUp(ctx); err != nil {
			return nil, err
		}
		sc := r.scope(scope)
		dump, err := r.stores.Dump(ctx, sc.Owner, scope)
		if err != nil {
			return nil, err
		}
		copies, err := r.copies(ctx, scope, sc.Owner, sc.Writer, sc.Fallback)
		if err != nil {
			return nil, err
		}
		if err := r.catchUp(ctx); err != nil {
			return nil, err
		}
		if r.scope(scope).Epoch == sc.Epoch {
			return append(r.book.settle(scope, dump, sc.Epoch), copies...), nil
		}
	}
	return nil, fmt.Errorf("its owner has changed %d times while it was asked, and nothing moves", tries)
}

// copies looks at the nodes that may have no copy of a scope: all but those named.
// The fallback keeps one, and a writer that was taken over.
func (r *Rig) copies(ctx context.Context, scope string, but ...string) ([]writes.Finding, error) {
	var out []writes.Finding
	for _, node := range r.nodes {
		if slices.Contains(but, node) {
			continue
		}
		dump, err := r.stores.Dump(ctx, node, scope)
		if err != nil {
			return nil, err
		}
		if len(dump) > 0 {
			out = append(out, broken(RuleCopy, "%s still has %d records of %q, the first is %q of epoch %d", node, len(dump), scope, dump[0].Key, dump[0].Epoch)...)
		}
	}
	return out, nil
}

// catchUp waits until the watch has told all that the registry has done by now.
func (r *Rig) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	var index uint64
	if err := r.Servers.Wait(ctx, "a fresh index", func(ctx context.Context) error {
		var errs []error
		for _, id := range r.Servers.IDs() {
			now, err := r.Servers.Get(ctx, id, "/v1/scopes", nil, "consistency", "linearizable", "limit", "1")
			if err == nil {
				index = now
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}); err != nil {
		return err
	}
	_, err := r.Tracker.Await(ctx, "the watch", func(w World) string {
		if w.Index < index {
			return fmt.Sprintf("it is not at %d", index)
		}
		return ""
	})
	return err
}

// pause waits for a random time between two.
func (r *Rig) pause(ctx context.Context, from, to time.Duration) error {
	return process.Sleep(ctx, from+time.Duration(r.rnd.Int64N(int64(to-from))))
}
