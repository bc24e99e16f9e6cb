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

// report prints Markdown, and keeps that of one block for the document. The first error stays.
type report struct {
	to    io.Writer
	block strings.Builder
	err   error
}

// begin begins a block, and take is what was printed since.
func (r *report) begin(name string) {
	r.block.Reset()
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.to, "\n## %s\n\n", name)
	}
}

func (r *report) take() string { return r.block.String() }

func (r *report) line(format string, args ...any) {
	text := fmt.Sprintf(format+"\n", args...)
	r.block.WriteString(text)
	if r.err == nil {
		_, r.err = io.WriteString(r.to, text)
	}
}

// heading is above one of several tables of a block: the headings of the document are not the program's.
func (r *report) heading(text string) { r.line("\n**%s**\n", text) }

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

// median of figures of any kind: with an even number of them the lower of the two in the middle.
func median(of []float64) float64 { return quantile(of, 0.5) }

// spreadOf is the median with the least and the most.
func spreadOf(of []float64, format string) string {
	return fmt.Sprintf(format+" ("+format+" – "+format+")", median(of), quantile(of, 0), quantile(of, 1))
}
