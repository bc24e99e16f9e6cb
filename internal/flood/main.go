// Command flood measures whether idle connections and garbage shut out what the registry is for. It starts three servers,
// and compares how long a move and renewals of sessions take while nothing else goes on with how long they take while
// thousands of connections to the leader do nothing, and others send what is no request. Turns alternate, so that what else
// the machine does falls on both.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/crash"
)

const (
	// startTime bounds the start of the servers on a machine that is busy.
	startTime = 60 * time.Second
	// spareFiles are the files that this program needs besides the connections of the flood.
	spareFiles = 512
)

type options struct {
	bin          string
	conns, turns int
	turn         time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin/scope-registry", "server binary")
	flag.IntVar(&o.conns, "conns", 10_000, "connections that do nothing, half of them to the port for Redis clients")
	flag.IntVar(&o.turns, "turns", 3, "turns of each kind")
	flag.DurationVar(&o.turn, "turn", 10*time.Second, "length of a turn")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintf(os.Stderr, "flood: %v\n", err)
		os.Exit(1)
	}
}

// raiseFiles raises the limit of open files as far as it goes, which servers inherit, and says if that is too little.
func raiseFiles(need int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("limit of open files, to %d: %w", l.Max, err)
	}
	if l.Max < uint64(need) {
		return fmt.Errorf("%d open files are allowed and %d are needed; raise the limit (ulimit -Hn), or ask for fewer with -conns", l.Max, need)
	}
	return nil
}

func run(o options) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := raiseFiles(o.conns + spareFiles); err != nil {
		return err
	}
	c, err := crash.Open(crash.Config{Bin: o.bin, Timing: "default"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	start, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := c.WaitReady(start); err != nil {
		return err
	}
	leader, err := c.Leader(start)
	if err != nil {
		return err
	}
	l, err := newLoad(start, c.HTTP(leader))
	if err != nil {
		return err
	}
	defer l.close()
	var quiet, flooded figures
	for turn := range o.turns {
		if err := l.measure(ctx, o.turn, &quiet); err != nil {
			return err
		}
		crowd := newCrowd(c.HTTP(leader), c.RESP(leader), o.conns)
		if err := crowd.wait(ctx); err != nil {
			crowd.close()
			return err
		}
		err := l.measure(ctx, o.turn, &flooded)
		crowd.close()
		if err != nil {
			return err
		}
		fmt.Printf("turn %d: %s\n", turn+1, crowd)
	}
	return report(quiet, flooded)
}

// report prints what was measured and fails if nothing was.
func report(quiet, flooded figures) error {
	fmt.Printf("quiet:   %s\nflooded: %s\n", quiet, flooded)
	if len(quiet.moves) == 0 || len(quiet.renewals) == 0 || len(flooded.moves) == 0 || len(flooded.renewals) == 0 {
		return errors.New("a turn measured no move or no renewal; give it more time with -turn")
	}
	ratio := func(q, f []time.Duration, at float64) float64 {
		return float64(quantile(f, at)) / float64(quantile(q, at))
	}
	fmt.Printf("ratios:  move median %.2f, p99 %.2f; renewal median %.2f, p99 %.2f (wanted: at most 2)\n",
		ratio(quiet.moves, flooded.moves, 0.5), ratio(quiet.moves, flooded.moves, 0.99),
		ratio(quiet.renewals, flooded.renewals, 0.5), ratio(quiet.renewals, flooded.renewals, 0.99))
	if flooded.failed > quiet.failed {
		return fmt.Errorf("%d requests failed under the flood, the last with: %w", flooded.failed, flooded.last)
	}
	return nil
}

// admitted is a client that shows a token, of the server at addr alone.
func admitted(addr, token string) *client.Client {
	return client.New([]string{"http://" + addr}, client.WithTimeout(callTime), client.WithHTTPClient(showing(token)))
}
