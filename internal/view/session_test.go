package view

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// open gives the node a session that has seen the index view.
func (w *world) open(node string, view uint64) {
	w.t.Helper()
	w.do(&fsm.OpenSession{Node: node, Identity: "d-" + node, Session: "s-" + node, TokenHash: make([]byte, fsm.TokenHashLen), Incarnation: 1, IncarnationTag: "c1", View: view})
}

// leader says what it counts of the sessions of a and b.
func leader(a, b uint64) *api.Leading {
	return &api.Leading{Leader: "s1", Leases: []api.LeaseState{{Session: "s-a", View: a, LeftMS: 7}, {Session: "s-b", View: b, Blind: true}, {Session: "gone", View: 99}}}
}

func TestSessions(t *testing.T) {
	w := declared(t)
	is(t, "none", Sessions(w.st, leader(1, 1)), `[]`)
	w.open("b", 3)
	w.open("a", 4)
	is(t, "the larger view counts", Sessions(w.st, leader(9, 2)), `[{"node":"a","id":"s-a","opened_index":7,"view_index":9,"left_ms":7},`+
		`{"node":"b","id":"s-b","opened_index":6,"view_index":3,"left_ms":0,"blind":true}]`)
	is(t, "no leader", Sessions(w.st, nil), `[{"node":"a","id":"s-a","opened_index":7,"view_index":4},{"node":"b","id":"s-b","opened_index":6,"view_index":3}]`)
	w.open("c", 5)
	if got := Sessions(w.st, leader(1, 1)); len(got) != 3 || got[2].Node != "c" || got[2].LeftMS != nil {
		t.Errorf("one that the leader does not know: %+v", got)
	}
}

// The scope changed at index 5. The leader is asked only if the log leaves it open.
func TestSettledAndUnseen(t *testing.T) {
	for _, c := range []struct {
		name        string
		logged      [2]uint64 // views of a and b, as the log has them
		heard       [2]uint64 // and as the leader has them
		asks        bool
		settled     string
		unseen, why string
	}{
		{"the log tells", [2]uint64{5, 6}, [2]uint64{}, false, "true", "[]", "epoch 1."},
		{"only the leader knows", [2]uint64{1, 5}, [2]uint64{8, 1}, true, "true", "[]", "epoch 1."},
		{"one has not seen it", [2]uint64{1, 5}, [2]uint64{4, 1}, true, "false", "[a]", "epoch 1."},
		{"neither has", [2]uint64{1, 2}, [2]uint64{0, 4}, true, "false", "[a b]", "epoch 1."},
		{"no leader", [2]uint64{1, 5}, [2]uint64{}, true, "unknown", "[]", "The leader could not be asked how far the nodes are (mute)."},
	} {
		w := declared(t)
		w.do(&fsm.SetNode{Id: "d", Addr: "h:4"}, &fsm.SetNode{Id: "e", Addr: "h:5"})
		w.open("a", c.logged[0])
		w.open("b", c.logged[1])
		asked := 0
		ask := func() (*api.Leading, error) {
			asked++
			if c.name == "no leader" {
				return nil, errors.New("mute")
			}
			return leader(c.heard[0], c.heard[1]), nil
		}
		e, _ := Explain(w.st, []byte("\x00:k"), "", 0)
		ExplainNodes(w.st, []byte("\x00:k"), &e, ask)
		for what, got := range map[string]*bool{"scope": Settled(w.st, w.scope("\x00:"), ask), "explain": e.Scope.Settled} {
			said := "unknown"
			if got != nil {
				said = fmt.Sprint(*got)
			}
			if said != c.settled {
				t.Errorf("%s, %s: settled %s, want %s", c.name, what, said, c.settled)
			}
		}
		if fmt.Sprint(e.Unseen) != c.unseen || !strings.HasSuffix(e.Why, c.why) || (asked > 0) != c.asks {
			t.Errorf("%s: unseen %v, asked %d times, %s", c.name, e.Unseen, asked, e.Why)
		}
	}
}

func TestProgress(t *testing.T) {
	l := &api.Leading{Progress: map[string]api.Progress{"m1": {Keys: 3}}}
	for want, m := range map[string]api.Move{
		"with":             {ID: "m1", Mode: "agent", Phase: "copying"},
		"with too":         {ID: "m1", Mode: "agent", Phase: "shipped"},
		"another move":     {ID: "m2", Mode: "agent", Phase: "copying"},
		"an operator's":    {ID: "m1", Mode: "assisted", Phase: "copying"},
		"it is done":       {ID: "m1", Mode: "agent", Phase: "done"},
		"it has aborted":   {ID: "m1", Mode: "agent", Phase: "aborted"},
		"it was no move":   {ID: "m1", Mode: "forced", Phase: "done"},
		"nobody has moved": {},
	} {
		Progress(&m, l)
		if got := m.Progress != nil; got != strings.HasPrefix(want, "with") {
			t.Errorf("%s: %+v", want, m.Progress)
		}
		m.Progress = nil
		if Progress(&m, nil); m.Progress != nil {
			t.Errorf("%s: without a leader %+v", want, m.Progress)
		}
	}
}
