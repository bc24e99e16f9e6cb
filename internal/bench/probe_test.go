package main

import "testing"

func TestNumbered(t *testing.T) {
	for _, seq := range []uint64{1, 7, 1 << 40} {
		if got := numberOf(numbered(seq)); got != seq {
			t.Errorf("%d came back from %q as %d", seq, numbered(seq), got)
		}
	}
	for _, other := range []string{"", "10.0.0.1:6004", "change-:1", "change-x:1", numbered(0)} {
		if got := numberOf(other); got != 0 {
			t.Errorf("%q has number %d", other, got)
		}
	}
}
