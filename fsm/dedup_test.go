package fsm

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
)

const keptAtLeast = 65_536

func requestID(first uint64, n int) string { return fmt.Sprintf("%d-%032x", first, n) }

// fill remembers n commands; command i was applied at index i+1.
func fill(n int) ring {
	var r ring
	for i := range n {
		r = r.with(requestID(uint64(i), i), commandHash{1}, &Result{Index: uint64(i) + 1}, nil)
	}
	return r
}

func TestRingKeepsItsPromise(t *testing.T) {
	const n = keptAtLeast + 3*ringChunk + 17
	r := fill(n)
	for i := n - keptAtLeast; i < n; i++ {
		got, err := r.find(requestID(uint64(i), i), commandHash{1})
		if err != nil || got.GetIndex() != uint64(i)+1 {
			t.Fatalf("request %d of %d: %v, %v", i, n, got, err)
		}
	}
	if len(r.full) != ringChunks || r.floor == 0 || r.floor > n-keptAtLeast {
		t.Fatalf("%d chunks, floor %d", len(r.full), r.floor)
	}
}

func TestRequestBelowTheFloorExpires(t *testing.T) {
	r := fill(keptAtLeast + 2*ringChunk + 1)
	_, err := r.find(requestID(r.floor-1, 1<<30), commandHash{1})
	if err == nil || err.Code != api.RequestExpired || err.Floor != r.floor {
		t.Fatalf("below the floor %d: %v", r.floor, err)
	}
	for _, id := range []string{requestID(r.floor, 1<<30), requestID(r.floor+1, 1<<30), "any-key", "key"} {
		if got, err := r.find(id, commandHash{1}); got != nil || err != nil {
			t.Errorf("%s: %v, %v; want neither", id, got, err)
		}
	}
	if _, err := r.find(requestID(keptAtLeast, keptAtLeast), commandHash{2}); err == nil || err.Code != api.Invalid {
		t.Errorf("the same id with another command: %v", err)
	}
}

// A client's own key may look as if it began with an index. It must be found
// like any other, however large its number, and never expire.
func TestKeysThatOnlyLookIndexed(t *testing.T) {
	for _, id := range []string{"99999999-1234-4abc-8def-0123456789ab", "1-order", "0-", "12-" + "g0000000000000000000000000000000"} {
		r := ring{}.with(id, commandHash{1}, &Result{Index: 5}, nil)
		for i := range 2 * ringChunk {
			r = r.with(fmt.Sprint("key", i), commandHash{1}, &Result{Index: uint64(i) + 6}, nil)
		}
		if got, err := r.find(id, commandHash{1}); err != nil || got.GetIndex() != 5 {
			t.Errorf("%s was not found again: %v, %v", id, got, err)
		}
		r.floor = 1 << 40
		if _, err := r.find(id+"0", commandHash{1}); err != nil {
			t.Errorf("%s is no indexed id, yet: %v", id, err)
		}
	}
}

// TestRingAgainstMap: whatever the ring answers, a map that forgets nothing
// answers too; and what it does not know is old or new.
func TestRingAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, all := ring{}, map[string]uint64{}
		index := uint64(0)
		for range rapid.IntRange(1, 3*ringChunk).Draw(t, "n") {
			index++
			id := requestID(index-1, int(index))
			r, all[id] = r.with(id, commandHash{1}, &Result{Index: index}, nil), index
		}
		back := reloadRing(r)
		for range 20 {
			i := rapid.Uint64Range(1, index+5).Draw(t, "i")
			id := requestID(i-1, int(i))
			for _, have := range []ring{r, back} {
				got, err := have.find(id, commandHash{1})
				if err != nil || got.GetIndex() != all[id] {
					t.Fatalf("%s: %v, %v; the map says %d", id, got, err, all[id])
				}
			}
		}
	})
}

func reloadRing(r ring) ring {
	back := ring{floor: r.floor}
	for number, c := range r.all() {
		var err error
		if back, err = back.loadRecord(c.record(number), nil); err != nil {
			panic(err)
		}
	}
	return back
}

// TestRingRoundTrip compares rings at and around every boundary, also after
// both went on: a restored server must forget at the same command.
func TestRingRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, ringChunk - 1, ringChunk, ringChunk + 1, 2 * ringChunk, keptAtLeast, keptAtLeast + ringChunk, keptAtLeast + ringChunk + 1} {
		r := fill(n)
		back := reloadRing(r)
		for i := range ringChunk + 2 {
			compareRings(t, n+i, r, back)
			id, res := fmt.Sprint("later", i), &Result{Index: uint64(n+i) + 1}
			r, back = r.with(id, commandHash{1}, res, nil), back.with(id, commandHash{1}, res, nil)
		}
		compareRings(t, n+ringChunk+2, r, back)
	}
}

