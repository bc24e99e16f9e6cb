package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/internal/freeport"
	"github.com/scope-registry/scope-registry/internal/registry"
)

// endpoint starts a server on free ports and returns its HTTP address.
func endpoint(t *testing.T) string {
	t.Helper()
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := startServer(ctx, serverConfig{HTTPListen: "127.0.0.1:0", Config: registry.Config{ID: "s1", DataDir: t.TempDir(),
		Peers: []registry.Peer{{ID: "s1", Addr: addrs[0]}}, Timing: "fast", Logger: hclog.NewNullLogger()}})
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

// tokens splits a line as a shell does that expands nothing.
func tokens(line string) []string {
	var out []string
	var word strings.Builder
	quote, inside := rune(0), false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0 || r != '\'' && r != '"' && r != ' ':
			word.WriteRune(r)
			inside = true
		case r == ' ':
			if inside {
				out = append(out, word.String())
			}
			word.Reset()
			inside = false
		default:
			quote, inside = r, true
		}
	}
	if inside {
		out = append(out, word.String())
	}
	return out
}

// ran is one run of the program in a script.
type ran struct {
	at      string // file:line
	args    []string
	exit    string
	checked bool // its JSON fields are checked
}

// scriptRuns are all runs of the program in testdata.
func scriptRuns(t *testing.T) []*ran {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	var all []*ran
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		script := string(txtar.Parse(data).Comment)
		if !strings.HasSuffix(script, "cmp transcript golden\n") {
			t.Errorf("%s does not end with: cmp transcript golden", file)
		}
		started := map[string]*ran{}
		for i, line := range strings.Split(script, "\n") {
			w := tokens(line)
			if len(w) == 0 {
				continue
			}
			r := &ran{at: fmt.Sprintf("%s:%d", file, i+1)}
			switch {
			case w[0] == "exec" && w[1] == "scope-registry":
				r.args, r.exit = w[2:], "0"
			case w[0] == "exits" || w[0] == "start":
				r.args, r.exit = w[3:], w[1]
				started[w[1]] = r
			case w[0] == "ended":
				started[w[1]].exit = w[2]
				continue
			case w[0] == "stop" || w[0] == "skip":
				t.Errorf("%s: %s ends the script, and it passes", r.at, w[0])
				continue
			case w[0] == "fields":
				all[len(all)-1].checked = true
				continue
			default:
				continue
			}
			all = append(all, r)
		}
	}
	return all
}

// asks reports whether args ask for the format.
func asks(args []string, format string) bool {
	i := slices.Index(args, "-o")
	return i >= 0 && i+1 < len(args) && args[i+1] == format
}

// Every command has a script in which it works and one in which it fails, and what it prints as JSON is checked field
// by field.
func TestEveryVerbHasScripts(t *testing.T) {
	root := (&cli{}).root()
	works, fails, shown := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range scriptRuns(t) {
		cmd, _, err := root.Find(r.args)
		if err != nil {
			t.Errorf("%s: %v", r.at, err)
			continue
		}
		name := cmd.CommandPath()
		works[name] = works[name] || r.exit == "0"
		fails[name] = fails[name] || r.exit != "0"
		shown[name] = shown[name] || r.checked && (asks(r.args, "json") || cmd.Name() == "watch")
	}
	eachCommand(root, func(cmd *cobra.Command) {
		name := cmd.CommandPath()
		if cmd.Name() == "gate" {
			works[name] = true // that needs a store, see TestPeerGate
		}
		if !works[name] || !fails[name] {
			t.Errorf("%s: a script in which it works %v, in which it fails %v; write both", name, works[name], fails[name])
		}
		switch {
		case cmd.HasSubCommands(), cmd.Name() == "help", cmd.Parent().Name() == "completion":
		case cmd.Name() == "serve", cmd.Name() == "dev", cmd.Name() == "gate": // they print for people
		case !shown[name]:
			t.Errorf("%s: no script checks its JSON; add a run with -o json and a line with fields", name)
		}
	})
}

// Help says what a command is for and shows how it is used, and what it shows is understood.
func TestHelp(t *testing.T) {
	eachCommand((&cli{}).root(), func(cmd *cobra.Command) {
		var out, errs bytes.Buffer
		args := strings.Fields(cmd.CommandPath() + " --help")[1:]
		if code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code != 0 || errs.Len() > 0 {
			t.Errorf("%s --help: exit %d, %s", cmd.CommandPath(), code, errs.String())
		}
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" || !strings.Contains(out.String(), cmd.Example) {
			t.Errorf("%s --help has no summary or no example:\n%s", cmd.CommandPath(), out.String())
		}
		lines := strings.Split(strings.ReplaceAll(cmd.Example, "\\\n", " "), "\n")
		for _, line := range lines {
			if err := understood(cmd, line); err != nil {
				t.Errorf("%s: its example %q: %v", cmd.CommandPath(), line, err)
			}
		}
	})
}

// substitution is where a shell puts what another program prints.
var substitution = regexp.MustCompile(`\$\([^)]*\)`)

// understood runs the parsers of the command that an example's line names, which must be the documented one or one
// of its own.
func understood(documented *cobra.Command, line string) error {
	_, after, found := strings.Cut(line, "scope-registry ")
	if !found {
		return fmt.Errorf("it does not run the program")
	}
	args := tokens(strings.TrimSuffix(substitution.ReplaceAllString(after, "x"), ")"))
	for i, w := range args {
		if w == "|" || w == ">" {
			args = args[:i]
			break
		}
		if _, err := os.Stat("../../" + w); strings.HasSuffix(w, ".toml") && err != nil {
			return err
		}
	}
	cmd, rest, err := (&cli{}).root().Find(args)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(cmd.CommandPath()+" ", documented.CommandPath()+" ") {
		return fmt.Errorf("it shows %s", cmd.CommandPath())
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
		return err
	}
	return cmd.ValidateRequiredFlags()
}
