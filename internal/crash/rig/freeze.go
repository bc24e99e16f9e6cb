package rig

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// RuleStopped is that a write which a node was stopped in is not acknowledged when
// the node goes on, and the fallback has taken over.
const RuleStopped = "acknowledged too late"

const (
	// crowd is how many writers keep the owner busy when it is stopped, and warm how many writes they have made by then.
	crowd, warm = 12, 100
	// after is how many writes the fallback has acknowledged when the owner goes on.
	after = 20
)

// Frozen is what became of the writes that were under way at an owner when it was
// stopped.
type Frozen struct {
	InFlight int // asked before the node stood still, and answered after it went on
	Unknown  int // of these: admitted, and not acknowledged
	Refused  int // of these: not admitted
	Early    int // of these: acknowledged before the node stood still, and delivered afterwards
	Stood    time.Duration
	Void     string // why the run says nothing: no write was stopped in the middle
}

// attempts collects what a load has tried.
type attempts struct {
	mu  sync.Mutex // guards all
	all []writes.Op
}

func (a *attempts) add(op writes.Op) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, op)
}

// acked counts the acknowledged ones of a tenure.
func (a *attempts) acked(epoch uint64) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, op := range a.all {
		if op.Outcome == writes.Acknowledged && op.Token.Epoch == epoch {
			n++
		}
	}
	return n
}

// Freeze stops the owner of the scope with a fallback in the middle of writes, for
// longer than its lease, lets the fallback take over and accept writes, has the owner
// go on, and looks at what it answers. Then the scope moves back.
func (r *Rig) Freeze(ctx context.Context) (Frozen, []writes.Finding, error) {
	var res Frozen
	if wrong, err := r.home(ctx, Heir); err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	before := r.scope(Heir)
	var old, other attempts
	load := r.writers([]string{before.Owner, "n1", "n2", fallback}, []string{Heir}, crowd, 0, old.add)
	stopped, resumed, wrong, err := r.stop(ctx, &res, before.Owner, &old, &other)
	load.Drain() // every answer is in then
	if err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	wrong = res.judge(old.all, before.Epoch, stopped, resumed)
	settled, err := r.settle(ctx)
	if wrong = append(wrong, settled...); err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	wrong, err = r.home(ctx, Heir)
	return res, wrong, err
}

// stop stops a node until its fallback has acknowledged writes, and returns when it
// stood still and when it was about to go on.
func (r *Rig) stop(ctx context.Context, res *Frozen, owner string, old, other *attempts) (stopped, resumed time.Time, wrong []writes.Finding, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := r.busy(ctx, old); err != nil {
		return stopped, resumed, broken(RuleSettle, "%v", err), nil
	}
	node := r.running[owner]
	if err := node.Pause(); err != nil {
		return stopped, resumed, nil, err
	}
	stopped = time.Now()
	wrong = r.takenOver(ctx, owner, other)
	resumed = time.Now()
	res.Stood = resumed.Sub(stopped)
	return stopped, resumed, wrong, node.Resume()
}

// busy waits until an owner is busy with writes.
func (r *Rig) busy(ctx context.Context, old *attempts) error {
	epoch := r.scope(Heir).Epoch
	return r.Servers.Wait(ctx, "writes that keep the owner busy", func(context.Context) error {
		if n := old.acked(epoch); n < warm {
			return fmt.Errorf("%d were acknowledged", n)
		}
		return nil
	})
}

// takenOver waits until the fallback has taken over from the owner, and
// acknowledged writes.
func (r *Rig) takenOver(ctx context.Context, owner string, other *attempts) []writes.Finding {
	world, err := r.Tracker.Await(ctx, "a takeover from "+owner, func(w World) string {
		if sc := w.Scopes[Heir]; sc.Owner == owner {
			return fmt.Sprintf("%q is of %s, epoch %d", Heir, sc.Owner, sc.Epoch)
		}
		return ""
	})
	if err != nil {
		return broken(RuleSettle, "%v", err)
	}
	// They know nobody else: who still takes the old owner for the owner must not send them there.
	load := r.writers([]string{fallback}, []string{Heir}, 2, 0, other.add)
	defer load.Drain()
	if err := r.Servers.Wait(ctx, "writes of the fallback", func(context.Context) error {
		if n := other.acked(world.Scopes[Heir].Epoch); n < after {
			return fmt.Errorf("%d were acknowledged", n)
		}
		return nil
	}); err != nil {
		return broken(RuleSettle, "%v", err)
	}
	return nil
}

// judge looks at the attempts of the writers that kept the owner busy.
func (res *Frozen) judge(all []writes.Op, epoch uint64, stopped, resumed time.Time) (wrong []writes.Finding) {
	for _, op := range all {
		acked := op.Outcome == writes.Acknowledged
		if acked && op.Token.Epoch == epoch && op.Ended > stopped.UnixNano() {
			wrong = append(wrong, broken(RuleStopped, "%s acknowledged %q under epoch %d, which ended %.3f s after the node stood still; it went on after %.3f s",
				op.Node, op.Key, epoch, float64(op.Ended-stopped.UnixNano())/1e9, resumed.Sub(stopped).Seconds())...)
		}
		if op.Call > stopped.UnixNano() || op.Return < resumed.UnixNano() {
			continue
		}
		res.InFlight++
		switch {
		case acked:
			res.Early++
		case op.Outcome == writes.Unknown:
			res.Unknown++
		default:
			res.Refused++
		}
	}
	if res.Unknown == 0 {
		res.Void = fmt.Sprintf("of %d writes under way none was stopped after its admission", res.InFlight)
	}
	return wrong
}