func compareRings(t *testing.T, n int, a, b ring) {
	t.Helper()
	if a.floor != b.floor || len(a.full) != len(b.full) || a.cur.number != b.cur.number || a.cur.maxIndex != b.cur.maxIndex || a.cur.maxFirst != b.cur.maxFirst || a.cur.len() != b.cur.len() {
		t.Fatalf("after %d: floor %d and %d, chunks %d and %d, current %d and %d", n, a.floor, b.floor, len(a.full), len(b.full), a.cur.number, b.cur.number)
	}
	for i := range a.full {
		if a.full[i].number != b.full[i].number || a.full[i].maxIndex != b.full[i].maxIndex || a.full[i].maxFirst != b.full[i].maxFirst || a.full[i].byID.Len() != b.full[i].byID.Len() {
			t.Fatalf("after %d: chunk %d differs", n, i)
		}
	}
}

// After a recovery the log may be shorter than the one that a client made its id by. The retry of a command is found all the
// same, however many others were applied in between.
func TestRequestOfALostFuture(t *testing.T) {
	early := requestID(1_000_000, 0)
	r := ring{}.with(early, commandHash{1}, &Result{Index: 5}, nil)
	for i := range 3 * ringChunk {
		r = r.with(requestID(uint64(i), i+1), commandHash{1}, &Result{Index: uint64(i) + 6}, nil)
	}
	if got, err := r.find(early, commandHash{1}); err != nil || got.GetIndex() != 5 {
		t.Fatalf("got %v, %v: it would be applied twice", got, err)
	}
}

// Two rings that are made from one do not see what the other adds, at every place in a run and a chunk; and a snapshot that
// has a result twice, or out of its order, is refused.
func TestRingOfTwoFutures(t *testing.T) {
	for what, by := range map[string]*edit{"alone": nil, "of one edit": new(edit)} {
		t.Run(what, func(t *testing.T) { testRingOfTwoFutures(t, by) })
	}
}

func testRingOfTwoFutures(t *testing.T, by *edit) {
	var r ring
	for n := range ringChunk + 2*ringRun {
		left, right := r.with("left", commandHash{1}, &Result{Index: 1}, by), r.with("right", commandHash{1}, &Result{Index: 2}, by)
		for id, want := range map[string][2]uint64{"left": {1, 0}, "right": {0, 2}} {
			inLeft, _ := left.find(id, commandHash{1})
			inRight, _ := right.find(id, commandHash{1})
			if got := [2]uint64{inLeft.GetIndex(), inRight.GetIndex()}; got != want {
				t.Fatalf("after %d commands %s has results %d, want %d", n, id, got, want)
			}
		}
		r = r.with(fmt.Sprint("key", n), commandHash{1}, &Result{Index: uint64(n)}, by)
	}
	for _, twice := range [][2]string{{"a", "a"}, {"b", "a"}} {
		at, err := ring{}, error(nil)
		for _, id := range twice {
			if err != nil {
				t.Fatal(err)
			}
			at, err = at.loadRecord(&pb.DedupRecord{RequestId: id, CommandHash: make([]byte, 8), Result: &Result{Index: 1}}, by)
		}
		if err == nil || !strings.Contains(err.Error(), "does not come after") {
			t.Errorf("results of %q are taken: %v", twice, err)
		}
	}
	for _, size := range []int{0, 7, 9} {
		_, err := ring{}.loadRecord(&pb.DedupRecord{RequestId: "a", CommandHash: make([]byte, size), Result: &Result{Index: 1}}, nil)
		if want := fmt.Sprintf("of %d bytes, and not of 8", size); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a hash of %d bytes: %v", size, err)
		}
	}
}

func BenchmarkRing(b *testing.B) {
	r, n := fill(keptAtLeast), keptAtLeast
	b.ReportAllocs()
	for b.Loop() {
		id := requestID(uint64(n-64), n) // others come before it, as many as in an entry or two
		if got, err := r.find(id, commandHash{1}); got != nil || err != nil {
			b.Fatal(got, err)
		}
		r = r.with(id, commandHash{1}, &Result{Index: uint64(n) + 1}, nil)
		n++
	}
}
