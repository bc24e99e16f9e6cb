package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// The harness measures a system that is in this process: every watcher gets every
// change, in each round anew.
func TestMirrors(t *testing.T) {
	b, err := startBare()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	}()
	w := &watched{system: b}
	const watchers, changes = 7, 3
	for round := range 2 {
		if err := w.round(t.Context(), round, watchers, changes, true); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.rounds) != 2 || len(w.event) != 2*watchers*changes || len(w.all) != 2*changes || len(w.answer) != 2*changes || w.seq != 2*(warmUp+changes) {
		t.Errorf("%d rounds, %d events, %d complete, %d answers, %d changes", len(w.rounds), len(w.event), len(w.all), len(w.answer), w.seq)
	}
	if slices.Min(w.event) <= 0 || slices.Max(w.event) != slices.Max(w.all) {
		t.Errorf("events took %v to %v, the last of each change %v at most", slices.Min(w.event), slices.Max(w.event), slices.Max(w.all))
	}
}

// forgetful is a system that does not tell its last watcher.
type forgetful struct {
	*bare
	fail bool
}

func (f forgetful) watch(ctx context.Context, i int, live func(), seen func(seq uint64)) error {
	if i > 0 {
		return f.bare.watch(ctx, i, live, seen)
	}
	if live(); f.fail {
		return errors.New("cut off")
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestMirrorsMiss(t *testing.T) {
	for _, c := range []struct {
		fail bool
		want string
	}{{true, "a watcher has ended\ncut off"}, {false, "1 of 3 watchers have not got it"}} {
		b, err := startBare()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err = (&watched{system: forgetful{b, c.fail}}).round(ctx, 0, 3, 1, false)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	}
}
