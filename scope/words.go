package scope

import (
	"encoding/binary"
	"math/bits"
)

const (
	// headSize is how many bytes of a key are looked at in registers.
	headSize = 32
	// inline is how many bytes of a prefix stand in its slot: a look-up of such a
	// one reads nothing else.
	inline = headSize - 1
	// notInline stands in the slot of a longer one, where no slot of a shorter one
	// has it: the highest byte of that is the length.
	notInline = ^uint64(0)
)

// words are what a slot is compared by: the bytes of the prefix, followed by zeros,
// and in the highest byte of the last its length; for a prefix that is longer than
// [inline] its hash, its length and [notInline].
//
// They have names as the compiler keeps no array in registers.
type words struct{ a, b, c, d uint64 }

// differ reports whether two are not the same, by one condition: of four the processor
// would guess wrong which one ends the comparison.
func (w words) differ(o words) bool { return (w.a^o.a)|(w.b^o.b)|(w.c^o.c)|(w.d^o.d) != 0 }

// hash is the one of the prefix. It has no secret in it, as equal states are to be
// made in equal ways everywhere: who makes prefixes collide is stopped by [maxClass].
func (w words) hash() uint64 {
	if w.d == notInline {
		return w.a
	}
	return w.shortHash()
}

// shortHash is hash of a prefix that is inline: a polynomial, mixed.
func (w words) shortHash() uint64 { return mix(((w.a*salt+w.b)*salt+w.c)*salt+w.d, salt) }

// salt is odd, with as many ones as zeros in no order, as of wyhash.
const salt = 0xa0761d6478bd642f

// mix multiplies to 128 bits, so that each bit of the result depends on all.
func mix(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// shortHead has the first [headSize] bytes of key, followed by zeros if it has less.
func shortHead(key []byte) (w words) {
	n := uint(len(key))
	if n < 8 {
		for i := range key {
			w.a |= uint64(key[i]) << (8 * uint(i))
		}
		return w
	}
	w.a = binary.LittleEndian.Uint64(key)
	last := binary.LittleEndian.Uint64(key[n-8:]) // of which the words before have some; shifted out if they have all
	switch {
	case n < 16:
		w.b = last >> (8 * (16 - n))
	case n < 24:
		w.b, w.c = binary.LittleEndian.Uint64(key[8:]), last>>(8*(24-n))
	case n < 32:
		w.b, w.c, w.d = binary.LittleEndian.Uint64(key[8:]), binary.LittleEndian.Uint64(key[16:]), last>>(8*(32-n))
	default:
		w.b, w.c, w.d = binary.LittleEndian.Uint64(key[8:]), binary.LittleEndian.Uint64(key[16:]), binary.LittleEndian.Uint64(key[24:])
	}
	return w
}

// prefix returns the words of the first size bytes, up to [inline], of the key that begins so.
func (w words) prefix(size uint) words {
	m := firsts[size]
	return words{w.a & m.a, w.b & m.b, w.c & m.c, w.d&m.d | uint64(size)<<56}
}

// firsts has, for each n, the bits of the first n bytes of words: to shift them out of ones
// each time takes many instructions.
var firsts = func() (m [inline + 1]words) {
	for n := range m {
		m[n] = words{firstBytes(n), firstBytes(n - 8), firstBytes(n - 16), firstBytes(n - 24)}
	}
	return m
}()

// firstBytes has the bits of a word's first n bytes.
func firstBytes(n int) uint64 { return 1<<(8*uint(max(n, 0))) - 1 }

// longWords returns the words of a prefix that is longer than [inline].
func longWords(prefix []byte) words {
	h := uint64(len(prefix))
	for at := 0; at+8 <= len(prefix); at += 8 {
		h = mix(h^binary.LittleEndian.Uint64(prefix[at:]), salt)
	}
	return words{mix(h^binary.LittleEndian.Uint64(prefix[len(prefix)-8:]), salt), uint64(len(prefix)), 0, notInline}
}

// wordsOf are those of a whole prefix.
func wordsOf(prefix []byte) words {
	if len(prefix) > inline {
		return longWords(prefix)
	}
	return shortHead(prefix).prefix(uint(len(prefix)))
}

// lowBits has the lowest bit of each byte.
const lowBits = 0x0101010101010101

// zeros has a bit for each byte, which is set where that is 0. It can be set also where
// the byte is 1, after one that is 0: to be exact takes one instruction more.
func zeros(w uint64) uint64 {
	return (w - lowBits) &^ w & (lowBits << 7) * 0x0002040810204081 >> 56
}
