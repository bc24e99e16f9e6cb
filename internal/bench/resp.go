package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// asked is the node that keys are routed as, which has all scopes, and other one that has none of them.
	asked, other = "node-1", "node-2"
	// callers is how many connections ask at once: redis-benchmark's default.
	callers = 50
	// keys is how many keys are asked for, each under a scope of its own.
	keys = 100_000
	// randomKey is a key under scope randomPrefix: redis-benchmark replaces the word by twelve digits, below keys.
	randomPrefix = "app:" + randomWord + ":"
	randomKey    = randomPrefix + "k"
	randomWord   = "__rand_int__"
	// runBound bounds one run of redis-benchmark, which takes some seconds.
	runBound = 2 * time.Minute
)

// depth is how many commands a connection sends before it waits for their answers.
type depth struct {
	pipeline int
	requests int     // of a run: some seconds
	target   float64 // rate, as a share of Redis's
	ours     runs
	redis    runs
}

// runs are what redis-benchmark told of one server at one depth.
type runs struct {
	rates  []float64     // requests a second
	server time.Duration // processor time of the server in all runs
	caller time.Duration // and of redis-benchmark
}

// peer is a server that answers redis-benchmark.
type peer struct {
	addr    string
	pid     int
	command []string // has randomWord in the key
	want    string   // the answer to each
}

// routes asks our leader for verdicts and Redis for values, in turns, with the same program.
func routes(ctx context.Context, r *report, ours *registry, o options, dir string) (err error) {
	if err := declareRoutes(ctx, ours); err != nil {
		return err
	}
	redis, err := startRedis(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, redis.stop()) }()
	peers := [2]peer{
		{addr: ours.resps[ours.leader], pid: ours.group[ours.leader].Pid(), command: []string{"SCOPE", "ROUTE", randomKey, "AS", asked}, want: "+OWNED\r\n"},
		{addr: redis.addr, pid: redis.group[0].Pid(), command: []string{"GET", randomKey}, want: "$5\r\nOWNED\r\n"},
	}
	depths := []*depth{{pipeline: 1, requests: 200_000, target: 0.7}, {pipeline: 16, requests: 1_000_000, target: 0.9}, {pipeline: 64, requests: 2_000_000, target: 1.2}}
	for _, p := range peers {
		if err := p.check(ctx, o.redisBenchmark); err != nil {
			return err
		}
	}
	for round := range o.rounds {
		for _, d := range depths {
			if err := inTurn(round,
				func() error { return peers[0].run(ctx, o.redisBenchmark, d, &d.ours) },
				func() error { return peers[1].run(ctx, o.redisBenchmark, d, &d.redis) }); err != nil {
				return err
			}
		}
	}
	for _, p := range peers { // as it was
		if err := p.check(ctx, o.redisBenchmark); err != nil {
			return err
		}
	}
	if err := writeRoutes(r, depths, o.rounds); err != nil || o.profile == "" {
		return err
	}
	last := depths[len(depths)-1]
	return profiled(ctx, ours.pprofs[ours.leader], o.profile, func() error { return peers[0].run(ctx, o.redisBenchmark, last, &last.ours) })
}

func writeRoutes(r *report, depths []*depth, rounds int) error {
	r.header(fmt.Sprintf("pipeline; requests/s, median of %d rounds (min – max)", rounds), "SCOPE ROUTE … AS", "GET", "ratio of medians", "of each round", "target")
	for _, d := range depths {
		var each []string
		for i, ours := range d.ours.rates {
			each = append(each, fmt.Sprintf("%.2f", ours/d.redis.rates[i]))
		}
		r.row(fmt.Sprint(d.pipeline), d.ours.String(), d.redis.String(),
			fmt.Sprintf("%.2f", quantile(d.ours.rates, 0.5)/quantile(d.redis.rates, 0.5)), strings.Join(each, " "), fmt.Sprint(d.target))
	}
	r.line("")
	r.header("pipeline; processor time per request, µs", "our server", "redis-benchmark beside it", "redis-server", "redis-benchmark beside it")
	for _, d := range depths {
		cells := []string{fmt.Sprint(d.pipeline)}
		for _, spent := range []time.Duration{d.ours.server, d.ours.caller, d.redis.server, d.redis.caller} {
			cells = append(cells, in(spent/time.Duration(rounds), time.Duration(d.requests)*time.Microsecond))
		}
		r.row(cells...)
	}
	return r.err
}

