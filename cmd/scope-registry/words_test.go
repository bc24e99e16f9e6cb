package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/api"
)

// words runs a command line whose words may hold anything.
func words(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestWrongWords(t *testing.T) {
	for args, want := range map[string]string{
		"frobnicate":                    `scope-registry has no command "frobnicate"`,
		"scop":                          "did you mean scope",
		"move nope":                     `"nope"`,
		"completion nope":               `scope-registry completion has no command "nope"`,
		"completion bash more":          `"more"`,
		"help nope":                     `"nope"`,
		"help move nope":                `"move nope"`,
		"scope get":                     "PREFIX is missing",
		"node set a":                    "HOST:PORT is missing",
		"scope get a: b:":               `"b:" is one word too many`,
		"health now":                    `"now"`,
		"scope list --colour":           "--colour",
		"move start app: --from a":      `"to"`,
		"move run app: --from a --to b": `"exec"`,
		"move wait m1 --for soon":       `"soon"`,
		"scope list -o yaml":            `"yaml"`,
		"scope list --timeout 0s":       "--timeout 0s",
		`scope get \x4`:                 `\x4`,
		"move start a: --from a --to b --window 1us": "--window 1µs",
	} {
		code, out, errs := words(t, strings.Fields(args)...)
		if code != 2 || out != "" || !strings.Contains(errs, "INVALID") || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, stdout %q, stderr\n%s", args, code, out, errs)
		}
	}
	if code, out, _ := words(t, "help", "move", "run"); code != 0 || !strings.Contains(out, "--exec") {
		t.Errorf("help move run: exit %d\n%s", code, out)
	}
}

// What others wrote must not reach the terminal as commands to it.
func TestPrintable(t *testing.T) {
	at := endpoint(t)
	runLines(t, at, []line{{"node set a h:1", 0, ""}, {"node set b h:2", 0, ""}, {"scope declare app: --writer a", 0, ""}})
	code, out, errs := words(t, "move", "start", "app:", "--from", "a", "--to", "b", "--mode", "assisted", "--id", "m1", "--reason", "\x1b[31mred\tand\nmore ", "--endpoints", at)
	if code != 0 || strings.ContainsAny(out, "\x1b\t") || !strings.Contains(out, "[31mred and more\n") {
		t.Errorf("exit %d, %q %q", code, out, errs)
	}
	for l := range strings.Lines(out) {
		if strings.TrimRight(l, " \n")+"\n" != l {
			t.Errorf("%q ends in spaces", l)
		}
	}
}

func TestCompletion(t *testing.T) {
	at := moving(t)
	runLines(t, at, []line{{"move start app: --from a --to b --mode assisted --id m1", 0, ""}})
	for args, want := range map[string]string{
		"scope get a":              "app:",
		"scope get zz":             "",
		"explain ":                 "app:",
		"move abort ":              "m1",
		"move cleaned ":            "--reason",
		"node remove ":             "a b",
		"node get ":                "a b",
		"node fence ":              "--identity a b",
		"node sessions ":           "",
		"node set a ":              "",
		"route app: --as ":         "a b",
		"scope list --under ap":    "app:",
		"cluster transfer --to ":   "s1",
		"scope list -o ":           "table json jsonl",
		"route x --consistency ":   "local linearizable",
		"move start app: --mode ":  "agent assisted",
		"move list --state ":       "running finished all",
		"scope declare x --lease ": "auto always never",
		"watch --from ":            "",
		"move b":                   "",
		"backup s":                 "save",
		"scope get a --endpoints ": "",
		"serve --timing ":          "fast default wan",
		"certs issue ":             "admin node operator server viewer",
		"certs issue node ":        "",
		"certs issue o":            "operator",
	} {
		full := append([]string{"__complete"}, strings.Split(args, " ")...)
		t.Setenv(envEndpoints, at)
		code, out, _ := words(t, full...)
		var got []string
		for l := range strings.Lines(out) {
			if word, _, _ := strings.Cut(strings.TrimSpace(l), "\t"); !strings.HasPrefix(word, ":") {
				got = append(got, word)
			}
		}
		if code != 0 || strings.Join(got, " ") != want {
			t.Errorf("%s: exit %d, %q, want %q", args, code, got, want)
		}
	}
	t.Setenv(envEndpoints, "http://127.0.0.1:1")
	if code, out, _ := words(t, "__complete", "scope", "get", ""); code != 0 || !strings.HasPrefix(out, ":4") {
		t.Errorf("without a server: exit %d, %q", code, out)
	}
}

