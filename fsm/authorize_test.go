package fsm

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// principals are who may ask, in the order of the columns of [deeds].
var principals = []struct {
	name string
	who  access.Who
}{
	{"viewer", access.Who{Role: access.Viewer, ID: "vic"}},
	{"node n1", access.Who{Role: access.Node, ID: "n1"}},
	{"node n1 by token", access.Who{Role: access.Node, ID: "n1", Token: "n1"}},
	{"node n4", access.Who{Role: access.Node, ID: "n4"}},
	{"operator", access.Who{Role: access.Operator, ID: "bob"}},
	{"operator of a:", access.Who{Role: access.Operator, Token: "part-a"}},
	{"operator of z:", access.Who{Role: access.Operator, Token: "part-z"}},
	{"admin", access.Who{Role: access.Admin, ID: "ann"}},
	{"server", access.Who{Role: access.Server, ID: "s1"}},
}

// deeds say of every command which of the principals may ask for it ("y"), once there is a token. Some commands are there more
// than once, as it depends on what they say.
var deeds = []struct {
	c   Command
	may string
}{
	{&InitCluster{Id: "c2"}, "---------"},
	{&SetNode{Id: "n1", Addr: "h:9"}, "-yy-y--y-"},
	{&SetNode{Id: "n9", Addr: "h:9"}, "----y--y-"},
	{&RemoveNode{Id: "n4"}, "----y--y-"},
	{&RemoveNode{Id: "n4", SourceFenced: "n4"}, "-------y-"},
	{&Declare{Prefix: []byte("a:new"), Writer: "n1"}, "----yy-y-"},
	{&Declare{Prefix: []byte("a:new"), Writer: "n1", SourceFenced: "n1"}, "-------y-"},
	{&Retire{Prefix: []byte("a:retire")}, "----yy-y-"},
	{&Retire{Prefix: []byte("a:retire"), SourceFenced: "n3"}, "-------y-"},
	{&Batch{Scopes: []*Declare{{Prefix: []byte("a:new"), Writer: "n1"}}}, "----yy-y-"},
	{&Batch{Scopes: []*Declare{{Prefix: []byte("a:new"), Writer: "n1"}, {Prefix: []byte("y"), Writer: "n1"}}}, "----y--y-"},
	{&Batch{Scopes: []*Declare{{Prefix: []byte("a:new"), Writer: "n1", SourceFenced: "n1"}}}, "-------y-"},
	{&Batch{Nodes: []*SetNode{{Id: "n1", Addr: "h:9"}}}, "----y--y-"},
	{&Batch{Prune: true, Scopes: []*Declare{{Prefix: []byte("a:new"), Writer: "n1"}}}, "----y--y-"},
	{&StartMove{Id: "m9", Prefix: []byte("a:retire"), From: "n3", To: "n4", Mode: "assisted"}, "----yy-y-"},
	{&Quiesce{Move: "copying"}, "----yy-y-"},
	{&Shipped{Move: "agent", Session: "s1"}, "-yy----y-"},
	{&Shipped{Move: "assisted"}, "-yy-yy-y-"},
	{&Ready{Move: "agent", Session: "s1"}, "-yy----y-"},
	{&Ready{Move: "shipped"}, "-yy-yy-y-"},
	{&Abort{Move: "agent", Session: "s1"}, "-yy----y-"},
	{&Abort{Move: "assisted"}, "-yy-yy-y-"},
	{&Cleaned{Node: "n1", Prefix: []byte("a:gone"), Reason: "off"}, "-yy-yy-y-"},
	{&Cleaned{Node: "n1", Prefix: []byte("a:gone"), Epoch: 2, Session: "s1"}, "-yy----y-"},
	{&Force{Id: "f", Prefix: []byte("a:retire"), To: "n4", ExpectedEpoch: 1, AcceptLoss: true, SourceFenced: "n3"}, "-------y-"},
	{&OpenSession{Node: "n1", Session: "s9", Identity: "n1-disk", TokenHash: tokenHash("t9"), PreviousTokenHash: tokenHash("t1"), Incarnation: 1, IncarnationTag: "c1"}, "-yy----y-"},
	{&CloseSession{Session: "s1"}, "-yy----y-"},
	{&Expire{Session: "s1"}, "---------"},
	{&Ack{Session: "s1", View: 1}, "---------"},
	{&FenceNode{Node: "n4", Identity: "i"}, "-------y-"},
	{&Release{Prefix: []byte("a:retire"), Reason: "off"}, "-------y-"},
	{&CheckState{}, "---------"},
	{&StageBackup{Id: "u", Data: []byte("x")}, "-------y-"},
	{&Restore{Id: "u"}, "-------y-"},
	{&DropBackup{Id: "u"}, "-------y-"},
	{&JoinServer{Id: "s9", Addr: "h:1", Instance: "i"}, "-------y-"},
	{&RemoveServer{Id: "s9", Addr: "h:1"}, "-------y-"},
	{&SettleServer{Id: "s9", Phase: "gone", Addr: "h:1"}, "---------"},
	{&CreateToken{Id: "mine", Role: "admin", Hash: tokenHash("mine")}, "-------y-"},
	{&RevokeToken{Id: "part-z"}, "-------y-"},
}

