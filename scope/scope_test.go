package scope_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/scope"
)

func ExampleTable() {
	table, err := scope.NewTable(
		scope.New("app:billing:", "embed-billing-1").WithFallback("server-eu-1"),
		scope.New("app:auth:", "embed-auth-1"),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	key := []byte("app:billing:invoice:42")

	here := table.Route(key, "embed-billing-1")
	fmt.Println(here.IsLocalWriter())

	// The same key on another node: the fallback is not the writer while the
	// writer is up.
	there := table.Route(key, "server-eu-1")
	fmt.Println(there.IsMisdirected(), there.Target())

	down := func(id scope.NodeID) bool { return id == "embed-billing-1" }
	fmt.Println(table.RouteWithFallback(key, "server-eu-1", down).IsLocalWriter())
	// Output:
	// true
	// true embed-billing-1
	// true
}

func mustTable(t *testing.T, scopes ...scope.Scope) scope.Table {
	t.Helper()
	table, err := scope.NewTable(scopes...)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// The vectors of the seed's own unit tests.

func TestSeedMatches(t *testing.T) {
	s := scope.New("app:billing:", "w1")
	for key, want := range map[string]bool{"app:billing:invoice:42": true, "app:billing:": true, "app:auth:user:1": false, "app:billin": false} {
		if s.Matches([]byte(key)) != want {
			t.Errorf("Matches(%q) = %v, want %v", key, !want, want)
		}
	}
	all := scope.New("", "w")
	if !all.Matches([]byte("anything")) || !all.Matches(nil) {
		t.Error("the empty prefix must match every key")
	}
}

func TestSeedRouting(t *testing.T) {
	if r := mustTable(t).Route([]byte("any-key"), "node-1"); r.Verdict != scope.Unknown {
		t.Errorf("empty table routes %v", r.Verdict)
	}
	table := mustTable(t, scope.New("app:", "w-app"), scope.New("other:", "w-other"))
	if !table.Route([]byte("app:billing:invoice"), "w-app").IsLocalWriter() || !table.Route([]byte("other:settings"), "w-other").IsLocalWriter() {
		t.Error("the writer is not the local writer of its scope")
	}
	if r := table.Route([]byte("unrelated"), "any"); r.Verdict != scope.Unknown || r.Target() != "" {
		t.Errorf("unmatched key routes %+v", r)
	}
	if r := table.Route([]byte("app:x"), "some-other-node"); !r.IsMisdirected() || r.Target() != "w-app" {
		t.Errorf("other node routes %+v", r)
	}
}

func TestSeedLongestPrefix(t *testing.T) {
	table := mustTable(t, scope.New("a:", "wa"), scope.New("b:", "wb"), scope.New("abc:", "wabc"))
	for key, want := range map[string]scope.NodeID{"a:foo": "wa", "abc:foo": "wabc", "b:foo": "wb", "nope": ""} {
		s, ok := table.Lookup([]byte(key))
		if ok != (want != "") || ok && s.Writer != want {
			t.Errorf("Lookup(%q) = %+v, want writer %q", key, s, want)
		}
	}
}

func TestSeedRefusals(t *testing.T) {
	_, err := scope.NewTable(scope.New("app:", "w-app"), scope.New("app:", "w-app2"))
	if !errors.Is(err, scope.ErrDuplicatePrefix) {
		t.Errorf("duplicate prefix: %v", err)
	}
	for _, order := range [][2]string{{"app:", "app:billing:"}, {"app:billing:", "app:"}} {
		var overlap *scope.OverlapError
		_, err := scope.NewTable(scope.New(order[0], "a"), scope.New(order[1], "b"))
		if !errors.As(err, &overlap) || overlap.Inner != "app:billing:" || overlap.Outer != "app:" {
			t.Errorf("%v: %v", order, err)
		}
	}
	if _, err := scope.NewTable(scope.New("", "a"), scope.New("x", "b")); err == nil {
		t.Error("the empty prefix must stand alone")
	}
}

func TestSeedFallback(t *testing.T) {
	table := mustTable(t, scope.New("app:", "w-app").WithFallback("fb-1"), scope.New("k:", "w-1"))
	up := func(scope.NodeID) bool { return false }
	down := func(scope.NodeID) bool { return true }
	if r := table.RouteWithFallback([]byte("app:x"), "fb-1", up); r.Target() != "w-app" {
		t.Errorf("writer up: %+v", r)
	}
	if r := table.RouteWithFallback([]byte("app:x"), "fb-1", down); !r.IsLocalWriter() {
		t.Errorf("writer down: %+v", r)
	}
	if r := table.RouteWithFallback([]byte("k:abc"), "other", down); r.Target() != "w-1" {
		t.Errorf("no fallback: %+v", r)
	}
	var without []string
	for s := range table.WithoutFallback() {
		without = append(without, s.Prefix.Text())
	}
	if strings.Join(without, " ") != "k:" || table.NoFallbackLen() != 1 {
		t.Errorf("without fallback: %v, %d", without, table.NoFallbackLen())
	}
}

func TestQuiescedNamesTarget(t *testing.T) {
	s := scope.New("app:", "a")
	s.Quiesced = "b"
	table := mustTable(t, s)
	for _, as := range []scope.NodeID{"a", "b", "c"} {
		if r := table.Route([]byte("app:1"), as); r.Verdict != scope.Quiesced || r.Target() != "b" {
			t.Errorf("as %s: %+v", as, r)
		}
	}
}

func TestChangesLeaveOldTables(t *testing.T) {
	one := mustTable(t, scope.New("a:", "w"))
	two, err := one.With(scope.New("b:", "w").WithFallback("f"))
	if err != nil {
		t.Fatal(err)
	}
	three, ok := two.Replace(scope.New("a:", "w2").WithFallback("f"))
	if !ok {
		t.Fatal("a: is not there to replace")
	}
	four := three.Without("b:")
	if one.Len() != 1 || two.Len() != 2 || three.Len() != 2 || four.Len() != 1 {
		t.Error("a change reached an older table")
	}
	if s, _ := two.Get("a:"); s.Writer != "w" {
		t.Error("Replace changed the table it was called on")
	}
	if one.NoFallbackLen() != 1 || two.NoFallbackLen() != 1 || three.NoFallbackLen() != 0 {
		t.Error("the count of scopes without fallback is off")
	}
	if _, ok := one.Replace(scope.New("zz", "w")); ok {
		t.Error("Replace added a prefix that was not held")
	}
}

func TestNodeID(t *testing.T) {
	for id, ok := range map[scope.NodeID]bool{"a": true, "A9.b_c-d": true, "": false, ".a": false, "-a": false, "a b": false, "a\n": false,
		scope.NodeID(strings.Repeat("x", 64)): true, scope.NodeID(strings.Repeat("x", 65)): false} {
		if err := id.Check(); (err == nil) != ok || err != nil && !errors.Is(err, scope.ErrBadNodeID) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	table := mustTable(t, scope.New("app:billing:", "a"), scope.New("app:auth:", "b"))
	key := []byte("app:billing:invoice:42")
	if n := testing.AllocsPerRun(100, func() { table.Route(key, "b") }); n != 0 {
		t.Errorf("Route allocates %v times", n)
	}
}

func TestPrefixLength(t *testing.T) {
	for n, ok := range map[int]bool{0: true, scope.MaxPrefixLen: true, scope.MaxPrefixLen + 1: false} {
		p, err := scope.ParsePrefix(strings.Repeat(`\xff`, n))
		if (err == nil) != ok || ok && len(p) != n {
			t.Errorf("%d bytes were read as %d: %v", n, len(p), err)
		}
		if !ok && (!errors.Is(err, scope.ErrBadText) || !strings.Contains(err.Error(), fmt.Sprintf("%d bytes, the limit is %d", n, scope.MaxPrefixLen))) {
			t.Errorf("%v does not name the limit", err)
		}
	}
}

func TestTouchCountsKeysWithAScope(t *testing.T) {
	table, err := scope.NewTable(scope.New("app:billing:", "a").WithFallback("b"), scope.New("app:auth:", "b"))
	if err != nil {
		t.Fatal(err)
	}
	keys := [][]byte{[]byte("app:billing:1"), []byte("app:"), nil, []byte("app:auth:x"), []byte("other")}
	if got := table.Touch(keys); got != 2 {
		t.Errorf("%d of %q have a scope, want 2", got, keys)
	}
	if got := testing.AllocsPerRun(100, func() { table.Touch(keys) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
