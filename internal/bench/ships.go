package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	shipPrefix = "ship:"
	shipKeys   = 100_000
	shipValue  = 100 // bytes of each
	// shipWrites is how many keys a second are written while the scope moves.
	shipWrites = 1000
	// shipMoves is how often the scope moves, back and forth.
	shipMoves = 20
	// shipTime bounds a move and the deletion of the old copy.
	shipTime = time.Minute
)

func shipKey(i int) string { return fmt.Sprintf("%s%06d", shipPrefix, i) }

// ships moves a scope of many keys back and forth between two gates, while it is written.
func ships(ctx context.Context, r *report, ours *registry, o options, dir string) (err error) {
	var both [2]*gated
	defer func() {
		for _, g := range both {
			if g != nil {
				err = errors.Join(err, g.stop())
			}
		}
	}()
	for i := range both {
		if both[i], err = startGated(ctx, ours, o, dir, fmt.Sprintf("ship-%d", i+1)); err != nil {
			return err
		}
	}
	if err := both[0].owns(ctx, ours, shipPrefix); err != nil {
		return err
	}
	value := strings.Repeat("v", shipValue)
	if err := exchange(ctx, both[0].addr, shipKeys, func(i int) []string { return []string{"SET", shipKey(i), value} }, "+OK\r\n"); err != nil {
		return err
	}
	c := client.New(ours.urls)
	defer c.Close()
	writing, stop := context.WithCancel(ctx)
	defer stop()
	wrote := make(chan written, 1)
	go func() { wrote <- writeBoth(writing, both, value) }()
	var quiesced, shipped, flipped, copied sample
	var rates []float64
	for i := range shipMoves {
		m, err := shipOnce(ctx, c, both[i%2].id, both[(i+1)%2].id, i)
		if err != nil {
			return err
		}
		quiesced = append(quiesced, time.Duration(m.QuiescedMS)*time.Millisecond)
		shipped, flipped = append(shipped, phaseTook(m, "quiescing")), append(flipped, phaseTook(m, "shipped"))
		took := phaseTook(m, "copying")
		copied, rates = append(copied, took), append(rates, shipKeys/took.Seconds())
	}
	stop()
	w := <-wrote
	if w.err != nil {
		return w.err
	}
	r.heading(fmt.Sprintf("A scope of %d keys of %d bytes moves %d times between two gates, at %d writes a second", shipKeys, shipValue, shipMoves, shipWrites))
	r.samples("what", "ms")
	r.sampleRow("copied while it is written, all passes", copied, time.Millisecond)
	r.sampleRow("closed, as the registry records it (target: p50 100, max 500)", quiesced, time.Millisecond)
	r.sampleRow("… the closing → shipped: the last writes, what has changed since the last pass", shipped, time.Millisecond)
	r.sampleRow("… shipped → the flip: the target compares, marks and syncs", flipped, time.Millisecond)
	r.sampleRow("a write, with its waits for moves", w.took, time.Millisecond)
	r.line("")
	r.line("Shipped: %.0f keys a second (median; %.0f – %.0f), all passes counted as one (target: 80,000). Written meanwhile: %d keys, %.0f a second.",
		quantile(rates, 0.5), slices.Min(rates), slices.Max(rates), len(w.took), float64(len(w.took))/w.over.Seconds())
	return r.err
}

// phaseTook is how long a move was in a phase, by the leader's clock, a millisecond at least.
func phaseTook(m api.Move, phase string) time.Duration {
	for i, s := range m.Stamps {
		if s.Phase == phase && i+1 < len(m.Stamps) {
			return max(1, time.Duration(m.Stamps[i+1].TimeMS-s.TimeMS)) * time.Millisecond
		}
	}
	return time.Millisecond
}

// shipOnce moves the scope, and waits until the old copy is gone.
func shipOnce(ctx context.Context, c *client.Client, from, to string, n int) (api.Move, error) {
	ctx, cancel := context.WithTimeout(ctx, shipTime)
	defer cancel()
	id := fmt.Sprintf("ship-%d", n)
	if _, err := c.StartMove(ctx, api.StartMove{ID: id, Prefix: shipPrefix, From: from, To: to, PreCopy: true}); err != nil {
		return api.Move{}, err
	}
	m, err := c.Move(ctx, id, shipTime/2)
	if err != nil {
		return m, err
	}
	if m.Phase != "done" {
		return m, fmt.Errorf("move %s is %s: %s %s", id, m.Phase, m.Cause, m.Detail)
	}
	done := m
	for m.Cleanup == "pending" {
		if err := process.Sleep(ctx, pollEvery); err != nil {
			return m, fmt.Errorf("the old copy of move %s is not deleted: %w", id, err)
		}
		if m, err = c.Move(ctx, id, 0); err != nil {
			return m, err
		}
	}
	return done, nil
}

// written is what became of the writes beside the moves.
type written struct {
	took sample
	over time.Duration
	err  error
}

// writeBoth writes at a steady rate to whichever gate takes it.
func writeBoth(ctx context.Context, both [2]*gated, value string) (w written) {
	var conns [2]*storeConn
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	for i, g := range both {
		c, err := dialStore(ctx, g.addr)
		if err != nil {
			return written{err: err}
		}
		conns[i] = c
	}
	began, at := time.Now(), 0
	defer func() { w.over = time.Since(began) }()
	next := began
	for i := 0; ; i++ {
		next = next.Add(time.Second / shipWrites)
		if process.Sleep(ctx, time.Until(next)) != nil {
			return w
		}
		start := time.Now()
		for {
			said, err := conns[at].ask("SET", shipKey(i*7919%shipKeys), value)
			if err != nil {
				return written{err: err}
			}
			if said == "+OK" {
				break
			}
			if !strings.HasPrefix(said, "-MISDIRECTED") && !strings.HasPrefix(said, "-QUIESCED") && !strings.HasPrefix(said, "-LEASE_LOST") {
				return written{err: fmt.Errorf("%s answered %q", both[at].addr, said)}
			}
			if at = 1 - at; process.Sleep(ctx, time.Millisecond) != nil {
				return w
			}
		}
		w.took = append(w.took, time.Since(start))
	}
}
