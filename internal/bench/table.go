package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/scope-registry/scope-registry/scope"
)

const (
	// tableRounds is how often each look-up is measured, in turns.
	tableRounds = 5
	// chaseBytes is what the pointer chase goes through: more than a cache holds.
	chaseBytes = 256 << 20
	// cacheLine is how far two places are apart that do not share one.
	cacheLine = 64
	// lengthScopes is how many scopes the tables of many lengths have.
	lengthScopes = 100_000
)

// rival is the structure that the table is measured against.
type rival = *iradix.Tree[*scope.Scope]

// looked is one way to look keys up; it returns how many were found.
type looked struct {
	name string
	run  func(*questions) int
}

// inTable measures the ownership table in this process beside go-immutable-radix: no server takes part.
func inTable(ctx context.Context, r *report) error {
	r.line("Look-ups of one goroutine, nine of ten keys under a scope, ns; median (min to max) of %d turns.\n", tableRounds)
	r.header("scopes", "table", "… and its record", "radix", "radix / table", "target", "one cache miss", "table / miss")
	chase := newChase()
	for _, c := range []struct {
		scopes, keys int
		target       string
	}{{10, 1 << 16, "–"}, {1000, 1 << 17, "2"}, {100_000, 1 << 18, "5"}, {1_000_000, 1 << 19, "7; miss at most 2"}} {
		gen := generator{rng: rand.New(rand.NewPCG(1, uint64(c.scopes))), draw: dotted}
		if err := lookups(ctx, r, gen.crowd(c.scopes), c.keys, c.target, chase); err != nil {
			return err
		}
	}
	r.line("")
	r.header("prefix lengths", "prefixes", "table", "… and its record", "radix", "radix / table", "target")
	for _, n := range []int{64, 512} {
		for _, shape := range []string{"end in a colon", "end in any letter"} {
			gen := generator{rng: rand.New(rand.NewPCG(2, uint64(n))), draw: ofLengths(n, shape == "end in a colon")}
			if err := lookupsOfLengths(ctx, r, gen.crowd(lengthScopes), n, shape); err != nil {
				return err
			}
		}
	}
	if err := tableMemory(r); err != nil {
		return err
	}
	return tableChanges(ctx, r)
}

func lookups(ctx context.Context, r *report, c declared, keys int, target string, chase *chase) error {
	took, err := c.measure(ctx, keys, looked{"one cache miss", chase.run})
	if err != nil {
		return err
	}
	table, record, radix, miss := took[0], took[1], took[2], took[3]
	r.row(fmt.Sprint(len(c.prefixes)), span(table), span(record), span(radix), ratioOf(radix, table), target, span(miss), ratioOf(table, miss))
	return r.err
}

func lookupsOfLengths(ctx context.Context, r *report, c declared, n int, shape string) error {
	took, err := c.measure(ctx, 1<<17)
	if err != nil {
		return err
	}
	r.row(fmt.Sprint(n), fmt.Sprintf("%d, %s", len(c.prefixes), shape), span(took[0]), span(took[1]), span(took[2]), ratioOf(took[2], took[0]), "0.5")
	return r.err
}

// measure asks both structures, and others, the same keys in turns, and returns what a key took in each turn, in ns.
func (c declared) measure(ctx context.Context, keys int, others ...looked) ([][]float64, error) {
	table, tree, err := c.build()
	if err != nil {
		return nil, err
	}
	q := c.ask(keys)
	runtime.GC() // what building has left would be collected beside the first turns
	all := append([]looked{{"table", inScopes(table)}, {"its record", ofRecords(table)}, {"radix", inRadix(tree)}}, others...)
	took := make([][]float64, len(all))
	for range tableRounds {
		for i, l := range all {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			began := time.Now()
			found := l.run(q)
			took[i] = append(took[i], float64(time.Since(began).Nanoseconds())/float64(keys))
			if found != q.hits {
				return nil, fmt.Errorf("%s finds %d of %d keys, %d are under a scope", l.name, found, keys, q.hits)
			}
		}
	}
	return took, nil
}

func inScopes(t scope.Table) func(*questions) int {
	return func(q *questions) (found int) {
		for i := range q.ends {
			if _, ok := t.Lookup(q.key(i)); ok {
				found++
			}
		}
		return found
	}
}

