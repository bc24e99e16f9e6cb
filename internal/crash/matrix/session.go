package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/rig"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
	"github.com/scope-registry/scope-registry/internal/load"
)

const (
	// writers write to each scope of a rig, each with such a pause between two writes: enough that some are under way at
	// every moment, and few enough that elections and leases get their share of two processors.
	writers     = 4
	writerPause = 15 * time.Millisecond
	// perRig is how many runs a rig lives for: what is written stays, and slows every later move.
	perRig = 20
	// maxTries bounds how often a run that said nothing is repeated.
	maxTries = 3
	// maxFailures ends everything: what is broken is seen by then.
	maxFailures = 5
)

// failure is a run in which something was wrong.
type failure struct {
	name, dir string
	result    rig.Result
	wrong     []writes.Finding
	err       error // why the run could not be made
}

// session is one run of the program.
type session struct {
	out      io.Writer
	o        options
	dir      string
	programs load.Programs
	began    time.Time
	pause    time.Duration // of writers
	// maxFailures ends everything.
	maxFailures int

	mu       sync.Mutex // guards the rest
	jobs     []job
	rigs     int
	results  map[string][]rig.Result
	frozen   []rig.Frozen
	isolated []rig.Isolated
	void     []string
	failures []failure
	counts   rig.Counts
	strange  []string
	resyncs  int
}

func newSession(out io.Writer, o options, dir string, programs load.Programs) *session {
	return &session{out: out, o: o, dir: dir, programs: programs, began: time.Now(), results: map[string][]rig.Result{}, pause: writerPause, maxFailures: maxFailures}
}

// work does all jobs on several rigs at once.
func (s *session) work(ctx context.Context, jobs []job) {
	s.jobs = jobs
	var all sync.WaitGroup
	for range s.o.rigs {
		all.Go(func() {
			for s.left() && ctx.Err() == nil {
				s.live(ctx)
			}
		})
	}
	all.Wait()
}

func (s *session) left() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.jobs) > 0 && len(s.failures) < s.maxFailures
}

func (s *session) take() (job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) == 0 || len(s.failures) >= s.maxFailures {
		return job{}, false
	}
	j := s.jobs[0]
	s.jobs = s.jobs[1:]
	return j, true
}

// live is the life of one rig: some runs, or until something is wrong.
func (s *session) live(ctx context.Context) {
	s.mu.Lock()
	s.rigs++
	n := s.rigs
	s.mu.Unlock()
	dir := filepath.Join(s.dir, fmt.Sprintf("rig%02d", n))
	r, err := rig.Open(ctx, rig.Config{Programs: s.programs, Dir: dir, Seed: s.o.seed + uint64(n), Bulk: s.o.bulk})
	if err != nil {
		s.fail(ctx, failure{name: "start", dir: dir, err: err})
		return
	}
	r.Work(writers, s.pause)
	good := true
	for range perRig {
		j, more := s.take()
		if !more {
			break
		}
		if good = s.do(ctx, r, n, j); !good || ctx.Err() != nil {
			break
		}
	}
	err = r.Close()
	s.closed(r)
	if err != nil && good && ctx.Err() == nil {
		s.fail(ctx, failure{name: "end", dir: dir, err: err})
	}
}

