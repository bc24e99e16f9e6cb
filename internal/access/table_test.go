package access

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

var update = flag.Bool("update", false, "write the table of roles into SECURITY.md")

const security = "../../SECURITY.md"

// table is what SECURITY.md shows of [Rows].
func table() string {
	var b strings.Builder
	b.WriteString("| what | viewer | node | operator | admin |\n|---|---|---|---|---|\n")
	for _, r := range Rows() {
		if r.Open {
			fmt.Fprintf(&b, "| %s (`%s`) | everybody | | | |\n", r.Does, r.Action)
			continue
		}
		fmt.Fprintf(&b, "| %s (`%s`) | %v | %v | %v | yes |\n", r.Does, r.Action, r.Viewer, r.Node, r.Operator)
	}
	return b.String()
}

func TestSecurityTable(t *testing.T) {
	data, err := os.ReadFile(security)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "<!-- roles -->\n", "<!-- end -->\n"
	before, rest, ok := strings.Cut(string(data), from)
	shown, after, ends := strings.Cut(rest, to)
	if !ok || !ends {
		t.Fatalf("%s has no place for the table between %q and %q", security, from, to)
	}
	if shown == table() {
		return
	}
	if !*update {
		t.Fatalf("%s shows another table than the code has; run this test with -update", security)
	}
	if err := os.WriteFile(security, []byte(before+from+table()+to+after), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReach(t *testing.T) {
	if len(byAction) != len(Rows()) {
		t.Errorf("%d actions in %d rows: one is there twice", len(byAction), len(Rows()))
	}
	for _, r := range Rows() {
		for role, want := range map[Role]Reach{Viewer: r.Viewer, Node: r.Node, Operator: r.Operator, Admin: Any, Anonymous: Any, Nobody: Never, Server: Never} {
			if r.Open {
				want = Any
			}
			if got := role.Reach(r.Action); got != want {
				t.Errorf("%v %s: %v, want %v", role, r.Action, got, want)
			}
		}
	}
	for _, role := range []Role{Nobody, Anonymous, Viewer, Node, Operator, Admin, Server, Server + 1} {
		if got := role.Reach("frob"); got != Never {
			t.Errorf("%v may do what is not in the table: %v", role, got)
		}
	}
}

func TestMay(t *testing.T) {
	for _, c := range []struct {
		who  Who
		code api.Code
	}{{Who{}, api.Unauthenticated}, {Who{Role: Viewer}, api.Forbidden}, {Who{Role: Server, ID: "s1"}, api.Forbidden}, {Who{Role: Admin}, ""}, {Who{Role: Node, ID: "a"}, ""}} {
		err := c.who.May(OpenSession)
		if c.code == "" && err != nil || c.code != "" && !errors.Is(err, &api.Error{Code: c.code}) {
			t.Errorf("%v: %v, want %q", c.who, err, c.code)
		}
	}
}
