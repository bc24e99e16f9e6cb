// Command generate makes the gate's table of commands, in Go and in the documentation, from Valkey's descriptions and
// the decisions in policy.go. It is run in the root of the repository, or told where that is.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/format"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/gate/commands/valkey"
)

// data is where the descriptions are kept, in the repository.
const data = "internal/gate/commands/valkey/commands.jsonl"

func main() {
	log.SetFlags(0)
	from := flag.String("from", "", "take the descriptions anew from this folder src/commands of Valkey, and stop")
	root := flag.String("root", ".", "write below this root of the repository")
	flag.Parse()
	if err := run(*from, *root); err != nil {
		log.Fatal(err)
	}
}

func run(from, root string) error {
	if from != "" {
		return extract(from, filepath.Join(root, filepath.FromSlash(data)))
	}
	files, err := generated()
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), text, 0o644); err != nil { //nolint:gosec // a source file is read by everybody
			return err
		}
	}
	return nil
}

// generated returns the text of each generated file, by its path in the repository.
func generated() (map[string][]byte, error) {
	all, err := rows()
	if err != nil {
		return nil, err
	}
	text, err := table(all)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"internal/gate/commands/table_gen.go": text, "docs/gate-commands.md": document(all)}, nil
}

// row is one command with what was decided about it.
type row struct {
	valkey.Command
	decision
	isContainer bool // of subcommands
}

func rows() ([]row, error) {
	all, err := valkey.Commands()
	if err != nil {
		return nil, err
	}
	named := map[string]bool{}
	var out []row
	for _, c := range all {
		container := slices.ContainsFunc(all, func(sub valkey.Command) bool { return strings.HasPrefix(sub.Name, c.Name+"|") })
		d, err := decide(c, container)
		if err != nil {
			return nil, err
		}
		outer, _, _ := strings.Cut(c.Name, "|")
		named[c.Name], named[outer+"|*"] = true, true
		out = append(out, row{c, d, container})
	}
	for name := range decisions {
		if !named[name] {
			return nil, fmt.Errorf("policy.go decides about %s, which is no command", name)
		}
	}
	return out, nil
}

// table writes the Go source of the table.
func table(all []row) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// Code generated from Valkey %s by internal/gate/commands/generate. DO NOT EDIT.\n\npackage commands\n\n", valkey.Release)
	b.WriteString("// builtin returns the table before anybody has checked it, by name.\nfunc builtin() []Command {\n\treturn []Command{\n")
	for _, r := range all {
		fmt.Fprintf(&b, "{Name: %q, Policy: %s, Arity: %d", r.Name, r.policy, r.Arity)
		if r.op != "" {
			fmt.Fprintf(&b, ", Op: %s", r.op)
		}
		if r.why != "" {
			fmt.Fprintf(&b, ", Why: %q", r.refusal())
		}
		if r.note != "" {
			fmt.Fprintf(&b, ", Note: %q", r.note)
		}
		if slices.Contains(r.Flags, "BLOCKING") {
			b.WriteString(", Blocks: true")
		}
		if r.private {
			b.WriteString(", Private: true")
		}
		r.keys(&b)
		b.WriteString("},\n")
	}
	b.WriteString("}\n}\n")
	return format.Source(b.Bytes())
}

// refusal is the error line that a refused command gets.
func (r row) refusal() string {
	return "ERR " + strings.ReplaceAll(r.Name, "|", " ") + " " + r.why
}

// keys writes how the keys of a command are found. Of a refused one nobody asks.
func (r row) keys(b *bytes.Buffer) {
	if r.policy == "Refuse" {
		return
	}
	var specs []string
	channels := 0
	for _, k := range r.Keys {
		s, channel := r.spec(k)
		specs = append(specs, "{"+s+"}")
		if channel {
			channels++
		}
	}
	if shape := r.shapeOf(channels); shape != "" {
		fmt.Fprintf(b, ", shape: %s", shape)
	}
	if len(specs) > 0 {
		fmt.Fprintf(b, ", specs: []Spec{%s}", strings.Join(specs, ", "))
	}
}

func (r row) shapeOf(channels int) string {
	switch {
	case r.shape != "":
		return r.shape
	case len(r.Keys) == channels:
		return ""
	case len(r.Keys) == 1 && r.Keys[0].Begin.Index != nil && r.Keys[0].Find.Range != nil && r.Keys[0].Find.Range.Last == 0:
		return "oneKey"
	}
	return "bySpecs"
}

func (r row) spec(k valkey.KeySpec) (text string, channel bool) {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if i := k.Begin.Index; i != nil {
		add("Begin: Index, At: %d", i.Pos)
	}
	if w := k.Begin.Keyword; w != nil {
		add("Begin: Keyword, At: %d, Word: %q", w.From, strings.ToUpper(w.Keyword))
	}
	if f := k.Find.Range; f != nil {
		add("Find: Range, Last: %d, Step: %d, Limit: %d", f.Last, f.Step, f.Limit)
	}
	if f := k.Find.KeyNum; f != nil {
		add("Find: KeyCount, Count: %d, First: %d, Step: %d", f.Index, f.First, f.Step)
	}
	// Of a command that passes nothing is written: PFCOUNT is no write, but its key is not marked read-only.
	if (slices.Contains(k.Flags, "RO") || r.policy == "Pass") && !r.writes {
		add("Reads: true")
	}
	channel = slices.Contains(k.Flags, "NOT_KEY")
	if channel {
		add("Channel: true")
	}
	if slices.Contains(k.Flags, "INCOMPLETE") {
		add("Incomplete: true")
	}
	return strings.Join(parts, ", "), channel
}
