package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

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

// width is how long a line of the text may be, in columns.
const width = 120

// Text writes the report for people.
func (r Report) Text(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	r.about(w)
	for _, part := range []func(io.Writer){r.operations, r.refusals, r.moves, r.faults, r.machines, r.outages, r.checks} {
		part(t)
		if err := t.Flush(); err != nil { // or each part would be as wide as all of them
			return err
		}
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

// about says what was run.
func (r Report) about(w io.Writer) {
	fmt.Fprintf(w, "%s, scenario %s, seed %d, %.0f s of operations\n", r.Setup.Target, cmp.Or(r.Setup.Scenario, "unknown"), r.Setup.Seed, r.Took.Seconds())
	fmt.Fprintf(w, "versions: servers %s, chaos program %s, %s\n\n", cmp.Or(strings.Join(r.Versions, " and "), "unknown"),
		cmp.Or(r.Setup.Program.Version, "unknown"), cmp.Or(r.Setup.Program.Go, "Go unknown"))
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

// byName is what was counted, each with its name.
func byName(n map[string]int) []string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, n[name]))
	}
	return parts
}

// list writes words after a name, in lines that fit.
func list(w io.Writer, name string, words []string) {
	line := name + ": " + strings.Join(words[:min(1, len(words))], "")
	for _, word := range words[min(1, len(words)):] {
		if line += ","; len(line)+1+len(word) >= width {
			fmt.Fprintln(w, line)
			line = "  " + word
			continue
		}
		line += " " + word
	}
	fmt.Fprintln(w, line)
}

func (r Report) refusals(w io.Writer) {
	codes := map[string]int{}
	for _, c := range r.Counts {
		if c.Outcome == history.Refused {
			codes[c.Code] += c.N
		}
	}
	list(w, "refusals", byName(codes))
	fmt.Fprintln(w)
}

// moves is what was done on the data nodes.
func (r Report) moves(w io.Writer) {
	if len(r.Setup.Nodes) == 0 {
		return
	}
	fmt.Fprintf(w, "moves between data nodes: %d done, without writes for %d ms (p50) and %d ms (max)\n", r.Moves.Done, r.Moves.QuiescedP50, r.Moves.QuiescedMax)
	list(w, "aborted moves between data nodes, by cause", byName(r.Moves.Aborted))
	fmt.Fprintf(w, "writes at data nodes: %d acknowledged, %d refused, %d unknown\n\n", r.Writes.Acknowledged, r.Writes.Refused, r.Writes.Unknown)
}

func (r Report) faults(w io.Writer) {
	if len(r.Faults) == 0 {
		return
	}
	fmt.Fprintf(w, "fault\tstruck\tin force\tnew leader\tno change\tno write\tthere\tchanges by %s\n", strings.Join(r.Setup.Servers, ", "))
	for _, f := range r.Faults {
		fmt.Fprintf(w, "%s\t%s\t%.1f s\t%s\t%.2f s\t%s\t%s\t%s\n", f.Name, strings.Join(f.Servers, " "), (f.Heal - f.Active).Seconds(), f.successor(),
			f.Impact.Unavailable.Seconds(), r.silence(f), r.there(f), r.acknowledged(f))
	}
	fmt.Fprintf(w, "no change, no write: the longest time without an acknowledged change, and without a write of some scope\n")
	fmt.Fprintf(w, "there: at struck servers local reads / answers / turned away; at struck nodes writes accepted / tried\n\n")
}

// successor is who led instead, and how soon.
func (f Fault) successor() string {
	if f.Elected == "" {
		return "-"
	}
	return fmt.Sprintf("%s %.1f s", f.Elected, (f.ElectedAt - f.Begin).Seconds())
}

// silence is the longest time in which a scope took no write.
func (r Report) silence(f Fault) string {
	if len(r.Setup.Nodes) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f s", f.Impact.Silent.Seconds())
}

// there is what clients noticed at the machines that were struck.
func (r Report) there(f Fault) string {
	if len(f.Servers) > 0 && slices.Contains(r.Setup.Nodes, f.Servers[0]) {
		return fmt.Sprintf("%d / %d", f.Impact.Written, f.Impact.Tried)
	}
	return fmt.Sprintf("%d / %d / %d", f.Impact.LocalReads, f.Impact.Answered, f.Impact.Turned)
}

// acknowledged is how many changes each server acknowledged.
func (r Report) acknowledged(f Fault) string {
	var by []string
	for _, s := range r.Setup.Servers {
		by = append(by, strconv.Itoa(f.Impact.Acknowledged[s]))
	}
	return strings.Join(by, ", ")
}

// machines tells what those were like that faults without effect have struck.
func (r Report) machines(w io.Writer) {
	some := false
	for _, f := range r.Faults {
		if len(f.Lacks) == 0 {
			continue
		}
		for _, s := range f.Servers {
			some = true
			fmt.Fprintf(w, "%s of %s:\t%s → %s → %s\n", f.Name, s, machine(f.Before[s]), machine(f.During[s]), machine(f.After[s]))
		}
	}
	if some {
		fmt.Fprintln(w)
	}
}

// outages is the table of unavailability.
func (r Report) outages(w io.Writer) {
	if len(r.Outages) == 0 {
		return
	}
	fmt.Fprintf(w, "unavailability\tfaults\tno change: p50\tmax\tno write of a scope: p50\tmax\n")
	for _, o := range r.Outages {
		fmt.Fprintf(w, "%s\t%d\t%.2f s\t%.2f s", o.Fault, o.N, o.ChangesP50.Seconds(), o.ChangesMax.Seconds())
		if len(r.Setup.Nodes) == 0 {
			fmt.Fprintf(w, "\t-\t-\n")
			continue
		}
		fmt.Fprintf(w, "\t%.2f s\t%.2f s\n", o.WritesP50.Seconds(), o.WritesMax.Seconds())
	}
	fmt.Fprintln(w)
}

func machine(m history.Machine) string {
	switch {
	case m.State == "":
		return "not looked at"
	case m.PID == 0:
		return m.State
	case m.Peer == "" && m.Node:
		return fmt.Sprintf("%s, process %d", m.State, m.PID)
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
