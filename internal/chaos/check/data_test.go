package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// store is a clean history of one scope that moved from node a to node b, with
// writes before and after.
type store struct {
	*rig
	before, after writes.Token
}

// write records an attempt that ended as it shall, at a node.
func (s *store) write(node, key string, o writes.Outcome, token writes.Token) *writes.Op {
	s.now += time.Millisecond
	at := int64(s.now)
	s.run.Writes = append(s.run.Writes, writes.Op{Scope: "p:", Client: "c", Key: key, Value: "of " + key, Node: node, Outcome: o,
		Call: at, Began: at + 1, Ended: at + 2, Return: at + 3, Token: token})
	return &s.run.Writes[len(s.run.Writes)-1]
}

// owned is the dump of the owner.
func (s *store) owned() *history.Dump { return &s.run.Dumps[0] }

func (s *store) has(key string, epoch uint64) {
	d := s.owned()
	d.Records = append(d.Records, writes.Record{Key: key, Value: "of " + key, Epoch: epoch})
}

// loses takes a key out of what the owner has.
func (s *store) loses(key string) {
	d := s.owned()
	d.Records = slices.DeleteFunc(d.Records, func(r writes.Record) bool { return r.Key == key })
}

func (s *store) is(key string) *writes.Record {
	d := s.owned()
	return &d.Records[slices.IndexFunc(d.Records, func(r writes.Record) bool { return r.Key == key })]
}

func (s *store) wrote(key string) *writes.Op {
	return &s.run.Writes[slices.IndexFunc(s.run.Writes, func(op writes.Op) bool { return op.Key == key })]
}

// tells has every watch tell a change of the scope that no operation asked for.
func (s *store) tells(cause, owner string, epoch uint64) {
	s.index++
	for _, id := range rigServers {
		s.run.Seen = append(s.run.Seen, history.Seen{Server: id, At: s.now, Item: api.WatchItem{Type: "change", Index: s.index, Changes: []api.Change{
			{Cause: cause, Op: "put", Scope: &api.Scope{Prefix: "p:", Owner: owner, Epoch: epoch, Incarnation: 1}}}}})
	}
}

func cleanStore(t *testing.T) *store {
	t.Helper()
	s := &store{rig: newRig(t)}
	s.run.Setup.Started = time.Unix(0, 0)
	s.run.Setup.Nodes = []string{"a", "b"}
	first := s.do("s1", history.Declare, "p:", history.Arg{Writer: "a", Fallback: "c"})
	s.before = writes.Token{Incarnation: 1, Epoch: first.Got.Epoch}
	for i := range 250 {
		s.write("a", fmt.Sprintf("old%03d", i), writes.Acknowledged, s.before)
	}
	s.write("a", "deleted", writes.Acknowledged, s.before)
	s.write("a", "deleted", writes.Acknowledged, s.before).Deletes = true
	s.write("a", "turned away", writes.Refused, writes.Token{})
	s.write("a", "open", writes.Unknown, writes.Token{})
	flip := s.move("s2", "p:", "m1", "a", "b")
	s.after = writes.Token{Incarnation: 1, Epoch: flip.Got.Epoch}
	for i := range 250 {
		s.write("b", fmt.Sprintf("new%03d", i), writes.Acknowledged, s.after)
	}
	s.run.Dumps = []history.Dump{{Node: "b", Prefix: "p:", Owner: true, Epoch: s.after.Epoch}}
	for i := range 250 {
		s.has(fmt.Sprintf("old%03d", i), s.before.Epoch)
		s.has(fmt.Sprintf("new%03d", i), s.after.Epoch)
	}
	return s
}

// onNodes are the findings of the checkers that look at the data nodes.
func (s *store) onNodes() map[string]string {
	told := replay(&s.run)
	found := map[string]string{}
	for _, r := range []Result{Set(&s.run, told), Overlap(&s.run, told)} {
		if r.Failed() {
			found[r.Name] = strings.Join(append(r.Violations, r.Voids...), "\n")
		}
	}
	return found
}

func TestCleanStorePasses(t *testing.T) {
	s := cleanStore(t)
	s.has("open", s.before.Epoch) // nobody knows whether it was written
	s.run.Dumps = append(s.run.Dumps, history.Dump{Node: "c", Prefix: "p:", Spare: true, Records: []writes.Record{{Key: "old000", Value: "of old000"}}})
	if found := s.onNodes(); len(found) > 0 {
		t.Errorf("a clean history is found fault with: %v", found)
	}
	told := replay(&s.run)
	if set, overlap := Set(&s.run, told), Overlap(&s.run, told); set.Checked != 502 || overlap.Checked != 2 {
		t.Errorf("%d writes and %d tenures were looked at, of 502 and 2", set.Checked, overlap.Checked)
	}
}

