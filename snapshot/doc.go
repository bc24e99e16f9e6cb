// Package snapshot turns typed records into a checksummed stream and back.
//
// A stream is
//
//	magic (8 bytes), version (u32)
//	per record: length (u32, 1 to MaxFrame), payload, CRC32C of length and payload (u32)
//	trailer:    0 (u32), number of records (u64), SHA-256 of everything before it
//
// with all numbers big-endian. The CRC finds a damaged record before it is
// decoded and tells where the damage is; the trailer finds records that are
// missing, doubled or out of their place, and a stream that was cut off.
//
// The package knows frames, not meanings: which records belong in a snapshot,
// and in which order, is the business of package fsm.
package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
)

// MaxFrame bounds one encoded record in bytes. The largest record there is
// holds what one log entry of 1 MiB brought; four times that leaves room for
// growth, and a reader never needs more memory than this for a frame.
const MaxFrame = 4 << 20

// Version is the format written. A reader refuses every other one: a stream
// of a later release may hold what this release would drop without a word.
const Version = 1

const (
	magic       = "SCOPESNP"
	headerSize  = len(magic) + 4
	lengthSize  = 4
	countSize   = 8
	trailerSize = countSize + sha256.Size // after the zero length
)

// castagnoli is the CRC32C table. Never written after start.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrRecord is wrapped by the errors of [Writer.Write] about a record that
// cannot be written: empty or larger than [MaxFrame].
var ErrRecord = errors.New("record cannot be part of a snapshot")

// ErrClosed is returned by a [Writer] that was closed before.
var ErrClosed = errors.New("snapshot writer is closed: make a new one for a new snapshot")

// CorruptError says that a stream is not what a [Writer] wrote.
type CorruptError struct {
	// Offset is where the damaged part begins, in bytes from the start.
	Offset int64
	// Reason tells what is wrong with it.
	Reason string
}

// Error names the offset, the reason and the way out.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("snapshot is corrupt at byte %d: %s; use another snapshot", e.Offset, e.Reason)
}
