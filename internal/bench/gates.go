package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/process"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// gateValue is the length of the values that part gate writes.
	gateValue = 64
	// loadConns share the half load, and loadTime is how long each turn of it lasts.
	loadConns = 16
	loadTime  = 2 * time.Second
	// gateGrace is short, so that a scope may come back.
	gateGrace = 100 * time.Millisecond
)

// gated is a Redis with a gate before it.
type gated struct {
	*redis
	gate group
	id   string
	addr string // the gate's
}

func startGated(ctx context.Context, ours *registry, o options, dir, id string) (*gated, error) {
	dir = filepath.Join(dir, id)
	r, err := startRedisIn(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	g := &gated{redis: r, id: id}
	addrs, err := freeport.Addrs(1)
	if err == nil {
		g.addr = addrs[0]
		err = g.gate.start(dir, "gate", o.bin, "gate", "--node", id, "--listen", g.addr, "--upstream", g.redis.addr, "--data-dir", filepath.Join(dir, "gate"),
			"--endpoints", strings.Join(ours.urls, ","), "--grace", gateGrace.String(), "--log-level", "warn")
	}
	if err == nil {
		c := client.New(ours.urls)
		defer c.Close()
		err = g.gate.wait(ctx, "the gate's session", func(ctx context.Context) error {
			n, err := c.Node(ctx, id)
			if err == nil && n.Session == nil {
				err = fmt.Errorf("node %s has no session", id)
			}
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(err, g.stop())
	}
	return g, nil
}

func (g *gated) stop() error { return errors.Join(g.gate.stop(), g.redis.stop()) }

// owns declares a scope as the gate's, and waits until a key of it is written.
func (g *gated) owns(ctx context.Context, ours *registry, p string) error {
	c := client.New(ours.urls)
	defer c.Close()
	if _, err := c.Declare(ctx, scope.Prefix(p), api.Declare{Writer: g.id}, 0); err != nil {
		return err
	}
	return g.gate.wait(ctx, "a write of "+p, func(ctx context.Context) error {
		return exchange(ctx, g.addr, 1, func(int) []string { return []string{"SET", p + "first", "x"} }, "+OK\r\n")
	})
}

// gateCase is what is asked at a depth.
type gateCase struct {
	name     string
	command  []string
	pipeline int
	requests int
	target   float64 // as a share of Redis's own
	gate     runs
	direct   runs
}

func gateCases() []*gateCase {
	set, get := []string{"SET", randomKey, strings.Repeat("x", gateValue)}, []string{"GET", randomKey}
	return []*gateCase{
		{name: "SET", command: set, pipeline: 32, requests: 1_000_000, target: 0.8}, {name: "GET", command: get, pipeline: 32, requests: 1_000_000, target: 0.8},
		{name: "SET", command: set, pipeline: 1, requests: 100_000, target: 0.5}, {name: "GET", command: get, pipeline: 1, requests: 100_000, target: 0.5},
	}
}

// gateRates asks one Redis through its gate and directly, in turns, with the same program.
func gateRates(ctx context.Context, r *report, ours *registry, o options, dir string) (err error) {
	g, err := startGated(ctx, ours, o, dir, "gate-1")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	if err := g.owns(ctx, ours, "app:"); err != nil {
		return err
	}
	cases := gateCases()
	for round := range o.rounds {
		for _, c := range cases {
			d := &depth{pipeline: c.pipeline, requests: c.requests}
			if err := inTurn(round,
				func() error {
					return peer{addr: g.addr, pid: g.gate[0].Pid(), command: c.command}.run(ctx, o.redisBenchmark, d, &c.gate)
				},
				func() error {
					return peer{addr: g.redis.addr, pid: g.redis.group[0].Pid(), command: c.command}.run(ctx, o.redisBenchmark, d, &c.direct)
				}); err != nil {
				return err
			}
		}
	}
	writeGateRates(r, cases, o.rounds)
	return gateLatency(ctx, r, g, quantile(cases[2].gate.rates, 0.5)/2, o.rounds)
}

func writeGateRates(r *report, cases []*gateCase, rounds int) {
	r.heading(fmt.Sprintf("A Redis through its gate and directly, redis-benchmark, %d connections, values of %d bytes, %d keys", callers, gateValue, keys))
	r.header(fmt.Sprintf("requests/s, median of %d rounds (min – max)", rounds), "through the gate", "directly", "ratio of medians", "of each round", "target")
	for _, c := range cases {
		var each []string
		for i, rate := range c.gate.rates {
			each = append(each, fmt.Sprintf("%.2f", rate/c.direct.rates[i]))
		}
		r.row(fmt.Sprintf("%s, pipeline %d", c.name, c.pipeline), c.gate.String(), c.direct.String(),
			fmt.Sprintf("%.2f", quantile(c.gate.rates, 0.5)/quantile(c.direct.rates, 0.5)), strings.Join(each, " "), fmt.Sprint(c.target))
	}
	r.line("")
	r.header("processor time per request, µs", "the gate", "redis-benchmark beside it", "redis-server, asked directly", "redis-benchmark beside it")
	for _, c := range cases {
		cells := []string{fmt.Sprintf("%s, pipeline %d", c.name, c.pipeline)}
		for _, spent := range []time.Duration{c.gate.server, c.gate.caller, c.direct.server, c.direct.caller} {
			cells = append(cells, in(spent/time.Duration(rounds), time.Duration(c.requests)*time.Microsecond))
		}
		r.row(cells...)
	}
}

// gateLatency measures what the gate adds where nobody has to wait for another: half of what it can do at pipeline 1.
func gateLatency(ctx context.Context, r *report, g *gated, rate float64, rounds int) error {
	var through, direct sample
	measure := func(addr string, into *sample) func() error {
		return func() error {
			got, err := load(ctx, addr, rate)
			*into = append(*into, got...)
			return err
		}
	}
	for round := range rounds {
		if err := inTurn(round, measure(g.addr, &through), measure(g.redis.addr, &direct)); err != nil {
			return err
		}
	}
	r.heading(fmt.Sprintf("SET at half load, %.0f requests a second over %d connections", rate, loadConns))
	r.samples("what", "µs")
	r.sampleRow("through the gate", through, time.Microsecond)
	r.sampleRow("directly", direct, time.Microsecond)
	r.line("")
	r.line("Added at p50: %s µs (target: 100 where a core is free).", in(through.median()-direct.median(), time.Microsecond))
	return r.err
}

// load sends SETs at a rate, one at a time on each connection, and returns how long each took.
func load(ctx context.Context, addr string, rate float64) (all sample, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	var mu sync.Mutex // guards all and err
	var callers sync.WaitGroup
	for range loadConns {
		callers.Go(func() {
			got, failed := caller(ctx, addr, time.Duration(float64(time.Second)*loadConns/rate))
			mu.Lock()
			defer mu.Unlock()
			all, err = append(all, got...), errors.Join(err, failed)
		})
	}
	callers.Wait()
	return all, err
}

func caller(ctx context.Context, addr string, every time.Duration) (took sample, err error) {
	c, err := dialStore(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	value := strings.Repeat("x", gateValue)
	next := time.Now()
	for i := 0; ; i++ {
		next = next.Add(every)
		if process.Sleep(ctx, time.Until(next)) != nil {
			return took, nil
		}
		began := time.Now()
		if said, err := c.ask("SET", replaced(randomKey, i%keys), value); err != nil || said != "+OK" {
			return took, fmt.Errorf("%s answered %q: %w", addr, said, err)
		}
		took = append(took, time.Since(began))
	}
}

// storeConn is a connection to a store or its gate.
type storeConn struct {
	net.Conn
	in *bufio.Reader
}

func dialStore(ctx context.Context, addr string) (*storeConn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &storeConn{c, bufio.NewReader(c)}, nil
}

// ask sends a command and returns the first line of the answer, which must be all of it.
func (c *storeConn) ask(args ...string) (string, error) {
	b := append([]byte{'*'}, strconv.Itoa(len(args))...)
	for _, a := range args {
		b = fmt.Appendf(b, "\r\n$%d\r\n%s", len(a), a)
	}
	if _, err := c.Write(append(b, "\r\n"...)); err != nil {
		return "", err
	}
	line, err := c.in.ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimRight(line, "\r\n"), err
}
