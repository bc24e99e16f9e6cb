// Package resp is the codec of the Redis protocol for servers: Reader takes commands from a connection that nobody has
// authenticated yet, within bounds, and Writer encodes replies in RESP2 or RESP3.
package resp

import (
	"errors"
	"io"
	"math"
)

const (
	// minBuffer is what a connection costs that waits: its first and usual buffer, bytes.
	minBuffer = 4 << 10
	// keepBuffer is the largest buffer that is kept once it is empty, bytes. Commands and replies below it do not
	// allocate; a larger buffer would be held by a connection that had one large command and waits. Up to this size the
	// buffer also grows when a read fills it, so that a pipeline comes with one read, and is answered with one write.
	keepBuffer = 16 << 10
	// fewInARow is after how many reads that brought little the buffer is the first one's size again, and after how many
	// commands that came alone no room for those behind is kept.
	fewInARow = 16
	// fewArgs is how many arguments a command has at most that is looked at ahead.
	fewArgs = 8
	// maxEmptyReads is how often a connection's Read may return nothing and no error before it is taken for broken.
	maxEmptyReads = 100
)

// Reader reads commands: arrays of bulk strings, and inline commands with Redis's quoting. It parses in place in one
// buffer, which grows by the bytes that arrive, never by a length that was announced. It is not safe for concurrent use.
type Reader struct {
	r    io.Reader
	next Limits // of the next command
	lim  Limits // of the command being read

	buf        []byte
	start, end int   // buf[start:end] is read and not returned; a command begins at start
	filled     bool  // the last read filled the buffer
	few        int   // reads in a row that left at most half of minBuffer in it
	failed     error // the stream is out of step for good

	// The command being read. Positions count from start, since the buffer moves.
	pos   int // parsed up to here; of an inline line: searched
	left  int // arguments to come; 0 between commands
	bulk  int // length of the argument whose header is read; -1 before the header
	total int // bytes of arguments announced so far
	spans []span

	args [][]byte // what Next returned last

	// The whole commands from start on that Ahead has parsed and Next has not returned, with the arguments of all of them.
	ahead     []parsed
	aheadArgs [][]byte

	// Room for Ahead.
	aheadRoom []parsed
	argsRoom  [][]byte
	alone     int // reads in a row that brought nothing to show ahead
}

// parsed is a whole command: how many bytes and arguments it has.
type parsed struct{ size, args int }

// span is where an argument is.
type span struct{ from, to int }

// NewReader returns a Reader of r's commands within l. Next waits in r.Read only when no whole command is buffered: an
// r that flushes the connection's Writer first never lets a client wait for a reply while Next waits for the client.
func NewReader(r io.Reader, l Limits) *Reader {
	return &Reader{r: r, next: l, bulk: -1}
}

// SetLimits changes the limits from the next command on. An array of which the header was read keeps its own.
func (r *Reader) SetLimits(l Limits) {
	if l != r.next {
		r.ahead = nil // it was parsed within the others
	}
	r.next = l
}

// Buffered returns the number of bytes that were read and not returned as commands. They can be half a command.
func (r *Reader) Buffered() int { return r.end - r.start }

// Unseen reports whether something is buffered behind the command that Next returned last that Ahead has not shown.
func (r *Reader) Unseen() bool { return len(r.ahead) == 0 && r.start < r.end }

// Next returns the next command's arguments, at least one. They are valid until the next call, which overwrites them.
// Empty inline lines, "*0" and "*-1" are passed over.
//
// Errors: io.EOF at a clean end, io.ErrUnexpectedEOF inside a command; *ProtocolError and *LimitError, after which
// every call fails alike; others are Read's own, and Next may be called again: half a command is kept.
func (r *Reader) Next() ([][]byte, error) {
	for r.failed == nil {
		if len(r.ahead) > 0 {
			if r.takeAhead(); len(r.args) > 0 {
				return r.args, nil
			}
			continue
		}
		whole, err := r.parse()
		switch {
		case err != nil:
			r.failed = err
		case !whole:
			if err := r.fill(); err != nil {
				return nil, err
			}
		default:
			if r.take(); len(r.args) > 0 {
				return r.args, nil
			}
		}
	}
	return nil, r.failed
}

