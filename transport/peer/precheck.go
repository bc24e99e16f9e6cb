package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// MaxRaftFrame is the largest request of raft, in bytes: 64 entries of up to a megabyte, and room.
	MaxRaftFrame = 80 << 20
	// maxRaftSmall bounds every other request, the head of a snapshot's transfer included: a few numbers and the
	// list of servers.
	maxRaftSmall = 1 << 20
	// maxRaftValues bounds the values in one request. Raft sends at most 1,024 entries at once, each a map of 6
	// names and values. Without the bound 80 MiB of empty maps would decode into gigabytes of empty entries.
	maxRaftValues = 16 << 10
	// maxRaftDepth bounds the nesting in one request: request, list of entries, entry, field, and room.
	maxRaftDepth = 8
	// maxRaftName bounds the names in a request's own map. Raft's longest has 18 bytes.
	maxRaftName = 64
)

// Requests by their first byte. raft v1.7.3 does not export these numbers.
const (
	raftAppendEntries   byte = 0
	raftVote            byte = 1
	raftInstallSnapshot byte = 2
	raftLastType        byte = 4 // 3 is a transfer of leadership, 4 a pre-vote request
)

var errRaftFrame = errors.New("not a request of raft")

// field is what of a request is looked at.
type field int

const (
	otherField field = iota
	idField
	sizeField
)

// phase is where in the exchange of requests and answers a raft connection is.
type phase int

const (
	atType   phase = iota // the next byte starts a request
	inValue               // within the msgpack value that is the request
	inStream              // within the snapshot that follows its request
	atAnswer              // the request is complete, nothing may come before the answer
	atEnd                 // a snapshot was answered before it was whole, and nothing can follow
)

// precheck follows the bytes that arrive on a raft connection and finds those that no server of raft sends. With
// MaxRPCsInFlight 1 an exchange is strict: a byte for the type, one msgpack value, after an InstallSnapshot the
// snapshot, then silence until the answer. It decodes nothing; it follows the lengths and counts in the msgpack
// headers, so that a request too large in bytes, values or depth is refused at the header that says so, before
// raft's decoder meets it. Of what the values say it looks at two: the id in the header of every request, which must be
// that of the server whose connection it is, and the size of a snapshot, behind which raft goes on to decode. It is a pure
// state machine: bytes in any portions give the same result.
type precheck struct {
	maxFrame int64  // bound on an AppendEntries, MaxRaftFrame but in tests
	from     string // id of the server whose connection it is

	phase    phase
	snapshot bool  // a snapshot follows the present request
	limit    int64 // bound on the present request
	used     int64 // bytes of the present request
	values   int   // values announced in the present request

	head     [5]byte // msgpack header being read, which portions may cut
	headSize int
	skip     int64 // bytes of the present scalar still to come

	open  [maxRaftDepth]int64 // values still to come in each open map or list, outermost first
	depth int

	text []byte // of what is being read in the request's own map: a name, an id, a size
	name field  // the last name in that map
	left int64  // bytes of the snapshot still to come

	signed bool // the number being read may be below zero

	err error // first violation, it stays
}

func newPrecheck(from string) *precheck { return &precheck{maxFrame: MaxRaftFrame, from: from} }

// feed takes the next bytes. After an error none of them may be passed on, and every later feed fails too.
func (c *precheck) feed(p []byte) error {
	for len(p) > 0 && c.err == nil {
		switch c.phase {
		case atType:
			c.begin(p[0])
			p = p[1:]
		case inValue:
			p = c.value(p)
		case inStream:
			n := min(c.left, int64(len(p)))
			if c.left -= n; c.left == 0 {
				c.phase = atAnswer
			}
			p = p[n:]
		case atAnswer:
			c.fail("%d bytes arrived before the request they follow was answered", len(p))
		case atEnd:
			c.fail("%d bytes arrived after a snapshot that was refused", len(p))
		}
	}
	return c.err
}

// answered says that an answer is being written, possibly in several parts.
func (c *precheck) answered() {
	switch c.phase {
	case atAnswer:
		c.phase = atType
	case inStream:
		c.phase = atEnd
	}
}

