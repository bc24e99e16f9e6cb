package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/scope-registry/scope-registry/internal/pb"
)

// Writer writes one snapshot. It does not buffer: each record is one Write to
// what is below. It is for one goroutine.
type Writer struct {
	to    io.Writer
	sum   hash.Hash
	body  []byte // reused from record to record, as is frame
	frame []byte
	count uint64
	err   error // first failure to write, or ErrClosed; nothing is written after it
}

// NewWriter writes the header to w.
func NewWriter(w io.Writer) (*Writer, error) {
	s := &Writer{to: w, sum: sha256.New()}
	header := binary.BigEndian.AppendUint32([]byte(magic), Version)
	if err := s.put(header); err != nil {
		return nil, err
	}
	return s, nil
}

// Write appends a record. A record that is refused ([ErrRecord]) leaves the
// stream as it was; after any other error the stream is of no use.
func (s *Writer) Write(r *pb.Record) error {
	// Deterministic: servers compare snapshots of equal states by their hash.
	body, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(s.body[:0], r)
	if err != nil {
		return fmt.Errorf("%w: record %d does not encode: %w", ErrRecord, s.count, err)
	}
	s.body = body
	return s.WriteEncoded(body)
}

// WriteEncoded is Write of a record that is encoded already, as protobuf encodes
// it.
func (s *Writer) WriteEncoded(body []byte) error {
	switch {
	case s.err != nil:
		return s.err
	case len(body) == 0:
		return fmt.Errorf("%w: record %d is empty", ErrRecord, s.count)
	case len(body) > MaxFrame:
		return fmt.Errorf("%w: record %d has %d bytes, the limit is %d", ErrRecord, s.count, len(body), MaxFrame)
	}
	frame := binary.BigEndian.AppendUint32(s.frame[:0], uint32(len(body)))
	frame = append(frame, body...)
	frame = binary.BigEndian.AppendUint32(frame, crc32.Checksum(frame, castagnoli))
	s.frame = frame
	if err := s.put(frame); err != nil {
		return err
	}
	s.count++
	return nil
}

// Close writes the trailer, without which no reader accepts the stream. It
// does not close the writer below.
func (s *Writer) Close() error {
	if s.err != nil {
		return s.err
	}
	tail := binary.BigEndian.AppendUint32(s.frame[:0], 0)
	tail = binary.BigEndian.AppendUint64(tail, s.count)
	s.sum.Write(tail)
	tail = s.sum.Sum(tail)
	if err := s.put(tail); err != nil {
		return err
	}
	s.err = ErrClosed
	return nil
}

func (s *Writer) put(b []byte) error {
	s.sum.Write(b)
	if _, err := s.to.Write(b); err != nil {
		s.err = fmt.Errorf("write snapshot after %d records: %w", s.count, err)
		return s.err
	}
	return nil
}
