package gates

import (
	"context"
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/rig"
	"github.com/scope-registry/scope-registry/internal/process"
)

// Victim is who is ended.
type Victim string

// The victims. Nobody is a move in which none is ended.
const (
	Nobody      Victim = "nobody"
	SourceGate  Victim = "source's gate"
	TargetGate  Victim = "target's gate"
	SourceRedis Victim = "source's Redis"
	TargetRedis Victim = "target's Redis"
	Leader      Victim = "leader"
)

// Victims are all that can be ended.
func Victims() []Victim { return []Victim{SourceGate, TargetGate, SourceRedis, TargetRedis, Leader} }

// restartAfter is how long a victim is off.
const restartAfter = 300 * time.Millisecond

// Result is what became of a move.
type Result struct {
	Scope   string
	Step    rig.Step
	Victim  Victim
	Move    api.Move
	Void    string // why it says nothing: the step was not reached
	Hit     bool   // the victim was gone before the move had ended
	Silence time.Duration
}

// String tells it in a line.
func (r Result) String() string {
	how := fmt.Sprintf("%s, closed for %d ms", r.Move.Phase, r.Move.QuiescedMS)
	if r.Move.Phase == "aborted" {
		how += " (" + r.Move.Cause + ": " + r.Move.Detail + ")"
	}
	if r.Void != "" {
		how += "; void: " + r.Void
	}
	return fmt.Sprintf("%-8s %-14s at %-8s %s to %s: %s; no write for %d ms", r.Scope, r.Victim, r.Step, r.Move.From, r.Move.To, how, r.Silence.Milliseconds())
}

// Move moves a scope to the other node, ends the victim with SIGKILL once the registry has the step, starts it again, and
// waits until all has settled.
func (r *Rig) Move(ctx context.Context, p string, step rig.Step, victim Victim) (Result, error) {
	out := Result{Scope: p, Step: step, Victim: victim}
	from, to, err := r.owner(p)
	if err != nil {
		return out, err
	}
	r.moves++
	id := fmt.Sprintf("m%04d", r.moves)
	r.Work.Silence(p)
	if _, err := r.client.StartMove(ctx, api.StartMove{ID: id, Prefix: p, From: from.ID, To: to.ID, PreCopy: true}); err != nil {
		return out, fmt.Errorf("starting a move of %q: %w", p, err)
	}
	if victim != Nobody {
		if err := r.kill(ctx, &out, id, from, to); err != nil {
			return out, err
		}
	}
	bound, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	world, err := r.await(bound, "move "+id+" to end", func(w rig.World) string {
		if w.Ended(id) {
			return ""
		}
		return "it is " + w.Moves[id].Phase
	})
	if err != nil {
		return out, err
	}
	out.Move = world.Moves[id]
	if out.Move.Phase == "done" {
		r.quiesced = append(r.quiesced, time.Duration(out.Move.QuiescedMS)*time.Millisecond)
	} else {
		r.aborted++
	}
	err = r.Settle(ctx)
	out.Silence = r.Work.Silence(p)
	return out, err
}

// kill waits for the step and ends the victim, and starts it again.
func (r *Rig) kill(ctx context.Context, out *Result, id string, from, to Node) error {
	bound, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	victim, err := r.machine(bound, out.Victim, from, to)
	if err != nil {
		return err
	}
	world, err := r.await(bound, fmt.Sprintf("move %s to come to %s", id, out.Step), func(w rig.World) string {
		if w.Reached(id, out.Step) || w.Moves[id].Phase == "aborted" {
			return ""
		}
		return "it is " + w.Moves[id].Phase
	})
	if err != nil {
		return err
	}
	if !world.Reached(id, out.Step) {
		out.Void = "the move was aborted before: " + world.Moves[id].Detail
	}
	return r.restart(ctx, victim, func() { out.Hit = !r.Tracker.World().Ended(id) })
}

// restart ends a machine, and starts it again after a while; gone is called in between. It is an error if it lives on, as all
// that is found later would be told of a system that nothing happened to.
func (r *Rig) restart(ctx context.Context, machine string, gone func()) error {
	was, err := r.deployment.Life(ctx, machine)
	if err != nil {
		return err
	}
	if err := r.deployment.Kill(ctx, machine); err != nil {
		return err
	}
	gone()
	if err := process.Sleep(ctx, restartAfter); err != nil {
		return err
	}
	if err := r.deployment.Start(ctx, machine); err != nil {
		return err
	}
	is, err := r.deployment.Life(ctx, machine)
	if err == nil && is == was {
		err = fmt.Errorf("%s was killed and lives on: it is %s, as before", machine, is)
	}
	return err
}

// machine is what the deployment calls a victim of a move.
func (r *Rig) machine(ctx context.Context, v Victim, from, to Node) (string, error) {
	switch v {
	case SourceGate:
		return GateOf(from.ID), nil
	case TargetGate:
		return GateOf(to.ID), nil
	case SourceRedis:
		return StoreOf(from.ID), nil
	case TargetRedis:
		return StoreOf(to.ID), nil
	default:
		return r.leader(ctx)
	}
}

// Moves are how many moves were done and aborted, and how long scopes were closed.
func (r *Rig) Moves() (done, aborted int, quiesced []time.Duration) {
	return len(r.quiesced), r.aborted, r.quiesced
}
