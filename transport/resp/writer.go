package resp

import (
	"io"
	"math"
	"strconv"
)

// flushSize is how much a Writer holds back, bytes: as much as a large read of the other side takes. A client that
// sends commands without reading replies makes the server wait in Write, and not hold more of them.
const flushSize = 64 << 10

// Writer encodes replies into a buffer. The caller flushes it; above 64 KiB it flushes itself. The first error of the
// underlying Write stays: from then on nothing is written. It is not safe for concurrent use.
//
// Array, Map, Set and Push begin an aggregate: the caller writes its elements after it.
type Writer struct {
	w     io.Writer
	buf   []byte
	resp3 bool
	err   error
}

// NewWriter returns a Writer to w that speaks RESP2.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// SetProto chooses the protocol for what is written from now on: 3 is RESP3, anything else RESP2.
func (w *Writer) SetProto(v int) { w.resp3 = v == 3 }

// Proto returns the protocol, 2 or 3.
func (w *Writer) Proto() int {
	if w.resp3 {
		return 3
	}
	return 2
}

// Simple writes a simple string. CR and LF in it become spaces: they would end it, and begin another reply.
func (w *Writer) Simple(s string) { w.line('+', s) }

// Error writes an error; line is the code and the text, without '-'. CR and LF in it become spaces.
func (w *Writer) Error(line string) { w.line('-', line) }

// Int writes an integer.
func (w *Writer) Int(n int64) {
	w.head(':', n)
	w.wrote()
}

// Bulk writes a bulk string; nil is the empty one. b is not kept.
func (w *Writer) Bulk(b []byte) { bulk(w, b) }

// BulkString writes a bulk string.
func (w *Writer) BulkString(s string) { bulk(w, s) }

// Null writes null: in RESP2 the null bulk string.
func (w *Writer) Null() {
	if w.resp3 {
		w.buf = append(w.buf, "_\r\n"...)
	} else {
		w.buf = append(w.buf, "$-1\r\n"...)
	}
	w.wrote()
}

// Array begins an array of n values.
func (w *Writer) Array(n int) { w.aggregate('*', n) }

// Map begins a map: pairs times a key and a value follow. In RESP2 it is an array of both.
func (w *Writer) Map(pairs int) {
	if !w.resp3 {
		pairs *= 2
	}
	w.aggregate('%', pairs)
}

// Set begins a set of n values. In RESP2 it is an array.
func (w *Writer) Set(n int) { w.aggregate('~', n) }

// Push begins a message of n values that answers no command. In RESP2 it is an array.
func (w *Writer) Push(n int) { w.aggregate('>', n) }

// Bool writes a boolean. In RESP2 it is the integer 1 or 0.
func (w *Writer) Bool(b bool) {
	switch {
	case w.resp3 && b:
		w.buf = append(w.buf, "#t\r\n"...)
	case w.resp3:
		w.buf = append(w.buf, "#f\r\n"...)
	case b:
		w.buf = append(w.buf, ":1\r\n"...)
	default:
		w.buf = append(w.buf, ":0\r\n"...)
	}
	w.wrote()
}

// maxDouble is more than the longest shortest form of a float64, "-2.2250738585072014e-308".
const maxDouble = 32

// Double writes a floating point number in the shortest form that reads back the same; "inf", "-inf" and "nan" are
// RESP3's names for the others. In RESP2 it is a bulk string.
func (w *Writer) Double(f float64) {
	var room [maxDouble]byte
	text := room[:0]
	switch {
	case math.IsInf(f, 1):
		text = append(text, "inf"...)
	case math.IsInf(f, -1):
		text = append(text, "-inf"...)
	case math.IsNaN(f):
		text = append(text, "nan"...)
	default:
		text = strconv.AppendFloat(text, f, 'g', -1, 64)
	}
	if w.resp3 {
		w.buf = append(w.buf, ',')
	} else {
		w.head('$', int64(len(text)))
	}
	w.buf = append(w.buf, text...)
	w.crlf()
}

// Buffered returns the number of bytes that wait for a flush.
func (w *Writer) Buffered() int { return len(w.buf) }

// Flush writes what is buffered, and returns the Writer's error.
func (w *Writer) Flush() error {
	w.write()
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	return w.err
}

// Err returns the first error of the underlying Write, or nil.
func (w *Writer) Err() error { return w.err }

// line writes a reply of one line.
func (w *Writer) line(kind byte, s string) {
	w.buf = append(w.buf, kind)
	from := len(w.buf)
	w.buf = append(w.buf, s...)
	for i := from; i < len(w.buf); i++ {
		if w.buf[i] == '\r' || w.buf[i] == '\n' {
			w.buf[i] = ' '
		}
	}
	w.crlf()
}

// aggregate begins a collection, for which RESP2 has only the array.
func (w *Writer) aggregate(kind byte, n int) {
	if !w.resp3 {
		kind = '*'
	}
	w.head(kind, int64(n))
	w.wrote()
}

// head appends a type and a number.
func (w *Writer) head(kind byte, n int64) {
	w.buf = append(w.buf, kind)
	w.buf = strconv.AppendInt(w.buf, n, 10)
	w.buf = append(w.buf, '\r', '\n')
}

// bulk writes a bulk string in pieces, so that a large one does not have to fit into the buffer.
func bulk[T string | []byte](w *Writer, data T) {
	w.head('$', int64(len(data)))
	for len(data) > flushSize {
		w.buf = append(w.buf, data[:flushSize]...)
		data = data[flushSize:]
		w.wrote()
	}
	w.buf = append(w.buf, data...)
	w.crlf()
}

// crlf ends a value.
func (w *Writer) crlf() {
	w.buf = append(w.buf, '\r', '\n')
	w.wrote()
}

// wrote is called behind what was appended.
func (w *Writer) wrote() {
	if w.err != nil || len(w.buf) > flushSize {
		w.write()
	}
}

// write sends the buffer, or drops it after an error.
func (w *Writer) write() {
	if w.err == nil && len(w.buf) > 0 {
		n, err := w.w.Write(w.buf)
		if err == nil && n < len(w.buf) {
			err = io.ErrShortWrite
		}
		w.err = err
	}
	w.buf = w.buf[:0]
}