// midway says whether the other side owes bytes: it has begun something that is not whole.
func (c *precheck) midway() bool { return c.phase == inValue || c.phase == inStream }

func (c *precheck) fail(format string, args ...any) {
	c.err = fmt.Errorf("%w: %s", errRaftFrame, fmt.Sprintf(format, args...))
}

// begin starts a request.
func (c *precheck) begin(kind byte) {
	if kind > raftLastType {
		c.fail("type %d is unknown", kind)
		return
	}
	c.phase, c.used, c.values, c.headSize, c.skip, c.name, c.left = inValue, 1, 1, 0, 0, otherField, 0
	c.limit = min(maxRaftSmall, c.maxFrame)
	if kind == raftAppendEntries {
		c.limit = c.maxFrame
	}
	c.open[0], c.depth = 1, 1 // the request is one value
	c.snapshot = kind == raftInstallSnapshot
}

// value takes bytes of the present request and returns the rest.
func (c *precheck) value(p []byte) []byte {
	if c.skip > 0 {
		n := min(c.skip, int64(len(p)))
		c.skip -= n
		c.used += n
		if c.inRequest() && (c.isName() || c.name != otherField) {
			c.text = append(c.text, p[:n]...)
		}
		if c.skip == 0 {
			c.endText()
			c.closeValue()
		}
		return p[n:]
	}
	c.head[c.headSize] = p[0]
	c.headSize++
	c.used++
	if c.headSize == 1+lengthBytes(c.head[0]) {
		c.headSize = 0
		c.header()
	}
	if c.err == nil && c.used > c.limit {
		c.fail("more than %d bytes", c.limit)
	}
	return p[1:]
}

// lengthBytes is the number of bytes of a length that follow a msgpack header's first byte.
func lengthBytes(b byte) int {
	switch b {
	case 0xc4, 0xc7, 0xd9: // bin 8, ext 8, str 8
		return 1
	case 0xc5, 0xc8, 0xda, 0xdc, 0xde: // bin, ext, str, list, map 16
		return 2
	case 0xc6, 0xc9, 0xdb, 0xdd, 0xdf: // bin, ext, str, list, map 32
		return 4
	}
	return 0
}

// header acts on a complete msgpack header.
func (c *precheck) header() {
	b := c.head[0]
	length := int64(0)
	switch lengthBytes(b) {
	case 1:
		length = int64(c.head[1])
	case 2:
		length = int64(binary.BigEndian.Uint16(c.head[1:]))
	case 4:
		length = int64(binary.BigEndian.Uint32(c.head[1:]))
	}
	if !c.fits(b, length) {
		return
	}
	switch {
	case b <= 0x7f, b >= 0xe0, b == 0xc0, b == 0xc2, b == 0xc3: // small numbers, nil, false, true
		c.scalar(0)
	case b <= 0x8f:
		c.container(2 * int64(b&0x0f))
	case b <= 0x9f:
		c.container(int64(b & 0x0f))
	case b <= 0xbf:
		c.scalar(int64(b & 0x1f))
	case b == 0xc1:
		c.fail("byte c1 means nothing in msgpack")
	case b <= 0xc6, b >= 0xd9 && b <= 0xdb: // bin, str
		c.scalar(length)
	case b == 0xd6, b == 0xd7: // ext of 4 or 8 bytes, a time, with a byte for its type
		c.scalar(4<<(b-0xd6) + 1)
	case b == 0xc7 && length == 12: // the long form of a time
		c.scalar(length + 1)
	case b <= 0xc9, b >= 0xd4 && b <= 0xd8:
		// Raft has no others, and its decoder reads those without bytes differently from what the format says.
		c.fail("a value of type %x", b)
	case b <= 0xcb: // float 32, 64
		c.scalar(4 << (b - 0xca))
	case b <= 0xcf: // uint 8 to 64
		c.scalar(1 << (b - 0xcc))
	case b <= 0xd3: // int 8 to 64
		c.scalar(1 << (b - 0xd0))
	case b <= 0xdd:
		c.container(length)
	default:
		c.container(2 * length)
	}
}

