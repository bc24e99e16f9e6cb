package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"

	"golang.org/x/perf/benchfmt"
)

// guardRounds is how often each benchmark of the guard runs.
const guardRounds = 5

// ran is a Go benchmark on a number of cores.
type ran struct {
	name  string // as in go test's output, without Benchmark and the cores
	cores int
}

// benched is what each run of a benchmark told, in ns and in allocations, for each operation.
type benched map[ran]struct{ ns, allocs []float64 }

// guards measures the client's write guard, and a reading of the clock that it counts leases by.
func guards(ctx context.Context, r *report, o options, _ string) error {
	cmd := exec.CommandContext(ctx, o.goTool, "test", "-run", "^$", "-bench", "^Benchmark(GuardWrite|Clock)$", "-benchmem",
		"-benchtime", o.time, "-cpu", "1,2", "-count", strconv.Itoa(guardRounds), "github.com/scope-registry/scope-registry/client")
	said, err := cmd.Output()
	if err != nil {
		failed := (*exec.ExitError)(nil)
		if errors.As(err, &failed) {
			err = fmt.Errorf("%w: %s", err, failed.Stderr)
		}
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, said)
	}
	all, err := readBenched(bytes.NewReader(said))
	if err != nil {
		return err
	}
	return reportGuards(r, all)
}

// readBenched reads the output of go test.
func readBenched(from io.Reader) (benched, error) {
	all := benched{}
	lines := benchfmt.NewReader(from, "go test")
	for lines.Scan() {
		result, ok := lines.Result().(*benchfmt.Result)
		if !ok {
			continue // a unit's or a syntax's, which are no figures
		}
		base, parts := result.Name.Parts()
		at := ran{name: string(base), cores: 1}
		for _, p := range parts {
			if n, err := strconv.Atoi(string(bytes.TrimPrefix(p, []byte("-")))); err == nil && p[0] == '-' {
				at.cores = n
			} else {
				at.name += string(p)
			}
		}
		runs := all[at]
		ns, _ := result.Value("sec/op") // the package's unit of ns/op
		allocs, _ := result.Value("allocs/op")
		runs.ns, runs.allocs = append(runs.ns, ns*1e9), append(runs.allocs, allocs)
		all[at] = runs
	}
	return all, lines.Err()
}

// reportGuards shows each benchmark beside what it may take: 250 ns without a lease, and two readings more with one.
func reportGuards(r *report, all benched) error {
	const withoutLease = 250
	r.line("%d runs of each, medians (least – most); 8 goroutines.\n", guardRounds)
	r.header("", "1 core, ns", "2 cores, ns", "allocations", "bound: 250 ns, with a lease + 2 clock readings")
	for _, row := range []struct {
		what, name string
		bound      func(clock float64) float64
	}{
		{"`Write`, no lease", "GuardWrite/lease=false", func(float64) float64 { return withoutLease }},
		{"one reading of CLOCK_BOOTTIME", "Clock", nil},
		{"`Write` with a lease", "GuardWrite/lease=true", func(clock float64) float64 { return withoutLease + 2*clock }},
	} {
		one, two := all[ran{row.name, 1}], all[ran{row.name, 2}]
		if len(one.ns) != guardRounds || len(two.ns) != guardRounds {
			return fmt.Errorf("benchmark %s ran %d times on one core and %d on two, want %d", row.name, len(one.ns), len(two.ns), guardRounds)
		}
		bound := ""
		if row.bound != nil {
			bound = fmt.Sprintf("%.0f / %.0f", row.bound(median(all[ran{"Clock", 1}].ns)), row.bound(median(all[ran{"Clock", 2}].ns)))
		}
		r.row(row.what, spreadOf(one.ns, "%.0f"), spreadOf(two.ns, "%.0f"), fmt.Sprintf("%.0f", median(two.allocs)), bound)
	}
	return r.err
}
