package registry

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

// restoring are the commands that put back a state of cluster c1 with the nodes n0 to n4 at an index far ahead.
func restoring(t *testing.T, id, tag string, incarnation uint64) (commands []fsm.Command, back fsm.State) {
	t.Helper()
	back, _, _ = back.Apply(fsm.At{Index: 5000}, fsm.Envelope{Command: &fsm.InitCluster{Id: "c1"}})
	for i := range 5 {
		back, _, _ = back.Apply(fsm.At{Index: back.Index() + 1}, setNode(i))
	}
	var b bytes.Buffer
	if err := back.EncodeBackup(&b, 1); err != nil {
		t.Fatal(err)
	}
	offset := uint64(0)
	for part := range slices.Chunk(b.Bytes(), 64) {
		commands = append(commands, &fsm.StageBackup{Id: id, Offset: offset, Data: part})
		offset += uint64(len(part))
	}
	sum := sha256.Sum256(b.Bytes())
	return append(commands, &fsm.Restore{Id: id, Bytes: offset, Sha256: sum[:], Incarnation: incarnation, Tag: tag, Complete: true}), back
}

// The leader is cut off before any of the steps of a restore, the last one included, and what was begun goes on at the
// next: every server ends with one state, the old or the new one, also the leader that had begun it.
func TestRestoreSurvivesItsLeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, func(cfg *Config) { cfg.checkEvery = 1 << 40 }) // the hashes below are of one index
		n.ready()
		steps, back := restoring(t, "u0", "t0", 2)
		for cut := range steps {
			incarnation := uint64(cut + 2)
			commands, _ := restoring(t, "u"+string(rune('a'+cut)), "t"+string(rune('a'+cut)), incarnation)
			for i, c := range commands {
				old := n.leader("")
				if i == cut {
					n.isolate(old.id)
					_, err := old.reg.Propose(t.Context(), fsm.Envelope{Command: c})
					wantCode(t, err, api.OutcomeUnknown, api.NoLeader)
					old = n.leader(old.id)
				}
				mustPropose(t, old, fsm.Envelope{Command: c})
				if c := old.reg.State().Cluster(); i < len(commands)-1 && c.Incarnation >= incarnation {
					t.Fatalf("after %d of %d steps the cluster is in %+v", i+1, len(commands), c)
				}
			}
			n.heal()
			var hash string
			for _, s := range n.servers {
				if _, err := s.reg.Confirm(t.Context()); err != nil {
					t.Fatal(err)
				}
				st := s.reg.State()
				if c := st.Cluster(); c.Incarnation != incarnation || !c.Hold || st.NodesLen() != 5 || st.Index() <= back.Index() {
					t.Fatalf("cut at %d: %s is in %+v at %d with %d nodes", cut, s.id, c, st.Index(), st.NodesLen())
				}
				if hash == "" {
					hash = st.Hash()
				}
				if st.Hash() != hash {
					t.Fatalf("cut at %d: %s has another state", cut, s.id)
				}
			}
		}
	})
}

// What was staged by somebody who is gone is dropped by the leader, whoever that is then.
func TestStandingUploadIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, nil)
		n.ready()
		l := n.leader("")
		n.until("a cluster id", func() bool { return l.reg.State().Cluster().ID == "c1" })
		mustPropose(t, l, fsm.Envelope{Command: &fsm.StageBackup{Id: "u", Data: []byte("part")}})
		n.isolate(l.id)
		next := n.leader(l.id)
		n.heal()
		n.until("the drop", func() bool { id, _ := next.reg.State().Staged(); return id == "" })
	})
}
