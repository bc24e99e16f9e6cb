// Command matrix kills either gate, either Redis server and the leader at every step of a move, while clients write all the
// time; it ends with exit status 1 if a write that was acknowledged is lost or there twice, a copy is left where it should be
// gone, or a move does not end. All of it are real processes on loopback.
//
//	go run ./internal/crash/gates/matrix -bin bin/scope-registry -runs 2
//	go run ./internal/crash/gates/matrix -bin bin/scope-registry -only "shipped/leader" -runs 10
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/gates"
	"github.com/scope-registry/scope-registry/internal/crash/rig"
)

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/scope-registry", "program to run")
	flag.StringVar(&o.redis, "redis", "", "Redis server to run (default: redis-server or valkey-server of the PATH)")
	flag.IntVar(&o.runs, "runs", 1, "how often each step is met by each victim")
	flag.StringVar(&o.only, "only", "", "only cases whose name, step/victim, holds this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "gates: %v\n", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

type options struct {
	bin, redis, only string
	runs             int
}

// one is a case of the matrix.
type one struct {
	step   rig.Step
	victim gates.Victim
}

func (c one) String() string { return string(c.step) + "/" + string(c.victim) }

func plan(o options) (all []one) {
	for range o.runs {
		for _, step := range rig.Steps() {
			for _, victim := range gates.Victims() {
				if c := (one{step, victim}); strings.Contains(c.String(), o.only) {
					all = append(all, c)
				}
			}
		}
	}
	return all
}

// tries is how often a case is repeated whose move was aborted before it came to the step.
const tries = 3

func run(ctx context.Context, o options) (err error) {
	gates.Quiet()
	all := plan(o)
	if len(all) == 0 {
		return fmt.Errorf("-only %q leaves no case; one is %s", o.only, one{rig.Begun, gates.SourceGate})
	}
	dir, err := os.MkdirTemp("", "scope-registry-gates-*")
	if err != nil {
		return err
	}
	if err := played(ctx, o, dir, all); err != nil {
		return fmt.Errorf("%w\nlogs and data: %s", err, filepath.Join(dir, "*"))
	}
	return os.RemoveAll(dir)
}

func played(ctx context.Context, o options, dir string, all []one) (err error) {
	d, err := gates.NewProcesses(o.bin, o.redis, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	r, err := gates.Open(ctx, d, gates.Config{Writers: 4, Pause: 5 * time.Millisecond})
	if err != nil {
		return err
	}
	defer r.Close()
	return strikes(ctx, r, all)
}

func strikes(ctx context.Context, r *gates.Rig, all []one) error {
	began, void := time.Now(), 0
	for i, c := range all {
		p := gates.Scopes()[i%len(gates.Scopes())]
		for try := 1; ; try++ {
			res, err := r.Move(ctx, p, c.step, c.victim)
			if err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			found, err := r.Compare(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", c, err)
			}
			fmt.Printf("%6.1fs  %3d left  %s; %d of %d acknowledged are there\n", time.Since(began).Seconds(), len(all)-i-1, res, found.Present, found.Acknowledged)
			if len(found.Wrong) > 0 {
				return fmt.Errorf("%s, move %s: %s", c, res.Move.ID, strings.Join(found.Wrong, "\n  "))
			}
			if res.Void == "" {
				break
			}
			if try == tries {
				void++
				break
			}
		}
	}
	told := r.Work.Counts()
	done, aborted, _ := r.Moves()
	fmt.Printf("\n%d cases; %d moves done, %d aborted; %d writes acknowledged, all found at their owners; %d refused, %d of unknown outcome\n",
		len(all), done, aborted, told.Acknowledged, told.Refused, told.Unknown)
	if told.Refusal != nil {
		fmt.Printf("the newest refusal: %v\n", told.Refusal)
	}
	if void > 0 {
		return fmt.Errorf("%d cases never came to their step", void)
	}
	return nil
}
