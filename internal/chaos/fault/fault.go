// Package fault does harm to a cluster, gathers what shows that the harm was
// done, and undoes it. It judges nothing: whether a fault took effect is for the
// checkers to say, from the facts it records.
package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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
	Heal    time.Duration // how long servers that are ready again may take until they acknowledge changes
	Seed    uint64
	// Owner is who owns one of the scopes of the data nodes, and where that moves
	// to, "" if it does not; nil without nodes.
	Owner func(ctx context.Context, i int) (owner, to string, err error)

	mu     sync.Mutex // guards the rest
	struck map[string]bool
	done   int // faults that were begun
}

// strike is one fault that is being done.
type strike struct {
	*Env
	rec *history.Fault
	rng *rand.Rand
}

// Fault is one kind of harm.
type Fault struct {
	Name string
	// possible says whether it can be done to a target; nil is to all.
	possible func(target.Target) bool
	// do strikes and undoes, and records when and what it saw between. It leaves
	// the cluster whole unless it returns an error.
	do func(ctx context.Context, s *strike) error
}

// Possible says whether the fault can be done to a target.
func (f Fault) Possible(t target.Target) bool { return f.possible == nil || f.possible(t) }

// All are the faults, in the order of a run.
func All() []Fault {
	return slices.Concat(onServers(), onLinks(), onDisks(), onMembers(), onNodes())
}

// Named returns a fault.
func Named(name string) (Fault, error) {
	all := All()
	at := slices.IndexFunc(all, func(f Fault) bool { return f.Name == name })
	if at < 0 {
		var names []string
		for _, f := range all {
			names = append(names, f.Name)
		}
		return Fault{}, fmt.Errorf("no fault is called %q; there are %s", name, strings.Join(names, ", "))
	}
	return all[at], nil
}

// Run does a fault and returns when all servers are ready again and acknowledge
// changes. What went wrong is in the record's Error. together says that others
// are done meanwhile.
func (e *Env) Run(ctx context.Context, f Fault, together bool) history.Fault {
	rec := history.Fault{Name: f.Name, Together: together,
		Before: map[string]history.Machine{}, During: map[string]history.Machine{}, After: map[string]history.Machine{}}
	e.mu.Lock()
	e.done++
	s := &strike{Env: e, rec: &rec, rng: rand.New(rand.NewPCG(e.Seed, uint64(e.done)))}
	e.mu.Unlock()
	machines := slices.Concat(e.Target.Servers(), e.Target.Nodes())
	err := e.inspect(ctx, rec.Before, machines...)
	if err == nil {
		rec.Leader, err = s.leads(ctx)
	}
	if err == nil {
		err = f.do(ctx, s)
	}
	e.free(rec.Servers)
	if err == nil {
		err = e.healed(ctx, together)
		rec.Unhealed = err != nil && ctx.Err() == nil
	}
	rec.End = e.Now()
	if err == nil {
		err = e.inspect(ctx, rec.After, machines...)
	}
	if err != nil {
		rec.Error = err.Error()
	}
	return rec
}

// leads is the leader. While other faults last any server's word does, or none.
func (s *strike) leads(ctx context.Context) (string, error) {
	if !s.rec.Together {
		return s.leader(ctx, s.Target.Servers())
	}
	for _, id := range s.Target.Servers() {
		once, cancel := context.WithTimeout(ctx, probeTime)
		leader, err := s.Servers[id].Leader(once)
		cancel()
		if err == nil && leader != "" {
			return leader, nil
		}
	}
	return "", ctx.Err()
}

// claim takes the first of these machines that no other fault has struck, and
// notes that this one has.
func (s *strike) claim(among ...string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.struck == nil {
		s.struck = map[string]bool{}
	}
	for _, id := range among {
		if id != "" && !s.struck[id] {
			s.struck[id] = true
			s.rec.Servers = append(s.rec.Servers, id)
			return id, nil
		}
	}
	return "", fmt.Errorf("every one of %v is struck by another fault", among)
}

func (e *Env) free(ids []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		delete(e.struck, id)
	}
}

