// Command run runs the protocol simulation over many seeds and says what
// happened. It ends with exit status 1 at the first violation, shrunk to the
// fewest actions, or when something that must happen never did.
//
//	go run ./internal/sim/run -seeds 10000
//	go run ./internal/sim/run -seed 4711
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/sim"
)

func main() {
	seeds := flag.Int("seeds", 2000, "how many seeds to run")
	from := flag.Uint64("from", 1, "the first of them")
	one := flag.Uint64("seed", 0, "run only this seed, and print its trace")
	quiet := flag.Bool("quiet", false, "print only the seed of a violation, unshrunk, or nothing")
	flag.Parse()
	debug.SetGCPercent(400) // seeds are short, and leave nothing behind
	if *one != 0 {
		os.Exit(trace(os.Stdout, *one))
	}
	os.Exit(runAll(os.Stdout, *from, *seeds, *quiet))
}

// trace runs one seed and tells its story; if it ends in a violation, shrunk.
func trace(out io.Writer, seed uint64) int {
	o := sim.Trace(seed)
	code := 0
	if o.Violation != nil {
		s := sim.Shrink(seed)
		fmt.Fprintf(out, "seed %d: %s\nshrunk from %d actions to %d in %d runs\n", seed, s.Violation, s.From, len(s.Plan), s.Runs)
		o, code = s.Outcome, 1
	}
	for _, line := range o.Plan {
		fmt.Fprintln(out, "plan", line)
	}
	for _, line := range o.Trace {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintf(out, "%d events, hash %016x\n", o.Events, o.Hash)
	return code
}

// total is what all seeds came to.
type total struct {
	mu     sync.Mutex // guards the rest
	seeds  int
	events int
	counts map[string]int
	failed *sim.Outcome // of the lowest seed
}

func (t *total) add(o sim.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seeds++
	t.events += o.Events
	for what, n := range o.Counts {
		t.counts[what] += n
	}
	if o.Violation != nil && (t.failed == nil || o.Seed < t.failed.Seed) {
		t.failed = &o
	}
}

func (t *total) stopped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed != nil
}

func runAll(out io.Writer, from uint64, seeds int, quiet bool) int {
	began := time.Now()
	t := &total{counts: map[string]int{}}
	next := make(chan uint64)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed := range next {
				t.add(sim.Run(seed))
			}
		})
	}
	said := began
	for i := range seeds {
		if t.stopped() {
			break
		}
		next <- from + uint64(i)
		if time.Since(said) > 15*time.Second && !quiet {
			said = time.Now()
			fmt.Fprintf(out, "%d of %d seeds, %.0f a second\n", i, seeds, float64(i)/time.Since(began).Seconds())
		}
	}
	close(next)
	workers.Wait()
	if quiet {
		return sayQuietly(out, t)
	}
	return say(out, t, time.Since(began))
}

func sayQuietly(out io.Writer, t *total) int {
	if t.failed == nil {
		return 0
	}
	fmt.Fprintf(out, "%d\t%s\t%s\t%s\n", t.failed.Seed, t.failed.Violation.Invariant, sim.ScheduleOf(t.failed.Seed), t.failed.Violation.What)
	return 1
}

func say(out io.Writer, t *total, took time.Duration) int {
	names, aborted := make([]string, 0, len(t.counts)), 0
	for what, n := range t.counts {
		names = append(names, what)
		if strings.HasPrefix(what, "move aborted: ") {
			aborted += n
		}
	}
	slices.Sort(names)
	for _, what := range names {
		fmt.Fprintf(out, "%12d  %s\n", t.counts[what], what)
	}
	fmt.Fprintf(out, "%d seeds in %.1f s, %.0f a second; %d steps, %d a seed\n", t.seeds, took.Seconds(), float64(t.seeds)/took.Seconds(), t.events, t.events/max(1, t.seeds))
	fmt.Fprintf(out, "moves: %d done by agents, %d assisted, %d forced, %d aborted; %d takeovers; %d sessions expired; %d writes acknowledged\n",
		t.counts["move done: agent"], t.counts["move done: assisted"], t.counts["move done: forced"], aborted,
		t.counts["takeover"], t.counts["session expired"], t.counts["write acknowledged"])
	if t.failed != nil {
		return trace(out, t.failed.Seed)
	}
	if missing := sim.Missing(t.counts); len(missing) > 0 && t.seeds >= 2000 {
		fmt.Fprintf(out, "never happened, and must: %q\n", missing)
		return 1
	}
	fmt.Fprintln(out, "no violation")
	return 0
}
