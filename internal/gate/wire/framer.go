package wire

import "math"

// Kind is the type byte of a reply, such as '+', '-', ':', '$', '*', and in RESP3 '%', '~', '_', '#', ',', '(', '=', '!' and
// '>'.
type Kind byte

// Push is the kind of what answers no request: a message, or an invalidation.
const Push Kind = '>'

// maxOpen bounds the elements of one reply that are still to come: as many as its reader can hold in memory at most.
const maxOpen = 1 << 40

// Framer finds the end of each reply in a stream, whatever pieces it comes in, and keeps none of it. The zero value is at the
// beginning of a reply. Nested replies take no memory: what counts is how many elements are still to come.
type Framer struct {
	open  int64 // elements to come, of all levels; 0 is at the beginning of a reply
	skip  int64 // bytes to come of a string, with its CRLF
	kind  Kind  // of the reply
	state state
	elem  byte  // type of the element whose head is being read
	n     int64 // the number in that head, so far
	minus bool
	some  bool // the number has a digit
}

// state is what the next byte belongs to.
type state uint8

const (
	atType   state = iota // the type byte of an element
	inLine                // the text up to CR
	inSize                // the number up to CR
	atLF                  // the LF after a line
	atSizeLF              // the LF after a number
	inBulk                // skip bytes
	atCR                  // the CR after them; LF is that of a line
)

// StreamError is what no reply can be. The connection is of no use afterwards.
type StreamError struct{ Text string }

func (e *StreamError) Error() string { return "the store's reply: " + e.Text }

// Next reads on in the stream: b is what follows after the bytes that earlier calls have taken. It returns how many bytes of
// b belong to the present reply, and whether it ends with them; if it does not, all of b was taken. Nothing is taken of an
// empty b. An error is a *[StreamError].
func (f *Framer) Next(b []byte) (n int, whole bool, err error) {
	if f.open == 0 && len(b) > 0 {
		f.open, f.kind, f.state = 1, Kind(b[0]), atType
		if n := f.short(b); n > 0 {
			f.open = 0
			return n, true, nil
		}
	}
	for n < len(b) {
		if f.state == inBulk {
			take := min(f.skip, int64(len(b)-n))
			n += int(take)
			if f.skip -= take; f.skip == 0 {
				f.state = atCR
			}
			continue
		}
		c := b[n]
		n++
		done, err := f.step(c)
		if done || err != nil {
			return n, done, err
		}
	}
	return n, false, nil
}

// short is the length of a reply of one line, or of one short string, that is whole in b; 0 is any other, or an unusual one.
// It changes nothing.
func (f *Framer) short(b []byte) int {
	switch b[0] {
	case '+', ':', '-':
		for i := 1; i+1 < len(b); i++ {
			if b[i] == '\r' {
				if b[i+1] == '\n' {
					return i + 2
				}
				return 0
			}
		}
	case '$':
		n, head, ok := number(b[1:min(len(b), 24)])
		if !ok || head == 0 {
			return 0
		}
		if n == -1 {
			return 1 + head
		}
		if end := int64(1+head) + n + 2; n >= 0 && end <= int64(len(b)) && b[end-2] == '\r' && b[end-1] == '\n' {
			return int(end)
		}
	}
	return 0
}

// Kind is that of the reply which Next is in, or ended last; attributes before it do not count.
func (f *Framer) Kind() Kind { return f.kind }

// Begun reports whether a part of a reply has been taken.
func (f *Framer) Begun() bool { return f.open > 0 }

// step takes one byte, and tells whether the reply ends with it.
func (f *Framer) step(c byte) (whole bool, err error) {
	switch f.state {
	case atType:
		return false, f.begin(c)
	case inLine:
		if c == '\r' {
			f.state = atLF
		}
	case atCR:
		if c != '\r' {
			return false, &StreamError{"a string is longer than its length"}
		}
		f.state = atLF
	case atLF:
		if c != '\n' {
			return false, &StreamError{"CR without LF"}
		}
		return f.endElement()
	case inSize:
		return false, f.digit(c)
	case atSizeLF:
		if c != '\n' {
			return false, &StreamError{"CR without LF after a length"}
		}
		return f.sized()
	}
	return false, nil
}

func (f *Framer) begin(c byte) error {
	if f.open == 1 && f.kind == '|' { // all of an attribute is over
		f.kind = Kind(c)
	}
	f.elem, f.n, f.minus, f.some = c, 0, false, false
	switch c {
	case '+', '-', ':', '_', '#', ',', '(':
		f.state = inLine
	case '$', '=', '!', '*', '%', '~', '>', '|':
		f.state = inSize
	default:
		return &StreamError{"a reply begins with the byte " + quoted(c)}
	}
	return nil
}

func quoted(c byte) string {
	const hex = "0123456789abcdef"
	return string([]byte{'0', 'x', hex[c>>4], hex[c&15]})
}

func (f *Framer) digit(c byte) error {
	switch d := int64(c) - '0'; {
	case c == '\r' && f.some:
		f.state = atSizeLF
	case c == '-' && !f.some && !f.minus:
		f.minus = true
	case d < 0 || d > 9 || f.n > (math.MaxInt64-d)/10:
		return &StreamError{"a length has the byte " + quoted(c)}
	default:
		f.n, f.some = f.n*10+d, true
	}
	return nil
}

// sized goes on after a length.
func (f *Framer) sized() (whole bool, err error) {
	if f.minus {
		if f.n != 1 || f.elem != '$' && f.elem != '*' {
			return false, &StreamError{"a negative length"}
		}
		return f.endElement() // null
	}
	switch f.elem {
	case '$', '=', '!':
		if f.skip, f.state = f.n, inBulk; f.n == 0 {
			f.state = atCR
		}
		return false, nil
	case '%':
		return f.elements(2)
	case '|':
		// It stands before an element, which is still to come.
		if f.n > maxOpen {
			return false, &StreamError{"more elements than anybody can hold"}
		}
		f.open++
		return f.elements(2)
	default:
		return f.elements(1)
	}
}

// elements has an aggregate opened, each of whose n entries has so many elements.
func (f *Framer) elements(each int64) (whole bool, err error) {
	if f.n > maxOpen || f.open+each*f.n > maxOpen {
		return false, &StreamError{"more elements than anybody can hold"}
	}
	f.open += each * f.n
	return f.endElement()
}

// endElement goes on after an element, or after the head of an aggregate.
func (f *Framer) endElement() (whole bool, err error) {
	f.state = atType
	f.open--
	return f.open == 0, nil
}
