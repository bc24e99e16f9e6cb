// Command planted checks that the simulation finds what it is there for. It plants
// one bug after the other into the code, by an overlay of the compiler, and runs
// the simulation until an invariant fails. A bug that is not found within the seeds
// fails the run.
//
//	go run ./internal/sim/planted -seeds 1000
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/scope-registry/scope-registry/internal/process"
)

func main() {
	seeds := flag.Int("seeds", 1000, "within how many seeds each bug must be found")
	only := flag.String("only", "", "only bugs whose name holds this")
	markdown := flag.Bool("markdown", false, "print rows of a table for docs/testing.md")
	flag.Parse()
	form := "%-68s seed %4s, %-5s in %q: %s\n"
	if *markdown {
		form = "| %s | %s | %s | %s |%.0s\n"
	}
	if err := run(os.Stdout, form, *seeds, *only); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(out io.Writer, form string, seeds int, only string) error {
	dir, err := os.MkdirTemp("", "planted-")
	if err != nil {
		return fmt.Errorf("making a directory for the overlays: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	missed := 0
	for i, b := range bugs {
		if !strings.Contains(b.name, only) {
			continue
		}
		found, err := hunt(filepath.Join(dir, fmt.Sprint(i)), b, seeds)
		if err != nil {
			return fmt.Errorf("bug %q: %w", b.name, err)
		}
		if found == nil {
			missed++
			found = []string{"none", "NOT FOUND", "", ""}
		}
		fmt.Fprintf(out, form, b.name, found[0], found[1], found[2], found[3])
	}
	if missed > 0 {
		return fmt.Errorf("%d planted bugs were not found within %d seeds: the simulation does not look where they are", missed, seeds)
	}
	return nil
}

// hunt builds the simulation with the bug and runs it. It returns the seed, the
// invariant, the schedule and what was wrong; nil if nothing was.
func hunt(dir string, b bug, seeds int) ([]string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	program, err := process.Build(context.Background(), ".", dir, "./internal/sim/run", b.changes()...)
	if err != nil {
		return nil, err
	}
	var said bytes.Buffer
	hunting := exec.Command(program, "-quiet", "-seeds", fmt.Sprint(seeds))
	hunting.Stdout, hunting.Stderr = &said, &said
	err = hunting.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil, nil
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		const parts = 4
		if found := strings.SplitN(strings.TrimSpace(said.String()), "\t", parts); len(found) == parts {
			return found, nil
		}
	}
	return nil, fmt.Errorf("running it: %w\n%s", err, said.String())
}