func TestTooLargeForOneBatch(t *testing.T) {
	at := endpoint(t)
	write := func(scopes, length int) string {
		var b strings.Builder
		b.WriteString("[[cluster.node]]\nid = \"a\"\naddr = \"h:1\"\n")
		for i := range scopes {
			fmt.Fprintf(&b, "[[cluster.scope]]\nprefix = \"%0*d:\"\nwriter = \"a\"\n", length, i)
		}
		path := filepath.Join(t.TempDir(), "scopes.toml")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	heavy, many := write(3000, 450), write(10_000, 6)
	runLines(t, at, []line{
		{"scope apply -f " + heavy, 4, "TOO_LARGE: .*--chunks"},
		{"scope apply -f " + many, 4, "LIMIT: .*10001 .*10000; apply it with --chunks"},
		{"scope list --limit 1 -o jsonl", 0, "^$"},
		{"scope apply --chunks --quiet -o jsonl -f " + heavy, 0, `^\{"index":\d+,"changed":3001\}\n$`},
		{"scope apply --chunks -f " + many, 0, "(?s)not atomic.*batch 2 of 2 applied.*applied 10000 changes"},
	})
}

func TestClusterWarnings(t *testing.T) {
	well := func() api.Cluster {
		return api.Cluster{Self: "s1", Leader: "s1", Members: []api.Member{
			{ID: "s1", Role: "leader", Index: 500, Ready: true, StateHash: "x"}, {ID: "s2", Role: "follower", Index: 500, Ready: true, StateHash: "x"}}}
	}
	for want, change := range map[string]func(*api.Cluster){
		"":                               func(*api.Cluster) {},
		"no leader":                      func(c *api.Cluster) { c.Leader = "" },
		"s2 does not answer s1: refused": func(c *api.Cluster) { c.Members[1] = api.Member{ID: "s2", Error: "refused"} },
		"s2 is at index 399, 101 behind": func(c *api.Cluster) { c.Members[1].Index = 399 },
		"s2 is not ready":                func(c *api.Cluster) { c.Members[1].Ready = false },
		"s2 does not vote yet and is 7 entries behind": func(c *api.Cluster) { c.Members[1].Role, c.Members[1].Behind = "non-voter", 7 },
		"server s4 at h:1 is joining since index 9: it catches up": func(c *api.Cluster) {
			c.Change = &api.ServerChange{ID: "s4", Addr: "h:1", Phase: "joining", Since: 9, Waits: "it catches up"}
		},
		"s2 runs release v1, which is older than that of others": func(c *api.Cluster) { c.Members[0].LogFormat, c.Members[1].Version = 1, "v1" },
		"the disk of s2 is nearly full (3 MiB free)":             func(c *api.Cluster) { c.Members[1].DiskLow, c.Members[1].DiskFree = true, 3<<20 },
		"the disk of s2 hangs":                                   func(c *api.Cluster) { c.Members[1].DiskStalledMS = 4000 },
		"s1 and s2 have different":                               func(c *api.Cluster) { c.Members[1].StateHash = "y" },
		"the cluster holds since":                                func(c *api.Cluster) { c.Hold = "the cluster holds since the restore" },
		"2 of 3 scopes have no fallback":                         func(c *api.Cluster) { c.Scopes, c.NoFallback = 3, 2 },
	} {
		s := well()
		change(&s)
		got := clusterWarnings(s)
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

// The snapshot and heartbeats do not count.
func TestWatchCount(t *testing.T) {
	at := moving(t)
	for _, format := range []string{"table", "jsonl"} {
		r := launch(t, at, "watch", "--count", "1", "-o", format)
		r.stdout.until(t, "snapshot.*app:")
		if format == "jsonl" {
			r.stdout.until(t, `"type":"heartbeat"`)
		}
		runLines(t, at, []line{{"node set c h:9", 0, ""}, {"node remove c", 0, ""}})
		r.end(t, 0)
		if out := r.stdout.String(); !strings.Contains(out, "h:9") || strings.Contains(out, "remove") {
			t.Errorf("printed\n%s", out)
		}
	}
}

// With -o jsonl all verbs that answer print lines of JSON and nothing else.
func TestJSONLines(t *testing.T) {
	at := moving(t)
	file := filepath.Join(t.TempDir(), "scopes.toml")
	if err := os.WriteFile(file, []byte("[[cluster.scope]]\nprefix = \"p:\"\nwriter = \"a\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"health", "version", "node list", "node get a", "node fence a --identity d", "node set a h:9", "node remove c", "scope list", "scope get app:", "scope get q:", "route app:1 --as b",
		"explain app:1", "scope plan -f " + file, "scope apply -f " + file, "scope apply --chunks -f " + file, "scope retire p:", "move start app: --from a --to b --mode assisted --id m1 --precopy",
		"move list", "move status m1", "move quiesce m1", "move shipped m1", "move abort m1", "move wait m1", "move run app: --from a --to b --exec true",
		"move cleaned m1", "scope force app: --to a --epoch 2 --accept-loss --source-fenced b", "cluster status --hash", "cluster transfer", "watch --from 1 --count 3"} {
		_, out, errs := words(t, append(strings.Fields(args), "-o", "jsonl", "--quiet", "--endpoints", at)...)
		if out+errs == "" {
			t.Errorf("%s: printed nothing", args)
		}
		for l := range strings.Lines(out + errs) {
			if !json.Valid([]byte(l)) {
				t.Errorf("%s: printed %s", args, l)
			}
		}
	}
}
