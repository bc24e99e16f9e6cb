package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/scope"
)

const (
	// tableChanged is how many changes of each kind are timed.
	tableChanged = 100_000
	// together is how many of them follow each other before the other structure has its turn.
	together = 25_000
	// repeats is how often each is made, of the same version.
	repeats = 5
)

// both are the two structures, changed alike; each change makes a new version.
type both struct {
	table  scope.Table
	tree   rival
	copied []*scope.Scope // by what is compared with changes
}

// times are those of many changes by the clock, the worst of all of them in each repeat, and of each change the least of its
// repeats: what the machine, the collector and the allocator do at times does not hit the same change each time, and what the
// change itself takes long for does.
type times struct {
	all, least sample
	worst      [repeats]time.Duration
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
	x := &both{table: table, tree: tree}
	others := "Other programs cannot take its processor away meanwhile (SCHED_FIFO)"
	if !mayBeRealTime() {
		others = "Other programs may have had its processor meanwhile, as real-time priority takes an administrator"
	}
	r.line("\nSingle changes of a million scopes, %d of each kind, in turns of %d, each made %d times of the same version. Without collections, none ran in a turn; "+
		"with them, the collector's pauses and what changes have to help it are in the figures. *Worst* is that of all %d in each repeat: median (least – most). *By itself* is the worst where the least of its times counts for each change: "+
		"what else the machine does seldom hits the same one each time. *The same memory* is a loop that allocates and copies as much, in as many pieces, and does nothing else. %s.\n",
		tableChanged, together, repeats, tableChanged, others)
	r.header("change, µs", "collections", "table: mean", "worst (target: 1000)", "by itself", "the same memory: mean", "worst", "by itself",
		"radix: mean", "worst", "by itself", "mean, table / radix (target: 3)")
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
		ours, his func(x *both, p string) error
	}{
		{"declare", fresh, (*both).declare, func(x *both, p string) error { return x.insert(p, false) }},
		{"replace", old, (*both).replace, func(x *both, p string) error { return x.insert(p, true) }},
		{"retire", fresh, (*both).retire, (*both).remove},
	} {
		same, err := x.sameMemory(k.of, k.ours)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		took, err := x.inTurns(ctx, collect, k.of, k.ours, same, k.his)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		us := func(d time.Duration) string { return in(d, time.Microsecond) }
		cells := []string{k.name, map[bool]string{true: "yes", false: "no"}[collect]}
		for _, s := range took {
			cells = append(cells, us(s.all.mean()), s.worsts(), us(s.least.at(1)))
		}
		r.row(append(cells, fmt.Sprintf("**%.2g**", float64(took[0].all.mean())/float64(took[2].all.mean())))...)
	}
	return r.err
}

// sameMemory returns what allocates and copies as much as a change does on average, and nothing else: the floor of what
// is measured beside it. It is found out with changes of a version that nobody keeps.
func (x *both) sameMemory(of []string, do func(*both, string) error) (func(*both, string) error, error) {
	trial := *x
	of = of[:len(of)/100]
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, p := range of {
		if err := do(&trial, p); err != nil {
			return nil, err
		}
	}
	runtime.ReadMemStats(&after)
	objects := after.Mallocs - before.Mallocs
	size := (after.TotalAlloc - before.TotalAlloc) / objects / 8
	from := make([]*scope.Scope, size)
	return func(x *both, _ string) error {
		for range objects / uint64(len(of)) {
			x.copied = slices.Clone(from)
		}
		return nil
	}, nil
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

// inTurns times each change of several structures, which have turns.
func (x *both) inTurns(ctx context.Context, collect bool, of []string, sides ...func(*both, string) error) ([]times, error) {
	took := make([]times, len(sides))
	for len(of) > 0 {
		n := min(together, len(of))
		for i, do := range sides {
			if err := x.timeEach(ctx, collect, of[:n], &took[i], do); err != nil {
				return nil, err
			}
		}
		of = of[n:]
	}
	return took, nil
}

func (x *both) timeEach(ctx context.Context, collect bool, of []string, took *times, do func(*both, string) error) error {
	if !collect {
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
	}
	before, least := *x, make(sample, len(of))
	for k := range repeats {
		*x = before
		runtime.GC()
		all := make(sample, len(of))
		if err := atRealTime(func() error { return x.timed(of, do, all) }); err != nil {
			return err
		}
		took.all = append(took.all, all...)
		took.worst[k] = max(took.worst[k], slices.Max(all))
		for i, d := range all {
			if least[i] == 0 || d < least[i] {
				least[i] = d
			}
		}
	}
	took.least = append(took.least, least...)
	return ctx.Err()
}

// timed changes with each of these prefixes, and notes how long each change took.
func (x *both) timed(of []string, do func(*both, string) error, took sample) error {
	for i, p := range of {
		began := time.Now()
		if err := do(x, p); err != nil {
			return err
		}
		took[i] = time.Since(began)
	}
	return nil
}

// worsts are those of the repeats, in microseconds.
func (t *times) worsts() string {
	var of []float64
	for _, d := range t.worst {
		of = append(of, float64(d)/float64(time.Microsecond))
	}
	return spreadOf(of, "%.0f")
}

func (s sample) mean() time.Duration {
	var sum time.Duration
	for _, d := range s {
		sum += d
	}
	return sum / time.Duration(max(1, len(s)))
}
