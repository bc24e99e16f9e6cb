package main

import (
	"strings"
	"testing"
	"time"
)

func TestSample(t *testing.T) {
	hundred := sample{}
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for _, c := range []struct {
		s    sample
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0}, {sample{7}, 0, 7}, {sample{7}, 0.99, 7}, {sample{7}, 1, 7},
		{sample{3, 1, 2}, 0.5, 2}, {sample{4, 3, 1, 2}, 0.5, 2},
		{hundred, 0, 1}, {hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100},
	} {
		if got := c.s.at(c.q); got != c.want {
			t.Errorf("%v at %v is %d, want %d", c.s, c.q, got, c.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("the sample was sorted in place: it is in the order of measuring")
	}
}

func TestReport(t *testing.T) {
	var out strings.Builder
	r := &report{to: &out}
	r.samples("wait", "ms")
	r.sampleRow("a", sample{time.Millisecond, 123456 * time.Microsecond}, time.Millisecond)
	want := "| wait, ms | n | p50 | p99 | min | max |\n|---|---|---|---|---|---|\n| a | 2 | 1.00 | 123 | 1.00 | 123 |\n"
	if out.String() != want || r.err != nil {
		t.Errorf("%s%v, want %s", out.String(), r.err, want)
	}
}
