package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// runbook is the text that the tests here hold to its word.
const runbook = "../../docs/operations.md"

// elsewhere are the messages of the runbook that no script can bring about, since it takes a disk that fails, fills or
// hangs, memory that fails, a later release, or a server that is none of the cluster; and the test that does, with what it has instead.
var elsewhere = map[string]struct{ folder, test string }{
	"the disk of … is nearly full":                                                        {"cmd/scope-registry", "TestClusterWarnings"},
	"the disk of s1 is nearly full":                                                       {"cmd/scope-registry", "TestClusterWarnings"},
	"the disk of … hangs":                                                                 {"cmd/scope-registry", "TestClusterWarnings"},
	"have different states at index …":                                                    {"cmd/scope-registry", "TestClusterWarnings"},
	"is joining since index …":                                                            {"cmd/scope-registry", "TestClusterWarnings"},
	"state of server …":                                                                   {"internal/registry", "TestStateThatDiffersStopsThatServerAlone"},
	"its hash is A, and a majority of the servers has B":                                  {"internal/registry", "TestStateThatDiffersStopsThatServerAlone"},
	"runs release …, which is older":                                                      {"cmd/scope-registry", "TestClusterWarnings"},
	"runs release …, which does not know this command":                                    {"internal/registry", "TestOldReleasesAreUpgradedFirst"},
	"is of another data directory than that of the server at …":                           {"internal/registry", "TestJoinsAndRemovalsThatAreRefused"},
	`server "s4" is not one of …, which are the members as server "s3" knows`:             {"internal/registry", "TestPortUnderTLS"},
	"servers change one at a time":                                                        {"fsm", "TestScripts"},
	"server s4 at … is joining since index 4711: it catches up: 120000 of 500000 entries": {"cmd/scope-registry", "TestClusterWarnings"},
	"it does not answer":                                                                  {"internal/registry", "TestJoiningServerThatIsCutOffAndRestarted"},
	"with its vote … voters would be up":                                                  {"internal/registry", "TestJoinNeedsAMajority"},
	"without it … voters would be up":                                                     {"internal/registry", "TestRemovalIsGivenUp"},
	"snapshots in …: … this server stops":                                                 {"internal/registry", "TestSnapshotErrorsAreFatal"},
	"raft store …: writing the log: … this server stops":                                  {"internal/registry", "TestStoreWriteErrorIsFatalAndCloseIsNot"},
	"the states of the servers differ, and no majority of them agrees":                    {"internal/registry", "TestStatesThatDifferWithoutAMajority"},
	"log entry N": {"fsm", "TestUndecodableEntryStopsForGood"},
	"it was written by a newer release; upgrade this server":           {"fsm", "TestUnknownFieldsStopTheServer"},
	"the disk of server … hangs: … has not returned for 4s":            {"internal/registry", "TestWatchdog"},
	"the disk is full; make space":                                     {"internal/registry", "TestDirectoryThatCannotBeWritten"},
	"cannot be written to: …; its file system is mounted read-only":    {"internal/registry", "TestDirectoryThatCannotBeWritten"},
	"it has to be of the user that the server runs as, with mode 0700": {"internal/registry", "TestDirectoryThatCannotBeWritten"},
	"starting raft of server …":                                        {"internal/registry", "TestRefusedSnapshotIsNotSkipped"},
	"this release does not know; upgrade this server":                  {"fsm", "TestUnknownFieldsStopTheServer"},
}

// others are the programs, and the methods of HTTP, that the runbook names besides this one.
var others = []string{"docker", "make", "go", "cat", "chown", "set", "sha256sum", "GET", "POST", "FROM", "SCOPE_REGISTRY_ID:"}

// said is one piece of the runbook in code type.
type said struct {
	line int
	text string
	seen bool // in the first column of a table of what one sees
}

