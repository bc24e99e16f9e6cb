package fsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// backupOf is a state with something of everything that a restore ends, and its
// backup.
func backupOf(t testing.TB) (State, []byte) {
	t.Helper()
	s := applied(t, founded(t), &Declare{Prefix: []byte("a:"), Writer: "n1", Fallback: "n2"})
	s = applied(t, s, &Declare{Prefix: []byte("b:"), Writer: "n2"})
	s = applied(t, s, &StartMove{Id: "m1", Prefix: []byte("b:"), From: "n2", To: "n3", Mode: "assisted"})
	var b bytes.Buffer
	if err := s.EncodeBackup(&b, 1234); err != nil {
		t.Fatal(err)
	}
	return s, b.Bytes()
}

// uploaded is the commands that stage data in parts of at most n bytes.
func uploaded(id string, data []byte, n int) []Command {
	var out []Command
	offset := uint64(0)
	for part := range slices.Chunk(data, n) {
		out = append(out, &StageBackup{Id: id, Offset: offset, Data: part})
		offset += uint64(len(part))
	}
	return out
}

func restoreOf(id string, data []byte, incarnation uint64, tag string) *Restore {
	sum := sha256.Sum256(data)
	return &Restore{Id: id, Bytes: uint64(len(data)), Sha256: sum[:], Incarnation: incarnation, Tag: tag}
}

