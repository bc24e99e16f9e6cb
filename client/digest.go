package client

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"math/bits"
)

// recordSum is the SHA-256 of a record, in an encoding that no two records share:
// the length of the key, the key, when it expires, and the value up to the end;
// integers have 8 bytes, big-endian.
type recordSum [sha256.Size]byte

// hasher makes the sums of records. It is used by one goroutine.
type hasher struct{ h hash.Hash }

func newHasher() hasher { return hasher{sha256.New()} }

func (x hasher) of(r Record) recordSum {
	var n [8]byte
	var out recordSum
	x.h.Reset()
	binary.BigEndian.PutUint64(n[:], uint64(len(r.Key)))
	x.h.Write(n[:])
	x.h.Write(r.Key)
	binary.BigEndian.PutUint64(n[:], uint64(r.Expires))
	x.h.Write(n[:])
	x.h.Write(r.Value)
	x.h.Sum(out[:0])
	return out
}

// tally sums up records in no order: how many, the bytes of keys and values, and
// the sum of their [recordSum]s modulo 2^256.
//
// A sum, not an exclusive or: in that a record that comes twice cancels itself
// out, so that a slice with a pair of records too many has the digest of one
// without, and records whose digests cancel out can be found by plain linear
// algebra. Nor a hash of all records in order: the two stores need not have one
// order. A sum guards against records that are lost, spoiled, or come twice. It
// does not guard against somebody who may choose the records at both ends, who
// could compute sets of equal sums; who can write there needs no such means.
type tally struct {
	keys, bytes uint64
	sum         [4]uint64 // the least significant first
}

func (t *tally) add(r Record, s recordSum) { t.put(former{s, sizeOf(r)}) }

// former is what a tally has of a record, and all that is needed to take it back.
type former struct {
	sum   recordSum
	bytes uint64 // of key and value
}

func (t *tally) put(f former) {
	t.keys++
	t.bytes += f.bytes
	var carry uint64
	for i, d := range digits(f.sum) {
		t.sum[i], carry = bits.Add64(t.sum[i], d, carry)
	}
}

// remove takes back what was put.
func (t *tally) remove(f former) {
	t.keys--
	t.bytes -= f.bytes
	var borrow uint64
	for i, d := range digits(f.sum) {
		t.sum[i], borrow = bits.Sub64(t.sum[i], d, borrow)
	}
}

// sizeOf is what a record counts for in a manifest.
func sizeOf(r Record) uint64 { return uint64(len(r.Key)) + uint64(len(r.Value)) }

// digits are the digits of a sum to base 2^64, the least significant first.
func digits(s recordSum) (out [4]uint64) {
	for i := range out {
		out[i] = binary.BigEndian.Uint64(s[8*(3-i):])
	}
	return out
}

// manifest is the tally as it travels; the digest is 64 hex digits, the most
// significant first.
func (t *tally) manifest() Manifest {
	var raw recordSum
	for i, w := range t.sum {
		binary.BigEndian.PutUint64(raw[8*(3-i):], w)
	}
	return Manifest{Keys: t.keys, Bytes: t.bytes, Digest: hex.EncodeToString(raw[:])}
}
