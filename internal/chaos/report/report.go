// Package report shows what a chaos run did and found: as text and as a page for
// people, and as JSON for programs.
package report

import (
	"cmp"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// The verdicts. Only a pass is a success: a void run shows nothing.
const (
	Pass      = "pass"
	Violation = "violation"
	Void      = "void"
)

// Count says how often operations of one kind ended in one way at one server.
type Count struct {
	Kind    history.Kind    `json:"kind"`
	Outcome history.Outcome `json:"outcome"`
	Code    string          `json:"code,omitempty"`
	Server  string          `json:"server"`
	N       int             `json:"n"`
}

// Fault is a fault with what clients noticed of it.
type Fault struct {
	history.Fault
	Impact check.Impact `json:"impact"`
	Lacks  []string     `json:"lacks,omitempty"` // what is missing to show that it took effect
}

// Report is the result of a run.
type Report struct {
	Verdict  string         `json:"verdict"`
	Error    string         `json:"error,omitempty"` // what ended the run before its time
	Setup    history.Setup  `json:"setup"`
	Versions []string       `json:"versions"` // that the servers said they have, each once
	Took     time.Duration  `json:"took_ns"`  // of the history
	Counts   []Count        `json:"counts"`
	Moves    Moves          `json:"moves"`
	Writes   Writes         `json:"writes"`
	Faults   []Fault        `json:"faults"`
	Outages  []Outage       `json:"unavailability"`
	Checks   []check.Result `json:"checks"`
}

// Of makes the report. ended is what ended the run before its time, or nil.
func Of(run *history.Run, checks []check.Result, ended error) Report {
	r := Report{Verdict: Pass, Setup: run.Setup, Versions: versions(run), Checks: checks, Counts: counts(run), Moves: movesOf(run), Writes: writesOf(run), Faults: []Fault{}}
	for _, op := range run.Ops {
		r.Took = max(r.Took, op.Return)
	}
	for _, f := range run.Faults {
		im := check.ImpactOf(run, f)
		r.Faults = append(r.Faults, Fault{f, im, check.Lacks(f, im)})
	}
	slices.SortStableFunc(r.Faults, func(a, b Fault) int { return cmp.Compare(a.Begin, b.Begin) }) // faults done together are recorded as they end
	r.Outages = outages(r.Faults)
	for _, c := range checks {
		if len(c.Voids) > 0 && r.Verdict == Pass {
			r.Verdict = Void
		}
		if c.Violated > 0 {
			r.Verdict = Violation
		}
	}
	if ended != nil {
		r.Error = ended.Error()
		if r.Verdict == Pass {
			r.Verdict = Void
		}
	}
	return r
}

func counts(run *history.Run) []Count {
	n := map[Count]int{}
	for _, op := range run.Ops {
		n[Count{Kind: op.Kind, Outcome: op.Outcome, Code: string(op.Code), Server: op.Server}]++
	}
	out := make([]Count, 0, len(n))
	for c, k := range n {
		c.N = k
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Count) int {
		return strings.Compare(a.key(), b.key())
	})
	return out
}

func (c Count) key() string {
	return strings.Join([]string{string(c.Kind), string(c.Outcome), c.Code, c.Server}, "\x00")
}

// JSON writes the report as indented JSON.
func (r Report) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
