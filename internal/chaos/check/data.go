package check

import (
	"maps"
	"slices"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// tenures tells f of each change of an owner, in the order of the log. takeover says that it was no move: writes that
// the old owner acknowledged may be lost by it.
func (t told) tenures(f func(prefix string, token writes.Token, owner string, takeover bool)) {
	epochs := map[string]uint64{}
	for _, index := range slices.Sorted(maps.Keys(t.changes)) {
		for _, c := range t.changes[index] {
			if s := c.Scope; s != nil && c.Op == "put" && epochs[s.Prefix] != s.Epoch {
				first := epochs[s.Prefix] == 0
				epochs[s.Prefix] = s.Epoch
				f(s.Prefix, writes.Token{Incarnation: s.Incarnation, Epoch: s.Epoch}, s.Owner, !first && c.Cause != "flip")
			}
		}
	}
}

// Set compares what the owners have at the end with what clients were told: each acknowledged write is there once, under
// its epoch, and nothing that was refused or deleted. A takeover may lose what came before it.
func Set(run *history.Run, told told) Result {
	r := Result{Name: "set", Unit: "writes acknowledged"}
	ledgers := map[string]*writes.Ledger{}
	of := func(scope string) *writes.Ledger {
		if ledgers[scope] == nil {
			ledgers[scope] = writes.NewLedger(scope)
		}
		return ledgers[scope]
	}
	for _, op := range run.Writes {
		of(op.Scope).Add(op)
		if op.Outcome == writes.Acknowledged {
			r.Checked++
		}
	}
	told.tenures(func(prefix string, token writes.Token, _ string, takeover bool) {
		if takeover && ledgers[prefix] != nil {
			ledgers[prefix].TakenOver(token.Epoch)
		}
	})
	looked := map[string]bool{}
	for _, d := range run.Dumps {
		switch {
		case d.Owner:
			looked[d.Prefix] = true
			for _, f := range of(d.Prefix).Settle(d.Records, d.Epoch) {
				r.violated("%v", f)
			}
		case !d.Spare && len(d.Records) > 0:
			r.violated("old copy: %s still has %d records of %q, the first is %q of epoch %d", d.Node, len(d.Records), d.Prefix, d.Records[0].Key, d.Records[0].Epoch)
		}
	}
	for _, scope := range slices.Sorted(maps.Keys(ledgers)) {
		if !looked[scope] {
			r.void("nobody looked at what the owner of %q has at the end", scope)
		}
	}
	r.enough(run)
	return r
}

// Overlap finds nodes that accepted writes of one scope at the same time, or in another order than they owned it, by the
// clock of the machine that all of them run on.
func Overlap(run *history.Run, told told) Result {
	r := Result{Name: "overlap", Unit: "tenures that accepted writes"}
	all := writes.NewTenures()
	told.tenures(func(prefix string, token writes.Token, owner string, _ bool) { all.Owner(prefix, token, owner) })
	seen := map[string]bool{}
	for _, op := range run.Writes {
		all.Add(op)
		if op.Outcome == writes.Acknowledged && !seen[op.Scope+op.Token.String()] {
			seen[op.Scope+op.Token.String()] = true
			r.Checked++
		}
	}
	for _, f := range all.Check() {
		r.violated("%v", f)
	}
	r.enough(run)
	return r
}

// enough voids a run with nodes on which too little was written.
func (r *Result) enough(run *history.Run) {
	const least = 500
	acked := 0
	for _, op := range run.Writes {
		if op.Outcome == writes.Acknowledged {
			acked++
		}
	}
	if len(run.Setup.Nodes) > 0 && acked < least {
		r.void("only %d writes were acknowledged by the nodes, at least %d belong to a run with nodes", acked, least)
	}
}

// Moves counts the moves whose slice the nodes have shipped themselves, and how they ended.
type Moves struct {
	Done    int            `json:"done"`
	Aborted map[string]int `json:"aborted"` // by cause
	// QuiescedMS are the times in which the moves that are done took no writes, in order of size.
	QuiescedMS []int64 `json:"-"`
}

// ShippedMoves are the moves between data nodes, by the watch.
func ShippedMoves(run *history.Run) Moves {
	last := map[string]*api.Move{}
	for _, s := range run.Seen {
		for _, c := range s.Item.Changes {
			if m := c.Move; m != nil && c.Op == "put" && slices.Contains(run.Setup.Nodes, m.From) && (last[m.ID] == nil || len(last[m.ID].Stamps) < len(m.Stamps)) {
				last[m.ID] = m
			}
		}
	}
	out := Moves{Aborted: map[string]int{}}
	for _, m := range last {
		switch m.Phase {
		case "done":
			out.Done++
			out.QuiescedMS = append(out.QuiescedMS, m.QuiescedMS)
		case "aborted":
			out.Aborted[m.Cause]++
		}
	}
	slices.Sort(out.QuiescedMS)
	return out
}