// theLeader claims the leader, or any server if it is struck already or none is known.
func (s *strike) theLeader() (string, error) {
	return s.claim(append([]string{s.rec.Leader}, s.shuffled(s.Target.Servers())...)...)
}

// aFollower claims a server that does not lead.
func (s *strike) aFollower() (string, error) {
	return s.claim(s.shuffled(without(s.Target.Servers(), s.rec.Leader))...)
}

func (s *strike) shuffled(all []string) []string {
	s.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func without(all []string, id string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(other string) bool { return other == id })
}

// begins notes that the first command is about to be given.
func (s *strike) begins(format string, args ...any) {
	s.rec.Begin = s.Now()
	s.Say("%s: %s", s.rec.Name, fmt.Sprintf(format, args...))
}

// active notes that the fault is in force, and what its machines are like.
func (s *strike) active(ctx context.Context) error {
	if err := s.inspect(ctx, s.rec.During, s.rec.Servers...); err != nil {
		return err
	}
	s.rec.Active = s.Now()
	return nil
}

// lasts waits until the fault was in force for its time, more or less: from the election on if there was one, so that there is
// time for changes that a new leader acknowledges.
func (s *strike) lasts(ctx context.Context) error {
	spread := time.Duration(s.rng.Int64N(int64(s.Hold)))
	if s.rec.Together {
		spread -= s.Hold / 2
	} else {
		spread /= 2
	}
	return pause(ctx, s.Hold+spread-(s.Now()-max(s.rec.Active, s.rec.ElectedAt)))
}

// heals notes that the fault is about to be undone.
func (s *strike) heals() {
	s.rec.Heal = s.Now()
	s.Say("%s: ends", s.rec.Name)
}

// succeeded waits until those servers that were not struck have another leader.
// While other faults last there may be none.
func (s *strike) succeeded(ctx context.Context) error {
	if s.rec.Together {
		return nil
	}
	old := s.rec.Leader
	elected, err := s.leader(ctx, slices.DeleteFunc(s.Target.Servers(), func(id string) bool { return slices.Contains(s.rec.Servers, id) || id == old }))
	if err != nil {
		return err
	}
	s.rec.Elected, s.rec.ElectedAt = elected, s.Now()
	s.Say("%s: %s leads, seen %.1f s after", s.rec.Name, elected, (s.rec.ElectedAt - s.rec.Begin).Seconds())
	return nil
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

func (e *Env) answers(ctx context.Context, s string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	_, err := e.Servers[s].Leader(ctx)
	return err == nil
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
	return e.each(ctx, readyTime, "did not become ready", (*direct.Server).Ready)
}

// healed waits until all servers are ready again, and each acknowledges a change: one that is ready may refuse all of them for
// seconds, as long as its leader takes the disks of others for full, and the next fault would be found to be what kept clients
// from being served. Of faults that are done together others may last longer than this one.
func (e *Env) healed(ctx context.Context, together bool) error {
	others := time.Duration(0)
	if together {
		others = e.Hold
	}
	if err := e.each(ctx, readyTime+others, "did not become ready", (*direct.Server).Ready); err != nil {
		return err
	}
	return e.each(ctx, e.Heal+others, "acknowledged no change", (*direct.Server).Acknowledges)
}

// each waits until all servers have answered one question with nil, one after the other; failed says what one did that has not.
func (e *Env) each(ctx context.Context, limit time.Duration, failed string, ask func(*direct.Server, context.Context) error) error {
	for _, id := range e.Target.Servers() {
		err := e.wait(ctx, limit, func(ctx context.Context) error { return ask(e.Servers[id], ctx) })
		if err != nil {
			return fmt.Errorf("server %s %s within %v: %w", id, failed, limit, err)
		}
	}
	return nil
}

// wait asks until the answer is nil, each time for probeTime at most.
func (e *Env) wait(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		once, done := context.WithTimeout(ctx, probeTime)
		err := ask(once)
		done()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // what the limit cut off is no answer
			last = err
		}
		if pause(ctx, pollEvery) != nil {
			return fmt.Errorf("%w; the last answer was: %w", ctx.Err(), last)
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
