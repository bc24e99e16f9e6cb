// Package timeline draws what happened in a chaos run on one axis of time: who
// led, which faults were in force, which scopes took no writes, and how much was
// acknowledged. A history becomes a model, and the model a picture; both steps
// are pure functions.
package timeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

const (
	// Quiet is how long a scope takes no write before it is shown: clients write
	// every few tens of milliseconds.
	Quiet = 200 * time.Millisecond
	// Long is how long it takes none before that is shown as more than a move.
	Long = time.Second
	// bins is how many spans of time acknowledgements are counted in, at most.
	bins = 600
	// leastBin is the shortest of them: shorter ones show chance.
	leastBin = 500 * time.Millisecond
)

// Model is what the picture shows. Times are those of the run's clock.
type Model struct {
	Length time.Duration
	Faults []Fault // in the order of their begin
	Groups []Group
	Charts []Chart
}

// Fault is one fault for the whole height of the picture.
type Fault struct {
	Name             string
	Begin, Heal, End time.Duration
	Title            string
}

// Group is rows of one kind.
type Group struct {
	Name string
	Rows []Row
}

// Row is what is shown of one machine or scope.
type Row struct {
	Name  string
	Spans []Span
	Ticks []Tick
}

// Look is how a span or a tick looks: a class of the picture's style.
type Look string

// The looks. Servers that led are Led and the number of the server.
const (
	Gone   Look = "gone"   // its process had ended
	Paused Look = "paused" // it stood still
	Cut    Look = "cut"    // it was cut off, in one direction at least
	Slow   Look = "slow"   // its links were
	Other  Look = "other"  // another fault
	Back   Look = "back"   // the fault was undone, and not all servers were ready yet
	Brief  Look = "brief"  // no write for Quiet
	Silent Look = "silent" // no write for Long
	Moved  Look = "moved"  // a move was done
	Failed Look = "failed" // a move was aborted
	Led    Look = "led"
)

// Span is a stretch of a row.
type Span struct {
	From, To time.Duration
	Look     Look
	Label    string // shown if it fits
	Title    string // shown where the pointer is
}

// Tick is a moment of a row.
type Tick struct {
	At   time.Duration
	Look Look
}

// Chart is how often something happened, counted in spans of Every from the
// begin on.
type Chart struct {
	Name   string
	Every  time.Duration
	Counts []int
}

// Of makes the model of a history.
func Of(run *history.Run) Model {
	m := Model{Length: length(run)}
	for _, f := range run.Faults {
		m.Faults = append(m.Faults, Fault{Name: f.Name, Begin: f.Begin, Heal: f.Heal, End: f.End, Title: told(f)})
	}
	slices.SortStableFunc(m.Faults, func(a, b Fault) int { return cmp.Compare(a.Begin, b.Begin) })
	m.Groups = append(m.Groups, Group{"", []Row{{Name: "leader", Spans: leaders(run)}}}, Group{"servers", machines(run, servers(run))})
	if len(run.Setup.Nodes) > 0 {
		m.Groups = append(m.Groups, Group{"data nodes", machines(run, run.Setup.Nodes)})
	}
	if rows := scopes(run); len(rows) > 0 {
		m.Groups = append(m.Groups, Group{"scopes", rows})
	}
	m.Charts = charts(run, m.Length)
	return m
}

func length(run *history.Run) time.Duration {
	end := time.Duration(0)
	for _, op := range run.Ops {
		end = max(end, op.Return)
	}
	for _, op := range run.Writes {
		end = max(end, run.Setup.Wall(op.Return))
	}
	for _, f := range run.Faults {
		end = max(end, f.End)
	}
	return end
}

// servers are those of the run, and such that joined later.
func servers(run *history.Run) []string {
	all := slices.Clone(run.Setup.Servers)
	for _, f := range run.Faults {
		for _, s := range f.Servers {
			if !slices.Contains(all, s) && !slices.Contains(run.Setup.Nodes, s) {
				all = append(all, s)
			}
		}
	}
	return all
}

// machines are the rows of servers or nodes, with the faults that struck them.
func machines(run *history.Run, ids []string) []Row {
	rows := make([]Row, 0, len(ids))
	for _, id := range ids {
		row := Row{Name: id}
		for _, f := range run.Faults {
			if !slices.Contains(f.Servers, id) {
				continue
			}
			row.Spans = append(row.Spans, Span{From: f.Begin, To: f.Heal, Look: harm(f, id), Label: f.Name, Title: told(f)})
			if f.End > f.Heal {
				row.Spans = append(row.Spans, Span{From: f.Heal, To: f.End, Look: Back,
					Title: fmt.Sprintf("%s: all servers are ready and acknowledge changes %s after the fault was undone", f.Name, seconds(f.End-f.Heal))})
			}
		}
		slices.SortStableFunc(row.Spans, func(a, b Span) int { return cmp.Compare(a.From, b.From) })
		rows = append(rows, row)
	}
	return rows
}

// harm is what a fault did to one machine, by the facts that were seen.
func harm(f history.Fault, id string) Look {
	now, before := f.During[id], f.Before[id]
	switch {
	case now.State == "exited":
		return Gone
	case now.State == "paused":
		return Paused
	case before.Peer != "" && now.Peer == "" && now.State == "running":
		return Cut
	}
	for _, w := range f.Ways {
		switch {
		case w.From != id && w.To != id:
		case w.Cut:
			return Cut
		case w.DelayMS > 0:
			return Slow
		}
	}
	return Other
}

// told is a fault in words.
func told(f history.Fault) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %s: in force %.1f–%.1f s, all servers served again at %.1f s", f.Name, strings.Join(f.Servers, ", "), f.Begin.Seconds(), f.Heal.Seconds(), f.End.Seconds())
	if f.Elected != "" {
		fmt.Fprintf(&b, "; %s leads, seen %s after the begin", f.Elected, seconds(f.ElectedAt-f.Begin))
	}
	if f.Error != "" {
		fmt.Fprintf(&b, "; %s", f.Error)
	}
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// charts count what was acknowledged.
func charts(run *history.Run, length time.Duration) []Chart {
	every := leastBin
	for length/every >= bins {
		every *= 2
	}
	chart := func(name string) Chart {
		return Chart{Name: name, Every: every, Counts: make([]int, length/every+1)}
	}
	count := func(c Chart, at time.Duration) {
		if at >= 0 && at <= length {
			c.Counts[at/every]++
		}
	}
	changes := chart("changes acknowledged per second")
	for _, op := range run.Ops {
		if op.Outcome == history.OK && op.Kind.Mutates() {
			count(changes, op.Return)
		}
	}
	if len(run.Writes) == 0 {
		return []Chart{changes}
	}
	written := chart("writes acknowledged per second")
	for _, op := range run.Writes {
		if op.Outcome == writes.Acknowledged {
			count(written, run.Setup.Wall(op.Return))
		}
	}
	return []Chart{changes, written}
}
