package check

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
)

// record is what a prefix was at an index, by the watch.
type record struct {
	index uint64
	scope *api.Scope        // nil when it is not declared
	move  string            // id of the running move
	owed  map[string]string // node → move whose copy it still has to delete
}

// span is a stretch of indexes over which a server's watch told everything:
// all after from, up to and with to.
type span struct{ from, to uint64 }

// told is what all watches together told.
type told struct {
	changes  map[uint64][]api.Change
	text     map[string]map[uint64]string // server → index → the changes in one form
	spans    map[string][]span
	byPrefix map[string][]record // in the order of indexes
}

// replay puts the watches together. Where they differ the first one counts;
// [Watches] reports it.
func replay(run *history.Run) told {
	t := told{changes: map[uint64][]api.Change{}, text: map[string]map[uint64]string{}, spans: map[string][]span{}, byPrefix: map[string][]record{}}
	begin := map[string]bool{} // the next snapshot begins a new span
	for _, server := range run.Setup.Servers {
		t.text[server], begin[server] = map[uint64]string{}, true
	}
	for _, s := range run.Seen {
		if t.text[s.Server] == nil {
			continue
		}
		spans := t.spans[s.Server]
		switch {
		case s.Resync:
			begin[s.Server] = true
			continue
		case s.Item.Type == "snapshot" && begin[s.Server]:
			begin[s.Server] = false
			spans = append(spans, span{s.Item.Index, s.Item.Index})
		case s.Item.Type == "change":
			t.text[s.Server][s.Item.Index] = inOneForm(s.Item.Changes)
			if _, ok := t.changes[s.Item.Index]; !ok {
				t.changes[s.Item.Index] = s.Item.Changes
			}
		}
		if n := len(spans); n > 0 {
			spans[n-1].to = max(spans[n-1].to, s.Item.Index)
		}
		t.spans[s.Server] = spans
	}
	for _, index := range slices.Sorted(maps.Keys(t.changes)) {
		for _, c := range t.changes[index] {
			t.apply(index, c)
		}
	}
	return t
}

// inOneForm is the changes without what each server works out by its own clock.
func inOneForm(changes []api.Change) string {
	out := slices.Clone(changes)
	for i, c := range out {
		if c.Move != nil {
			m := *c.Move
			m.QuiescedMS, m.Waiting = 0, nil
			out[i].Move = &m
		}
	}
	data, err := json.Marshal(out)
	if err != nil {
		return err.Error() // plain data that came as JSON
	}
	return string(data)
}

// covers reports whether a server's watch must have told an index.
func (t told) covers(server string, index uint64) bool {
	return slices.ContainsFunc(t.spans[server], func(s span) bool { return s.from < index && index <= s.to })
}

// apply makes the record of a prefix from the one before and a change.
func (t told) apply(index uint64, c api.Change) {
	prefix := ""
	switch {
	case c.Scope != nil:
		prefix = c.Scope.Prefix
	case c.Move != nil:
		prefix = c.Move.Prefix
	case c.Cleanup != nil:
		prefix = c.Cleanup.Prefix
	default:
		return
	}
	r := record{index: index}
	all := t.byPrefix[prefix]
	if n := len(all); n > 0 {
		r = all[n-1]
		if r.index == index {
			all = all[:n-1]
		}
		r.index = index
	}
	switch {
	case c.Scope != nil && c.Op == "delete":
		r.scope = nil
	case c.Scope != nil:
		r.scope = c.Scope
	case c.Move != nil && (c.Move.Phase == "done" || c.Move.Phase == "aborted"):
		r.move = ""
	case c.Move != nil:
		r.move = c.Move.ID
	case c.Cleanup != nil:
		r.owed = maps.Clone(r.owed)
		if r.owed == nil {
			r.owed = map[string]string{}
		}
		if c.Op == "delete" {
			delete(r.owed, c.Cleanup.Node)
		} else {
			r.owed[c.Cleanup.Node] = c.Cleanup.Move
		}
	}
	t.byPrefix[prefix] = append(all, r)
}

// at is what a prefix was at an index.
func (t told) at(prefix string, index uint64) record {
	all := t.byPrefix[prefix]
	i, found := slices.BinarySearchFunc(all, index, func(r record, index uint64) int { return cmp.Compare(r.index, index) })
	switch {
	case found:
		return all[i]
	case i == 0:
		return record{}
	}
	return all[i-1]
}

// shows reports whether a read that returned got saw this record.
func (r record) shows(got *api.Scope) bool {
	if got == nil || r.scope == nil {
		return got == nil && r.scope == nil
	}
	owed := map[string]string{}
	for _, c := range got.Cleanups {
		owed[c.Node] = c.Move
	}
	return sameScope(got, r.scope) && got.Move == r.move && maps.Equal(owed, r.owed)
}
