package report

import (
	"cmp"
	"slices"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// Moves are the moves between data nodes that have ended.
type Moves struct {
	check.Moves
	// For how long the moves that are done took no writes, in milliseconds.
	QuiescedP50 int64 `json:"quiesced_p50_ms"`
	QuiescedMax int64 `json:"quiesced_max_ms"`
}

func movesOf(run *history.Run) Moves {
	m := check.ShippedMoves(run)
	return Moves{m, middle(m.QuiescedMS), last(m.QuiescedMS)}
}

// Writes says how the writes of clients at the data nodes ended.
type Writes struct {
	Acknowledged int `json:"acknowledged"`
	Refused      int `json:"refused"`
	Unknown      int `json:"unknown"`
}

func writesOf(run *history.Run) Writes {
	var w Writes
	for _, op := range run.Writes {
		switch op.Outcome {
		case writes.Acknowledged:
			w.Acknowledged++
		case writes.Refused:
			w.Refused++
		case writes.Unknown:
			w.Unknown++
		}
	}
	return w
}

// Together is the name of the outages of all faults that were done at the same
// time as others: nobody knows which of them caused what.
const Together = "several at once"

// Outage says for how long faults of one kind kept clients from being served.
type Outage struct {
	Fault string `json:"fault"` // its name, or Together
	N     int    `json:"n"`
	// The longest time without an acknowledged change of each of the faults, over all of them.
	ChangesP50 time.Duration `json:"no_change_p50_ns"`
	ChangesMax time.Duration `json:"no_change_max_ns"`
	// The longest time in which a scope took no write.
	WritesP50 time.Duration `json:"no_write_p50_ns"`
	WritesMax time.Duration `json:"no_write_max_ns"`
}

// outages are those of each kind of fault, in the order of their names.
func outages(faults []Fault) []Outage {
	type spans struct{ changes, writes []time.Duration }
	by := map[string]*spans{}
	for _, f := range faults {
		name := f.Name
		if f.Together {
			name = Together
		}
		if by[name] == nil {
			by[name] = &spans{}
		}
		by[name].changes = append(by[name].changes, f.Impact.Unavailable)
		by[name].writes = append(by[name].writes, f.Impact.Silent)
	}
	out := make([]Outage, 0, len(by))
	for name, s := range by {
		slices.Sort(s.changes)
		slices.Sort(s.writes)
		out = append(out, Outage{name, len(s.changes), middle(s.changes), last(s.changes), middle(s.writes), last(s.writes)})
	}
	slices.SortFunc(out, func(a, b Outage) int { return cmp.Compare(a.Fault, b.Fault) })
	return out
}

// middle is the least value that half of the sorted ones do not exceed, 0 of none.
func middle[T int64 | time.Duration](sorted []T) T {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)/2]
}

// last is the greatest of the sorted values, 0 of none.
func last[T int64 | time.Duration](sorted []T) T {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)-1]
}

// versions are those that servers said they have.
func versions(run *history.Run) []string {
	var all []string
	for _, s := range run.Samples {
		for _, m := range s.Cluster.Members {
			if m.Version != "" {
				all = append(all, m.Version)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
