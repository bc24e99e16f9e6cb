package check

import (
	"cmp"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// instant is an index that was known to a client at a time.
type instant struct {
	at    time.Duration
	index uint64
	op    *history.Op
}

// known returns what replies told, in the order of time, each with the highest
// index up to then.
func known(all []instant) []instant {
	slices.SortStableFunc(all, func(a, b instant) int { return cmp.Compare(a.at, b.at) })
	for i := 1; i < len(all); i++ {
		if all[i].index < all[i-1].index {
			all[i].index, all[i].op = all[i-1].index, all[i-1].op
		}
	}
	return all
}

// before is the highest index that was known before a time.
func before(all []instant, at time.Duration) instant {
	i, _ := slices.BinarySearchFunc(all, at, func(a instant, at time.Duration) int { return cmp.Compare(a.at, at) })
	if i == 0 {
		return instant{}
	}
	return all[i-1]
}

// spoke reports whether the reply is the word of a state: a refusal is one too.
func spoke(op *history.Op) bool { return op.Outcome == history.OK || op.Outcome == history.Refused }

// Order compares the log's order with that of the clients' clock, over all
// prefixes and servers: what was called after a reply stands after it in the
// log, and a linearizable read called after a reply shows at least its index.
// That holds for local reads too, which may be old but never show what the
// majority has not.
func Order(run *history.Run) Result {
	r := Result{Name: "order", Unit: "operations"}
	var all []instant
	for i := range run.Ops {
		if op := &run.Ops[i]; spoke(op) {
			all = append(all, instant{op.Return, max(op.Got.Seen, op.Got.Index), op})
		}
	}
	all = known(all)
	for i := range run.Ops {
		op := &run.Ops[i]
		if !spoke(op) || op.Kind == history.Local {
			continue
		}
		floor := before(all, op.Call)
		switch {
		case floor.op == nil:
		case op.Kind == history.Read:
			r.Checked++
			if op.Got.Seen < floor.index {
				r.violated("%s is stale: it shows index %d after index %d was seen by %s", named(op), op.Got.Seen, floor.index, named(floor.op))
			}
		case op.Got.Index != 0:
			r.Checked++
			if op.Got.Index <= floor.index {
				r.violated("%s has index %d, called after index %d was seen by %s", named(op), op.Got.Index, floor.index, named(floor.op))
			}
		}
	}
	return r
}

// Indexes makes sure that no server takes back what it has shown: of two
// answers of one server, the one asked for after the other came is not older.
func Indexes(run *history.Run) Result {
	r := Result{Name: "indexes", Unit: "replies"}
	byServer := map[string][]instant{}
	for i := range run.Ops {
		if op := &run.Ops[i]; spoke(op) {
			byServer[op.Server] = append(byServer[op.Server], instant{op.Return, op.Got.Seen, op})
		}
	}
	for server, all := range byServer {
		byServer[server] = known(all)
	}
	for i := range run.Ops {
		op := &run.Ops[i]
		if !spoke(op) {
			continue
		}
		r.Checked++
		if floor := before(byServer[op.Server], op.Call); op.Got.Seen < floor.index {
			r.violated("%s went back: %s answered with index %d, after %d in %s", named(op), op.Server, op.Got.Seen, floor.index, named(floor.op))
		}
	}
	return r
}

// Epochs makes sure that each epoch is one tenure of one scope: no epoch is
// given twice, no tenure is ended twice, and the epochs of a prefix rise.
func Epochs(run *history.Run) Result {
	r := Result{Name: "epochs", Unit: "epochs in replies"}
	type tenure struct {
		prefix string
		epoch  uint64
	}
	ended := map[tenure]*history.Op{}
	given := map[uint64]*history.Op{} // by a flip
	holder := map[uint64]*history.Op{}
	byPrefix := map[string][]instant{}
	for i := range run.Ops {
		op := &run.Ops[i]
		if op.Outcome != history.OK {
			continue
		}
		epoch := epochOf(op)
		if epoch != 0 {
			r.Checked++
			if first := holder[epoch]; first != nil && first.Prefix != op.Prefix {
				r.violated("epoch %d belongs to two prefixes: %s, and %s", epoch, named(first), named(op))
			}
			holder[epoch] = op
			byPrefix[op.Prefix] = append(byPrefix[op.Prefix], instant{op.Return, epoch, op})
		}
		if op.Kind == history.Ready {
			if first := given[epoch]; first != nil {
				r.violated("epoch %d was given twice: by %s, and %s", epoch, named(first), named(op))
			}
			given[epoch] = op
			if epoch <= op.Got.Tenure {
				r.violated("%s gave epoch %d, not above %d", named(op), epoch, op.Got.Tenure)
			}
		}
		if old := endedBy(op); old != 0 {
			at := tenure{op.Prefix, old}
			if first := ended[at]; first != nil {
				r.violated("two compare-and-sets on epoch %d of %s took effect: %s, and %s", old, op.Prefix, named(first), named(op))
			}
			ended[at] = op
		}
	}
	for prefix := range byPrefix {
		byPrefix[prefix] = known(byPrefix[prefix])
	}
	for i := range run.Ops {
		op := &run.Ops[i]
		if epoch := epochOf(op); op.Outcome == history.OK && epoch != 0 && op.Kind != history.Local {
			if floor := before(byPrefix[op.Prefix], op.Call); epoch < floor.index {
				r.violated("%s has epoch %d after %d in %s", named(op), epoch, floor.index, named(floor.op))
			}
		}
	}
	return r
}

// epochOf is the epoch that the prefix had when the operation took effect, 0 if
// the reply does not tell.
func epochOf(op *history.Op) uint64 {
	switch op.Kind {
	case history.Read, history.Local:
		if op.Got.Scope == nil {
			return 0
		}
		return op.Got.Scope.Epoch
	case history.Cleaned, history.Retire:
		return 0
	default:
		return op.Got.Epoch
	}
}

// endedBy is the epoch of the tenure that the operation ended, or 0.
func endedBy(op *history.Op) uint64 {
	switch op.Kind {
	case history.Ready:
		return op.Got.Tenure
	case history.Retire:
		return op.Arg.Epoch
	default:
		return 0
	}
}
