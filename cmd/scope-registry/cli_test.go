package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/registry"
)

// endpoint starts a server on free ports and returns its HTTP address.
func endpoint(t *testing.T) string {
	t.Helper()
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	peer := held.Addr().String()
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := startServer(ctx, serverConfig{HTTPListen: "127.0.0.1:0", Config: registry.Config{ID: "s1", DataDir: t.TempDir(),
		Peers: []registry.Peer{{ID: "s1", Addr: peer}}, Timing: "fast", Logger: hclog.NewNullLogger()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.waitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return "http://" + s.http
}

// line is one command line, the exit code it must have, and what it must print.
type line struct {
	args string
	exit int
	want string // regular expression over stdout and stderr
}

func runLines(t *testing.T, at string, lines []line) {
	t.Helper()
	for _, l := range lines {
		var out bytes.Buffer
		args := append(strings.Fields(l.args), "--endpoints", at)
		if code := run(t.Context(), args, strings.NewReader(""), &out, &out); code != l.exit {
			t.Errorf("%s: exit %d, want %d\n%s", l.args, code, l.exit, out.String())
		}
		if !regexp.MustCompile(l.want).MatchString(out.String()) {
			t.Errorf("%s: printed\n%swant %s", l.args, out.String(), l.want)
		}
	}
}

func TestVerbs(t *testing.T) {
	at := endpoint(t)
	runLines(t, at, []line{
		{"health", 0, "ready"},
		{"version", 0, "scope-registry"},
		{"node set a 10.0.0.1:6004", 0, ""},
		{"node set b 10.0.0.2:6004", 0, ""},
		{"node set b nowhere", 2, "INVALID.*nowhere"},
		{"node list", 0, "10.0.0.2:6004"},
		{"node remove c", 3, `NOT_FOUND.*"c"`},
		{"scope declare app: --writer a", 0, "epoch 1"},
		{"scope declare app:x: --writer a", 4, `OVERLAP.*"app:"`},
		{"scope declare app: --writer b", 4, "EXISTS.*move start"},
		{"scope declare other: --writer nobody", 4, `NODE_UNKNOWN.*"nobody"`},
		{"scope list", 0, "app:"},
		{"scope get nope:", 3, "NOT_FOUND"},
		{"route app:1 --as b", 0, `MISDIRECTED writer is 10\.0\.0\.1:6004`},
		{"node remove a", 4, "NODE_IN_USE"},
		{"move start app: --from b --to a --mode assisted", 4, "NOT_OWNER"},
		{"move start app: --from a --to b", 4, "NODE_DOWN.*assisted"},
		{"move start app: --from a --to b --mode assisted --precopy --id m1", 0, "copying"},
		{"move start app: --from a --to b --mode assisted --id m2", 4, "MOVE_IN_FLIGHT.*m1"},
		{"route app:1 --as a", 0, "OK"},
		{"move shipped m1", 4, "WRONG_PHASE"},
		{"move quiesce m1", 0, "quiescing"},
		{"route app:1 --as a", 0, `QUIESCED migrating to 10\.0\.0\.2:6004`},
		{"explain app:1", 0, "m1"},
		{"scope retire app:", 4, "MOVE_IN_FLIGHT"},
		{"move abort m1 --reason enough", 0, "aborted"},
		{"move start app: --from a --to b --mode assisted --id m3", 0, "quiescing"},
		{"move shipped m3 --keys 2 --bytes 9 --digest d", 0, "shipped"},
		{"move ready m3 --keys 1 --bytes 9 --digest d", 4, "MANIFEST_MISMATCH"},
		{"move start app: --from a --to b --mode assisted --id m4", 0, "quiescing"},
		{"move shipped m4", 0, "shipped"},
		{"move ready m4", 0, "done"},
		{"move wait m4", 0, "done"},
		{"route app:1 --as b", 0, "OK"},
		{"scope retire app:", 4, "CLEANUP_PENDING"},
		{"move cleaned m4 --reason gone", 0, ""},
		{"move list", 0, "m4"},
		{"move status m9", 3, "NOT_FOUND"},
		{"scope force app: --to a --epoch 1 --accept-loss --source-fenced b", 4, "STALE_EPOCH"},
		{"scope force app: --to a --epoch 2 --accept-loss", 2, "INVALID.*source-fenced"},
		{"scope force app: --to a --epoch 2 --accept-loss --source-fenced b --reason off", 0, "epoch 3"},
		{"cluster status", 0, "leader s1"},
		{"cluster transfer --to s9", 3, "NOT_FOUND"},
		{"watch --count 1", 0, "snapshot"},
		{"scope frobnicate", 2, "frobnicate"},
		{"scope list -o yaml", 2, "yaml"},
	})
	runLines(t, "http://127.0.0.1:1", []line{{"scope list --timeout 200ms", 5, "UNAVAILABLE|NO_LEADER"}})
}

func TestScopeFiles(t *testing.T) {
	at := endpoint(t)
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "scopes.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const nodes = "[[cluster.node]]\nid = \"a\"\naddr = \"h:1\"\n[[cluster.node]]\nid = \"b\"\naddr = \"h:2\"\n"
	good := write(nodes + "[[cluster.scope]]\nprefix = \"p:\"\nwriter = \"a\"\n")
	runLines(t, at, []line{
		{"scope plan -f ../../examples/scopes.toml", 0, `\+ .*app:billing:`},
		{"scope apply -f " + write(nodes+"[[cluster.scope]]\nprefix = \"p:\"\nwriter = \"a\"\ncolour = \"red\"\n"), 2, `:10: .*colour`},
		{"scope apply -f " + write(nodes+"[[cluster.scope]]\nprefix = \"p:\"\nwriter = \"a\"\n[[cluster.scope]]\nprefix = \"q:\"\nwriter = \"zz\"\n"), 4, "NODE_UNKNOWN.*zz"},
		{"node list", 0, `^\S+\s+\S+\n$|^$`}, // nothing of the bad file was applied: at most a heading
		{"scope apply -f " + good, 0, "applied 3 changes"},
		{"scope apply -f " + good + " --check-index 1", 4, "INDEX_CHANGED"},
		{"scope apply -f " + good + " --prune --chunks", 2, "prune"},
		{"scope apply -f " + write(nodes+"[[cluster.scope]]\nprefix = \"p:\"\nwriter = \"b\"\n"), 4, "EXISTS.*move start"},
		{"scope apply -f " + write(nodes+"[[cluster.scope]]\nprefix = \"r:\"\nwriter = \"b\"\n") + " --prune", 0, "applied"},
		{"scope get p:", 3, "NOT_FOUND"},
		{"scope retire r: --source-fenced b", 0, ""},
	})
}

func TestServeRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"serve": "--id and --data-dir",
		"serve --id s1 --data-dir x --http 0.0.0.0:0":                        "--insecure",
		"serve --id s1 --data-dir x --cluster s1":                            "s1",
		"serve --id s1 --data-dir x --timing slow":                           "slow",
		"serve --id s9 --data-dir x --cluster s1=127.0.0.1:1,s2=127.0.0.1:2": "s9",
	} {
		var out bytes.Buffer
		t.Chdir(t.TempDir())
		if code := run(t.Context(), strings.Fields(args), strings.NewReader(""), &out, &out); code != 2 || !strings.Contains(out.String(), want) {
			t.Errorf("%s: exit %d\n%s", args, code, out.String())
		}
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	root := (&cli{}).root()
	eachCommand(root, func(c *cobra.Command) {
		if c.Example == "" || c.Short == "" {
			t.Errorf("%s: example %q, short %q", c.CommandPath(), c.Example, c.Short)
		}
	})
}
