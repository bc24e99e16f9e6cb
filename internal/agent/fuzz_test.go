package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// FuzzWatch reads lines as a watch stream sends them, in any order and with
// anything in them: a node must not fall over what a server says. What a view
// refuses leaves it as it was; what it takes keeps its parts in step.
func FuzzWatch(f *testing.F) {
	for _, line := range []string{
		`{"type":"snapshot","index":10,"incarnation":1,"incarnation_tag":"x","changes":[{"op":"put","cluster":{"id":"c1","incarnation":1,"incarnation_tag":"x"}},` +
			`{"op":"put","node":{"id":"n1","session":{"id":"s1","opened_index":11}}},{"op":"put","scope":{"prefix":"a:","owner":"n1","writer":"n1","epoch":5}}]}`,
		`{"type":"change","index":11,"incarnation":1,"incarnation_tag":"x","changes":[{"op":"put","node":{"id":"n1","session":{"id":"s1","opened_index":11}}}]}`,
		`{"type":"change","index":12,"incarnation":1,"incarnation_tag":"x","changes":[{"op":"put","move":{"id":"m1","prefix":"a:","from":"n1","to":"n2","phase":"quiescing"}},` +
			`{"op":"put","scope":{"prefix":"a:","owner":"n1","epoch":5,"state":"quiesced","target":"n2"}}]}`,
		`{"type":"change","index":13,"incarnation":1,"incarnation_tag":"x","changes":[{"op":"put","move":{"id":"m1","prefix":"a:","from":"n2","to":"n1","phase":"done","new_epoch":6}},` +
			`{"op":"delete","scope":{"prefix":"a:"}},{"op":"put","scope":{"prefix":"","owner":"n1","epoch":7}},{"op":"put","cleanup":{"node":"n1","prefix":"a:","epoch":5}}]}`,
		`{"type":"change","index":14,"incarnation":1,"incarnation_tag":"x","changes":[{"op":"delete","cleanup":{"node":"n1","prefix":"a:"}},{"op":"put","tombstone":{}},{}]}`,
		`{"type":"heartbeat","index":99,"incarnation":2,"incarnation_tag":"y"}`,
		`{"type":"error","error":{"code":"SLOW"}}`,
	} {
		f.Add(line, line, line)
	}
	f.Fuzz(func(t *testing.T, first, second, third string) {
		s := New(Config{Node: "n1", Times: api.DefaultLeases(), Stripes: 1}, 0, []Mark{{Move: "m1", Prefix: "a:"}})
		a := NewAdmission(s)
		step := func(now time.Duration, e Event) {
			before := s.View()
			var effects []Effect
			s, effects = Step(s, now, e)
			for i, effect := range effects {
				if p, ok := effect.(Publish); ok && i == 0 {
					a.Publish(p.Rules)
				}
			}
			checkView(t, before, s.View())
		}
		step(0, Tick{})
		for i, line := range []string{first, second, third, first, second, third} {
			var it api.WatchItem
			if json.Unmarshal([]byte(line), &it) != nil {
				continue
			}
			now := time.Duration(i) * 2 * time.Second
			step(now, Watched{s.stream, it})
			step(now, Opened{Session: "s1", Index: 11, Incarnation: s.View().Incarnation()})
			for _, key := range []string{"", "a:k", "b"} {
				if ticket, err := a.Enter([]byte(key), at(now), uint32(i)); err == nil {
					_ = a.Check(&ticket, []byte(key), at(now))
					a.Leave(&ticket)
				}
			}
			step(now+time.Second, Tick{})
		}
		if !a.Idle() {
			t.Error("no write is under way, and yet one counts")
		}
	})
}

// FuzzView applies records of few names, so that they meet: each three bytes are
// one, and those from one index to the next are one item.
func FuzzView(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 2, 10, 66})
	f.Add([]byte("a quick brown fox jumps over the lazy dog 0123456789"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		v := View{}
		var item []api.Change
		for index := uint64(1); len(raw) >= 3; raw = raw[3:] {
			item = append(item, smallChange(raw[0], raw[1], raw[2]))
			if raw[0]&64 != 0 {
				continue // more of the same index
			}
			next, _, err := v.With(index, item)
			item, index = nil, index+1
			if err == nil {
				checkView(t, v, next)
				v = next
			}
		}
	})
}

// smallChange is a record of a kind, with names and numbers out of a few.
func smallChange(kind, name, value byte) api.Change {
	at := func(list ...string) string { return list[int(name)%len(list)] }
	node, other := at("n1", "n2", "", "n3"), "n"+string(rune('1'+value%3))
	prefix := at("a:", "a:b:", "b", "", "a:", `\x00`, `\x`)
	c := api.Change{Op: "put"}
	if value&8 != 0 {
		c.Op = "delete"
	}
	switch kind % 6 {
	case 0:
		c.Cluster = &api.ClusterRecord{Incarnation: uint64(value % 3), Tag: at("x", "y"), Hold: value&16 != 0}
	case 1:
		c.Node = &api.NodeState{Node: api.Node{ID: node}}
		if value&16 != 0 {
			c.Node.Session = &api.Session{ID: other, Opened: uint64(value)}
		}
	case 2:
		c.Scope = &api.Scope{Prefix: prefix, Owner: other, Epoch: uint64(value), Lease: [...]string{"", "auto", "always", "odd"}[value%4], State: "quiesced", Target: node}
	case 3:
		c.Move = &api.Move{ID: node, Prefix: prefix, From: node, To: other, NewEpoch: uint64(value),
			Phase: [...]string{"copying", "quiescing", "shipped", "done", "aborted", "odd"}[value%6]}
	case 4:
		c.Cleanup = &api.Cleanup{Node: node, Prefix: prefix, Epoch: uint64(value)}
	case 5:
		c.Tombstone = &api.Tombstone{Prefix: prefix}
	}
	return c
}

// checkView says what holds between a view and the one before.
func checkView(t *testing.T, before, now View) {
	t.Helper()
	if now.incarnation.Number < before.incarnation.Number || now.incarnation == before.incarnation && now.index < before.index {
		t.Fatalf("the view went back from %d in %v to %d in %v", before.index, before.incarnation, now.index, now.incarnation)
	}
	met := scope.Prefix("")
	n := 0
	for s := range now.scopes.Scopes() {
		if n++; n > 1 && met.Contains(s.Prefix) {
			t.Fatalf("scopes %q and %q overlap", met, s.Prefix)
		}
		met = s.Prefix
	}
	for m := range now.Moves() {
		if _, ok := now.Move(m.ID); !ok {
			t.Fatalf("move %q is listed and not found", m.ID)
		}
	}
	for c := range now.Cleanups("n1") {
		if got, ok := now.Cleanup("n1", c.Prefix); !ok || got != c {
			t.Fatalf("cleanup of %q is listed and not found", c.Prefix)
		}
	}
}
