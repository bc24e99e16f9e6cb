// Command differ plays random programs of commands directly on a store and through a gate in front of another of the
// same release, and compares all replies byte by byte. Compare.go says of which commands less is compared, and
// program/lists.go which are left out.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/scope-registry/scope-registry/internal/gate/commands"
)

// options are the flags.
type options struct {
	store    string
	plain    bool
	gate     string
	upstream string
	seed     uint64
	commands int
	most     int
	without  string
	dir      string
}

func main() {
	var o options
	flag.StringVar(&o.store, "store", "redis-server", "the program of the store, started twice")
	flag.BoolVar(&o.plain, "plain", false, "compare two stores without a gate, which must not differ")
	flag.StringVar(&o.gate, "gate", "", "the address of a gate that runs already, in front of -upstream, and owns the prefix d: (default: one is started)")
	flag.StringVar(&o.upstream, "upstream", "", "the address of the store behind -gate, of the same program as -store")
	flag.Uint64Var(&o.seed, "seed", 1, "of the first program")
	flag.IntVar(&o.commands, "commands", 1_000_000, "compare at least so many")
	flag.IntVar(&o.most, "most", 10, "stop after so many differences")
	flag.StringVar(&o.without, "without", "", "leave these commands out, and all steps that need them: names as in CLIENT|INFO,WAIT")
	flag.StringVar(&o.dir, "dir", "", "where the stores keep their logs (default: a new folder, removed at the end)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	found, err := differ(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || found > 0 {
		os.Exit(1)
	}
}

// differ runs all and returns how many differences it found.
func differ(ctx context.Context, o options, out io.Writer) (int, error) {
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "differ")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a folder that stays does no harm
		o.dir = dir
	}
	direct, stop, err := startStore(ctx, o.store, filepath.Join(o.dir, "direct"))
	if err != nil {
		return 0, err
	}
	defer stop()
	if o.gate == "" {
		o.upstream, stop, err = startStore(ctx, o.store, filepath.Join(o.dir, "upstream"))
		if err != nil {
			return 0, err
		}
		defer stop()
	}
	checked, diff, err := describe(ctx, o.upstream)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(out, "the table and the store differ: %s\n", diff)
	switch {
	case o.plain && o.gate == "":
		o.gate = o.upstream
	case o.gate == "":
		o.gate, stop, err = startGate(ctx, o.upstream, o.dir, checked)
		if err != nil {
			return 0, err
		}
		defer stop()
	}
	// Both stores have the same keys, those of the gate too.
	if err := copyKeys(ctx, o.upstream, direct); err != nil {
		return 0, err
	}
	pass, queue := passing(checked, diff, o.without)
	r := &run{direct: &side{addr: direct, store: direct}, gate: &side{addr: o.gate, store: o.upstream}, pass: pass, queue: queue, out: out}
	if err := r.play(ctx, o.seed, o.commands, o.most); err != nil {
		return r.differences, err
	}
	fmt.Fprintf(out, "%d commands in %d programs, %d different commands, %d answered with an error, %d differences\n",
		r.commands, r.programs, len(r.seen), r.errors, r.differences)
	fmt.Fprintf(out, "the least often: %s\n", r.rare())
	return r.differences, nil
}

// passing says which commands are compared, those that the gate does not refuse and the store has; and which of them
// within MULTI, where the gate takes none that it answers itself, or that are of a connection.
func passing(checked *commands.Checked, diff commands.Differences, without string) (pass, queue func(name string) bool) {
	all, queued := map[string]bool{}, map[string]bool{}
	for _, c := range checked.All() {
		all[c.Name] = c.Policy != commands.Refuse
		queued[c.Name] = c.Policy == commands.Pass && c.Op == commands.None || c.Policy == commands.Write
	}
	for _, name := range slices.Concat(diff.Missing, strings.Split(strings.ToUpper(without), ",")) {
		delete(all, name)
	}
	return func(name string) bool { return all[name] }, func(name string) bool { return queued[name] }
}

// rare tells what was compared least often.
func (r *run) rare() string {
	var names []string
	for name := range r.seen {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return r.seen[a] - r.seen[b] })
	var b strings.Builder
	for _, name := range names[:min(10, len(names))] {
		fmt.Fprintf(&b, "%s %d, ", name, r.seen[name])
	}
	return strings.TrimSuffix(b.String(), ", ")
}