// guarded is a state with tokens in which what deeds are about is there: a session s1 of n1, which has an old copy of a:gone,
// is the target of the move shipped and the source of the others.
func guarded(t testing.TB) State {
	t.Helper()
	s := applied(t, founded(t), &OpenSession{Node: "n1", Session: "s1", Identity: "n1-disk", TokenHash: tokenHash("t1"), Incarnation: 1, IncarnationTag: "c1"})
	for _, c := range []*Declare{{Prefix: []byte("a:retire"), Writer: "n3"}, {Prefix: []byte("a:gone"), Writer: "n1"}, {Prefix: []byte("a:agent"), Writer: "n1"},
		{Prefix: []byte("a:assisted"), Writer: "n1"}, {Prefix: []byte("a:copying"), Writer: "n1"}, {Prefix: []byte("a:shipped"), Writer: "n3"}} {
		s = applied(t, s, c)
	}
	s = applied(t, s, &OpenSession{Node: "n2", Session: "s2", Identity: "n2-disk", TokenHash: tokenHash("t2"), Incarnation: 1, IncarnationTag: "c1"})
	for _, c := range []Command{
		&StartMove{Id: "gone", Prefix: []byte("a:gone"), From: "n1", To: "n2", Mode: "assisted"}, &Shipped{Move: "gone"}, &Ready{Move: "gone"},
		&StartMove{Id: "agent", Prefix: []byte("a:agent"), From: "n1", To: "n2", Mode: "agent"},
		&StartMove{Id: "assisted", Prefix: []byte("a:assisted"), From: "n1", To: "n2", Mode: "assisted"},
		&StartMove{Id: "copying", Prefix: []byte("a:copying"), From: "n1", To: "n2", Mode: "assisted", Precopy: true},
		&StartMove{Id: "shipped", Prefix: []byte("a:shipped"), From: "n3", To: "n1", Mode: "assisted"}, &Shipped{Move: "shipped"},
		&CreateToken{Id: "root", Role: "admin", Hash: tokenHash("root")},
		&CreateToken{Id: "n1", Role: "node", Node: "n1", Hash: tokenHash("n1")},
		&CreateToken{Id: "part-a", Role: "operator", Prefix: []byte("a:"), Hash: tokenHash("a")},
		&CreateToken{Id: "part-z", Role: "operator", Prefix: []byte("z:"), Hash: tokenHash("z")},
		&CreateToken{Id: "brief", Role: "admin", ExpiresMs: 1000, Hash: tokenHash("b")},
		&CreateToken{Id: "revoked", Role: "admin", Hash: tokenHash("r")}, &RevokeToken{Id: "revoked"},
	} {
		s = applied(t, s, c)
	}
	return s
}

// asked applies a command of somebody, at a time after the end of the token "brief".
func asked(s State, who access.Who, c Command) (State, *Result) {
	next, r, _ := s.Apply(At{Index: s.Index() + 1, Term: 1, TimeMS: 2000}, Envelope{Actor: "x", Origin: OriginOf(who, "10.0.0.1", "why"), Command: c})
	return next, r
}

