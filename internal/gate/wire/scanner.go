package wire

import (
	"bytes"
	"fmt"
	"math"
)

// Limits bounds one request. All must be above zero.
type Limits struct {
	Args    int // arguments
	Request int // bytes, all of it
	Inline  int // bytes of a line that is no array
}

// DefaultLimits are those of Redis for arguments and lines. A request is held in memory until all of it is there, so that
// it is bounded more narrowly than there.
func DefaultLimits() Limits { return Limits{Args: 1 << 20, Request: 64 << 20, Inline: 64 << 10} }

// ProtocolError is what no request can begin with, or one over a limit. The connection is of no use afterwards: nobody knows
// where the next one begins. Its text is for the client, with the code ERR.
type ProtocolError struct{ Text string }

func (e *ProtocolError) Error() string { return e.Text }

func bad(format string, args ...any) error {
	return &ProtocolError{"ERR Protocol error: " + fmt.Sprintf(format, args...)}
}

// Scanner finds requests in a buffer of its caller's. The zero value is not ready for use, see [NewScanner]. It is not safe
// for concurrent use.
type Scanner struct {
	lim    Limits
	args   [][]byte
	spans  []span // of the arguments that are whole
	left   int    // arguments that are missing; 0 is at the beginning of a request
	bulk   int    // length of the argument that comes; -1: its header comes
	pos    int    // how much of the request has been looked at
	inline bool
}

// span is where an argument is in the request.
type span struct{ from, to int }

// NewScanner returns a scanner with these limits.
func NewScanner(lim Limits) *Scanner { return &Scanner{lim: lim, bulk: -1} }

// Scan looks at the request that buf begins with. If it is whole, size is how many bytes it has, and args are its arguments:
// parts of buf, until the next call. If it is not, size is 0; call again with the same bytes and more, which may be
// elsewhere in memory.
//
// There may be no arguments: an empty array, which is passed over. Of a line that is no array ([Scanner.Inline]) args has one
// element, the line without its end.
//
// An error is a *[ProtocolError], and comes as early as the bytes allow; every further call has the same.
func (s *Scanner) Scan(buf []byte) (args [][]byte, size int, err error) {
	if s.left == 0 {
		if len(buf) == 0 {
			return nil, 0, nil
		}
		s.inline = buf[0] != '*'
		if s.inline {
			return s.line(buf)
		}
		n, head, err := s.length(buf[1:], "multibulk")
		switch {
		case err != nil || head == 0:
			return nil, 0, err
		case n < -1:
			return nil, 0, bad("invalid multibulk length")
		case n > int64(s.lim.Args):
			return nil, 0, bad("%d arguments in one request are more than the %d that this gate takes", n, s.lim.Args)
		case n <= 0:
			return nil, 1 + head, nil
		}
		s.left, s.pos, s.spans = int(n), 1+head, s.spans[:0]
	}
	for s.left > 0 {
		whole, err := s.argument(buf)
		if !whole || err != nil {
			return nil, 0, err
		}
	}
	s.args = s.args[:0]
	for _, at := range s.spans {
		s.args = append(s.args, buf[at.from:at.to:at.to])
	}
	size, s.pos = s.pos, 0
	return s.args, size, nil
}

// Inline tells whether the request that Scan returned last was a line.
func (s *Scanner) Inline() bool { return s.inline }

// Missing is how many bytes more the request needs at least that the last Scan found to be incomplete, as far as they are
// announced; buf is what that Scan had.
func (s *Scanner) Missing(buf []byte) int {
	if s.left == 0 || s.bulk < 0 {
		return 1
	}
	return max(1, s.pos+s.bulk+len("\r\n")-len(buf))
}

// Shrink lets go of memory that an unusually long request needed.
func (s *Scanner) Shrink() {
	const usual = 1024
	if cap(s.spans) > usual && s.left == 0 {
		s.spans, s.args = nil, nil
	}
}

// argument goes on with the next argument, and tells whether it is whole.
func (s *Scanner) argument(buf []byte) (whole bool, err error) {
	if s.bulk < 0 {
		if s.pos == len(buf) {
			return false, nil
		}
		if c := buf[s.pos]; c != '$' {
			return false, bad("expected '$', got %q", c)
		}
		n, head, err := s.length(buf[s.pos+1:], "bulk")
		switch {
		case err != nil || head == 0:
			return false, err
		case n < 0:
			return false, bad("invalid bulk length")
		case n > int64(s.lim.Request-s.pos):
			return false, bad("a request of more than %d bytes; this gate takes no longer ones", s.lim.Request)
		}
		s.bulk = int(n)
		s.pos += 1 + head
	}
	end := s.pos + s.bulk
	if len(buf) < end+2 {
		if len(buf) > end && buf[end] != '\r' {
			return false, bad("expected CRLF after an argument")
		}
		return false, nil
	}
	if buf[end] != '\r' || buf[end+1] != '\n' {
		return false, bad("expected CRLF after an argument")
	}
	s.spans = append(s.spans, span{s.pos, end})
	s.pos, s.bulk, s.left = end+2, -1, s.left-1
	return true, nil
}

// length reads a number and its CRLF; head counts both, and is 0 while bytes are missing. It is strict: Redis looks for CR
// only, and takes whatever follows for LF.
func (s *Scanner) length(b []byte, what string) (n int64, head int, err error) {
	// Nearly all are of one or two digits.
	if len(b) > 3 {
		if d := b[0] - '0'; d <= 9 {
			if b[1] == '\r' && b[2] == '\n' {
				return int64(d), 3, nil
			}
			if e := b[1] - '0'; e <= 9 && d != 0 && b[2] == '\r' && b[3] == '\n' {
				return int64(d)*10 + int64(e), 4, nil
			}
		}
	}
	n, head, ok := number(b)
	if !ok {
		return 0, 0, bad("invalid %s length", what)
	}
	return n, head, nil
}

// number reads an integer in its shortest form, and CRLF. Not ok: no bytes to come can make it one.
func number(b []byte) (n int64, head int, ok bool) {
	negative := len(b) > 0 && b[0] == '-'
	digits := b
	if negative {
		digits = b[1:]
	}
	for i, c := range digits {
		if c == '\r' && i > 0 {
			head = len(b) - len(digits) + i + 2
			if i+1 == len(digits) {
				return 0, 0, true
			}
			if negative {
				n = -n
			}
			return n, head, digits[i+1] == '\n'
		}
		d := int64(c) - '0'
		if d < 0 || d > 9 || i > 0 && n == 0 || negative && i == 0 && d == 0 || n > (math.MaxInt64-d)/10 {
			return 0, 0, false
		}
		n = n*10 + d
	}
	return 0, 0, true
}

// line looks for the end of a line.
func (s *Scanner) line(buf []byte) ([][]byte, int, error) {
	searched := buf[:min(len(buf), s.lim.Inline+1)]
	i := bytes.IndexByte(searched[min(s.pos, len(searched)):], '\n')
	if i < 0 {
		if s.pos = len(searched); len(buf) > s.lim.Inline {
			return nil, 0, bad("too big inline request")
		}
		return nil, 0, nil
	}
	i += s.pos
	s.pos = 0
	s.args = append(s.args[:0], bytes.TrimSuffix(buf[:i:i], []byte{'\r'}))
	return s.args, i + 1, nil
}