// String is the median with the smallest and the largest.
func (s runs) String() string {
	return fmt.Sprintf("%.0f (%.0f – %.0f)", quantile(s.rates, 0.5), quantile(s.rates, 0), quantile(s.rates, 1))
}

// declareRoutes gives each key a scope, through the leader, which has what it has answered.
func declareRoutes(ctx context.Context, ours *registry) error {
	c := client.New([]string{ours.urls[ours.leader]}, client.WithTimeout(callTime))
	defer c.Close()
	for _, id := range []string{asked, other} {
		if _, err := c.SetNode(ctx, api.Node{ID: id, Addr: "127.0.0.1:1"}); err != nil {
			return err
		}
	}
	// A key whose number was not replaced is refused, which ends redis-benchmark.
	if _, err := c.Declare(ctx, scope.Prefix(randomPrefix), api.Declare{Writer: other}, 0); err != nil {
		return err
	}
	for from := 0; from < keys; from += batchScopes {
		var b api.Batch
		for i := from; i < min(from+batchScopes, keys); i++ {
			b.Scopes = append(b.Scopes, api.Declare{Prefix: replaced(randomPrefix, i), Writer: asked})
		}
		if _, err := c.Apply(ctx, b); err != nil {
			return fmt.Errorf("declaring %d scopes from %d on: %w", len(b.Scopes), from, err)
		}
	}
	return nil
}

// replaced is a text as redis-benchmark sends it.
func replaced(text string, i int) string {
	return strings.ReplaceAll(text, randomWord, fmt.Sprintf("%012d", i))
}

// check asks for each key once and compares the answers, and then for the one that is refused: a redis-benchmark
// that goes on after an error would count errors, which are fast.
func (p peer) check(ctx context.Context, program string) error {
	if err := ask(ctx, p.addr, p.command, p.want); err != nil {
		return err
	}
	_, _, err := p.benchmark(ctx, program, "-n", "1", "-c", "1")
	if err == nil {
		return fmt.Errorf("%s goes on after an error of the server at %s: use one of Redis 7 or later", program, p.addr)
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		return err // it could not be tried
	}
	return nil
}

// inTurn runs two measurements, one after the other: which goes first alternates by round, as the second one finds a machine
// that the first has warmed up, or slowed down.
func inTurn(round int, one, other func() error) error {
	if round%2 == 1 {
		one, other = other, one
	}
	if err := one(); err != nil {
		return err
	}
	return other()
}

// run measures once.
func (p peer) run(ctx context.Context, program string, d *depth, into *runs) error {
	before, err := processorTime(p.pid)
	if err != nil {
		return err
	}
	rate, spent, err := p.benchmark(ctx, program, "-n", strconv.Itoa(d.requests), "-P", strconv.Itoa(d.pipeline), "-c", strconv.Itoa(callers), "-r", strconv.Itoa(keys))
	if err != nil {
		return err
	}
	after, err := processorTime(p.pid)
	into.rates = append(into.rates, rate)
	into.server += after - before
	into.caller += spent
	return err
}

// benchmark runs redis-benchmark and returns its requests per second, and the processor time that it took itself.
func (p peer) benchmark(ctx context.Context, program string, flags ...string) (rate float64, spent time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, runBound)
	defer cancel()
	host, port, _ := strings.Cut(p.addr, ":")
	args := append([]string{"-h", host, "-p", port, "--csv"}, flags...)
	cmd := exec.CommandContext(ctx, program, append(args, p.command...)...)
	var said, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &errs
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("%s at %s: %w: %s", program, strings.Join(p.command, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	rate, err = csvRate(said.String())
	return rate, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}

// csvRate is the requests per second of what redis-benchmark prints: a line of names and one of values.
func csvRate(said string) (float64, error) {
	lines, err := csv.NewReader(strings.NewReader(said)).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("redis-benchmark printed %q: %w", said, err)
	}
	if len(lines) != 2 || len(lines[0]) < 2 || lines[0][1] != "rps" {
		return 0, fmt.Errorf("redis-benchmark printed %q, not a line of names with rps as the second and a line of values", said)
	}
	return strconv.ParseFloat(lines[1][1], 64)
}

// processorTime is what a process has taken so far, with all its threads, to a hundredth of a second.
func processorTime(pid int) (time.Duration, error) {
	const tick = 10 * time.Millisecond // of Linux's USER_HZ, the same on every machine
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w; only Linux tells it", pid, err)
	}
	_, rest, _ := strings.Cut(string(data), ") ") // behind the name, which may have spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("processor time of process %d: %d fields behind its name, want 13 at least", pid, len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}
