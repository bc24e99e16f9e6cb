package fsm

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/api"
)

// firstLedger is that of the leader in term 1.
func firstLedger() Ledger { return NewLedger(api.DefaultLeases(), 1) }

// moving is a state in which m1 moves scope "a", in copying.
func moving(t testing.TB, windowMS, timeoutMS uint64) State {
	t.Helper()
	s := applied(t, founded(t), &Declare{Prefix: []byte("a"), Writer: "n1"})
	return applied(t, s, &StartMove{Id: "m1", Prefix: []byte("a"), From: "n1", To: "n2", Mode: "assisted", Precopy: true,
		WindowMs: windowMS, TimeoutMs: timeoutMS})
}

// expectAbort runs Reconcile once and requires exactly this cause, or nothing.
func expectAbort(t *testing.T, s State, l Ledger, now time.Duration, cause string, due time.Duration) Ledger {
	t.Helper()
	l, out, next := Reconcile(s, l, now)
	got := ""
	if len(out) > 1 {
		t.Fatalf("at %s: %d directives for one move", now, len(out))
	}
	if len(out) == 1 {
		c := out[0].Command().(*Abort)
		got = c.GetCause()
		if after, r, _ := s.Apply(At{Index: s.Index() + 1}, Envelope{Command: c}); r.GetCode() != "" || after.Moves().RunningLen() != 0 {
			t.Fatalf("the abort is refused: %v", r)
		}
	}
	if got != cause || (cause == "" && next != due) {
		t.Fatalf("at %s: abort %q, next at %s; want %q, %s", now, got, next, cause, due)
	}
	return l
}

func TestTimeoutAtExactlyItsDeadline(t *testing.T) {
	s := moving(t, 1_000, 60_000)
	const origin = 7 * time.Hour
	l := expectAbort(t, s, firstLedger(), origin, "", origin+time.Minute)
	l = expectAbort(t, s, l, origin+time.Minute-1, "", origin+time.Minute)
	expectAbort(t, s, l, origin+time.Minute, CauseTimeout, 0)
}

func TestWindowCountsFromTheClosing(t *testing.T) {
	s := moving(t, 1_000, 60_000)
	l := expectAbort(t, s, firstLedger(), 0, "", time.Minute)
	s = applied(t, s, &Quiesce{Move: "m1"})
	l = expectAbort(t, s, l, 30*time.Second, "", 31*time.Second)
	s = applied(t, s, &Shipped{Move: "m1"}) // the window does not start anew
	l = expectAbort(t, s, l, 31*time.Second-1, "", 31*time.Second)
	expectAbort(t, s, l, 31*time.Second, CauseWindow, 0)
}

func TestTimeoutInsideTheWindow(t *testing.T) {
	s := applied(t, moving(t, 60_000, 1_000), &Quiesce{Move: "m1"})
	l := expectAbort(t, s, firstLedger(), 0, "", time.Second)
	expectAbort(t, s, l, time.Second, CauseTimeout, 0)
}

func TestNewLeaderRestartsBudgets(t *testing.T) {
	s := applied(t, moving(t, 1_000, 60_000), &Quiesce{Move: "m1"})
	l := expectAbort(t, s, firstLedger(), 0, "", time.Second)
	expectAbort(t, s, l, time.Second, CauseWindow, 0)
	fresh := expectAbort(t, s, firstLedger(), time.Second, "", 2*time.Second)
	expectAbort(t, s, fresh, 2*time.Second, CauseWindow, 0)
}

// An abort whose proposal got lost must come again: nothing else changes the
// state, so only the next call can repeat it.
func TestOverdueAbortIsRepeated(t *testing.T) {
	s := moving(t, 1_000, 60_000)
	l := expectAbort(t, s, firstLedger(), 0, "", time.Minute)
	l = expectAbort(t, s, l, time.Minute, CauseTimeout, 0)
	expectAbort(t, s, l, time.Minute+time.Second, CauseTimeout, 0)
}

// The next call is due at the earliest deadline of all moves, and a move that
// is over leaves the ledger.
func TestNextIsTheEarliestDeadline(t *testing.T) {
	s := moving(t, 1_000, 60_000)
	s = applied(t, s, &Declare{Prefix: []byte("b"), Writer: "n1"})
	s = applied(t, s, &StartMove{Id: "m2", Prefix: []byte("b"), From: "n1", To: "n3", Mode: "assisted", WindowMs: 5_000})
	l, out, next := Reconcile(s, firstLedger(), 0)
	if len(out) != 0 || next != 5*time.Second {
		t.Fatalf("%d directives, next at %s", len(out), next)
	}
	l, out, next = Reconcile(s, l, 5*time.Second)
	if len(out) != 1 || out[0].Command().(*Abort).GetMove() != "m2" || next == 0 || next > time.Minute {
		t.Fatalf("%v, next at %s", out, next)
	}
	s = applied(t, s, &Abort{Move: "m2"})
	s = applied(t, s, &Abort{Move: "m1"})
	l, out, next = Reconcile(s, l, 6*time.Second)
	if len(out) != 0 || next != 0 || l.moves.Len() != 0 {
		t.Fatalf("%d directives, next at %s, %d remembered, though nothing runs", len(out), next, l.moves.Len())
	}
}

