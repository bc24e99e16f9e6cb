package resp

import (
	"bytes"
	"fmt"
	"testing"
)

// Looking ahead in a pipeline that the first buffer holds does not allocate, and its room is given back once commands come alone.
func TestAheadAllocatesNothing(t *testing.T) {
	const pipeline = 16
	command := array("SCOPE", "ROUTE", "app:000000000001:k", "AS", "node-1")
	stream := bytes.Repeat(command, pipeline)
	in := bytes.NewReader(nil)
	r := NewReader(in, DefaultLimits())
	shown := 0
	batch := func(stream []byte, commands int) {
		in.Reset(stream)
		for range commands {
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
			if r.Unseen() {
				r.Ahead(2*pipeline, func([][]byte) { shown++ })
			}
		}
	}
	const runs = 4 * fewInARow
	allocs := testing.AllocsPerRun(runs, func() { batch(stream, pipeline) })
	if want := (1 + runs) * (pipeline - 1); allocs != 0 || shown != want {
		t.Errorf("%v allocations in %d commands, of which %d were shown ahead, want %d", allocs, pipeline, shown, want)
	}
	for range fewInARow {
		if cap(r.argsRoom) == 0 || cap(r.aheadRoom) == 0 {
			t.Fatal("the room was given back early")
		}
		batch(command, 1)
	}
	if cap(r.argsRoom) != 0 || cap(r.aheadRoom) != 0 || len(r.aheadArgs) != 0 {
		t.Errorf("room for %d arguments of %d commands after %d that came alone", cap(r.argsRoom), cap(r.aheadRoom), fewInARow)
	}
}

// What Next returned stays as it is while those behind are looked at, also where looking has come to an end and begins anew.
func TestAheadLeavesWhatNextReturned(t *testing.T) {
	for most := 1; most < 40; most++ {
		var stream []byte
		for i := range 200 {
			stream = append(stream, array("SCOPE", "ROUTE", fmt.Sprint("key", i))...)
		}
		r := NewReader(bytes.NewReader(stream), DefaultLimits())
		for i := range 200 {
			args, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if r.Unseen() {
				r.Ahead(most, func([][]byte) {})
			}
			if want := fmt.Sprint("key", i); len(args) != 3 || string(args[2]) != want {
				t.Fatalf("%d at a time: %q, want %s", most, args, want)
			}
		}
	}
}
