package rig

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/process"
)

// Victim is what is ended without notice.
type Victim string

// The victims. Nodes are source, target and the fallback at once.
const (
	Source  Victim = "source"
	Target  Victim = "target"
	Leader  Victim = "leader"
	Command Victim = "cli"
	Nodes   Victim = "nodes"
)

// Victims are all of them.
func Victims() []Victim { return []Victim{Source, Target, Leader, Command, Nodes} }

// Case is one move during which somebody dies.
type Case struct {
	Scope   string
	Step    Step // that the log has reached when the victim is ended; "" is never
	Victim  Victim
	PreCopy bool
}

// Result is what became of it.
type Result struct {
	Case
	Move     api.Move
	AtDeath  string // phase that the move was in when the victim was gone
	Exit     int    // of the command line; -1 if it was the victim
	Took     time.Duration
	Silence  time.Duration // longest time without an acknowledged write of the scope
	Takeover bool          // the fallback became the owner
	Void     string        // why the run says nothing: the step was not reached
}

// Outcome is how the move ended, in a word or two.
func (r Result) Outcome() string {
	if r.Move.Phase == "aborted" {
		return "aborted: " + r.Move.Cause
	}
	return r.Move.Phase
}

const (
	// A victim is started again after one of two spans: before anybody misses it, and after its session has expired.
	soonFrom, soonTo = 0, 500 * time.Millisecond
	lateFrom, lateTo = 2 * time.Second, 3 * time.Second
	// anyTo is how long after the start of a move a victim may die that dies at any time: most have cleaned up by then.
	anyTo = 1500 * time.Millisecond
)

// Strike moves a scope, by the command line, ends the victim once the watch has
// shown the step, starts it again, and waits until all is in order. It returns what
// is wrong then; the error is that the run could not be made.
func (r *Rig) Strike(ctx context.Context, c Case) (Result, []writes.Finding, error) {
	res := Result{Case: c}
	if wrong, err := r.home(ctx, c.Scope); err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	before := r.scope(c.Scope)
	from, to := before.Owner, "n1"
	if from == to {
		to = "n2"
	}
	leader, err := r.Servers.Leader(ctx)
	if err != nil {
		return res, nil, err
	}
	r.book.mark()
	began := time.Now()
	cli, id, err := r.start(c, from, to)
	if err != nil {
		return res, nil, err
	}
	defer func() { _ = cli.Close() }() // what is left of it after a failure
	victims := map[Victim][]*process.Program{Source: {r.running[from]}, Target: {r.running[to]}, Nodes: {r.running[from], r.running[to], r.running[fallback]},
		Leader: {r.Servers.Program(leader)}, Command: {cli}}[c.Victim]
	died, wrong, err := r.kill(ctx, &res, id, victims)
	if err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	if wrong, err := r.revive(ctx, c, victims); err != nil || len(wrong) > 0 {
		return res, wrong, err
	}
	if wrong = r.ended(ctx, &res, id, cli); len(wrong) > 0 {
		return res, wrong, ctx.Err()
	}
	res.AtDeath = phaseAt(res.Move, died)
	if c.Step == Cleaned {
		res.AtDeath = string(Cleaned)
	}
	wrong, err = r.settle(ctx)
	res.Took, res.Silence = took(res.Move), r.book.silence(c.Scope, began, time.Now())
	res.Takeover = r.scope(c.Scope).Owner == fallback
	return res, wrong, err
}

// home moves a scope that the fallback has taken over back to its writer. What a
// takeover loses is written again, or later moves would have nothing to copy.
func (r *Rig) home(ctx context.Context, scope string) ([]writes.Finding, error) {
	sc := r.scope(scope)
	if sc.Owner != fallback {
		return nil, nil
	}
	cli, id, err := r.start(Case{Scope: scope, Step: "back", PreCopy: true}, fallback, sc.Writer)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cli.Close() }()
	var res Result
	if wrong := r.ended(ctx, &res, id, cli); len(wrong) > 0 {
		return wrong, ctx.Err()
	}
	if res.Move.Phase != "done" {
		return broken(RuleMove, "the move of %q back from the fallback to %s, in which nobody dies, was aborted: %s, %s", scope, sc.Writer, res.Move.Cause, res.Move.Detail), nil
	}
	if wrong, err := r.settle(ctx); err != nil || len(wrong) > 0 {
		return wrong, err
	}
	return nil, r.preload(ctx, scope)
}

