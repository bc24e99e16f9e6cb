// Command matrix kills source, target, leader and command line at every step of a
// move, and stops a writer in the middle of its writes or cuts it off from the
// registry, while clients write all the time; it ends with exit status 1 if a write that was acknowledged is lost, two
// nodes accepted writes at once, or a move does not end. All of it are real
// processes on loopback.
//
//	go run ./internal/crash/matrix -runs 5
//	go run ./internal/crash/matrix -only shipped/leader -runs 20 -seed 4711
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/internal/load"
)

const (
	exitFailed = 1
	exitUsage  = 2
	// maxRuns bounds -runs: 100 of each take some hours.
	maxRuns = 100
	// maxRigs bounds -rigs: each is seven processes and its clients.
	maxRigs = 8
)

// options are the flags.
type options struct {
	runs, rigs int
	bulk       int // MiB
	seed       uint64
	only, root string
	keep       bool
	broken     bool
}

func main() { os.Exit(start(os.Stdout, os.Args[1:])) }

func start(out io.Writer, args []string) int {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "crash: %v\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.broken {
		err = breakAll(ctx, out, o)
	} else {
		err = run(ctx, out, o)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "crash: %v\n", err)
		return exitFailed
	}
	return 0
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("matrix", flag.ContinueOnError)
	f.IntVar(&o.runs, "runs", 5, "how often each step is met by each victim, and a writer stopped and cut off")
	f.IntVar(&o.rigs, "rigs", 2, "how many systems are run beside each other")
	f.IntVar(&o.bulk, "bulk", 8, "MiB that each scope holds from the beginning")
	f.Uint64Var(&o.seed, "seed", 0, "seed of all choices; 0 takes one by chance")
	f.StringVar(&o.only, "only", "", "only cases whose name holds this, as step/victim; the others are "+stopName+" and "+cutName)
	f.StringVar(&o.root, "root", ".", "root of the repository")
	f.BoolVar(&o.keep, "keep", false, "keep logs and data even if nothing is wrong")
	f.BoolVar(&o.broken, "broken", false, "break the store in one way after the other, and see that each is found")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is not understood; see -help", f.Args())
	case o.runs < 1 || o.runs > maxRuns:
		return o, fmt.Errorf("-runs %d is not between 1 and %d", o.runs, maxRuns)
	case o.rigs < 1 || o.rigs > maxRigs:
		return o, fmt.Errorf("-rigs %d is not between 1 and %d", o.rigs, maxRigs)
	case o.bulk < 0 || o.bulk > 64:
		return o, fmt.Errorf("-bulk %d is not between 0 and 64 MiB", o.bulk)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	return o, nil
}

// run runs the matrix and prints what came of it.
func run(ctx context.Context, out io.Writer, o options) (err error) {
	jobs := plan(o)
	if len(jobs) == 0 {
		return fmt.Errorf("-only %q leaves no case; one is %s", o.only, plan(options{runs: 1})[0].name())
	}
	dir, err := os.MkdirTemp("", "scope-registry-crash-*")
	if err != nil {
		return err
	}
	began := time.Now()
	programs, err := load.Build(ctx, o.root, dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	fmt.Fprintf(out, "%d runs with seed %d, %d systems beside each other, in %s\n", len(jobs), o.seed, o.rigs, dir)
	s := newSession(out, o, dir, programs)
	s.work(ctx, jobs)
	err = s.report(time.Since(began))
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil || o.keep {
		fmt.Fprintf(out, "logs, data and what clients were told: %s\n", filepath.Join(dir, "*"))
		return err
	}
	return os.RemoveAll(dir)
}