// take makes the arguments of the whole command at start, and steps behind it.
func (r *Reader) take() {
	r.args = r.takeTo(r.args[:0])
}

// takeTo is take that appends them.
func (r *Reader) takeTo(args [][]byte) [][]byte {
	for _, s := range r.spans {
		from, end := r.start+s.from, r.start+s.to
		args = append(args, r.buf[from:end:end]) // an append by the caller must not reach the next argument
	}
	r.start += r.pos
	r.pos, r.total, r.spans = 0, 0, r.spans[:0]
	return args
}

// takeAhead is take for a command that Ahead has parsed. Its arguments are copied: Ahead may be called before Next is again.
func (r *Reader) takeAhead() {
	first := r.ahead[0]
	r.args = append(r.args[:0], r.aheadArgs[:first.args]...)
	r.start += first.size
	r.ahead, r.aheadArgs = r.ahead[1:], r.aheadArgs[first.args:]
}

// Ahead shows up to most of the whole commands, other than inline ones, that are buffered behind the one that Next returned last, in
// order, up to one that has many arguments. Next returns them all the same, and every error of what follows. What is shown is valid until Next has to read more;
// the slice of the arguments until show returns. While Next has not returned all that was shown, nothing more is.
func (r *Reader) Ahead(most int, show func(args [][]byte)) {
	if len(r.ahead) > 0 || r.left > 0 || r.failed != nil {
		return
	}
	look := Reader{next: r.next, buf: r.buf, start: r.start, end: r.end, bulk: -1, spans: r.spans}
	// No room is kept for commands of many arguments, and inline ones are unquoted where they stand.
	look.next.Args = min(look.next.Args, fewArgs)
	ahead, args := r.aheadRoom[:0], r.argsRoom[:0]
	for len(ahead) < most && look.start < look.end && look.buf[look.start] == '*' {
		if whole, err := look.parse(); !whole || err != nil {
			break
		}
		before, start := len(args), look.start
		args = look.takeTo(args)
		ahead = append(ahead, parsed{look.start - start, len(args) - before})
		if of := args[before:]; len(of) > 0 {
			show(of)
		}
	}
	r.ahead, r.aheadArgs, r.spans = ahead, args, look.spans[:0]
	r.aheadRoom, r.argsRoom = ahead, args
	if len(ahead) > 0 {
		r.alone = 0
	}
}

// parse goes on with the command at start as far as there are bytes, and tells whether it is whole. What it finds
// depends on the bytes alone, not on the pieces in which they came: each is refused by the same byte.
func (r *Reader) parse() (whole bool, err error) {
	if r.left == 0 {
		r.lim = r.next
		if r.start == r.end {
			return false, nil
		}
		if r.buf[r.start] != '*' {
			return r.parseInline()
		}
		n, size, ok := arrayLength(r.buf[r.start+1 : r.end])
		switch {
		case !ok:
			return false, errArrayLength()
		case size == 0:
			return false, nil
		case n > int64(r.lim.Args):
			return false, &LimitError{What: OverArgs, Got: n, Max: int64(r.lim.Args)}
		}
		r.left, r.pos = int(n), 1+size
	}
	for r.left > 0 {
		whole, err := r.parseBulk(r.buf[r.start+r.pos : r.end])
		if !whole || err != nil {
			return false, err
		}
	}
	return true, nil
}

