package fsm

import (
	"slices"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

func TestCheckState(t *testing.T) {
	f := newFSM(t)
	var marked []Checked
	f.OnCheck(func(s State) {
		if s.Index() != s.Checked().Index || s.Hash() != f.State().Hash() {
			t.Errorf("told of the state at %d, marked is %v", s.Index(), s.Checked())
		}
		marked = append(marked, s.Checked())
	})
	hash := strings.Repeat("0a", HashLen/2)
	apply := func(index uint64, c Command, want api.Code) {
		t.Helper()
		r := f.Apply(commandAt(t, index, c)).([]*Result)[0]
		if api.Code(r.GetCode()) != want {
			t.Fatalf("entry %d: %v, want %q", index, r, want)
		}
	}
	before := f.State()
	apply(3, &CheckState{Of: 2, Hash: hash}, api.Invalid) // nothing was marked yet
	apply(4, &CheckState{Hash: hash}, api.Invalid)
	apply(5, &CheckState{}, "")
	apply(6, &SetNode{Id: "n1", Addr: "h:1"}, "")
	apply(7, &CheckState{Of: 5, Hash: hash[2:]}, api.Invalid)
	apply(8, &CheckState{Of: 5, Hash: strings.ToUpper(hash)}, api.Invalid)
	apply(9, &CheckState{Of: 6, Hash: hash}, api.Invalid)
	apply(10, &CheckState{Of: 5, Hash: hash}, "")
	apply(11, &CheckState{Of: 5, Hash: hash}, api.Invalid) // a leader of the past
	apply(12, &CheckState{}, "")
	if want := []Checked{{Index: 5}, {10, 5, hash}, {Index: 12}}; !slices.Equal(marked, want) {
		t.Errorf("marked %v, want %v", marked, want)
	}
	// It is part of the state: a server that loads a snapshot refuses the same.
	loaded := newFSM(t)
	if err := restore(loaded, persist(t, f)); err != nil || loaded.State().Checked() != f.State().Checked() || loaded.State().Hash() != f.State().Hash() {
		t.Errorf("after a snapshot %v, %v", loaded.State().Checked(), err)
	}
	if before.clusterRecord().GetCluster().GetChecked() != nil {
		t.Error("a state without a check has a record of it, which changes the hash of old logs")
	}
	// A restore is another history.
	s := f.State()
	s.cluster.ID = "c"
	s, _, err := s.Restored(Restoration{Incarnation: 2, Tag: "t", Index: 20})
	if err != nil || s.Checked() != (Checked{}) {
		t.Errorf("after a restore %v, %v", s.Checked(), err)
	}
}
