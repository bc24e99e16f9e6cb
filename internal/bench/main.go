// The program measures what needs other processes: how long a move of an empty
// scope keeps it closed, how soon a change is at a thousand mirrors and how many
// changes a second are acknowledged, beside etcd, and how many keys are routed,
// beside Redis. Servers, members and data directories are its own, on loopback, and
// gone when it ends. It prints Markdown for docs/performance.md. Run it by make bench.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	bin     string
	etcd    []string
	parts   []string
	moves   int
	mirrors []int
	rounds  int
	events  int
	turn    time.Duration
	deaths  int
	scopes  int
	limit   time.Duration
	doc     string
	list    bool
	needs   bool
	goTool  string
	time    string

	redisServer    string
	redisBenchmark string
	profile        string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

func parse(args []string, usage io.Writer) (options, error) {
	var o options
	var etcd, parts, mirrors string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(usage)
	f.StringVar(&o.bin, "bin", "bin/scope-registry", "our server")
	f.StringVar(&etcd, "etcd", "", "programs of etcd to measure beside it, comma-separated")
	f.StringVar(&parts, "part", strings.Join(partNames(), ","), "what to measure, comma-separated")
	f.BoolVar(&o.list, "list", false, "print the names of the parts, and measure nothing")
	f.BoolVar(&o.needs, "v", false, "with -list: print what else each part measures too")
	f.StringVar(&o.doc, "doc", "", "put the tables between the marks of this document too")
	f.StringVar(&o.goTool, "go", "go", "the go command, of part guard")
	f.StringVar(&o.time, "benchtime", "300ms", "time of each Go benchmark of part guard")
	f.StringVar(&o.redisServer, "redis-server", "redis-server", "Redis of parts resp, gate and ship")
	f.StringVar(&o.redisBenchmark, "redis-benchmark", "redis-benchmark", "what asks in parts resp and gate")
	f.StringVar(&o.profile, "profile", "", "after part resp, put a processor profile of our server at its longest pipeline into this file")
	f.IntVar(&o.moves, "moves", 100, "moves through each kind of server")
	f.StringVar(&mirrors, "mirrors", "1,100,1000", "watchers of each system, comma-separated")
	f.IntVar(&o.rounds, "rounds", 5, "rounds, in which each system has a turn")
	f.IntVar(&o.events, "events", 40, "changes in a round")
	f.DurationVar(&o.turn, "turn", 3*time.Second, "time of each turn of part commits")
	f.IntVar(&o.deaths, "deaths", 15, "how often the leader of each system is killed")
	f.IntVar(&o.scopes, "scopes", 1_000_000, "scopes of part million")
	f.DurationVar(&o.limit, "limit", 45*time.Minute, "end with an error after this time")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.parts, o.etcd = words(parts), words(etcd)
	for _, p := range o.parts {
		if !slices.Contains(partNames(), p) {
			return o, fmt.Errorf("part %q is unknown; choose of %s", p, strings.Join(partNames(), ", "))
		}
	}
	for _, w := range words(mirrors) {
		n, err := strconv.Atoi(w)
		if err != nil || n < 1 {
			return o, fmt.Errorf("-mirrors has %q, which is no number from 1 on", w)
		}
		o.mirrors = append(o.mirrors, n)
	}
	for name, n := range map[string]int{"-moves": o.moves, "-rounds": o.rounds, "-events": o.events, "-deaths": o.deaths, "-scopes": o.scopes} {
		if n < 1 {
			return o, fmt.Errorf("%s is %d, it must be at least 1", name, n)
		}
	}
	if o.turn < time.Second {
		return o, fmt.Errorf("-turn is %v, it must be at least 1s: processor time is told in hundredths of a second", o.turn)
	}
	if !slices.ContainsFunc(chosen(o), func(p part) bool { return p.etcd }) {
		o.etcd = nil
	} else if len(o.etcd) == 0 && !o.list {
		return o, errors.New("part " + strings.Join(o.parts, ", ") + " needs an etcd to compare with: -etcd path; make bench builds one, Debian has etcd-server")
	}
	return o, nil
}

func words(list string) []string {
	return slices.DeleteFunc(strings.Split(list, ","), func(w string) bool { return w == "" })
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.list {
		return list(o, out)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("the time of %v is over; -limit sets another", o.limit))
	defer cancel()
	dir, err := os.MkdirTemp("", "scope-registry-bench-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := &report{to: out}
	err = measure(ctx, r, o, dir)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = errors.Join(cause, err)
	}
	return err
}

// besideOthers measures watchers and mirrors of ours, watchers of each etcd, and those of no system at all.
func besideOthers(ctx context.Context, r *report, ours *registry, o options, dir string) (err error) {
	var all []system
	defer func() {
		for _, s := range slices.Backward(all) {
			err = errors.Join(err, s.stop())
		}
	}()
	for i, follows := range []struct {
		way     *committing
		watches bool
		what    string
	}{{ours.throughRESP(), true, ""}, {ours.throughHTTP(), true, ""}, {ours.throughRESP(), false, ", mirrors"}} {
		mirrored, err := newMirrored(ctx, ours, follows.way, firstWatched+i)
		if err != nil {
			return err
		}
		mirrored.watches = follows.watches
		mirrored.by += follows.what
		all = append(all, mirrored)
	}
	etcds, err := startEtcds(ctx, o, dir)
	for _, e := range etcds {
		all = append(all, e)
	}
	if err != nil {
		return err
	}
	b, err := startBare()
	if err != nil {
		return err
	}
	all = append(all, b)
	return mirrors(ctx, r, all, o)
}
