// Package check judges the history of a chaos run. Every checker is a pure
// function of the history: a violation is something the registry promised not
// to do; a void says that the run shows nothing, since a fault did not take
// effect or too little was asked. Both fail a run.
package check

import (
	"fmt"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// maxShown bounds the findings of one checker that are kept: the first few tell
// what is wrong, and one lost index can break thousands of comparisons.
const maxShown = 20

// Result is what one checker found.
type Result struct {
	Name       string   `json:"name"`
	Checked    int      `json:"checked"` // how many of Unit were compared
	Unit       string   `json:"unit"`
	Violations []string `json:"violations,omitempty"` // the first maxShown
	Violated   int      `json:"violated"`             // all of them
	Voids      []string `json:"voids,omitempty"`
	Took       float64  `json:"took_s"`
}

// Failed reports whether the run must not pass.
func (r *Result) Failed() bool { return r.Violated > 0 || len(r.Voids) > 0 }

func (r *Result) violated(format string, args ...any) {
	if r.Violated++; r.Violated <= maxShown {
		r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
	}
}

func (r *Result) void(format string, args ...any) {
	r.Voids = append(r.Voids, fmt.Sprintf(format, args...))
}

// All runs every checker. limit bounds the search for a linearization, of all
// prefixes together.
func All(run *history.Run, limit time.Duration) []Result {
	told := replay(run)
	checkers := []func() Result{
		func() Result { return Linearizable(run, limit) },
		func() Result { return Order(run) },
		func() Result { return Epochs(run) },
		func() Result { return Indexes(run) },
		func() Result { return Watches(run, told) },
		func() Result { return Acknowledged(run, told) },
		func() Result { return Views(run, told) },
		func() Result { return Set(run, told) },
		func() Result { return Overlap(run, told) },
		func() Result { return Hashes(run) },
		func() Result { return Effect(run) },
		func() Result { return Counts(run) },
	}
	results := make([]Result, 0, len(checkers))
	for _, c := range checkers {
		start := time.Now()
		r := c()
		r.Took = time.Since(start).Seconds()
		results = append(results, r)
	}
	return results
}

// named is how findings speak of an operation.
func named(op *history.Op) string {
	return fmt.Sprintf("operation %d (%s %s at %s by %s, %.3f–%.3f s, %s %s)", op.N, op.Kind, op.Prefix, op.Server, op.Client,
		op.Call.Seconds(), op.Return.Seconds(), op.Outcome, op.Code)
}
