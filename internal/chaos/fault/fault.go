// Package fault does harm to a cluster, gathers what shows that the harm was
// done, and undoes it. It judges nothing: whether a fault took effect is for the
// checkers to say, from the facts it records.
package fault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/target"
	"github.com/scope-registry/scope-registry/internal/direct"
)

const (
	// probeTime bounds one question to one server: on loopback an answer takes milliseconds.
	probeTime = time.Second
	// pollEvery is the pause between two questions: short against an election.
	pollEvery = 50 * time.Millisecond
	// electionTime is far above what an election takes, on a busy machine too.
	electionTime = 20 * time.Second
	// readyTime bounds the return of a server: it has to start, to be found and to catch up.
	readyTime = time.Minute
)

// Env is what faults are done to.
type Env struct {
	Target  target.Target
	Servers map[string]*direct.Server // by id
	Now     func() time.Duration      // clock of the run
	Say     func(format string, args ...any)
	Hold    time.Duration // how long a fault is in force, at least
}

// Fault is one kind of harm.
type Fault struct {
	Name string
	// do strikes and undoes, and records when and what it saw between. It leaves
	// the cluster whole unless it returns an error.
	do func(ctx context.Context, e *Env, rec *history.Fault) error
}

// All are the faults, in the order of a run.
func All() []Fault {
	return []Fault{
		{history.Kill, func(ctx context.Context, e *Env, rec *history.Fault) error {
			return e.onLeader(ctx, rec, e.Target.Kill, e.Target.Start)
		}},
		{history.Pause, func(ctx context.Context, e *Env, rec *history.Fault) error {
			return e.onLeader(ctx, rec, e.Target.Pause, e.Target.Resume)
		}},
		{history.Partition, func(ctx context.Context, e *Env, rec *history.Fault) error {
			return e.onLeader(ctx, rec, e.Target.Cut, e.Target.Mend)
		}},
		{history.Readdress, readdress},
	}
}

// Run does a fault and returns when all servers are ready again. What went
// wrong is in the record's Error.
func (e *Env) Run(ctx context.Context, f Fault) history.Fault {
	rec := history.Fault{Name: f.Name, Before: map[string]history.Machine{}, During: map[string]history.Machine{}, After: map[string]history.Machine{}}
	err := e.inspect(ctx, rec.Before, e.Target.Servers()...)
	if err == nil {
		rec.Leader, err = e.leader(ctx, e.Target.Servers())
	}
	if err == nil {
		err = f.do(ctx, e, &rec)
	}
	if err == nil {
		err = e.WaitReady(ctx)
	}
	rec.End = e.Now()
	if err == nil {
		err = e.inspect(ctx, rec.After, e.Target.Servers()...)
	}
	if err != nil {
		rec.Error = err.Error()
	}
	return rec
}

func (e *Env) inspect(ctx context.Context, into map[string]history.Machine, servers ...string) error {
	for _, s := range servers {
		m, err := e.Target.Inspect(ctx, s)
		if err != nil {
			return err
		}
		into[s] = m
	}
	return nil
}

// onLeader strikes the leader, and undoes it once the others have a leader of
// their own and the time is over.
func (e *Env) onLeader(ctx context.Context, rec *history.Fault, strike, undo func(context.Context, string) error) error {
	s := rec.Leader
	rec.Servers = []string{s}
	rec.Begin = e.Now()
	e.Say("%s of %s, the leader", rec.Name, s)
	if err := strike(ctx, s); err != nil {
		return err
	}
	if err := e.inspect(ctx, rec.During, s); err != nil {
		return err
	}
	rec.Active = e.Now()
	rec.Silent = !e.answers(ctx, s)
	others := slices.DeleteFunc(e.Target.Servers(), func(id string) bool { return id == s })
	elected, err := e.leader(ctx, others)
	if err == nil {
		rec.Elected, rec.ElectedAt = elected, e.Now()
		e.Say("%s leads, seen %.1f s after the %s", elected, (rec.ElectedAt - rec.Begin).Seconds(), rec.Name)
		err = pause(ctx, e.Hold-(e.Now()-rec.Active))
	}
	rec.Heal = e.Now()
	e.Say("end of the %s of %s", rec.Name, s)
	if undone := undo(ctx, s); undone != nil {
		return undone
	}
	return err
}

func (e *Env) answers(ctx context.Context, s string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	_, err := e.Servers[s].Leader(ctx)
	return err == nil
}

// readdress stops the leader and another server, and starts the one with the
// higher address first: keepers of containers give out the lowest free address,
// or one that was not used for longest, and either way both get another one.
func readdress(ctx context.Context, e *Env, rec *history.Fault) error {
	rec.Servers = []string{rec.Leader}
	for _, s := range e.Target.Servers() {
		if s != rec.Leader && len(rec.Servers) < 2 {
			rec.Servers = append(rec.Servers, s)
		}
	}
	rec.Begin = e.Now()
	e.Say("stop of %s, to start both with other addresses", strings.Join(rec.Servers, " and "))
	for _, s := range rec.Servers {
		if err := e.Target.Stop(ctx, s); err != nil {
			return err
		}
	}
	slices.SortFunc(rec.Servers, func(a, b string) int { return compareAddresses(rec.Before[b].Peer, rec.Before[a].Peer) })
	for _, s := range rec.Servers {
		if err := e.Target.Start(ctx, s); err != nil {
			return err
		}
	}
	if err := e.inspect(ctx, rec.During, rec.Servers...); err != nil {
		return err
	}
	if err := e.WaitReady(ctx); err != nil {
		return err
	}
	for _, s := range rec.Servers {
		e.Say("%s was at %s and is at %s", s, rec.Before[s].Peer, rec.During[s].Peer)
	}
	rec.Active = e.Now()
	err := pause(ctx, e.Hold)
	rec.Heal = e.Now()
	return err
}

// leader waits until the given servers name the same one of them as leader.
func (e *Env) leader(ctx context.Context, among []string) (string, error) {
	leader := ""
	err := e.wait(ctx, electionTime, func(ctx context.Context) error {
		named := map[string]bool{}
		for _, s := range among {
			id, err := e.Servers[s].Leader(ctx)
			if err != nil {
				return err
			}
			leader, named[id] = id, true
		}
		if len(named) != 1 || !slices.Contains(among, leader) {
			return fmt.Errorf("%v name the leaders %v", among, named)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("no leader among %v: %w", among, err)
	}
	return leader, nil
}

// WaitReady waits until all servers are ready.
func (e *Env) WaitReady(ctx context.Context) error {
	for _, s := range e.Target.Servers() {
		if err := e.wait(ctx, readyTime, e.Servers[s].Ready); err != nil {
			return fmt.Errorf("server %s did not become ready: %w", s, err)
		}
	}
	return nil
}

// wait asks until the answer is nil, each time for probeTime at most.
func (e *Env) wait(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		once, done := context.WithTimeout(ctx, probeTime)
		err := ask(once)
		done()
		if err == nil {
			return nil
		}
		if pause(ctx, pollEvery) != nil {
			return fmt.Errorf("%w; the last answer was: %w", ctx.Err(), err)
		}
	}
}

// pause waits for d, not at all if d is negative, or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(max(0, d))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