// logged applies commands to an FSM at the log indexes from its own on.
func logged(t testing.TB, f *FSM, commands ...Command) *Result {
	t.Helper()
	var last *Result
	for _, c := range commands {
		results, ok := f.Apply(commandAt(t, f.State().LogIndex()+1, c)).([]*Result)
		if !ok || len(results) != 1 {
			t.Fatalf("%T: %v", c, results)
		}
		last = results[0]
		if err := f.State().Check(); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

func TestBackupTellsWhenItWasWritten(t *testing.T) {
	s, data := backupOf(t)
	got, at, err := LoadBackup(bytes.NewReader(data))
	if err != nil || at != 1234 || got.Hash() != s.Hash() {
		t.Errorf("%v, written %d", err, at)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if _, _, err := LoadBackup(bytes.NewReader(bad)); err == nil {
			t.Fatalf("byte %d of %d was flipped and the backup loaded", i, len(data))
		}
		if _, _, err := LoadBackup(bytes.NewReader(data[:i])); err == nil {
			t.Fatalf("the first %d of %d bytes loaded", i, len(data))
		}
	}
	staged := applied(t, s, &StageBackup{Id: "u", Data: []byte("x")})
	var b bytes.Buffer
	if err := staged.EncodeBackup(&b, 1); err != nil {
		t.Fatal(err)
	}
	if got, _, err := LoadBackup(&b); err != nil || got.staged.id != "" {
		t.Errorf("a backup holds what is on its way: %v, %+v", err, got.staged)
	}
}

// A restore that the log brings is that of [State.Restored], ends the watchers,
// and wakes who waits for an index. In a log that is younger than the backup the
// indexes count on from the backup's.
func TestRestoreByTheLog(t *testing.T) {
	back, data := backupOf(t)
	f := newFSM(t)
	logged(t, f, &InitCluster{Id: "c2"}, &SetNode{Id: "x", Addr: "h:1"})
	w, err := f.Watch(0)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- f.WaitIndex(context.Background(), back.Index()+1) }()
	logged(t, f, uploaded("u1", data, 97)...)
	logged(t, f, uploaded("u2", data, 1000)...)
	if old := logged(t, f, restoreOf("u1", data, 7, "t7")); old.GetCode() != string(api.WrongPhase) {
		t.Errorf("a restore of a dropped upload: %v", old)
	}
	c := restoreOf("u2", data, 7, "t7")
	if r := logged(t, f, c); r.GetCode() != string(api.Invalid) || !strings.Contains(r.GetDetail(), "--from-cluster") {
		t.Errorf("the backup of another cluster: %v", r)
	}
	c.FromCluster, c.Complete = back.Cluster().ID, true
	logIndex := f.State().LogIndex() + 1
	r := logged(t, f, c)
	s := f.State()
	if r.GetCode() != "" || s.Index() <= back.Index() || r.GetIndex() != s.Index() || s.LogIndex() != logIndex || s.ConfigIndex() != s.Index() {
		t.Fatalf("%v, index %d, in the log %d", r, s.Index(), s.LogIndex())
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	want, _, err := back.Restored(Restoration{Incarnation: 7, Tag: "t7", Complete: true, Index: s.Index(), Base: s.base, Cluster: "c2", TimeMS: int64(logIndex)})
	if err != nil {
		t.Fatal(err)
	}
	want.dedup, s.dedup = ring{}, ring{} // the restore's own result is remembered
	if want.Hash() != s.Hash() {
		t.Error("the log restored something else than Restored")
	}
	for err = error(nil); err == nil; {
		_, err = w.Next(t.Context())
	}
	if api.CodeOf(err) != api.Compacted {
		t.Errorf("the watcher ended with %v", err)
	}
	again := logged(t, f, &SetNode{Id: "y", Addr: "h:2"})
	if again.GetIndex() != s.Index()+1 || f.State().LogIndex() != logIndex+1 {
		t.Errorf("the next entry has index %d, in the log %d", again.GetIndex(), f.State().LogIndex())
	}
	g := newFSM(t)
	if err := restore(g, persist(t, f)); err != nil || g.State().Hash() != f.State().Hash() || g.State().LogIndex() != logIndex+1 {
		t.Errorf("%v, log index %d after a snapshot", err, g.State().LogIndex())
	}
}

// Whoever reads the log from any snapshot on gets the same state, also from one
// taken while parts were staged.
func TestRestoreIsReplayed(t *testing.T) {
	_, data := backupOf(t)
	commands := append([]Command{&InitCluster{Id: "c1"}}, uploaded("u1", data, 200)...)
	commands = append(commands, restoreOf("u1", data, 2, "t2"), &SetNode{Id: "z", Addr: "h:9"})
	whole := newFSM(t)
	logged(t, whole, commands...)
	for cut := range commands {
		first, second := newFSM(t), newFSM(t)
		logged(t, first, commands[:cut+1]...)
		if err := restore(second, persist(t, first)); err != nil {
			t.Fatal(err)
		}
		logged(t, second, commands[cut+1:]...)
		if second.State().Hash() != whole.State().Hash() {
			t.Errorf("a snapshot after %d commands leads elsewhere", cut+1)
		}
	}
}

func TestRestoreRefusals(t *testing.T) {
	back, data := backupOf(t)
	staged := founded(t)
	for _, c := range uploaded("u1", data, 512) {
		staged = applied(t, staged, c)
	}
	try := func(s State, change func(*Restore)) (State, *api.Error) {
		c := restoreOf("u1", data, 3, "t3")
		change(c)
		next, r, _ := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: c})
		var err *api.Error
		if errors.As(ResultError(r), &err) && next.SameIncarnation(s) != true {
			t.Errorf("refused with %v, and the state is another", err)
		}
		return next, err
	}
	for name, c := range map[string]struct {
		code   api.Code
		change func(*Restore)
	}{
		"the same incarnation":    {api.StaleEpoch, func(c *Restore) { c.Incarnation = 1 }},
		"none":                    {api.StaleEpoch, func(c *Restore) { c.Incarnation = 0 }},
		"an unreadable number":    {api.Invalid, func(c *Restore) { c.Incarnation = MaxIncarnation + 1 }},
		"no tag":                  {api.Invalid, func(c *Restore) { c.Tag = "" }},
		"the tag of the backup":   {api.Invalid, func(c *Restore) { c.Tag = back.Cluster().Tag }},
		"less":                    {api.WrongPhase, func(c *Restore) { c.Bytes-- }},
		"other bytes":             {api.Corrupt, func(c *Restore) { c.Sha256[0]++ }},
		"another cluster is said": {api.Invalid, func(c *Restore) { c.FromCluster = "other" }},
	} {
		if _, err := try(staged, c.change); err == nil || err.Code != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	// Twice with the same number: the same tag is the same restore.
	done, err := try(staged, func(*Restore) {})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := try(done, func(*Restore) {}); err != nil || !again.SameIncarnation(done) {
		t.Errorf("the same restore again: %v", err)
	}
	if _, err := try(done, func(c *Restore) { c.Tag = "other" }); err == nil || err.Code != api.StaleEpoch {
		t.Errorf("the same number with another tag: %v", err)
	}
	if id, n := done.Staged(); id != "" || n != 0 {
		t.Errorf("%d bytes of %q are staged still", n, id)
	}
}

// Epochs go on from the higher of the two, and the tokens rise.
func TestRestoreKeepsEpochsRising(t *testing.T) {
	back, data := backupOf(t)
	s := back
	for range 5 { // tenures that the backup does not know
		s = applied(t, applied(t, s, &Declare{Prefix: []byte("later:"), Writer: "n1"}), &Retire{Prefix: []byte("later:")})
	}
	high := s.Cluster().NextEpoch
	for _, c := range uploaded("u1", data, 4096) {
		s = applied(t, s, c)
	}
	s = applied(t, s, restoreOf("u1", data, 2, "t2"))
	s = applied(t, s, &Declare{Prefix: []byte("new:"), Writer: "n1"})
	if sc, _ := s.Scopes().Get("new:"); sc.Epoch < high || high <= back.Cluster().NextEpoch {
		t.Errorf("epoch %d after a restore, %d was next before it", sc.Epoch, high)
	}
	if m, _ := s.Moves().Get("m1"); m.Cause != CauseRestored {
		t.Errorf("the move of the backup is %+v", m)
	}
}

func TestStagingRefusals(t *testing.T) {
	s := applied(t, founded(t), &StageBackup{Id: "u1", Data: []byte("abc")})
	for name, c := range map[string]struct {
		code api.Code
		c    Command
	}{
		"a gap":              {api.WrongPhase, &StageBackup{Id: "u1", Offset: 4, Data: []byte("x")}},
		"a part again":       {api.WrongPhase, &StageBackup{Id: "u1", Offset: 2, Data: []byte("x")}},
		"another upload":     {api.WrongPhase, &StageBackup{Id: "u2", Offset: 3, Data: []byte("x")}},
		"nothing":            {api.Invalid, &StageBackup{Id: "u1", Offset: 3}},
		"no id":              {api.Invalid, &StageBackup{Data: []byte("x")}},
		"too much":           {api.Invalid, &StageBackup{Id: "u1", Offset: 3, Data: make([]byte, StagePart+1)}},
		"drop of another":    {api.WrongPhase, &DropBackup{Id: "u2"}},
		"drop of what grows": {api.WrongPhase, &DropBackup{Id: "u1", Bytes: 2}},
	} {
		_, r, _ := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: c.c})
		if r.GetCode() != string(c.code) {
			t.Errorf("%s: %v, want %s", name, r, c.code)
		}
	}
	full := s
	full.staged.size = MaxBackup
	if _, r, _ := full.Apply(At{Index: s.Index() + 1}, Envelope{Command: &StageBackup{Id: "u1", Offset: MaxBackup, Data: []byte("x")}}); r.GetCode() != string(api.TooLarge) {
		t.Errorf("beyond the limit: %v", r)
	}
	if dropped := applied(t, s, &DropBackup{Id: "u1", Bytes: 3}); dropped.staged.size != 0 {
		t.Errorf("%+v after a drop", dropped.staged)
	}
}

