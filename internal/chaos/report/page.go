package report

import (
	_ "embed" // the template
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/timeline"
)

//go:embed page.tmpl
var pageText string

// page is what the template is given, in the words that it shows.
type page struct {
	Report
	Picture  template.HTML
	Sentence string
	Tiles    []tile
	First    []finding // of each checker
	All      []finding // if there are more
	Kinds    []kind
	Machines []string
}

// tile is one figure that is shown large.
type tile struct{ Value, Name string }

// finding is one violation or void. Kind is the verdict that it leads to.
type finding struct{ Kind, Checker, Text string }

// kind is how the operations of one kind ended, at all servers.
type kind struct {
	Kind                         history.Kind
	OK, Refused, Failed, Unknown int
}

// faultRow is a fault in the words of the template.
type faultRow struct{ Fault }

// Successor is who led instead, and how soon.
func (f faultRow) Successor() string { return f.successor() }

// Page writes the report as one HTML file that needs nothing else.
func (r Report) Page(w io.Writer, m timeline.Model) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"join":    strings.Join,
		"sec":     func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) },
		"between": func(from, to time.Duration) string { return fmt.Sprintf("%.1f s", (to - from).Seconds()) },
		"looks":   r.looks,
	}).Parse(pageText)
	if err != nil {
		return err
	}
	all := r.findings()
	first := firsts(all)
	if len(first) == len(all) {
		all = nil
	}
	return t.Execute(w, page{
		Report:   r,
		Picture:  template.HTML(m.SVG()), // every text in it is escaped there
		Sentence: r.sentence(),
		Tiles:    r.tiles(),
		First:    first,
		All:      all,
		Kinds:    r.kinds(),
		Machines: slices.Concat(r.Setup.Servers, r.Setup.Nodes),
	})
}

// Faults are those of the report, for the template.
func (p page) Faults() []faultRow {
	var rows []faultRow
	for _, f := range p.Report.Faults {
		rows = append(rows, faultRow{f})
	}
	return rows
}

// There is what clients noticed at the machines that were struck.
func (p page) There(f faultRow) string { return p.there(f.Fault) }

// Acknowledged is how many changes each server acknowledged.
func (p page) Acknowledged(f faultRow) string { return p.acknowledged(f.Fault) }

// looks are the looks of the timeline that are colours of the same name.
func (r Report) looks() []string {
	all := []string{string(timeline.Gone), string(timeline.Paused), string(timeline.Cut), string(timeline.Slow), string(timeline.Other), string(timeline.Back),
		string(timeline.Brief), string(timeline.Silent), string(timeline.Moved), string(timeline.Failed)}
	for i := range r.Setup.Servers {
		all = append(all, fmt.Sprintf("%s%d", timeline.Led, i))
	}
	return all
}

// sentence says what the verdict means.
func (r Report) sentence() string {
	violated, voids := 0, 0
	for _, c := range r.Checks {
		violated += c.Violated
		voids += len(c.Voids)
	}
	switch r.Verdict {
	case Pass:
		return fmt.Sprintf("All %d checkers found nothing, and every one of %d faults took effect.", len(r.Checks), len(r.Faults))
	case Violation:
		return fmt.Sprintf("Promises were broken. Violations: %d, see below.", violated)
	default:
		return fmt.Sprintf("The run shows nothing, for reasons that are below (%d). No violation was found.", voids+min(1, len(r.Error)))
	}
}

func (r Report) tiles() []tile {
	ok := func(fits func(history.Kind) bool) string {
		return strconv.Itoa(r.sum(func(c Count) bool { return c.Outcome == history.OK && fits(c.Kind) }))
	}
	tiles := []tile{
		{strconv.Itoa(len(r.Faults)), "faults"},
		{ok(history.Kind.Mutates), "changes acknowledged"},
		{ok(func(k history.Kind) bool { return k == history.Read }), "linearizable reads"},
	}
	if len(r.Setup.Nodes) > 0 {
		tiles = append(tiles, tile{strconv.Itoa(r.Writes.Acknowledged), "writes acknowledged"}, tile{strconv.Itoa(r.Moves.Done), "moves between nodes"})
	}
	var changes, written time.Duration
	for _, f := range r.Faults {
		changes, written = max(changes, f.Impact.Unavailable), max(written, f.Impact.Silent)
	}
	tiles = append(tiles, tile{fmt.Sprintf("%.1f s", changes.Seconds()), "longest without a change"})
	if len(r.Setup.Nodes) > 0 {
		tiles = append(tiles, tile{fmt.Sprintf("%.1f s", written.Seconds()), "longest without a write of some scope"})
	}
	return tiles
}

// findings are all violations, and then all that voids the run.
func (r Report) findings() []finding {
	var all []finding
	for _, c := range r.Checks {
		all = append(all, violations(c)...)
	}
	for _, c := range r.Checks {
		for _, v := range c.Voids {
			all = append(all, finding{Void, c.Name, v})
		}
	}
	if r.Error != "" {
		all = append(all, finding{Void, "ended early", r.Error})
	}
	return all
}

// firsts are the first finding of each kind of each checker: one cause often
// shows many times.
func firsts(all []finding) []finding {
	type source struct{ kind, checker string }
	seen := map[source]bool{}
	var first []finding
	for _, f := range all {
		if by := (source{f.Kind, f.Checker}); !seen[by] {
			seen[by] = true
			first = append(first, f)
		}
	}
	return first
}

func violations(c check.Result) []finding {
	var all []finding
	for _, v := range c.Violations {
		all = append(all, finding{Violation, c.Name, v})
	}
	if more := c.Violated - len(c.Violations); more > 0 {
		all = append(all, finding{Violation, c.Name, fmt.Sprintf("and %d more", more)})
	}
	return all
}

func (r Report) kinds() []kind {
	by := map[history.Kind]*kind{}
	for _, c := range r.Counts {
		if by[c.Kind] == nil {
			by[c.Kind] = &kind{Kind: c.Kind}
		}
		k := by[c.Kind]
		switch c.Outcome {
		case history.OK:
			k.OK += c.N
		case history.Refused:
			k.Refused += c.N
		case history.Failed:
			k.Failed += c.N
		case history.Unknown:
			k.Unknown += c.N
		}
	}
	var all []kind
	for _, k := range slices.Sorted(maps.Keys(by)) {
		all = append(all, *by[k])
	}
	return all
}