// plantedInStore is what is done to a clean history of a store, and which of
// the two checkers must say what of it, and no other.
var plantedInStore = []struct {
	name, by, says string
	plant          func(*store)
}{
	{"acknowledged write lost", "set", `lost write: scope "p:": "old007" is not there`, func(s *store) { s.loses("old007") }},
	{"acknowledged write has another value", "set", `lost write: scope "p:": "old007" is there as "other"`, func(s *store) { s.is("old007").Value = "other" }},
	{"record there twice", "set", `twice: scope "p:": "old007"`, func(s *store) { s.has("old007", s.before.Epoch) }},
	{"refused write is there", "set", "refused or never written", func(s *store) { s.has("turned away", s.before.Epoch) }},
	{"nobody wrote it", "set", "refused or never written", func(s *store) { s.has("ghost", s.before.Epoch) }},
	{"deleted key is back", "set", `"deleted" is there`, func(s *store) { s.has("deleted", s.before.Epoch) }},
	{"record under another epoch", "set", `"new007" is there under epoch`, func(s *store) { s.is("new007").Epoch = s.before.Epoch }},
	{"move loses a write", "set", `"old249" is not there`, func(s *store) {
		s.tells("flip", "a", s.after.Epoch+5)
		s.owned().Epoch = s.after.Epoch + 5
		s.loses("old249")
	}},
	{"takeover loses a later write", "set", `"late" is not there`, func(s *store) {
		s.tells("takeover", "c", s.after.Epoch+5)
		s.write("c", "late", writes.Acknowledged, writes.Token{Incarnation: 1, Epoch: s.after.Epoch + 5})
	}},
	{"old copy stays", "set", "old copy: a still has 1 records", func(s *store) {
		s.run.Dumps = append(s.run.Dumps, history.Dump{Node: "a", Prefix: "p:", Records: []writes.Record{{Key: "old000"}}})
	}},
	{"nobody looked", "set", "nobody looked at", func(s *store) { s.run.Dumps = nil }},
	{"both accept at once", "overlap", "overlap: ", func(s *store) { s.wrote("old249").Ended, s.wrote("old249").Return = int64(s.now), int64(s.now) }},
	{"old owner accepts after the new one", "overlap", "overlap: ", func(s *store) { s.write("a", "late", writes.Acknowledged, s.before); s.has("late", s.before.Epoch) }},
	{"another node accepts", "overlap", `c acknowledged "new007"`, func(s *store) { s.wrote("new007").Node = "c" }},
	{"one token for two owners", "overlap", "gave token", func(s *store) {
		s.tells("flip", "a", s.after.Epoch+5)
		s.tells("flip", "c", s.after.Epoch+6)
		s.tells("flip", "b", s.after.Epoch+5)
	}},
	{"token of nobody", "overlap", "given to nobody", func(s *store) {
		s.write("b", "odd", writes.Acknowledged, writes.Token{Incarnation: 1, Epoch: s.after.Epoch + 9})
		s.has("odd", s.after.Epoch+9)
	}},
	{"under way before it was asked for", "overlap", "was under way from", func(s *store) { s.wrote("old007").Began = s.wrote("old007").Call - 1 }},
}

func TestPlantedInStoreIsFound(t *testing.T) {
	for _, p := range plantedInStore {
		t.Run(p.name, func(t *testing.T) {
			s := cleanStore(t)
			p.plant(s)
			found := s.onNodes()
			if !strings.Contains(found[p.by], p.says) {
				t.Errorf("%s says %q, which is not about %q", p.by, found[p.by], p.says)
			}
			if len(found) != 1 {
				t.Errorf("not only %s finds something: %v", p.by, slices.Sorted(maps.Keys(found)))
			}
		})
	}
}

// TestTakeoverMayLose: what was acknowledged before a takeover may be lost by it.
func TestTakeoverMayLose(t *testing.T) {
	s := cleanStore(t)
	s.tells("takeover", "c", s.after.Epoch+5)
	s.run.Dumps[0].Node, s.run.Dumps[0].Epoch = "c", s.after.Epoch+5
	s.loses("old007")
	s.loses("new007")
	if found := s.onNodes(); len(found) > 0 {
		t.Errorf("a takeover is found fault with: %v", found)
	}
}

func TestTooFewWritesVoid(t *testing.T) {
	s := cleanStore(t)
	s.run.Writes = s.run.Writes[:100]
	s.run.Dumps[0].Records = nil
	for i := range 100 {
		s.has(fmt.Sprintf("old%03d", i), s.before.Epoch)
	}
	found := s.onNodes()
	for _, by := range []string{"set", "overlap"} {
		if !strings.HasPrefix(found[by], "only 100 writes were acknowledged") {
			t.Errorf("%s says %q", by, found[by])
		}
	}
	s.run.Setup.Nodes = nil
	if found := s.onNodes(); len(found) > 0 {
		t.Errorf("a run without nodes is found fault with: %v", found)
	}
}

func TestShippedMoves(t *testing.T) {
	r := newRig(t)
	r.run.Setup.Nodes = []string{"a", "b"}
	r.do("s1", history.Declare, "p:", history.Arg{Writer: "a"})
	r.do("s1", history.Declare, "q:", history.Arg{Writer: "c"})
	r.move("s2", "p:", "m1", "a", "b")
	r.move("s2", "p:", "m2", "b", "a")
	r.move("s3", "q:", "not of a node", "c", "a")
	r.do("s1", history.Start, "p:", history.Arg{Move: "m3", From: "a", To: "b"})
	r.do("s1", history.Abort, "p:", history.Arg{Move: "m3"})
	r.do("s1", history.Start, "p:", history.Arg{Move: "m4", From: "a", To: "b"}) // has not ended
	took := map[string]int64{"m1": 30, "m2": 20, "m3": 10}
	for _, s := range r.run.Seen {
		for _, c := range s.Item.Changes {
			if c.Move != nil {
				c.Move.QuiescedMS = took[c.Move.ID]
			}
		}
	}
	got := ShippedMoves(&r.run)
	if got.Done != 2 || !maps.Equal(got.Aborted, map[string]int{"operator": 1}) || !slices.Equal(got.QuiescedMS, []int64{20, 30}) {
		t.Errorf("%+v, want 2 done after 20 and 30 ms, and 1 aborted by an operator", got)
	}
}