// Bytes that this release cannot read, and that some other server has read, stop
// the server: to refuse them would make it differ from that one.
func TestRestoreOfUnreadableStops(t *testing.T) {
	var stopped error
	f := New(func(err error) { stopped = err })
	data := []byte("SCOPESNP of some later release")
	logged(t, f, &InitCluster{Id: "c1"}, &StageBackup{Id: "u1", Data: data})
	answer, _ := f.Apply(commandAt(t, 3, restoreOf("u1", data, 2, "t2"))).(error)
	if stopped == nil || api.CodeOf(answer) != api.Corrupt || f.State().Index() != 2 {
		t.Errorf("%v, stopped by %v, at %d", answer, stopped, f.State().Index())
	}
	var refused *api.Error
	if after, _ := f.Apply(entryAt(t, 4)).(error); !errors.As(after, &refused) {
		t.Error("entries after it are applied")
	}
}

// What nobody goes on sending is dropped after a while of the leader's.
func TestLeaderDropsAStandingUpload(t *testing.T) {
	s := applied(t, founded(t), &StageBackup{Id: "u1", Data: []byte("abc")})
	l := NewLedger(api.DefaultLeases(), 1)
	at := func(now time.Duration) []Directive {
		var out []Directive
		var due time.Duration
		l, out, due = Reconcile(s, l, now)
		if len(out) == 0 && (due == 0 || due > now+stagedFor) {
			t.Errorf("at %s due %s", now, due)
		}
		return out
	}
	if out := append(at(time.Second), at(stagedFor)...); len(out) != 0 {
		t.Fatalf("%v is proposed at once", out)
	}
	s = applied(t, s, &StageBackup{Id: "u1", Offset: 3, Data: []byte("d")})
	if out := append(at(stagedFor+time.Second), at(2*stagedFor)...); len(out) != 0 {
		t.Fatalf("%v is proposed while it grows", out)
	}
	out := at(2*stagedFor + 2*time.Second)
	if len(out) != 1 {
		t.Fatalf("%v is proposed", out)
	}
	s = applied(t, s, out[0].Command())
	if l, out, due := Reconcile(s, l, 5*stagedFor); len(out) != 0 || due != 0 || l.upload != (upload{}) {
		t.Errorf("%v, due %s after the drop", out, due)
	}
}
