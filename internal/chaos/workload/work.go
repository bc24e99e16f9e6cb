package workload

import (
	"context"
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// How a client spends its time, in percent of its actions. Reads are what is left.
const (
	declares = 34
	moves    = 36
	retires  = 3
	tidies   = 5
)

// work does one thing after the other until it shall end.
func (c *client) work(ctx context.Context) {
	for c.think(ctx, 20*time.Millisecond, 120*time.Millisecond) {
		prefix := c.prefixes[c.rng.IntN(len(c.prefixes))]
		b, known := c.believes[prefix]
		if !known {
			c.read(ctx, history.Read, prefix)
			continue
		}
		switch p := c.rng.IntN(100); {
		case !b.declared:
			c.create(ctx, prefix)
		case p < declares:
			c.change(ctx, prefix, b)
		case p < declares+moves:
			c.move(ctx, prefix, b)
		case p < declares+moves+retires:
			if c.retire(ctx, prefix, b.epoch).Outcome == history.OK {
				c.believes[prefix] = belief{owner: b.owner}
			} else {
				delete(c.believes, prefix)
			}
		case p < declares+moves+retires+tidies:
			c.tidy(ctx, prefix)
		default:
			c.read(ctx, history.Read, prefix)
		}
	}
}

// readOnly reads one scope after the other. Clients that change something may
// be kept waiting for as long as a fault lasts; these notice every one.
func (c *client) readOnly(ctx context.Context, kind history.Kind) {
	for c.think(ctx, 40*time.Millisecond, 160*time.Millisecond) {
		c.read(ctx, kind, c.prefixes[c.rng.IntN(len(c.prefixes))])
	}
}

// create declares a scope that is not declared. After a retire only its last
// owner may be the writer; another one is tried now and then, to be refused.
func (c *client) create(ctx context.Context, prefix string) {
	writer := c.believes[prefix].owner
	if writer == "" || c.chance(10) {
		writer = store(c.rng.IntN(stores))
	}
	delete(c.believes, prefix)
	if op := c.declare(ctx, prefix, writer, c.fallback(writer), 0); op.Outcome == history.OK {
		c.believes[prefix] = belief{declared: true, owner: writer, fallback: op.Arg.Fallback, epoch: op.Got.Epoch}
	}
}

// fallback picks one: mostly a plain value, sometimes a node that scopes move to.
func (c *client) fallback(writer string) string {
	if f := store(c.rng.IntN(stores)); f != writer && c.chance(15) {
		return f
	}
	return value(c.rng.IntN(values))
}

// change sets another fallback, by compare-and-set on the epoch it believes in.
func (c *client) change(ctx context.Context, prefix string, b belief) {
	op := c.declare(ctx, prefix, b.owner, c.fallback(b.owner), b.epoch)
	if op.Outcome == history.OK {
		b.fallback = op.Arg.Fallback
		c.believes[prefix] = b
		return
	}
	delete(c.believes, prefix)
	if op.Code == api.CleanupPending && c.chance(60) || op.Code == api.MoveInFlight && c.chance(15) {
		c.tidy(ctx, prefix)
	}
}

// move takes a scope to another node, or ends on the way.
func (c *client) move(ctx context.Context, prefix string, b belief) {
	delete(c.believes, prefix)
	c.moves++
	a := history.Arg{Move: fmt.Sprintf("mv-%s-%d", c.name, c.moves), From: b.owner, To: store(c.rng.IntN(stores)),
		PreCopy: c.chance(30), Manifest: fmt.Sprintf("m%d", c.rng.IntN(1000))}
	if c.chance(60) {
		a.Epoch = b.epoch
	}
	if c.chance(3) {
		a.From = store(c.rng.IntN(stores)) // likely not the owner
	}
	if a.To == a.From {
		a.To = store((c.rng.IntN(stores-1) + 1 + int(a.From[1]-'1')) % stores)
	}
	if !underWay(c.start(ctx, prefix, a)) {
		return
	}
	words := []history.Kind{history.Shipped, history.Ready}
	if a.PreCopy {
		words = append([]history.Kind{history.Quiesce}, words...)
	}
	done := false
	for _, word := range words {
		if !c.think(ctx, 5*time.Millisecond, 60*time.Millisecond) {
			return
		}
		said := a
		switch {
		case c.chance(8):
			c.word(ctx, history.Abort, prefix, a)
			return
		case word == history.Ready && c.chance(5):
			said.Manifest = "another"
		}
		op := c.word(ctx, word, prefix, said)
		if !underWay(op) {
			return
		}
		done = word == history.Ready && op.Outcome == history.OK
	}
	if done && b.fallback != a.From && c.chance(85) && c.think(ctx, 5*time.Millisecond, 60*time.Millisecond) {
		c.word(ctx, history.Cleaned, prefix, a)
	}
}

// underWay reports whether the step may have been made.
func underWay(op history.Op) bool {
	return op.Outcome == history.OK || op.Outcome == history.Unknown
}

// tidy ends what stands in the way of a scope: the move that runs, whoever
// started it, and the copies that nodes still have to delete.
func (c *client) tidy(ctx context.Context, prefix string) history.Op {
	op := c.read(ctx, history.Read, prefix)
	if op.Outcome != history.OK {
		return op
	}
	delete(c.believes, prefix)
	if m := op.Got.Scope.Move; m != "" {
		c.word(ctx, history.Abort, prefix, history.Arg{Move: m})
	}
	for _, owed := range op.Got.Scope.Cleanups {
		c.word(ctx, history.Cleaned, prefix, history.Arg{Move: owed.Move, From: owed.Node})
	}
	return op
}
