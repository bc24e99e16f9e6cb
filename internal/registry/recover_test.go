package registry

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/api"
)

func declared(prefix string) fsm.Envelope {
	return fsm.Envelope{Command: &fsm.Declare{Prefix: []byte(prefix), Writer: "n0"}}
}

func (r *rig) proposed(id string, envelopes ...fsm.Envelope) {
	r.t.Helper()
	for _, e := range envelopes {
		if _, err := r.open[id].Propose(r.t.Context(), e); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) survivor(id string) *Survivor {
	r.t.Helper()
	s, err := OpenSurvivor(r.t.Context(), r.dir(id), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// single starts a server as the only one of its cluster.
func (r *rig) single(id string) *Registry {
	r.t.Helper()
	cfg := r.config(id)
	for _, p := range r.peers {
		if p.ID == id {
			cfg.Peers = []Peer{p}
		}
	}
	reg, err := Open(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.open[id] = reg
	if _, err := reg.Confirm(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return reg
}

// The survivor lags: what it never had is lost, and all it has goes on, on hold.
// The others come back against all advice, and cannot reach it.
func TestRecoverALaggingSurvivor(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.proposed("s1", setNode(0), declared("a:"))
	for st := r.open["s3"].State(); st.Index() < r.open["s1"].State().Index() || st.Cluster().ID == ""; st = r.open["s3"].State() {
		if err := r.open["s3"].WaitIndex(t.Context(), st.Index()+1); err != nil { // the leader names the cluster in its own time
			t.Fatal(err)
		}
	}
	r.close("s3")
	r.proposed("s1", declared("lost:"))
	old := r.open["s1"].State().Cluster()
	r.close("s1")
	r.close("s2")
	s := r.survivor("s3")
	if s.State.Scopes().Len() != 1 || len(s.Servers) != 3 || len(s.Alive) != 0 || s.LastIndex < s.State.LogIndex() || s.LastTerm == 0 || s.ID() != "s3" {
		t.Errorf("%+v", s)
	}
	if err := errors.Join(s.Recover(101, "tag", true), s.Close()); err != nil {
		t.Fatal(err)
	}
	r.start("s1", "s2")
	reg := r.single("s3")
	st := reg.State()
	c := st.Cluster()
	if c.Incarnation != 101 || c.Tag != "tag" || !c.Hold || !c.Complete || c.ID == old.ID || c.ID != r.identity("s3").Cluster || st.Scopes().Len() != 1 {
		t.Errorf("recovered as %+v with %d scopes", c, st.Scopes().Len())
	}
	r.proposed("s3", setNode(7))
	r.proposed("s1", declared("other:"), declared("another:"))
	if _, err := reg.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := reg.State(); now.Scopes().Len() != 1 || !now.SameIncarnation(st) || now.NodesLen() != 2 {
		t.Errorf("after the others came back: %+v, %d scopes, %d nodes", now.Cluster(), now.Scopes().Len(), now.NodesLen())
	}
	r.close("s3")
	if again := r.single("s3").State(); again.NodesLen() != 2 || again.LogIndex() > again.Index() {
		t.Errorf("%d nodes after a restart", again.NodesLen())
	}
}

// Wherever it is cut off, the server does not start, and recovering again ends it.
func TestRecoverIsCutOff(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.proposed("s1", setNode(0), declared("a:"))
	r.closeAll()
	before := filepath.Join(r.root, "before")
	copyTree(t, r.dir("s1"), before)
	steps, done := []string{}, false
	for n := 0; !done; n++ {
		if err := os.RemoveAll(r.dir("s1")); err != nil {
			t.Fatal(err)
		}
		copyTree(t, before, r.dir("s1"))
		s := r.survivor("s1")
		calls, crash := 0, errors.New("cut off")
		s.cut = func(step string) error {
			if calls++; calls > n {
				steps = append(steps, step)
				return crash
			}
			return nil
		}
		err := s.Recover(50, "first", false)
		done = err == nil
		if err != nil && !errors.Is(err, crash) {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if !done {
			cfg := r.config("s1")
			cfg.Peers = cfg.Peers[:1]
			_ = r.refused(cfg, "cluster recover --data-dir") // it has looked at the error
			s = r.survivor("s1")
			if s.Unfinished() != 50 {
				t.Errorf("after %q: unfinished %d", steps[n], s.Unfinished())
			}
			if err := errors.Join(s.Recover(999, "second", true), s.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if c := r.single("s1").State().Cluster(); c.Incarnation != 50 || c.Tag != "first" || c.Complete || !c.Hold {
			t.Errorf("cut off at %v: %+v", steps, c)
		}
		r.close("s1")
	}
	if len(steps) != 4 {
		t.Errorf("it was cut off at %v", steps)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func TestRecoverRefusals(t *testing.T) {
	r := newRig(t)
	look := func(dir, says string) {
		t.Helper()
		s, err := OpenSurvivor(t.Context(), dir, nil)
		if err == nil {
			t.Fatalf("%s was opened (%v)", dir, s.Close())
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q in it", err, says)
		}
	}
	none := filepath.Join(r.root, "none")
	look(none, "no data directory")
	if _, err := os.Stat(none); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking made it: %v", err)
	}
	r.start("s1", "s2", "s3")
	r.proposed("s1", setNode(0), declared("a:"))
	look(r.dir("s1"), "another process")
	r.close("s1")
	s := r.survivor("s1")
	if len(s.Alive) != 2 {
		t.Errorf("%v answer", s.Alive)
	}
	for _, c := range []struct {
		number uint64
		tag    string
		code   api.Code
	}{{1, "t", api.StaleEpoch}, {fsm.MaxIncarnation + 1, "t", api.Invalid}, {2, "", api.Invalid}} {
		if err := s.Recover(c.number, c.tag, true); api.CodeOf(err) != c.code {
			t.Errorf("%d %q: %v, want %s", c.number, c.tag, err, c.code)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r.start("s1") // nothing of that was written
	r.closeAll()
	s = r.survivor("s2")
	if err := errors.Join(s.Recover(2, "t", true), s.Close()); err != nil {
		t.Fatal(err)
	}
	look(r.dir("s2"), "nothing to recover")
}

// A server that is being joined, or was removed, has no vote and may lack most; who recovers it is told.
func TestRecoverAServerWithoutAVote(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.until("s1 to lead", func() bool {
		return r.open["s1"].Transfer(t.Context(), "s1") == nil && r.open["s1"].raft.State() == raft.Leader
	})
	if err := r.open["s1"].raft.DemoteVoter("s3", 0, 0).Error(); err != nil {
		t.Fatal(err)
	}
	r.until("s3 to have that", func() bool { _, _, votes := r.open["s3"].Members(); return !votes })
	r.closeAll()
	for id, votes := range map[string]bool{"s1": true, "s3": false} {
		s := r.survivor(id)
		if s.Votes != votes || len(s.Servers) != 3 {
			t.Errorf("%s votes: %v, of %v", id, s.Votes, s.Servers)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A newest snapshot that is damaged is passed over where the log reaches an older
// one, and refused where it does not.
func TestRecoverWithADamagedSnapshot(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.proposed("s1", setNode(0))
	for _, p := range []string{"a:", "b:"} {
		r.proposed("s1", declared(p))
		if err := r.open["s1"].raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
	}
	r.closeAll()
	damage := func(n int) {
		t.Helper()
		snaps, err := raft.NewFileSnapshotStore(r.dir("s1"), snapshotsKept, nil)
		if err != nil {
			t.Fatal(err)
		}
		list, err := snaps.List()
		if err != nil || len(list) <= n {
			t.Fatalf("%v, %v", list, err)
		}
		name := filepath.Join(r.dir("s1"), snapshotDir, list[n].ID, "state.bin")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage(0)
	s := r.survivor("s1")
	if s.State.Scopes().Len() != 2 || len(s.Damaged) != 1 || s.Damaged[0].Index > s.LastIndex {
		t.Errorf("%d scopes, %v at %d", s.State.Scopes().Len(), s.Damaged, s.LastIndex)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	damage(1)
	if s, err := OpenSurvivor(t.Context(), r.dir("s1"), nil); err == nil || !strings.Contains(err.Error(), "no snapshot in") {
		t.Errorf("%v, %v", s, err)
	}
}

// A snapshot that is damaged and reached further than all else is told as lost,
// and raft does not take it for the newest after the recovery.
func TestRecoverBelowADamagedSnapshot(t *testing.T) {
	r := newRig(t)
	r.start("s1", "s2", "s3")
	r.proposed("s1", setNode(0))
	r.proposed("s1", declared("a:"))
	if err := r.open["s1"].raft.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	r.closeAll()
	ahead := filepath.Join(r.dir("s1"), snapshotDir, "9000-9000-1")
	if err := errors.Join(os.MkdirAll(ahead, 0o700),
		os.WriteFile(filepath.Join(ahead, metaName), []byte(`{"Version":1,"ID":"9000-9000-1","Index":9000,"Term":9000}`), 0o600),
		os.WriteFile(filepath.Join(ahead, stateName), []byte("no state"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := r.survivor("s1")
	if len(s.Damaged) != 1 || s.Damaged[0].Index != 9000 || s.LastIndex >= 9000 {
		t.Fatalf("%v at %d", s.Damaged, s.LastIndex)
	}
	if err := errors.Join(s.Recover(2, "t", true), s.Close()); err != nil {
		t.Fatal(err)
	}
	r.peers = []Peer{s.Self()}
	r.start("s1")
	if st := r.open["s1"].State(); st.Scopes().Len() != 1 || st.Cluster().Incarnation != 2 || st.Index() <= 9000 {
		t.Errorf("%d scopes, %+v at %d", st.Scopes().Len(), st.Cluster(), st.Index())
	}
}
