package timeline

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// bridge is how far apart two words of a server may be, that it leads, to mean
// that it led between them: clients ask far more often.
const bridge = time.Second

// word is what a server said of itself.
type word struct {
	at    time.Duration
	leads bool
}

// leaders are the spans in which a server said that it leads. Between them
// nobody is known to have led. A server that was cut off may say so for as long
// as its lease lasts; a span ends where the next one begins.
func leaders(run *history.Run) []Span {
	said := map[string][]word{}
	for _, op := range run.Ops {
		if op.Kind == history.Local && (op.Outcome == history.OK || op.Outcome == history.Refused) {
			said[op.Server] = append(said[op.Server], word{op.Return, op.Got.Leader == op.Server})
		}
	}
	var spans []Span
	for i, id := range run.Setup.Servers {
		spans = append(spans, reign(id, Look(fmt.Sprintf("%s%d", Led, i)), said[id])...)
	}
	slices.SortStableFunc(spans, func(a, b Span) int { return cmp.Compare(a.From, b.From) })
	for i := range spans {
		if i+1 < len(spans) {
			spans[i].To = min(spans[i].To, spans[i+1].From)
		}
		spans[i].Title = fmt.Sprintf("%s leads, %.1f–%.1f s", spans[i].Label, spans[i].From.Seconds(), spans[i].To.Seconds())
	}
	return spans
}

// reign is the spans of one server. Its words are in the order of their times.
func reign(id string, look Look, said []word) []Span {
	var spans []Span
	on := false
	for _, w := range said {
		last := len(spans) - 1
		switch {
		case w.leads && on && w.at-spans[last].To <= bridge:
			spans[last].To = w.at
		case w.leads:
			spans = append(spans, Span{From: w.at, To: w.at, Look: look, Label: id})
		}
		on = w.leads
	}
	return spans
}

// scopes are the rows of the scopes of the data nodes: when they took no write,
// and when they moved.
func scopes(run *history.Run) []Row {
	acked := map[string][]time.Duration{}
	var end time.Duration // of all writes
	for _, op := range run.Writes {
		at, ok := acked[op.Scope]
		if !ok { // from the first try on
			at = []time.Duration{run.Setup.Wall(op.Call)}
		}
		returned := run.Setup.Wall(op.Return)
		end = max(end, returned)
		if op.Outcome == writes.Acknowledged {
			at = append(at, returned)
		}
		acked[op.Scope] = at
	}
	ended := moves(run)
	rows := make([]Row, 0, len(acked))
	for _, scope := range slices.Sorted(maps.Keys(acked)) {
		rows = append(rows, Row{Name: scope, Spans: quiet(append(acked[scope], end)), Ticks: ended[scope]})
	}
	return rows
}

// quiet are the spans between two of the moments that are at least Quiet long.
func quiet(at []time.Duration) []Span {
	slices.Sort(at)
	var spans []Span
	for i := 1; i < len(at); i++ {
		took := at[i] - at[i-1]
		if took < Quiet {
			continue
		}
		look := Brief
		if took >= Long {
			look = Silent
		}
		spans = append(spans, Span{From: at[i-1], To: at[i], Look: look, Title: fmt.Sprintf("no write for %s, %.1f–%.1f s", seconds(took), at[i-1].Seconds(), at[i].Seconds())})
	}
	return spans
}

// moves are the ends of moves between data nodes, by prefix, as a watch told
// them first.
func moves(run *history.Run) map[string][]Tick {
	seen := map[string]bool{}
	ticks := map[string][]Tick{}
	for _, s := range run.Seen {
		for _, c := range s.Item.Changes {
			m := c.Move
			if m == nil || c.Op != "put" || seen[m.ID] || !slices.Contains(run.Setup.Nodes, m.From) {
				continue
			}
			switch m.Phase {
			case "done":
				ticks[m.Prefix] = append(ticks[m.Prefix], Tick{s.At, Moved})
			case "aborted":
				ticks[m.Prefix] = append(ticks[m.Prefix], Tick{s.At, Failed})
			default:
				continue
			}
			seen[m.ID] = true
		}
	}
	return ticks
}
