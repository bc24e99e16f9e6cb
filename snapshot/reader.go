package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/scope-registry/scope-registry/internal/pb"
)

// bufferSize is what a reader reads ahead, in bytes: many records at a time, of
// which all but a few are small.
const bufferSize = 64 << 10

// Reader reads one snapshot. It is for one goroutine.
//
// What Next returned is not proven to be all of a snapshot before Next has
// returned io.EOF: collect the records aside and use them only then.
type Reader struct {
	from    *bufio.Reader
	sum     hash.Hash
	buf     bytes.Buffer // the part read last, if it is larger than what from buffers
	offset  int64        // where that part ends
	payload []byte       // the record read last
	start   int64        // where its frame begins
	count   uint64
	err     error // what ended the stream; Next returns it for ever
}

// NewReader reads and checks the header.
func NewReader(r io.Reader) (*Reader, error) {
	s := &Reader{from: bufio.NewReaderSize(r, bufferSize), sum: sha256.New()}
	header, err := s.take(headerSize, "the header")
	if err != nil {
		return nil, err
	}
	if got := string(header[:len(magic)]); got != magic {
		return nil, corrupt(0, "it begins with %q, not with %q", got, magic)
	}
	if v := binary.BigEndian.Uint32(header[len(magic):]); v != Version {
		return nil, corrupt(int64(len(magic)), "format version is %d, this release reads %d", v, Version)
	}
	s.sum.Write(header)
	return s, nil
}

// Next returns the next record. io.EOF means that the trailer matched and
// nothing follows it. Damage is a [*CorruptError]; any other error came from
// the reader below. After an error Next returns the same one again.
func (s *Reader) Next() (*pb.Record, error) {
	if _, err := s.NextEncoded(); err != nil {
		return nil, err
	}
	return s.Decoded()
}

// NextEncoded is Next for who decodes the record itself. What it returns is good
// until the next call and must not be changed.
func (s *Reader) NextEncoded() ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	payload, err := s.next()
	if err != nil {
		s.err = err
		return nil, err
	}
	s.payload = payload
	s.count++
	return payload, nil
}

// Decoded is the record that NextEncoded returned last. The error is that of
// Next.
func (s *Reader) Decoded() (*pb.Record, error) {
	r := new(pb.Record)
	if err := proto.Unmarshal(s.payload, r); err != nil {
		s.err = corrupt(s.start, "record %d does not decode: %v", s.count-1, err)
		return nil, s.err
	}
	return r, nil
}

func (s *Reader) next() ([]byte, error) {
	start := s.offset
	head, err := s.take(lengthSize, "a frame length")
	if err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head)
	s.sum.Write(head)
	if length == 0 {
		return nil, s.trailer(start)
	}
	if length > MaxFrame {
		return nil, corrupt(start, "record %d claims %d bytes, the limit is %d", s.count, length, MaxFrame)
	}
	want := crc32.Checksum(head, castagnoli)
	frame, err := s.take(int(length)+crc32.Size, "a record")
	if err != nil {
		return nil, err
	}
	payload, stored := frame[:length], binary.BigEndian.Uint32(frame[length:])
	if want = crc32.Update(want, castagnoli, payload); want != stored {
		return nil, corrupt(start, "record %d has CRC32C %08x, computed %08x", s.count, stored, want)
	}
	s.sum.Write(frame)
	s.start = start
	return payload, nil
}

// trailer checks the rest of the stream. It never returns nil: io.EOF is its
// good end.
func (s *Reader) trailer(start int64) error {
	tail, err := s.take(trailerSize, "the trailer")
	if err != nil {
		return err
	}
	if n := binary.BigEndian.Uint64(tail); n != s.count {
		return corrupt(start, "the trailer counts %d records, there are %d", n, s.count)
	}
	s.sum.Write(tail[:countSize])
	if want := s.sum.Sum(nil); !bytes.Equal(tail[countSize:], want) {
		return corrupt(start, "the trailer has SHA-256 %x, computed %x", tail[countSize:], want)
	}
	switch _, err := s.from.ReadByte(); {
	case err == nil:
		return corrupt(s.offset, "bytes follow the trailer")
	case errors.Is(err, io.EOF):
		return io.EOF
	default:
		return fmt.Errorf("read snapshot at byte %d: %w", s.offset, err)
	}
}

// take reads exactly n bytes, valid until the next call. Memory grows with what
// really arrives, so a length that lies costs nothing.
func (s *Reader) take(n int, what string) (part []byte, err error) {
	if n <= bufferSize {
		part, err = s.from.Peek(n)
		_, _ = s.from.Discard(len(part)) // they are there
	} else {
		s.buf.Reset()
		_, err = io.CopyN(&s.buf, s.from, int64(n))
		part = s.buf.Bytes()
	}
	start := s.offset
	s.offset += int64(len(part))
	switch {
	case errors.Is(err, io.EOF):
		return nil, corrupt(start, "it ends after %d of %d bytes of %s", len(part), n, what)
	case err != nil:
		return nil, fmt.Errorf("read snapshot at byte %d: %w", s.offset, err)
	}
	return part, nil
}

// Verify reads a whole snapshot and returns how many records it holds. The
// error is that of [NewReader] or [Reader.Next].
func Verify(r io.Reader) (uint64, error) {
	s, err := NewReader(r)
	if err != nil {
		return 0, err
	}
	for {
		switch _, err := s.Next(); {
		case errors.Is(err, io.EOF):
			return s.count, nil
		case err != nil:
			return s.count, err
		}
	}
}

func corrupt(offset int64, format string, args ...any) *CorruptError {
	return &CorruptError{Offset: offset, Reason: fmt.Sprintf(format, args...)}
}