func turnedAway(r *Result) bool {
	return r.GetCode() == string(api.Forbidden) || r.GetCode() == string(api.Unauthenticated)
}

// TestWhoMayWhat tries every command as everybody.
func TestWhoMayWhat(t *testing.T) {
	s, seen := guarded(t), map[string]bool{}
	nobody := map[string]access.Who{
		"anonymous": {Role: access.Anonymous}, "nobody": {}, "an expired token": {Role: access.Admin, Token: "brief"}, "a revoked token": {Role: access.Admin, Token: "revoked"},
		"a token with another role": {Role: access.Admin, Token: "part-a"}, "a token of another node": {Role: access.Node, ID: "n2", Token: "n1"}, "an unknown token": {Role: access.Admin, Token: "zz"},
	}
	for _, d := range deeds {
		what := fmt.Sprintf("%T{%v}", d.c, d.c)
		seen[string(d.c.ProtoReflect().Descriptor().Name())] = true
		if len(d.may) != len(principals) {
			t.Fatalf("%s: %d principals, want %d", what, len(d.may), len(principals))
		}
		for i, p := range principals {
			next, r := asked(s, p.who, d.c)
			if may := d.may[i] == 'y'; may == turnedAway(r) {
				t.Errorf("%s as %s: %s: %s, want may %v", what, p.name, r.GetCode(), r.GetDetail(), may)
			} else if !may && (r.GetCode() != string(api.Forbidden) || bare(next) != bare(s)) {
				t.Errorf("%s as %s: %s, and something changed", what, p.name, r.GetCode())
			}
		}
		for name, who := range nobody {
			if next, r := asked(s, who, d.c); r.GetCode() != string(api.Unauthenticated) || bare(next) != bare(s) {
				t.Errorf("%s as %s: %s: %s", what, name, r.GetCode(), r.GetDetail())
			}
		}
	}
	kinds := (&pb.Command{}).ProtoReflect().Descriptor().Oneofs().ByName("kind").Fields()
	for i := range kinds.Len() {
		if name := string(kinds.Get(i).Message().Name()); !seen[name] {
			t.Errorf("nothing says who may ask for %s", name)
		}
	}
	if len(seen) != kinds.Len() {
		t.Errorf("%d commands were tried, there are %d", len(seen), kinds.Len())
	}
}

// What the matrix says is no accident of commands that would be refused anyway: most of them are applied for an admin.
func TestDeedsAreReal(t *testing.T) {
	s, refused := guarded(t), map[string]int{}
	for _, d := range deeds {
		if _, r := asked(s, access.Who{Role: access.Admin, ID: "ann"}, d.c); r.GetCode() != "" && strings.Contains(d.may, "y") {
			refused[fmt.Sprintf("%T %s", d.c, r.GetCode())]++
		}
	}
	want := map[string]int{"*pb.Release WRONG_PHASE": 1, "*pb.Restore STALE_EPOCH": 1, "*pb.DropBackup WRONG_PHASE": 1, "*pb.FenceNode IDENTITY_CHANGED": 1,
		"*pb.Ready WRONG_PHASE": 1, "*pb.Cleaned SESSION_BUSY": 1, "*pb.Batch MOVE_IN_FLIGHT": 1}
	if !maps.Equal(refused, want) {
		t.Errorf("refused were %v, want %v", refused, want)
	}
}

// Until there is a token whoever is unknown may do all that an admin may.
func TestAnonymousIsAdmitted(t *testing.T) {
	s := guarded(t)
	s.tokens = tokenTable{}
	for _, d := range deeds {
		_, r := asked(s, access.Who{Role: access.Anonymous}, d.c)
		if may := strings.Contains(d.may, "y"); may == turnedAway(r) {
			t.Errorf("%T{%v}: %s: %s, want may %v", d.c, d.c, r.GetCode(), r.GetDetail(), may)
		}
	}
}

