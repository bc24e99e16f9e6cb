package view

import (
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
)

// opens gives nodes sessions in the first incarnation.
func (w *world) opens(nodes ...string) {
	w.t.Helper()
	for _, id := range nodes {
		w.do(&fsm.OpenSession{Node: id, Session: id + "-s", Identity: id + "-disk", TokenHash: make([]byte, fsm.TokenHashLen),
			Incarnation: w.st.Cluster().Incarnation, IncarnationTag: w.st.Cluster().Tag, View: w.index})
	}
}

// An operator who asks why nobody writes is told why nobody has taken over.
func TestExplainOwnerGone(t *testing.T) {
	for _, c := range []struct {
		name  string
		scope *fsm.Declare
		then  func(*world)
		want  string
	}{
		{"alone", &fsm.Declare{Writer: "a"}, nil, "it has no other fallback"},
		{"manual", &fsm.Declare{Writer: "a", Fallback: "b", Failover: "manual"}, nil, "its failover is manual"},
		{"fallback down", &fsm.Declare{Writer: "a", Fallback: "c"}, nil, "its fallback c has no live session"},
		{"taken over by one that expired too", &fsm.Declare{Writer: "c", Fallback: "a"}, nil, "it has no other fallback"},
		{"not armed", &fsm.Declare{Writer: "a", Fallback: "b"}, func(w *world) {
			w.do(&fsm.Declare{Prefix: []byte("p:"), Writer: "a", Fallback: "b", Lease: "always"})
		}, "a was not known to have seen that it needs a lease, and may still write"},
		{"moving", &fsm.Declare{Writer: "a", Fallback: "b"}, func(w *world) {
			w.do(&fsm.StartMove{Id: "m1", Prefix: []byte("p:"), From: "a", To: "c", Mode: "assisted", Precopy: true})
			w.do(&fsm.Expire{Session: "a-s", Term: 1})
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{t: t}
			w.do(&fsm.InitCluster{Id: "c1"}, &fsm.SetNode{Id: "a", Addr: "h:1"}, &fsm.SetNode{Id: "b", Addr: "h:2"}, &fsm.SetNode{Id: "c", Addr: "h:3"})
			c.scope.Prefix = []byte("p:")
			w.do(c.scope)
			w.opens("a", "b")
			if c.scope.GetWriter() == "c" {
				w.opens("c")
				w.do(&fsm.Expire{Session: "c-s", Term: 1})
			}
			if c.then != nil {
				c.then(w)
			}
			if n, _ := w.st.Node("a"); n.Live() {
				w.do(&fsm.Expire{Session: "a-s", Term: 1})
			}
			e, _ := Explain(w.st, []byte("p:1"), "", 0)
			want := " The session of a has expired, and nobody takes the scope over: " + c.want + ". Start a again, or give the scope to another node with scope force."
			if c.want == "" {
				if strings.Contains(e.Why, "expired") {
					t.Errorf("%s", e.Why)
				}
			} else if !strings.HasSuffix(e.Why, want) {
				t.Errorf("%s\nwant it to end with%s", e.Why, want)
			}
		})
	}
}

// What is said to be safe is not refused: of a node with a session nobody else
// says that its copy is gone.
func TestCleaningOfALiveNode(t *testing.T) {
	w := &world{t: t}
	w.do(&fsm.InitCluster{Id: "c1"}, &fsm.SetNode{Id: "a", Addr: "h:1"}, &fsm.SetNode{Id: "b", Addr: "h:2"}, &fsm.Declare{Prefix: []byte("p:"), Writer: "a"})
	w.opens("a")
	w.do(&fsm.StartMove{Id: "m1", Prefix: []byte("p:"), From: "a", To: "b", Mode: "assisted"}, &fsm.Shipped{Move: "m1"}, &fsm.Ready{Move: "m1"})
	safe := func() (out string) {
		m, _ := w.st.Moves().Get("m1")
		for _, c := range Move(w.st, m, 0).Waiting.Safe {
			out += c.Do + " "
		}
		return out
	}
	if got := safe(); got != "wait " {
		t.Errorf("with a session: %s", got)
	}
	w.do(&fsm.CloseSession{Session: "a-s"})
	if got := safe(); got != "wait cleaned " {
		t.Errorf("without: %s", got)
	}
}
