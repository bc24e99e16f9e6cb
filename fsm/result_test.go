package fsm

import (
	"errors"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

// A refused plan is told which index a new one must have seen; the record keeps
// the index of its entry, as the ring of request ids needs it.
func TestIndexChangedNamesTheConfigIndex(t *testing.T) {
	var s State
	s, _, _ = s.Apply(At{Index: 3}, Envelope{Command: &SetNode{Id: "a", Addr: "h:1"}})
	stale := &Batch{CheckIndex: true, IfIndex: 2, Nodes: []*SetNode{{Id: "b", Addr: "h:2"}}}
	_, r, _ := s.Apply(At{Index: 9}, Envelope{Command: stale})
	_, planned := s.Plan(stale)
	for _, err := range []error{ResultError(r), planned} {
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.IndexChanged || e.Index != 3 || e.Floor != 3 {
			t.Errorf("%+v", e)
		}
	}
	if r.GetIndex() != 9 {
		t.Errorf("the record has index %d, want that of its entry", r.GetIndex())
	}
}