// do does one run and says whether the rig is good for another.
func (s *session) do(ctx context.Context, r *rig.Rig, n int, j job) bool {
	o, wrong, err := j.run(ctx, r)
	if err != nil || len(wrong) > 0 {
		s.fail(ctx, failure{name: j.name(), dir: r.Dir, result: o.result, wrong: wrong, err: err})
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.void != "" {
		s.void = append(s.void, j.name()+": "+o.void)
		if j.tries++; j.tries < maxTries {
			s.jobs = append(s.jobs, j)
		}
		return true
	}
	switch j.other {
	case stopName:
		s.frozen = append(s.frozen, o.frozen)
	case cutName:
		s.isolated = append(s.isolated, o.isolated)
	default:
		s.results[j.name()] = append(s.results[j.name()], o.result)
	}
	s.say(n, "%-28s %s", j.name(), o.said)
	return true
}

// outcome is what became of a run.
type outcome struct {
	result   rig.Result
	frozen   rig.Frozen
	isolated rig.Isolated
	void     string // why it says nothing
	said     string // for people
}

// run does the run on a rig.
func (j job) run(ctx context.Context, r *rig.Rig) (o outcome, wrong []writes.Finding, err error) {
	switch j.other {
	case stopName:
		o.frozen, wrong, err = r.Freeze(ctx)
		f := o.frozen
		o.void, o.said = f.Void, fmt.Sprintf("stood still %.1f s; %d under way: %d unknown, %d refused, %d acknowledged before", f.Stood.Seconds(),
			f.InFlight, f.Unknown, f.Refused, f.Early)
	case cutName:
		o.isolated, wrong, err = r.Isolate(ctx)
		i := o.isolated
		o.void, o.said = i.Void, fmt.Sprintf("acknowledged %d more, until %.2f s, refused %d; the fallback from %.2f s on", i.Acked, i.Last.Seconds(), i.Refused, i.First.Seconds())
	default:
		o.result, wrong, err = r.Strike(ctx, j.Case)
		res := o.result
		o.void, o.said = res.Void, fmt.Sprintf("%s %s to %s: %s (was %s), %.2f s, silent %.2f s", res.Scope, res.Move.From, res.Move.To, res.Outcome(),
			res.AtDeath, res.Took.Seconds(), res.Silence.Seconds())
	}
	return o, wrong, err
}

// say prints a line about a rig. The lock is held.
func (s *session) say(n int, format string, args ...any) {
	fmt.Fprintf(s.out, "%6.1fs rig%02d %3d left  %s\n", time.Since(s.began).Seconds(), n, len(s.jobs), fmt.Sprintf(format, args...))
}

// fail notes that something is wrong, unless all was interrupted.
func (s *session) fail(ctx context.Context, f failure) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, f)
	fmt.Fprintf(s.out, "%6.1fs FAILED %s in %s\n", time.Since(s.began).Seconds(), f.name, f.dir)
	f.print(s.out)
}

// shownFindings bounds how many of a run are printed: one cause may lose many writes.
const shownFindings = 10

func (f failure) print(out io.Writer) {
	if f.result.Move.ID != "" {
		fmt.Fprintf(out, "    move %s of %s: %s, %s; it was %s at the death\n", f.result.Move.ID, f.result.Scope, f.result.Outcome(), f.result.Move.Detail, f.result.AtDeath)
	}
	for i, w := range f.wrong {
		if i == shownFindings {
			fmt.Fprintf(out, "    and %d more\n", len(f.wrong)-i)
			break
		}
		fmt.Fprintf(out, "    %s\n", w)
	}
	if f.err != nil {
		fmt.Fprintf(out, "    %v\n", f.err)
	}
}

// closed adds what a rig has counted.
func (s *session) closed(r *rig.Rig) {
	counts, strange := r.Counts()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Add(counts)
	s.strange = append(s.strange, strange...)
	s.resyncs += r.Tracker.Resyncs()
}

// verdict is an error if anything is wrong.
func (s *session) verdict() error {
	var errs []error
	for _, f := range s.failures {
		errs = append(errs, fmt.Errorf("%s in %s: %d findings, %w", f.name, f.dir, len(f.wrong), f.first()))
	}
	if n := len(s.jobs); n > 0 {
		errs = append(errs, fmt.Errorf("%d runs were not made, as that of %s", n, s.jobs[0].name()))
	}
	if s.counts.Strange > 0 {
		errs = append(errs, fmt.Errorf("%d answers that no store should give, as %q", s.counts.Strange, s.strange[0]))
	}
	return errors.Join(errs...)
}

func (f failure) first() error {
	if len(f.wrong) > 0 {
		return fmt.Errorf("the first: %s", f.wrong[0])
	}
	return f.err
}
