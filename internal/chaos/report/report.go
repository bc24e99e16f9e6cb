// Package report shows what a chaos run did and found: as text for people, and
// as JSON for programs.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
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
}

// Report is the result of a run.
type Report struct {
	Verdict string         `json:"verdict"`
	Error   string         `json:"error,omitempty"` // what ended the run before its time
	Setup   history.Setup  `json:"setup"`
	Took    time.Duration  `json:"took_ns"` // of the history
	Counts  []Count        `json:"counts"`
	Faults  []Fault        `json:"faults"`
	Checks  []check.Result `json:"checks"`
}

// Of makes the report. ended is what ended the run before its time, or nil.
func Of(run *history.Run, checks []check.Result, ended error) Report {
	r := Report{Verdict: Pass, Setup: run.Setup, Checks: checks, Counts: counts(run), Faults: []Fault{}}
	for _, op := range run.Ops {
		r.Took = max(r.Took, op.Return)
	}
	for _, f := range run.Faults {
		r.Faults = append(r.Faults, Fault{f, check.ImpactOf(run, f)})
	}
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

// sum adds up the counts that fit.
func (r Report) sum(fits func(Count) bool) int {
	n := 0
	for _, c := range r.Counts {
		if fits(c) {
			n += c.N
		}
	}
	return n
}

// Text writes the report for people.
func (r Report) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "%s, seed %d, %.0f s of operations\n\n", r.Setup.Target, r.Setup.Seed, r.Took.Seconds())
	r.operations(t)
	r.refusals(t)
	r.faults(t)
	r.checks(t)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, c := range r.Checks {
		for _, v := range c.Violations {
			fmt.Fprintf(w, "VIOLATION %s: %s\n", c.Name, v)
		}
		if more := c.Violated - len(c.Violations); more > 0 {
			fmt.Fprintf(w, "VIOLATION %s: and %d more\n", c.Name, more)
		}
		for _, v := range c.Voids {
			fmt.Fprintf(w, "VOID %s: %s\n", c.Name, v)
		}
	}
	if r.Error != "" {
		fmt.Fprintf(w, "ENDED EARLY: %s\n", r.Error)
	}
	_, err := fmt.Fprintf(w, "result: %s\n", r.Verdict)
	return err
}

func (r Report) operations(w io.Writer) {
	fmt.Fprintf(w, "operation\tok")
	for _, s := range r.Setup.Servers {
		fmt.Fprintf(w, "\tby %s", s)
	}
	fmt.Fprintf(w, "\trefused\tfailed\tunknown\n")
	kinds := map[history.Kind]bool{}
	for _, c := range r.Counts {
		kinds[c.Kind] = true
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		n := func(o history.Outcome, server string) int {
			return r.sum(func(c Count) bool { return c.Kind == k && c.Outcome == o && (server == "" || c.Server == server) })
		}
		fmt.Fprintf(w, "%s\t%d", k, n(history.OK, ""))
		for _, s := range r.Setup.Servers {
			fmt.Fprintf(w, "\t%d", n(history.OK, s))
		}
		fmt.Fprintf(w, "\t%d\t%d\t%d\n", n(history.Refused, ""), n(history.Failed, ""), n(history.Unknown, ""))
	}
	fmt.Fprintln(w)
}

func (r Report) refusals(w io.Writer) {
	codes := map[string]int{}
	for _, c := range r.Counts {
		if c.Outcome == history.Refused {
			codes[c.Code] += c.N
		}
	}
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		parts = append(parts, fmt.Sprintf("%s %d", code, codes[code]))
	}
	fmt.Fprintf(w, "refusals: %s\n\n", strings.Join(parts, ", "))
}

func (r Report) faults(w io.Writer) {
	fmt.Fprintf(w, "fault\tservers\tin force\tnew leader\tno change acknowledged for\tat the struck: local reads, answered, turned away\tacknowledged\n")
	for _, f := range r.Faults {
		leader := "-"
		if f.Elected != "" {
			leader = fmt.Sprintf("%s after %.1f s", f.Elected, (f.ElectedAt - f.Begin).Seconds())
		}
		var acks []string
		for _, s := range slices.Sorted(maps.Keys(f.Impact.Acknowledged)) {
			acks = append(acks, fmt.Sprintf("%s %d", s, f.Impact.Acknowledged[s]))
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f s\t%s\t%.2f s\t%d, %d, %d\t%s\n", f.Name, strings.Join(f.Servers, " "), (f.Heal - f.Active).Seconds(), leader,
			f.Impact.Unavailable.Seconds(), f.Impact.LocalReads, f.Impact.Answered, f.Impact.Turned, strings.Join(acks, ", "))
	}
	fmt.Fprintln(w)
	for _, f := range r.Faults {
		for _, s := range f.Servers {
			fmt.Fprintf(w, "%s of %s:\t%s → %s → %s\n", f.Name, s, machine(f.Before[s]), machine(f.During[s]), machine(f.After[s]))
		}
	}
	fmt.Fprintln(w)
}

func machine(m history.Machine) string {
	switch {
	case m.State == "":
		return "not looked at"
	case m.PID == 0:
		return m.State
	case m.Peer == "":
		return fmt.Sprintf("%s, process %d, cut off", m.State, m.PID)
	}
	return fmt.Sprintf("%s, process %d, %s", m.State, m.PID, m.Peer)
}

func (r Report) checks(w io.Writer) {
	fmt.Fprintf(w, "checker\tchecked\tviolations\tvoid\ttook\n")
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%s\t%d %s\t%d\t%d\t%.2f s\n", c.Name, c.Checked, c.Unit, c.Violated, len(c.Voids), c.Took)
	}
	fmt.Fprintln(w)
}