// scalar starts a value of size more bytes.
func (c *precheck) scalar(size int64) {
	if size > c.limit-c.used {
		c.fail("a value of %d bytes, the whole request may have %d", size, c.limit)
		return
	}
	c.skip = size
	if size == 0 {
		c.endText()
		c.closeValue()
	}
}

// inRequest is whether the next value is one in the request's own map, a name or what it names.
func (c *precheck) inRequest() bool { return c.depth == 2 }

// isName is whether it is a name: names and values take turns.
func (c *precheck) isName() bool { return c.open[1]%2 == 0 }

// fits refuses a request that is no map with texts for names, an id that is not the connection's and a size that is no
// plain number: raft's decoder takes other forms for the same, which would not be seen here.
func (c *precheck) fits(b byte, length int64) bool {
	isText := b >= 0xa0 && b <= 0xbf || b >= 0xc4 && b <= 0xc6 || b >= 0xd9 && b <= 0xdb
	if b >= 0xa0 && b <= 0xbf {
		length = int64(b & 0x1f)
	}
	c.text, c.signed = c.text[:0], b >= 0xd0 && b <= 0xd3
	switch {
	case c.depth == 1 && (b < 0x80 || b > 0x8f) && b != 0xde && b != 0xdf:
		c.fail("it is no map, its first byte is %x", b)
	case !c.inRequest():
		return true
	case c.isName() && (!isText || length > maxRaftName):
		c.fail("a name of type %x and %d bytes", b, length)
	case !c.isName() && c.name == sizeField && b > 0x7f && (b < 0xcc || b > 0xd3):
		c.fail("a snapshot's size of type %x", b)
	case !c.isName() && c.name == sizeField && b <= 0x7f:
		c.left = int64(b)
	case !c.isName() && c.name == idField && (!isText || length != int64(len(c.from))):
		c.fail("it is not in the name of server %q, whose connection this is", c.from)
	}
	return c.err == nil
}

// endText looks at a whole name, id or size.
func (c *precheck) endText() {
	switch {
	case !c.inRequest():
	case c.isName():
		switch c.name = otherField; string(c.text) {
		case "ID":
			c.name = idField
		case "Size":
			c.name = sizeField
		}
	case c.name == idField && string(c.text) != c.from:
		c.fail("it is in the name of server %q, and the connection is that of server %q", c.text, c.from)
	case c.name == sizeField && len(c.text) > 0:
		size := uint64(0) // a negative one is as large as they come
		if int8(c.text[0]) < 0 && c.signed {
			size = 1<<64 - 1
		}
		for _, b := range c.text {
			size = size<<8 | uint64(b)
		}
		if c.left = int64(min(size, maxSnapshotSize)); size > maxSnapshotSize {
			c.fail("a snapshot of %d bytes, at most %d are taken", size, int64(maxSnapshotSize))
		}
	}
}

// container starts a map or list of n values, names of a map included.
func (c *precheck) container(n int64) {
	switch {
	case n > maxRaftValues-int64(c.values):
		c.fail("more than %d values", maxRaftValues)
	case n == 0:
		c.closeValue()
	case c.depth == maxRaftDepth:
		c.fail("values nested deeper than %d", maxRaftDepth)
	default:
		c.values += int(n)
		c.open[c.depth] = n
		c.depth++
	}
}

// closeValue ends a value, and with the last one of a container that too.
func (c *precheck) closeValue() {
	for c.depth > 0 {
		c.open[c.depth-1]--
		if c.open[c.depth-1] > 0 {
			return
		}
		c.depth--
	}
	c.phase = atAnswer
	if c.snapshot && c.left > 0 {
		c.phase = inStream
	}
}

// wellFormed says what of a value that raft would decode later is not as raft encodes it: one value, a map, within bounds.
func wellFormed(data []byte) error {
	c := precheck{maxFrame: maxRaftSmall}
	c.begin(raftVote)
	if err := c.feed(data); err != nil {
		return err
	}
	if c.phase != atAnswer {
		c.fail("it is cut off after %d bytes", len(data))
	}
	return c.err
}
