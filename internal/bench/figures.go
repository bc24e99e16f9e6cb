package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// sample is what was measured of one thing.
type sample []time.Duration

// at is the value below which the share q of the sample lies, by the nearest rank;
// 0 of an empty sample.
func (s sample) at(q float64) time.Duration { return quantile(s, q) }

// quantile is at for figures of any kind.
func quantile[T cmp.Ordered](s []T, q float64) T {
	if len(s) == 0 {
		var none T
		return none
	}
	sorted := slices.Sorted(slices.Values(s))
	rank := int(q*float64(len(sorted)) + 0.999999) // rounded up
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func (s sample) median() time.Duration { return s.at(0.5) }

// report prints Markdown, so that a run can be put into docs/performance.md as it
// is. The first error stays.
type report struct {
	to  io.Writer
	err error
}

func (r *report) line(format string, args ...any) {
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.to, format+"\n", args...)
	}
}

func (r *report) heading(text string) { r.line("\n## %s\n", text) }

func (r *report) row(cells ...string) { r.line("| %s |", strings.Join(cells, " | ")) }

func (r *report) header(cells ...string) {
	r.row(cells...)
	r.line("|%s", strings.Repeat("---|", len(cells)))
}

// samples begins a table of what rows of sampleRow are put in.
func (r *report) samples(what, unit string) {
	r.header(what+", "+unit, "n", "p50", "p99", "min", "max")
}

func (r *report) sampleRow(what string, s sample, unit time.Duration) {
	r.row(what, fmt.Sprint(len(s)), in(s.median(), unit), in(s.at(0.99), unit), in(s.at(0), unit), in(s.at(1), unit))
}

// in is d in units, with as many digits as say something.
func in(d, unit time.Duration) string {
	x := float64(d) / float64(unit)
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}