// TestNobodyReachesBeyondHisOwn: whatever state, whatever command, whoever asks, what changes is his.
func TestNobodyReachesBeyondHisOwn(t *testing.T) {
	base := guarded(t)
	base = applied(t, base, &Declare{Prefix: []byte("b"), Writer: "n1", Fallback: "n4"})
	changed := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		s := base
		for i := range 40 {
			c := drawCommand(t, s)
			p := rapid.SampledFrom(principals).Draw(t, "who")
			if evenly(t) < 8 { // the leader, so that the state goes on
				s, _, _ = s.Apply(At{Index: s.Index() + 1, Term: 1, TimeMS: int64(i)}, Envelope{Command: c})
				continue
			}
			next, r := asked(s, p.who, c)
			if err := next.Check(); err != nil {
				t.Fatalf("after %T of %s: %v", c, p.name, err)
			}
			if r.GetCode() == "" {
				changed[p.name]++
			}
			beyond(t, s, next, p.who, fmt.Sprintf("%T{%v} of %s", c, c, p.name))
			s = next
		}
	})
	for _, p := range principals {
		if may := p.who.Role != access.Viewer && p.who.Role != access.Server && p.who.Token != "part-z"; may && changed[p.name] == 0 {
			t.Errorf("nothing that %s asked was ever done: %v", p.name, changed)
		}
	}
}

// beyond fails if something changed that is not of who asked.
func beyond(t *rapid.T, s, next State, who access.Who, what string) {
	if who.Role == access.Admin {
		return
	}
	prefix := scope.Prefix("")
	for token := range s.Tokens() {
		if token.ID == who.Token {
			prefix = token.Prefix
		}
	}
	mine := func(nodes ...scope.NodeID) bool {
		for _, n := range nodes {
			if who.Role == access.Node && string(n) == who.ID {
				return true
			}
		}
		return who.Role == access.Operator
	}
	for id, sc := range scopesOf(s, next) {
		if !prefix.Contains(id) || !mine(sc...) {
			t.Fatalf("%s changed scope %q of %q", what, id, sc)
		}
	}
	for m := range next.Moves().Running() {
		checkMoveIsHis(t, s, m, prefix, mine, what)
	}
	for m := range next.Moves().FinishedOldest() {
		checkMoveIsHis(t, s, m, prefix, mine, what)
	}
	for n := range s.Nodes() {
		now, _ := next.Node(n.ID)
		n.Session.Concern, now.Session.Concern = 0, 0
		moved := n
		moved.Addr = now.Addr
		whole := who.Role == access.Operator && prefix == ""
		if n != now && !(whole && (now.ID == "" || now == moved)) && !(who.Role == access.Node && string(n.ID) == who.ID) {
			t.Fatalf("%s changed node %+v to %+v", what, n, now)
		}
	}
	for c := range s.CleanupsOver("") {
		if _, still := next.cleanups.get(c.Node, c.Prefix); !still && (!prefix.Contains(c.Prefix) || !mine(c.Node)) {
			t.Fatalf("%s ended %+v", what, c)
		}
	}
	if next.tokens != s.tokens || next.staged.id != s.staged.id || next.logFormat != s.logFormat || !s.SameIncarnation(next) || next.checked != s.checked ||
		fmt.Sprint(next.servers) != fmt.Sprint(s.servers) {
		t.Fatalf("%s changed what is of admins and servers", what)
	}
}

// scopesOf are the scopes that differ, but for a release that ended with a hold, with the nodes they name.
func scopesOf(s, next State) map[scope.Prefix][]scope.NodeID {
	out := map[scope.Prefix][]scope.NodeID{}
	for _, pair := range [][2]State{{s, next}, {next, s}} {
		for sc := range pair[0].Scopes().Scopes() {
			was := *sc
			other, ok := pair[1].Scopes().Get(sc.Prefix)
			if ok {
				was.Released = other.Released
			}
			if !ok || was != *other {
				out[sc.Prefix] = append(out[sc.Prefix], append(parties(sc), sc.Quiesced)...)
			}
		}
	}
	return out
}

func checkMoveIsHis(t *rapid.T, s State, m migration.Move, prefix scope.Prefix, mine func(...scope.NodeID) bool, what string) {
	was, ok := s.Moves().Get(m.ID)
	if same := ok && was.Phase == m.Phase && was.Cause == m.Cause && was.Detail == m.Detail; !same && (!prefix.Contains(m.Prefix) || !mine(m.From, m.To)) {
		t.Fatalf("%s changed move %+v to %+v", what, was, m)
	}
}
