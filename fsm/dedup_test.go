package fsm

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/scope-registry/scope-registry/internal/api"
)

const keptAtLeast = 65_536

func requestID(first uint64, n int) string { return fmt.Sprintf("%d-%032x", first, n) }

// fill remembers n commands; command i was applied at index i+1.
func fill(n int) ring {
	var r ring
	for i := range n {
		r = r.with(requestID(uint64(i), i), []byte{1}, &Result{Index: uint64(i) + 1})
	}
	return r
}

func TestRingKeepsItsPromise(t *testing.T) {
	const n = keptAtLeast + 3*ringChunk + 17
	r := fill(n)
	for i := n - keptAtLeast; i < n; i++ {
		got, err := r.find(requestID(uint64(i), i), []byte{1})
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
	_, err := r.find(requestID(r.floor-1, 1<<30), []byte{1})
	if err == nil || err.Code != api.RequestExpired || err.Floor != r.floor {
		t.Fatalf("below the floor %d: %v", r.floor, err)
	}
	for _, id := range []string{requestID(r.floor, 1<<30), requestID(r.floor+1, 1<<30), "any-key", "key"} {
		if got, err := r.find(id, []byte{1}); got != nil || err != nil {
			t.Errorf("%s: %v, %v; want neither", id, got, err)
		}
	}
	if _, err := r.find(requestID(keptAtLeast, keptAtLeast), []byte{2}); err == nil || err.Code != api.Invalid {
		t.Errorf("the same id with another command: %v", err)
	}
}

// A client's own key may look as if it began with an index. It must be found
// like any other, however large its number, and never expire.
func TestKeysThatOnlyLookIndexed(t *testing.T) {
	for _, id := range []string{"99999999-1234-4abc-8def-0123456789ab", "1-order", "0-", "12-" + "g0000000000000000000000000000000"} {
		r := ring{}.with(id, []byte{1}, &Result{Index: 5})
		for i := range 2 * ringChunk {
			r = r.with(fmt.Sprint("key", i), []byte{1}, &Result{Index: uint64(i) + 6})
		}
		if got, err := r.find(id, []byte{1}); err != nil || got.GetIndex() != 5 {
			t.Errorf("%s was not found again: %v, %v", id, got, err)
		}
		r.floor = 1 << 40
		if _, err := r.find(id+"0", []byte{1}); err != nil {
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
			r, all[id] = r.with(id, []byte{1}, &Result{Index: index}), index
		}
		back := reloadRing(r)
		for range 20 {
			i := rapid.Uint64Range(1, index+5).Draw(t, "i")
			id := requestID(i-1, int(i))
			for _, have := range []ring{r, back} {
				got, err := have.find(id, []byte{1})
				if err != nil || got.GetIndex() != all[id] {
					t.Fatalf("%s: %v, %v; the map says %d", id, got, err, all[id])
				}
			}
		}
	})
}

func reloadRing(r ring) ring {
	back := ring{floor: r.floor}
	for d := range r.records() {
		back = back.loadRecord(d)
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
			r, back = r.with(id, []byte{1}, res), back.with(id, []byte{1}, res)
		}
		compareRings(t, n+ringChunk+2, r, back)
	}
}

func compareRings(t *testing.T, n int, a, b ring) {
	t.Helper()
	if a.floor != b.floor || len(a.full) != len(b.full) || a.cur.number != b.cur.number || a.cur.maxIndex != b.cur.maxIndex || a.cur.maxFirst != b.cur.maxFirst || a.cur.byID.Len() != b.cur.byID.Len() {
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
	r := ring{}.with(early, []byte{1}, &Result{Index: 5})
	for i := range 3 * ringChunk {
		r = r.with(requestID(uint64(i), i+1), []byte{1}, &Result{Index: uint64(i) + 6})
	}
	if got, err := r.find(early, []byte{1}); err != nil || got.GetIndex() != 5 {
		t.Fatalf("got %v, %v: it would be applied twice", got, err)
	}
}
