package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/scope-registry/scope-registry/scope"
)

const (
	// tableChanged is how many changes of each kind are timed.
	tableChanged = 100_000
	// together is how many of them follow each other before the other structure has its turn.
	together = 25_000
)

// both are the two structures, changed alike; each change makes a new version.
type both struct {
	table scope.Table
	tree  rival
}

// tableChanges times single changes of a table and of a radix tree of a million scopes.
func tableChanges(ctx context.Context, r *report) error {
	gen := generator{rng: rand.New(rand.NewPCG(4, 4)), draw: dotted}
	c := gen.crowd(1_000_000 + 2*tableChanged)
	fresh := c.prefixes[1_000_000:]
	c.prefixes = c.prefixes[:1_000_000]
	table, tree, err := c.build()
	if err != nil {
		return err
	}
	x := &both{table, tree}
	r.line("\nSingle changes of a million scopes, %d of each kind, in turns of %d. Without collections, none ran in a turn; with them, the "+
		"collector's pauses and what changes have to help it are in the figures.\n", tableChanged, together)
	r.header("change, µs", "collections", "table: mean", "p99", "worst (target: 1000)", "radix: mean", "worst", "mean, table / radix (target: 3)")
	for i, collect := range []bool{false, true} {
		if err := x.measure(ctx, r, collect, fresh[i*tableChanged:][:tableChanged], c.prefixes[i*tableChanged:][:tableChanged]); err != nil {
			return err
		}
	}
	return r.err
}

// measure declares fresh scopes, replaces old ones and retires the fresh.
func (x *both) measure(ctx context.Context, r *report, collect bool, fresh, old []string) error {
	for _, k := range []struct {
		name      string
		of        []string
		ours, his func(p string) error
	}{
		{"declare", fresh, x.declare, func(p string) error { return x.insert(p, false) }},
		{"replace", old, x.replace, func(p string) error { return x.insert(p, true) }},
		{"retire", fresh, x.retire, x.remove},
	} {
		ours, his, err := inTurns(ctx, collect, k.of, k.ours, k.his)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		us := func(d time.Duration) string { return in(d, time.Microsecond) }
		r.row(k.name, map[bool]string{true: "yes", false: "no"}[collect], us(ours.mean()), us(ours.at(0.99)), us(ours.at(1)), us(his.mean()), us(his.at(1)),
			fmt.Sprintf("**%.2g**", float64(ours.mean())/float64(his.mean())))
	}
	return r.err
}

func (x *both) declare(p string) (err error) {
	x.table, err = x.table.With(scope.New(p, "node-2"))
	return err
}

func (x *both) replace(p string) error {
	var held bool
	x.table, held = x.table.Replace(scope.New(p, "node-3"))
	return expected(p, held, true)
}

func (x *both) retire(p string) error {
	n := x.table.Len()
	x.table = x.table.Without(scope.Prefix(p))
	return expected(p, x.table.Len() < n, true)
}

func (x *both) insert(p string, had bool) error {
	s := scope.New(p, "node-2")
	var held bool
	x.tree, _, held = x.tree.Insert([]byte(p), &s)
	return expected(p, held, had)
}

func (x *both) remove(p string) error {
	var held bool
	x.tree, _, held = x.tree.Delete([]byte(p))
	return expected(p, held, true)
}

func expected(p string, held, want bool) error {
	if held != want {
		return fmt.Errorf("prefix %q was held: %v, which should be %v", p, held, want)
	}
	return nil
}

// inTurns times each change of two structures, which have turns.
func inTurns(ctx context.Context, collect bool, of []string, ours, his func(string) error) (a, b sample, err error) {
	for len(of) > 0 {
		n := min(together, len(of))
		for _, side := range []struct {
			times *sample
			do    func(string) error
		}{{&a, ours}, {&b, his}} {
			if err := timeEach(ctx, collect, of[:n], side.times, side.do); err != nil {
				return nil, nil, err
			}
		}
		of = of[n:]
	}
	return a, b, nil
}

func timeEach(ctx context.Context, collect bool, of []string, times *sample, do func(string) error) error {
	runtime.GC()
	if !collect {
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
	}
	for _, p := range of {
		began := time.Now()
		if err := do(p); err != nil {
			return err
		}
		*times = append(*times, time.Since(began))
	}
	return ctx.Err()
}

func (s sample) mean() time.Duration {
	var sum time.Duration
	for _, d := range s {
		sum += d
	}
	return sum / time.Duration(max(1, len(s)))
}