// TestRunbook reads docs/operations.md. Each command in it is run by a script in testdata, with these flags at least,
// and works there; each message that it quotes was printed in one.
func TestRunbook(t *testing.T) {
	root, runs, printed := (&cli{}).root(), scriptRuns(t), scriptOutput(t)
	used := map[string]bool{}
	for _, s := range inRunbook(t) {
		words := tokens(substitution.ReplaceAllString(strings.TrimPrefix(s.text, "scope-registry "), "x"))
		cmd, _, err := root.Find(words)
		var problem error
		switch {
		case strings.HasPrefix(s.text, "scope-registry ") || err == nil && cmd != root && len(words) > 1:
			problem = wasRun(root, runs, words)
		case strings.HasPrefix(s.text, "-"):
			problem = isFlag(root, words[0])
		case !s.seen && (len(words) < 2 || slices.Contains(others, words[0])):
		default:
			if at, ok := elsewhere[s.text]; ok {
				used[s.text] = true
				problem = wasTested(s.text, at.folder, at.test)
			} else if !quote(s.text).MatchString(printed) {
				problem = fmt.Errorf("no script has seen this: print it in one, or wait for it with until; or correct the runbook")
			}
		}
		if problem != nil {
			t.Errorf("%s:%d: %s: %v", filepath.Base(runbook), s.line, s.text, problem)
		}
	}
	linksLead(t)
	for text := range elsewhere {
		if !used[text] {
			t.Errorf("the runbook does not say %q any more; take it off the list", text)
		}
	}
}

var (
	codeSpan  = regexp.MustCompile("`([^`]+)`")
	tableRule = regexp.MustCompile(`^\|[-|]+\|$`)
	// seeing begins the tables whose first column is what an operator sees.
	seeing = regexp.MustCompile("^\\| (you see|message|`move status` says) \\|")
)

// inRunbook is all that the runbook has in code type: indented lines, and spans, which may go over the end of a line.
func inRunbook(t *testing.T) []said {
	t.Helper()
	data, err := os.ReadFile(runbook)
	if err != nil {
		t.Fatal(err)
	}
	var all []said
	prose, first, see := "", 0, false
	spans := func(text string, line int, seen bool) {
		for _, m := range codeSpan.FindAllStringSubmatchIndex(text, -1) {
			all = append(all, said{line + strings.Count(text[:m[0]], "\n"), strings.Join(strings.Fields(text[m[2]:m[3]]), " "), seen})
		}
	}
	lines := strings.Split(strings.ReplaceAll(string(data), "\\\n", "\x00\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, "    "):
			at, text := i+1, line
			for strings.HasSuffix(text, "\x00") {
				i++
				text = strings.TrimSuffix(text, "\x00") + lines[i]
			}
			text, _, _ = strings.Cut(text, " # ")
			all = append(all, said{at, strings.Join(strings.Fields(text), " "), false})
		case strings.HasPrefix(line, "|"):
			cells := strings.SplitN(line, "|", 3)
			head := i+1 < len(lines) && tableRule.MatchString(lines[i+1])
			if head {
				see = seeing.MatchString(line)
			} else if seen := see && !tableRule.MatchString(line); seen && !codeSpan.MatchString(cells[1]) {
				t.Errorf("%s:%d: nothing in the first column is quoted, so that nobody knows what to look for", filepath.Base(runbook), i+1)
			} else {
				spans(cells[1], i+1, seen)
			}
			spans(cells[2], i+1, false)
		}
		if text := strings.HasPrefix(line, "|") || strings.HasPrefix(line, "    ") || line == ""; text {
			spans(prose, first, false)
			prose = ""
			continue
		}
		if prose == "" {
			first = i + 1
		}
		prose += line + "\n"
	}
	spans(prose, first, false)
	return all
}

// linksLead wants a heading for each link inside of the runbook.
func linksLead(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(runbook)
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(data), -1) {
		headings[strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(m[1]), ",", ""), " ", "-")] = true
	}
	for _, m := range regexp.MustCompile(`\(#([^)]*)\)`).FindAllStringSubmatch(string(data), -1) {
		if !headings[m[1]] {
			t.Errorf("%s: the link #%s leads nowhere", filepath.Base(runbook), m[1])
		}
	}
}