// start starts a move, and the command line waits for its end.
func (r *Rig) start(c Case, from, to string) (cli *process.Program, id string, err error) {
	r.moves++
	id = fmt.Sprintf("m%03d-%s-%s", r.moves, c.Step, c.Victim)
	args := []string{"move", "start", c.Scope, "--from", from, "--to", to, "--id", id, "--wait"}
	if c.PreCopy {
		args = append(args, "--precopy")
	}
	cli = r.program(id, args...)
	err = cli.Start()
	return cli, id, err
}

// kill waits for the step and ends the victims. It returns when they were gone.
func (r *Rig) kill(ctx context.Context, res *Result, id string, victims []*process.Program) (died time.Time, wrong []writes.Finding, err error) {
	if len(victims) == 0 {
		return time.Now(), nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	world, err := r.Tracker.Await(ctx, fmt.Sprintf("move %s to come to %s", id, res.Step), func(w World) string {
		if w.Reached(id, res.Step) || w.Moves[id].Phase == "aborted" {
			return ""
		}
		return fmt.Sprintf("it is %q", w.Moves[id].Phase)
	})
	if err != nil {
		return died, broken(RuleMove, "%v", err), nil
	}
	if !world.Reached(id, res.Step) {
		res.Void = fmt.Sprintf("the move was aborted before: %s, %s", world.Moves[id].Cause, world.Moves[id].Detail)
	}
	if res.Step == Anytime {
		if err := r.pause(ctx, 0, anyTo); err != nil {
			return died, nil, err
		}
	}
	errs := make([]error, len(victims))
	for i, v := range victims {
		if errs[i] = v.Kill(); errs[i] != nil && res.Victim == Command {
			errs[i] = nil // it had seen the end, and ended itself
		}
	}
	return time.Now(), nil, errors.Join(errs...)
}

// revive starts the victims again after a while. If a server died another one must
// lead before.
func (r *Rig) revive(ctx context.Context, c Case, victims []*process.Program) ([]writes.Finding, error) {
	if c.Victim == Command || len(victims) == 0 {
		return nil, nil
	}
	if c.Victim == Leader {
		bound, cancel := context.WithTimeout(ctx, settleTime)
		defer cancel()
		if _, err := r.Servers.Leader(bound); err != nil {
			return broken(RuleSettle, "after the leader died: %v", err), ctx.Err()
		}
	}
	from, to := time.Duration(soonFrom), soonTo
	if r.rnd.IntN(2) == 0 && c.Victim != Leader {
		from, to = lateFrom, lateTo
	}
	if err := r.pause(ctx, from, to); err != nil {
		return nil, err
	}
	errs := make([]error, len(victims))
	for i, v := range victims {
		errs[i] = v.Start()
	}
	return nil, errors.Join(errs...)
}

// ended waits until a move has ended, and the command line, which must tell the same.
func (r *Rig) ended(ctx context.Context, res *Result, id string, cli *process.Program) []writes.Finding {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	world, err := r.Tracker.Await(ctx, "move "+id+" to end", func(w World) string {
		if w.Ended(id) {
			return ""
		}
		return fmt.Sprintf("it is %q", w.Moves[id].Phase)
	})
	res.Move = world.Moves[id]
	if err != nil {
		return broken(RuleMove, "%v", err)
	}
	if m := res.Move; m.Phase == "done" && (m.Shipped == nil || m.Ready == nil || *m.Shipped != *m.Ready) {
		return broken(RuleMove, "move %s is done; the source has shipped %+v and the target has %+v", id, m.Shipped, m.Ready)
	}
	if res.Exit = -1; res.Victim == Command {
		return nil
	}
	want := map[string]int{"done": 0, "aborted": api.WrongPhase.ExitCode()}[res.Move.Phase]
	if res.Exit, err = cli.Wait(ctx); err != nil || res.Exit != want {
		return broken(RuleCommand, "move %s is %s, and the command line ended with exit status %d, not %d (%v):\n%s", id, res.Move.Phase, res.Exit, want, err, cli.Logs())
	}
	return nil
}

// phaseAt is the phase that a move was in at a time, by the leaders' wall clocks.
func phaseAt(m api.Move, at time.Time) string {
	phase := "not begun"
	for _, s := range m.Stamps {
		if s.TimeMS <= at.UnixMilli() {
			phase = s.Phase
		}
	}
	return phase
}

// took is how long a move was running, by the leaders' wall clocks.
func took(m api.Move) time.Duration {
	if len(m.Stamps) == 0 {
		return 0
	}
	return time.Duration(m.Stamps[len(m.Stamps)-1].TimeMS-m.Stamps[0].TimeMS) * time.Millisecond
}