// TestReconcileNeverMoves: over any state and clock, the leader by itself gives
// up moves and closes them, and changes no owner.
func TestReconcileNeverMoves(t *testing.T) {
	nodes := applied(t, opened(t, founded(t), "n1", "n2"), &Declare{Prefix: []byte("a:x"), Writer: "n1", Fallback: "n3"})
	nodes = applied(t, nodes, &StartMove{Id: "m0", Prefix: []byte("a:x"), From: "n1", To: "n2", Mode: "agent", Precopy: true})
	directives := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		s, l, now := nodes, firstLedger(), time.Duration(0)
		for i := range rapid.IntRange(40, 60).Draw(t, "steps") {
			s, _, _ = s.Apply(At{Index: s.Index() + 1, Term: 1, TimeMS: int64(i)}, Envelope{Command: drawCommand(t, s)})
			l = drawWord(t, s, l, now)
			now += time.Duration(rapid.SampledFrom([]int{0, 0, 1, 1, 2, 3, 9, 400}).Draw(t, "seconds")) * time.Second
			var out []Directive
			var next time.Duration
			l, out, next = Reconcile(s, l, now)
			if next != 0 && next < now {
				t.Fatalf("next call at %s, before now, %s", next, now)
			}
			for _, d := range out {
				directives[fmt.Sprintf("%T", d.Command())]++
				s = obeyed(t, s, d)
			}
		}
	})
	if len(directives) != 4 {
		t.Errorf("not every directive was given: %v", directives)
	}
}

// drawWord draws what a node says to the leader, or nothing.
func drawWord(t *rapid.T, s State, l Ledger, now time.Duration) Ledger {
	for m := range s.Moves().Running() {
		if n, _ := s.Node(m.From); n.Live() && rapid.Bool().Draw(t, "reports") {
			l, _ = l.Report(s, api.Report{Move: m.ID, Session: n.Session.ID}, now)
		}
	}
	for _, held := range s.Sessions() {
		if rapid.Bool().Draw(t, "renews") {
			l, _ = l.Renew(s, api.Renewal{Session: held.ID, View: rapid.SampledFrom([]uint64{held.View, s.Index()}).Draw(t, "view")}, now)
		}
	}
	return l
}

func obeyed(t *rapid.T, s State, d Directive) State {
	switch d.Command().(type) {
	case *Quiesce, *Abort, *Expire, *Ack:
	default:
		t.Fatalf("the leader proposes a %T by itself", d.Command())
	}
	next, r, _ := s.Apply(At{Index: s.Index() + 1, Term: 1}, Envelope{Command: d.Command()})
	if err := ResultError(r); err != nil {
		t.Fatalf("the leader proposes what is refused: %v", err)
	}
	for sc := range s.Scopes().Scopes() {
		after, ok := next.Scopes().Get(sc.Prefix)
		if !ok || after.Owner == sc.Owner && after.Epoch != sc.Epoch {
			t.Fatalf("a directive changed the tenure of %q", sc.Prefix.Text())
		}
		if after.Owner != sc.Owner {
			checkTakeover(t, next, sc, after) // what the move had kept off
		}
	}
	return next
}

// TestDirectiveIsSealed reads the source: Directive has an unexported method,
// and every type that has it is a struct around one of the commands that the
// leader may propose by itself.
func TestDirectiveIsSealed(t *testing.T) {
	structs, methods, interfaces := map[string]*ast.StructType{}, []string{}, []*ast.InterfaceType{}
	for _, d := range declarations(t) {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv != nil && d.Name.Name == "directive" {
				recv, isValue := d.Recv.List[0].Type.(*ast.Ident)
				if !isValue {
					t.Fatal("a directive has a pointer receiver; directives are values")
				}
				methods = append(methods, recv.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				spec, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				if st, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = st
				}
				if in, ok := spec.Type.(*ast.InterfaceType); ok && spec.Name.Name == "Directive" {
					interfaces = append(interfaces, in)
				}
			}
		}
	}
	if len(interfaces) != 1 || !hasMethod(interfaces[0], "directive") {
		t.Error("Directive has no unexported method: any package could add a directive")
	}
	if len(methods) == 0 {
		t.Error("no type implements Directive")
	}
	for _, name := range methods {
		checkWraps(t, name, structs[name])
	}
	for name, st := range structs {
		for _, f := range st.Fields.List {
			if id, ok := f.Type.(*ast.Ident); ok && len(f.Names) == 0 && (id.Name == "Directive" || slices.Contains(methods, id.Name)) {
				t.Errorf("%s embeds %s, and so is a directive that wraps more than a command", name, id.Name)
			}
		}
	}
}

func declarations(t *testing.T) []ast.Decl {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []ast.Decl
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f.Decls...)
	}
	return all
}

func hasMethod(in *ast.InterfaceType, name string) bool {
	return slices.ContainsFunc(in.Methods.List, func(f *ast.Field) bool { return len(f.Names) == 1 && f.Names[0].Name == name })
}

func checkWraps(t *testing.T, name string, st *ast.StructType) {
	t.Helper()
	if st == nil || len(st.Fields.List) != 1 || len(st.Fields.List[0].Names) != 1 {
		t.Errorf("directive %s is not a struct around one command", name)
		return
	}
	ptr, ok := st.Fields.List[0].Type.(*ast.StarExpr)
	if !ok {
		t.Errorf("directive %s does not hold a pointer to a command", name)
		return
	}
	of, ok := ptr.X.(*ast.Ident)
	if allowed := []string{"Quiesce", "Abort", "Expire", "Ack", "DropBackup"}; !ok || !slices.Contains(allowed, of.Name) {
		t.Errorf("directive %s does not wrap one of %v, which alone the leader may propose by itself", name, allowed)
	}
}