// scriptOutput is what the scripts of testdata have seen: what the program printed, and what they waited for in the output
// of those that run in the background, logs included.
func scriptOutput(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	var out strings.Builder
	for _, file := range files {
		script, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(script.Comment)) {
			if w := tokens(strings.TrimSpace(line)); len(w) == 3 && w[0] == "until" {
				fmt.Fprintf(&out, "%s\n", strings.ReplaceAll(w[2], `\`, ""))
			}
		}
		for _, f := range script.Files {
			if f.Name == "golden" {
				out.Write(f.Data)
			}
		}
	}
	return out.String()
}

// varies is what stands in the runbook for a name or a number of which each cluster has its own.
var varies = regexp.MustCompile(`registry-\d\w*:\d+|\bs\d\b|\d+\w*|\b[A-Z]\b`)

// quote finds a message as the runbook quotes it: "…" is anything.
func quote(text string) *regexp.Regexp {
	pattern := varies.ReplaceAllString(regexp.QuoteMeta(text), `\S+`)
	return regexp.MustCompile(strings.ReplaceAll(pattern, "…", ".*"))
}

// wasRun looks for a run of the same verb, with the same flags and maybe more, that worked.
func wasRun(root *cobra.Command, runs []*ran, words []string) error {
	cmd, rest, err := root.Find(words)
	if err != nil {
		return err
	}
	want, err := flagsOf(cmd, rest)
	if err != nil {
		return err
	}
	for _, r := range runs {
		other, rest, err := root.Find(r.args)
		if err != nil || other != cmd || r.exit != "0" {
			continue
		}
		have, err := flagsOf(other, rest)
		if err != nil {
			return fmt.Errorf("%s: %w", r.at, err)
		}
		if !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(have, name) }) {
			return nil
		}
	}
	return fmt.Errorf("no script runs %s with %v and ends with 0", cmd.CommandPath(), want)
}

// flagsOf are the names of the flags in args, which are looked up and not set.
func flagsOf(cmd *cobra.Command, args []string) (names []string, err error) {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	add := func(f *pflag.Flag) { all.AddFlag(f) }
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	for i := 0; i < len(args); i++ {
		a := args[i]
		if !strings.HasPrefix(a, "-") {
			continue
		}
		name, _, given := strings.Cut(strings.TrimLeft(a, "-"), "=")
		f := all.Lookup(name)
		if f == nil && len(name) == 1 {
			f = all.ShorthandLookup(name)
		}
		if f == nil {
			return nil, fmt.Errorf("%s has no flag %s", cmd.CommandPath(), a)
		}
		names = append(names, f.Name)
		if !given && f.NoOptDefVal == "" {
			i++
		}
	}
	return names, nil
}

// isFlag looks for a command with that flag.
func isFlag(root *cobra.Command, flag string) error {
	found := false
	eachCommand(root, func(cmd *cobra.Command) {
		found = found || cmd.Flag(strings.TrimPrefix(flag, "--")) != nil
	})
	if !found {
		return fmt.Errorf("no command has this flag")
	}
	return nil
}

// wasTested wants the test to be there, and the words in what is beside it.
func wasTested(text, folder, test string) error {
	files, err := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
	if err != nil {
		return err
	}
	var program, tests strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.HasSuffix(file, "_test.go") {
			tests.Write(data)
		} else {
			program.Write(data)
		}
	}
	if !strings.Contains(tests.String(), "func "+test+"(") {
		return fmt.Errorf("%s has no %s", folder, test)
	}
	for _, part := range regexp.MustCompile(varies.String()+"|…").Split(text, -1) {
		if part = strings.Trim(part, " \":;,"); !strings.Contains(program.String()+tests.String(), part) {
			return fmt.Errorf("neither the program nor the tests in %s say %q", folder, part)
		}
	}
	return nil
}
