package scopefile

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

func TestExamplesAgree(t *testing.T) {
	ours := example(t, "scopes.toml", 0)
	kevys := example(t, "kevy.toml", 1)
	if a, b := ours.Batch(false, nil), kevys.Batch(false, nil); !reflect.DeepEqual(a, b) {
		t.Errorf("the two examples differ:\n%+v\n%+v", a, b)
	}
}

func example(t *testing.T, name string, warnings int) File {
	t.Helper()
	data, err := os.ReadFile("../../examples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	f, warned, err := Parse(name, data)
	if err != nil || len(warned) != warnings {
		t.Fatalf("%s: %v, warnings %q", name, err, warned)
	}
	if warnings == 1 && warned[0] != name+": skipped [server], cluster.node_id: with kevy's flat strings under [cluster] everything else in the file is kevy's own" {
		t.Errorf("warning: %s", warned[0])
	}
	return f
}

func TestRefuses(t *testing.T) {
	const node = "[[cluster.node]]\nid='a'\naddr='h:1'\n"
	const scope = "[[cluster.scope]]\nwriter='a'\nprefix="
	for _, c := range []struct{ in, want string }{
		{"x = 1", "f:1: x is not known"},
		{"\n[server]\nport=1", "f:2: [server] is not known"},
		{node + "port = 1", `f:4: key "port" is not known`},
		{"[[cluster.node]]\nid='a'", "f:1: this [[cluster.node]] has no addr"},
		{"[[cluster.node]]\nid=1", "f:2: id must be a string"},
		{node + node, `f:4: node "a" is given twice, first at line 1`},
		{scope + "'p'\n" + scope + "'p'", `f:4: scope "p" is declared twice, first at line 1`},
		{scope + "'pq'\n" + scope + "'p'", `f:4: scope "p" overlaps "pq" of line 1`},
		{scope + `'\q'`, "f:1: prefix: "},
		{"[cluster]\nscopes = 'p'", `f:2: scope "p" has no writer`},
		{"[cluster]\npeers = ['a@h']", `f:2: peer "a@h" has no port`},
		{"[cluster]\npeers = ['a@h:99999']", `f:2: peer "a@h:99999": port "99999"`},
		{"a = 1\na = 2", "f:2: not valid TOML"},
		{"a = ", "f:1: not valid TOML"},
	} {
		f, _, err := Parse("f", []byte(c.in))
		var e *api.Error
		if !errors.As(err, &e) || !strings.HasPrefix(e.Detail, c.want) {
			t.Errorf("%q: %v %v, want %s…", c.in, f, err, c.want)
		}
	}
}

func TestFlatForms(t *testing.T) {
	f, _, err := Parse("f", []byte("[cluster]\nscopes = [' k=v:=a|b ,', '', 'q=a']\npeers = 'a@h:1, b@h:1:2, c@[::1]:1:2:3,'"))
	if err != nil {
		t.Fatal(err)
	}
	want := File{
		Nodes:  []Node{{"a", "h:1", 3}, {"b", "h:2", 3}, {"c", "[::1]:2", 3}},
		Scopes: []Scope{{Prefix: "k=v:", Writer: "a", Fallback: "b", Line: 2}, {Prefix: "q", Writer: "a", Line: 2}},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got %+v, want %+v", f, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"scopes.toml", "kevy.toml"} {
		data, err := os.ReadFile("../../examples/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _, err := Parse("f", data)
		if e := (*api.Error)(nil); err != nil && !errors.As(err, &e) {
			t.Errorf("an error without a code: %v", err)
		}
	})
}

func TestFileLimit(t *testing.T) {
	_, _, err := Parse("f", make([]byte, MaxFile+1)) // never touched, so it takes no memory
	if err == nil || api.CodeOf(err) != api.TooLarge || !strings.Contains(err.Error(), fmt.Sprint(MaxFile)) {
		t.Errorf("got %v, want TOO_LARGE and the limit of %d", err, MaxFile)
	}
}
