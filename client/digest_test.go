package client

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// someRecord draws a record; short ones meet each other often.
func someRecord() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		r := Record{Key: rapid.SliceOfN(rapid.ByteRange('a', 'c'), 0, 3).Draw(t, "key"), Deleted: rapid.IntRange(0, 9).Draw(t, "deleted") == 0}
		if !r.Deleted {
			r.Value, r.Expires = rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value"), rapid.Int64().Draw(t, "expires")
		}
		return r
	})
}

func tallied(records []Record) tally {
	var sum tally
	h := newHasher()
	for _, r := range records {
		sum.add(r, h.of(r))
	}
	return sum
}

// TestTallyHasNoOrder: any order gives one manifest, and what is taken back leaves
// the manifest of the rest. The digest is the plain sum of the records' digests.
func TestTallyHasNoOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(someRecord(), 0, 30).Draw(t, "records")
		sum := tallied(records)
		shuffled := rapid.Permutation(records).Draw(t, "shuffled")
		if got := tallied(shuffled); got != sum {
			t.Fatalf("%v in another order is %v", sum.manifest(), got.manifest())
		}
		want, h := new(big.Int), newHasher()
		for _, r := range records {
			s := h.of(r)
			want.Add(want, new(big.Int).SetBytes(s[:]))
		}
		want.And(want, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1)))
		if got, _ := new(big.Int).SetString(sum.manifest().Digest, 16); got.Cmp(want) != 0 || len(sum.manifest().Digest) != 64 {
			t.Fatalf("digest %s, want %x", sum.manifest().Digest, want)
		}
		n := rapid.IntRange(0, len(records)).Draw(t, "n")
		for _, r := range shuffled[:n] {
			sum.remove(former{h.of(r), sizeOf(r)})
		}
		if got := tallied(shuffled[n:]); got != sum {
			t.Fatalf("after taking %d back: %v, want %v", n, sum.manifest(), got.manifest())
		}
	})
}

// TestRecordSumsDiffer: no two records that differ in anything but Deleted share
// what their sum is of; in particular a byte cannot go from the key to the value.
func TestRecordSumsDiffer(t *testing.T) {
	h := newHasher()
	seen := map[recordSum]Record{}
	for _, r := range []Record{
		{}, {Key: []byte("a")}, {Value: []byte("a")}, {Expires: 'a'}, {Key: []byte("ab")}, {Key: []byte("a"), Value: []byte("b")}, {Value: []byte("ab")},
		{Key: []byte("a\x00\x00\x00\x00\x00\x00\x00\x01")}, {Key: []byte("a"), Expires: 1}, {Key: []byte("a"), Expires: -1},
		{Key: []byte("a"), Value: []byte{0, 0, 0, 0, 0, 0, 0, 1}}, {Key: []byte("a"), Value: []byte{0}},
	} {
		s := h.of(r)
		if other, met := seen[s]; met {
			t.Errorf("%v and %v have one sum", r, other)
		}
		seen[s] = r
	}
	twice := tallied([]Record{{Key: []byte("a")}, {Key: []byte("a")}})
	if none := (tally{}); twice.sum == none.sum {
		t.Error("a record that comes twice cancels itself out")
	}
}
