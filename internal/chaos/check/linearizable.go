package check

import (
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// Linearizable looks, prefix by prefix, for one order of all operations that
// fits their spans and explains every result by the sequential specification.
// An unknown outcome may take effect until the end of the run, or not at all. A
// search that does not end within limit fails: nothing is known then.
func Linearizable(run *history.Run, limit time.Duration) Result {
	r := Result{Name: "linearizable", Unit: "operations"}
	end := time.Now().Add(limit)
	prefixes, byPrefix := registerOps(run)
	for _, p := range prefixes {
		ops := byPrefix[p]
		r.Checked += len(ops)
		left := time.Until(end)
		if left <= 0 {
			r.violated("scope %q: not searched, since the other prefixes took all of %v; check again with more time (-recheck, -search)", p, limit)
			continue
		}
		found, info := porcupine.CheckOperationsVerbose(model(), ops, left)
		switch found {
		case porcupine.Ok:
		case porcupine.Illegal:
			r.violated("scope %q: no order explains its %d operations; %s", p, len(ops), unexplained(ops, info.PartialLinearizations()))
		case porcupine.Unknown:
			r.violated("scope %q: no order of its %d operations was found within %v, nor that there is none; check again with more time (-recheck, -search)",
				p, len(ops), limit)
		}
	}
	return r
}

// registerOps are the operations of each prefix that say something about it.
func registerOps(run *history.Run) (prefixes []string, byPrefix map[string][]porcupine.Operation) {
	byPrefix = map[string][]porcupine.Operation{}
	for i := range run.Ops {
		op := &run.Ops[i]
		if op.Outcome == history.Failed || op.Kind == history.Local {
			continue
		}
		end := int64(op.Return)
		if op.Outcome == history.Unknown {
			end = math.MaxInt64
		}
		if byPrefix[op.Prefix] == nil {
			prefixes = append(prefixes, op.Prefix)
		}
		byPrefix[op.Prefix] = append(byPrefix[op.Prefix], porcupine.Operation{Input: op, Call: int64(op.Call), Return: end})
	}
	slices.Sort(prefixes)
	return prefixes, byPrefix
}

func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return scopeState{} },
		Step: func(state, input, _ any) (bool, any) { return step(state.(scopeState), input.(*history.Op)) },
	}
}

// unexplained names the first operation that the longest order found leaves out.
func unexplained(ops []porcupine.Operation, partial [][][]int) string {
	var longest []int
	for _, partition := range partial {
		for _, order := range partition {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	explained := map[int]bool{}
	for _, i := range longest {
		explained[i] = true
	}
	var first *history.Op
	for i, o := range ops {
		op := o.Input.(*history.Op)
		if !explained[i] && op.Outcome != history.Unknown && (first == nil || op.Return < first.Return) {
			first = op
		}
	}
	if first == nil {
		return "not even one"
	}
	return "the longest one found leaves out " + named(first)
}
