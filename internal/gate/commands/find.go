package commands

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
)

// Checked is the table of the commands that one upstream takes. It is not changed once made; all methods may be
// called from any goroutine.
type Checked struct {
	top *index
	all []*Command // by name
}

// Find returns the command that the arguments begin with, whatever their case, or false: then neither the table nor
// the upstream knew it when the table was checked, and what it would do nobody can say. It allocates nothing.
func (t *Checked) Find(args [][]byte) (*Command, bool) {
	if len(args) == 0 {
		return nil, false
	}
	c := t.top.find(args[0])
	if c != nil && c.subs != nil && len(args) > 1 {
		c = c.subs.find(args[1])
	}
	return c, c != nil
}

// mostNamed bounds what the error of an unknown command repeats, in bytes, as stores do.
const mostNamed = 128

// Unknown is the error of a store, a whole line without the dash, for arguments that Find knows no command of.
func (t *Checked) Unknown(args [][]byte) string {
	if len(args) == 0 {
		return "ERR no command"
	}
	if c := t.top.find(args[0]); c != nil && c.subs != nil && len(args) > 1 {
		return "ERR unknown subcommand '" + named(args[1], mostNamed) + "'. Try " + c.Name + " HELP."
	}
	begin := "ERR unknown command '" + named(args[0], mostNamed) + "', with args beginning with: "
	rest := ""
	for _, arg := range args[1:] {
		if len(rest) >= mostNamed {
			break
		}
		rest += "'" + named(arg, mostNamed-len(rest)) + "' "
	}
	return begin + rest
}

// named is what a store shows of an argument: up to a zero byte, and without line ends.
func named(arg []byte, most int) string {
	if end := bytes.IndexByte(arg, 0); end >= 0 {
		arg = arg[:end]
	}
	return strings.NewReplacer("\r", " ", "\n", " ").Replace(string(arg[:min(most, len(arg))]))
}

// All returns all commands by name, the refused ones too. The slice is the table's own: it must not be changed.
func (t *Checked) All() []*Command { return t.all }

// maxName is the length of the longest name that an index holds, in bytes. The longest known is 21.
const maxName = 24

// index is a hash table from names to commands. A name is kept as three words in lower case, so that a lookup
// neither copies nor compares byte by byte.
type index struct {
	slots []uint16 // 0 is free, else the entry's number + 1
	shift uint
	names []name
	list  []*Command
}

// name is a name of up to maxName bytes in lower case. Words overlap where the length is no multiple of theirs:
// together with the length they are still the name.
type name struct {
	a, b, c uint64
	n       int
}

func newIndex(room int) *index {
	size := max(8, bits.Len(uint(4*room))) // at most a quarter full: nearly all lookups meet one slot
	return &index{slots: make([]uint16, 1<<size), shift: uint(64 - size)}
}

// add puts a command in under the last word of its name.
func (x *index) add(c *Command) {
	word := c.Name[strings.LastIndexByte(c.Name, '|')+1:]
	n, ok := pack([]byte(word))
	if !ok {
		return
	}
	at := n.hash() >> x.shift
	for x.slots[at] != 0 {
		at = (at + 1) & uint64(len(x.slots)-1)
	}
	x.names = append(x.names, n)
	x.list = append(x.list, c)
	x.slots[at] = uint16(len(x.list))
}

func (x *index) find(word []byte) *Command {
	n, ok := pack(word)
	if !ok {
		return nil
	}
	for at := n.hash() >> x.shift; ; at = (at + 1) & uint64(len(x.slots)-1) {
		i := x.slots[at]
		if i == 0 {
			return nil
		}
		if x.names[i-1] == n {
			return x.list[i-1]
		}
	}
}

// pack returns the name of a word, or false if it is too long or empty.
func pack(b []byte) (name, bool) {
	n := len(b)
	switch {
	case n == 0 || n > maxName:
		return name{}, false
	case n >= 16:
		return name{lower(word(b)), lower(word(b[8:])), lower(word(b[n-8:])), n}, true
	case n >= 8:
		return name{lower(word(b)), lower(word(b[n-8:])), 0, n}, true
	case n >= 4:
		return name{lower(half(b) | half(b[n-4:])<<32), 0, 0, n}, true
	default:
		return name{lower(uint64(b[0]) | uint64(b[n/2])<<8 | uint64(b[n-1])<<16), 0, 0, n}, true
	}
}

func word(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
func half(b []byte) uint64 { return uint64(binary.LittleEndian.Uint32(b)) }

// lower turns the letters A to Z among eight bytes into lower case, all at once. Of each byte below 0x80, the first
// sum sets the high bit from 'A' on, the second beyond 'Z'.
func lower(w uint64) uint64 {
	const each = 0x0101010101010101
	low := w &^ (0x80 * each)
	upper := (low + (0x80-'A')*each) ^ (low + (0x7f-'Z')*each)
	upper &^= w
	return w | upper&(0x80*each)>>2
}

func (n name) hash() uint64 {
	const odd = 0x9e3779b97f4a7c15 // 2^64 / the golden ratio
	return (n.a ^ bits.RotateLeft64(n.b, 29) ^ bits.RotateLeft64(n.c, 47) ^ uint64(n.n)) * odd
}
