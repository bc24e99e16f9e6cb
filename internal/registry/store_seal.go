package registry

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// valueSealVersion is the first byte of the seal of a stable value. A later layout takes another number, so that a
	// record written by another version is named as such and never taken for a damaged one that happens to match.
	valueSealVersion byte = 1

	// valueSealSize is the length of that seal: version byte and CRC32C.
	valueSealSize = 1 + crc32.Size

	// entrySealVersion is that of the seal of a log entry, which also holds the sum of the entry before it. Entries with
	// the seal of a value, without that link, are of the first releases and still read.
	entrySealVersion byte = 2

	// entrySealSize is the length of that seal: version byte, CRC32C, and the CRC32C of the entry before.
	entrySealSize = 1 + 2*crc32.Size
)

// castagnoli is the CRC32C table. Never written after start.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// link is what the next entry's seal says of an entry. The zero link is that of no entry.
type link struct {
	index uint64
	sum   uint32
}

// entrySeal is the seal of a log entry as read.
type entrySeal struct {
	sum    uint32
	before uint32 // sum of the entry with the index before, 0 where there was none
	linked bool   // the seal says what stands before
}

// blankLog is what an entry is decoded into: no field of it can be mistaken for a stored one, so that a field
// whose name was damaged on the disk, which the decoder skips, does not pass for a stored zero.
func blankLog() *raft.Log {
	return &raft.Log{
		Index:      ^uint64(0),
		Term:       ^uint64(0),
		Type:       raft.LogType(0xff),
		Data:       []byte("absent"),
		AppendedAt: time.Unix(-1, 0),
	}
}

// sealLog returns a sealed copy and its link. The time goes to UTC first: the encoding of some zones does not come back
// as it was.
func sealLog(l *raft.Log, before link) (*raft.Log, link) {
	c := *l
	c.AppendedAt = l.AppendedAt.UTC()
	prev := uint32(0)
	if before.index+1 == l.Index {
		prev = before.sum
	}
	sum := linkedSum(&c, prev)
	c.Extensions = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{entrySealVersion}, sum), prev)
	return &c, link{l.Index, sum}
}

// logSum covers every field but Extensions, where the seal is kept.
func logSum(l *raft.Log) uint32 {
	_, zone := l.AppendedAt.Zone()
	head := make([]byte, 0, 64)
	head = binary.BigEndian.AppendUint64(head, l.Index)
	head = binary.BigEndian.AppendUint64(head, l.Term)
	head = append(head, byte(l.Type))
	head = binary.BigEndian.AppendUint64(head, uint64(l.AppendedAt.Unix()))
	head = binary.BigEndian.AppendUint32(head, uint32(l.AppendedAt.Nanosecond()))
	head = binary.BigEndian.AppendUint32(head, uint32(zone))
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, l.Data)
}

func linkedSum(l *raft.Log, before uint32) uint32 {
	return crc32.Update(logSum(l), castagnoli, binary.BigEndian.AppendUint32(nil, before))
}

// unsealLog verifies an entry read from the disk and takes its seal off.
func (s *store) unsealLog(index uint64, l *raft.Log) (entrySeal, error) {
	seal, wrong := openEntrySeal(l.Extensions)
	if wrong != "" {
		return seal, s.corruptLog(index, 0, 0, wrong)
	}
	got := logSum(l)
	if seal.linked {
		got = linkedSum(l, seal.before)
	}
	if got != seal.sum {
		return seal, s.corruptLog(index, seal.sum, got, "its content is not what was written")
	}
	if l.Index != index {
		return seal, s.corruptLog(index, 0, 0, fmt.Sprintf("the entry found there is sealed as index %d", l.Index))
	}
	l.Extensions = nil
	return seal, nil
}

// openEntrySeal returns the seal of an entry, or what is wrong with it.
func openEntrySeal(b []byte) (seal entrySeal, wrong string) {
	if len(b) != entrySealSize || b[0] == valueSealVersion {
		seal.sum, wrong = openValueSeal(b)
		return seal, wrong
	}
	if b[0] != entrySealVersion {
		return seal, fmt.Sprintf("its checksum is of version %d, this program knows versions up to %d", b[0], entrySealVersion)
	}
	return entrySeal{binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[1+crc32.Size:]), true}, ""
}

// sealValue appends the seal to a stable value. It covers the key too: a value that moved to another key is damaged.
func sealValue(key, val []byte) []byte {
	out := make([]byte, 0, len(val)+valueSealSize)
	out = append(append(out, val...), valueSealVersion)
	return binary.BigEndian.AppendUint32(out, valueSum(key, val))
}

func valueSum(key, val []byte) uint32 {
	head := binary.BigEndian.AppendUint64(nil, uint64(len(key)))
	head = append(head, key...)
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, val)
}

// unsealValue verifies a stable value and returns it without its seal.
func (s *store) unsealValue(key, raw []byte) ([]byte, error) {
	cut := max(len(raw)-valueSealSize, 0)
	want, detail := openValueSeal(raw[cut:])
	if detail != "" {
		return nil, s.corruptKey(key, 0, 0, detail)
	}
	val := raw[:cut:cut]
	if got := valueSum(key, val); got != want {
		return nil, s.corruptKey(key, want, got, "its content is not what was written")
	}
	return val, nil
}

// openValueSeal returns the CRC32C of a value's seal, or what is wrong with the seal itself.
func openValueSeal(b []byte) (sum uint32, wrong string) {
	if len(b) != valueSealSize {
		return 0, fmt.Sprintf("its checksum is missing (%d bytes where %d belong)", len(b), valueSealSize)
	}
	if b[0] != valueSealVersion {
		return 0, fmt.Sprintf("its checksum is of version %d, this program knows version %d", b[0], valueSealVersion)
	}
	return binary.BigEndian.Uint32(b[1:]), ""
}

func (s *store) corruptLog(index uint64, want, got uint32, detail string) error {
	return &CorruptError{File: s.path, Record: fmt.Sprintf("log index %d", index), Index: index, Want: want, Got: got, Detail: detail}
}

func (s *store) corruptKey(key []byte, want, got uint32, detail string) error {
	return &CorruptError{
		File: s.path, Record: fmt.Sprintf("stable key %q", key), Key: string(key), Want: want, Got: got, Detail: detail,
	}
}