// parseBulk goes on with an argument, of which b is what has not been parsed.
func (r *Reader) parseBulk(b []byte) (whole bool, err error) {
	if r.bulk < 0 {
		if len(b) == 0 {
			return false, nil
		}
		if b[0] != '$' {
			return false, errExpected("'$'", b[0])
		}
		n, size, ok := length(b[1:])
		switch {
		case !ok:
			return false, errBulkLength()
		case size == 0:
			return false, nil
		case n > int64(r.lim.ArgLen):
			return false, &LimitError{What: OverArgLen, Got: n, Max: int64(r.lim.ArgLen)}
		case n > int64(r.lim.Command-r.total):
			return false, &LimitError{What: OverCommand, Got: int64(r.total) + n, Max: int64(r.lim.Command)}
		}
		r.bulk = int(n)
		r.total += r.bulk
		r.pos += 1 + size
		b = b[1+size:]
	}
	if len(b) > r.bulk && b[r.bulk] != '\r' {
		return false, errExpected("CRLF after an argument", b[r.bulk])
	}
	if len(b) < r.bulk+2 {
		return false, nil
	}
	if b[r.bulk+1] != '\n' {
		return false, errExpected("CRLF after an argument", b[r.bulk+1])
	}
	r.spans = append(r.spans, span{r.pos, r.pos + r.bulk})
	r.pos += r.bulk + 2
	r.left, r.bulk = r.left-1, -1
	return true, nil
}

// arrayLength is length for an array, where "-1" is what RESP2 calls null: no command, as 0.
func arrayLength(b []byte) (n int64, size int, ok bool) {
	if len(b) == 0 || b[0] != '-' {
		return length(b)
	}
	const null = "-1\r\n"
	if len(b) < len(null) {
		return 0, 0, string(b) == null[:len(b)]
	}
	return 0, len(null), string(b[:len(null)]) == null
}

// length reads digits and CRLF. Size counts both, and is 0 while bytes are missing. Not ok: no bytes to come can make
// it a length. At most 19 digits are waited for, so a long row of them is refused before its end.
func length(b []byte) (n int64, size int, ok bool) {
	if len(b) >= len("99\r\n") { // as a rule, and of no more digits
		first, second := b[0]-'0', b[1]-'0'
		switch {
		case first <= 9 && b[1] == '\r':
			return int64(first), 3, b[2] == '\n'
		case first != 0 && first <= 9 && second <= 9 && b[2] == '\r':
			return int64(first)*10 + int64(second), 4, b[3] == '\n'
		}
	}
	for i, c := range b {
		if c == '\r' && i > 0 {
			if i+1 == len(b) {
				return 0, 0, true
			}
			return n, i + 2, b[i+1] == '\n'
		}
		digit := int64(c) - '0'
		if digit < 0 || digit > 9 || i > 0 && n == 0 || n > (math.MaxInt64-digit)/10 {
			return 0, 0, false
		}
		n = n*10 + digit
	}
	return 0, 0, true
}

// fill reads once, after making room.
func (r *Reader) fill() error {
	r.makeRoom()
	for range maxEmptyReads {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		r.filled = r.end == len(r.buf)
		if r.few++; r.end > minBuffer/2 {
			r.few = 0
		}
		if r.alone++; r.alone >= fewInARow { // nor is the room for a pipeline kept
			r.ahead, r.aheadRoom, r.aheadArgs, r.argsRoom = nil, nil, nil, nil
		}
		switch {
		case n > 0: // an error beside bytes comes again with the next Read
			return nil
		case errors.Is(err, io.EOF) && r.start < r.end:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// makeRoom moves what is held to the front of the buffer, and replaces a buffer that is full or needlessly large.
func (r *Reader) makeRoom() {
	held := r.buf[r.start:r.end]
	size := len(r.buf)
	switch {
	case len(held) == size:
		// Half a command fills the buffer. It is shorter than the longest one, so there is always more room.
		size = max(minBuffer, min(2*size, r.lim.most()))
	case size > keepBuffer && len(held) <= minBuffer/2, size > minBuffer && r.few >= fewInARow:
		size = minBuffer
	case r.filled && size < keepBuffer:
		size = max(size, min(2*size, keepBuffer, r.lim.most())) // the limits may be smaller than the buffer
	}
	if size != len(r.buf) {
		r.buf = make([]byte, size)
		clear(r.args[:cap(r.args)]) // they would keep the old buffer in memory
		clear(r.argsRoom[:cap(r.argsRoom)])
	}
	r.start, r.end = 0, copy(r.buf, held)
}