// ofRecords reads the records too, as a verdict does.
func ofRecords(t scope.Table) func(*questions) int {
	return func(q *questions) (found int) {
		for i := range q.ends {
			if t.Route(q.key(i), "node-1").Verdict != scope.Unknown {
				found++
			}
		}
		return found
	}
}

func inRadix(t rival) func(*questions) int {
	return func(q *questions) (found int) {
		root := t.Root()
		for i := range q.ends {
			if _, _, ok := root.LongestPrefix(q.key(i)); ok {
				found++
			}
		}
		return found
	}
}

// build declares the same scopes in both.
func (c declared) build() (scope.Table, rival, error) {
	var b scope.TableBuilder
	tx := iradix.New[*scope.Scope]().Txn()
	for _, p := range slices.Sorted(slices.Values(c.prefixes)) {
		s, err := b.Add(scope.New(p, "node-1"))
		if err != nil {
			return scope.Table{}, nil, err
		}
		tx.Insert([]byte(p), s)
	}
	return b.Table(), tx.Commit(), nil
}

// chase is a walk in which each step has to wait for the memory of the one before: the floor of whatever is not in a
// cache.
type chase struct {
	next []uint32 // of each place, one in a cache line
	at   uint32
}

func newChase() *chase {
	const step = cacheLine / 4
	c := &chase{next: make([]uint32, chaseBytes/4)}
	places := len(c.next) / step
	order := make([]uint32, places)
	for i := range order {
		order[i] = uint32(i * step)
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for i := places - 1; i > 0; i-- { // one cycle through all (Sattolo)
		j := rng.IntN(i)
		order[i], order[j] = order[j], order[i]
	}
	for i, at := range order {
		c.next[i*step] = at
	}
	return c
}

// run does as many steps as there are keys; it "finds" what it should.
func (c *chase) run(q *questions) int {
	at := c.at
	for range q.ends {
		at = c.next[at]
	}
	c.at = at
	return q.hits
}

// span is the median of figures, with the least and the greatest.
func span(s []float64) string {
	return fmt.Sprintf("%.3g (%.3g to %.3g)", quantile(s, 0.5), quantile(s, 0), quantile(s, 1))
}

// ratioOf is the span of a/b, turn by turn.
func ratioOf(a, b []float64) string {
	all := make([]float64, len(a))
	for i := range a {
		all[i] = a[i] / b[i]
	}
	return "**" + fmt.Sprintf("%.2g", quantile(all, 0.5)) + "**" + fmt.Sprintf(" (%.2g to %.2g)", quantile(all, 0), quantile(all, 1))
}

// tableMemory measures what the table takes of the heap, with records and prefixes.
func tableMemory(r *report) error {
	gen := generator{rng: rand.New(rand.NewPCG(1, 1_000_000)), draw: dotted}
	c := gen.crowd(1_000_000)
	slices.Sort(c.prefixes)
	own := func(p string) scope.Scope { return scope.New(string([]byte(p)), "node-1") }
	r.line("")
	r.header("heap of a million scopes with their records (target: 200 B)", "B a scope")
	for _, ordered := range []bool{true, false} {
		before := heap()
		var t scope.Table
		var err error
		what := "loaded"
		if ordered {
			var b scope.TableBuilder
			for _, p := range c.prefixes {
				if _, e := b.Add(own(p)); e != nil {
					err = errors.Join(err, e)
				}
			}
			t = b.Table()
		} else {
			what = "declared one by one in a random order"
			for _, i := range gen.rng.Perm(len(c.prefixes)) {
				var e error
				if t, e = t.With(own(c.prefixes[i])); e != nil {
					err = errors.Join(err, e)
				}
			}
		}
		if err != nil {
			return err
		}
		r.row(what, fmt.Sprint((heap()-before)/uint64(t.Len())))
		runtime.KeepAlive(t)
	}
	runtime.KeepAlive(c)
	bytes := 0
	for _, p := range c.prefixes {
		bytes += len(p)
	}
	r.row("of which bytes of the prefixes, before the allocator rounds them", fmt.Sprintf("%.1f", float64(bytes)/float64(len(c.prefixes))))
	return r.err
}
