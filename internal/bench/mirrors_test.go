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
	w := newWatched(b, 0, rested, atOnce)
	const watchers, changes = 7, 3
	for round := range 2 {
		if err := w.round(t.Context(), round, watchers, changes, true); err != nil {
			t.Fatal(err)
		}
	}
	if w.seq != 2*2*(warmUp+changes) {
		t.Errorf("%d changes", w.seq)
	}
	for _, p := range w.paces {
		if len(p.rounds) != 2 || len(p.event) != 2*watchers*changes || len(p.all) != 2*changes || len(p.answer) != 2*changes {
			t.Errorf("%s: %d rounds, %d events, %d complete, %d answers", p.name, len(p.rounds), len(p.event), len(p.all), len(p.answer))
		}
		if slices.Min(p.event) <= 0 || slices.Max(p.event) != slices.Max(p.all) {
			t.Errorf("%s: events took %v to %v, the last of each change %v at most", p.name, slices.Min(p.event), slices.Max(p.event), slices.Max(p.all))
		}
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
		err = newWatched(forgetful{b, c.fail}, 0, rested).round(ctx, 0, 3, 1, false)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	}
}
