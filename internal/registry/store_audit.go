package registry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"runtime/debug"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// Layout of bolt's meta pages, pages 0 and 1 of the file, in the byte order of the machine: a page header, then
// the meta record, whose last field is the FNV-1a sum of the others.
const (
	boltPageHeader = 16
	boltMetaSum    = 56 // offset of the sum in the record
	boltMetaSize   = boltMetaSum + 8
	boltPageSizeAt = 8 // offset of the page size in the record

	// maxBoltPage is the largest page size bolt itself looks for.
	maxBoltPage = 16 << 20

	// raftTermKey is the stable key under which raft keeps its term.
	raftTermKey = "CurrentTerm"
)

// openVerified opens the file and reads every record once. Reading on demand alone would not do, since some
// damage reads as an absence, which raft takes for an answer: a flipped byte in the key of a vote makes it
// "never voted", and one in the newest meta page makes bolt go back to the transaction before.
//
// Known limit: the headers of bolt's other pages have no checksum. A flipped count there can hide the last
// records of a page without leaving a trace; everything that is found is what was written.
func (s *store) openVerified() (err error) {
	// bolt panics on pages that make no sense, and faults on a page number beyond the file. Both are the same
	// finding as a wrong checksum.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = s.corruptFile("its pages", fmt.Sprint(p))
		}
	}()
	indexes, err := s.audit()
	if err != nil {
		return err
	}
	s.inner, err = raftboltdb.New(raftboltdb.Options{Path: s.path, BoltOptions: boltOptions(false)})
	if err != nil {
		return s.openError(err)
	}
	for _, index := range indexes {
		if err := s.readLog(index, new(raft.Log)); err != nil {
			return errors.Join(err, s.inner.Close())
		}
	}
	return nil
}

// audit verifies the structure of the file and every stable value with its key, and returns the index of every
// log entry. It opens the file by itself, since raft-boltdb offers no way to list keys, and read-only, since an
// open for writing rebuilds the freelist in a goroutine of bolt's own, where a panic cannot be caught.
func (s *store) audit() (indexes []uint64, err error) {
	info, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() == 0) {
		return nil, nil // nothing was ever written
	}
	if err != nil {
		return nil, s.openError(err)
	}
	db, err := bbolt.Open(s.path, 0o600, boltOptions(true))
	if err != nil {
		return nil, s.openError(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := s.auditMeta(); err != nil { // only now, under bolt's lock
		return nil, err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		indexes, err = s.auditBuckets(tx)
		return err
	})
	return indexes, err
}

// auditBuckets visits the two buckets. They are created in one transaction, and raft stores a term before its
// first entry, so that one without the other is damage.
func (s *store) auditBuckets(tx *bbolt.Tx) (indexes []uint64, err error) {
	found := 0
	err = tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		found++
		switch {
		case b == nil:
		case string(name) == stableBucket:
			return s.auditStable(b)
		case string(name) == logBucket:
			indexes, err = s.auditLog(b)
			return err
		}
		return s.corruptFile(fmt.Sprintf("bucket %q", name), "no such bucket is ever written")
	})
	switch {
	case err != nil || found == 0: // none: the process died before it had created them
		return nil, err
	case found != 2:
		return nil, s.corruptFile("its buckets", "one of two is missing")
	case len(indexes) > 0 && tx.Bucket([]byte(stableBucket)).Get([]byte(raftTermKey)) == nil:
		return nil, s.corruptFile(fmt.Sprintf("stable key %q", raftTermKey), "there are log entries but no term")
	}
	return indexes, nil
}

// auditMeta wants both meta pages whole. bolt is content with one: it falls back to the older, which undoes the
// last transaction, and that may be a vote or an acknowledged entry. A crash does not leave such a page, for the
// record lies within one disk sector; where a disk does tear it, a server that stops is the safe outcome too.
func (s *store) auditMeta() error {
	f, err := os.Open(s.path)
	if err != nil {
		return s.openError(err)
	}
	return errors.Join(s.readMeta(f), f.Close())
}

func (s *store) readMeta(f io.ReaderAt) error {
	pageSize := int64(0)
	for page := range int64(2) {
		raw := make([]byte, boltMetaSize)
		if _, err := f.ReadAt(raw, page*pageSize+boltPageHeader); err != nil {
			return s.corruptFile(fmt.Sprintf("meta page %d", page), "it cannot be read: "+err.Error())
		}
		sum := fnv.New64a()
		sum.Write(raw[:boltMetaSum])
		if sum.Sum64() != binary.NativeEndian.Uint64(raw[boltMetaSum:]) {
			return s.corruptFile(fmt.Sprintf("meta page %d", page), "its content is not what was written")
		}
		pageSize = int64(binary.NativeEndian.Uint32(raw[boltPageSizeAt:]))
		if pageSize < boltPageHeader+boltMetaSize || pageSize > maxBoltPage {
			return s.corruptFile(fmt.Sprintf("meta page %d", page), fmt.Sprintf("a page size of %d is none of bolt's", pageSize))
		}
	}
	return nil
}

func (s *store) auditStable(b *bbolt.Bucket) error {
	var last []byte
	return b.ForEach(func(key, raw []byte) error {
		if last != nil && bytes.Compare(key, last) <= 0 {
			return s.corruptFile(fmt.Sprintf("stable key %q", key), fmt.Sprintf("it follows key %q out of order", last))
		}
		last = key
		_, err := s.unsealValue(key, raw)
		return err
	})
}

func (s *store) auditLog(b *bbolt.Bucket) (indexes []uint64, err error) {
	err = b.ForEach(func(key, raw []byte) error {
		if len(key) != 8 || raw == nil {
			return s.corruptFile(fmt.Sprintf("log key %x", key), "it is not the 8 bytes of an index with an entry")
		}
		index := binary.BigEndian.Uint64(key)
		if n := len(indexes); n > 0 && index <= indexes[n-1] {
			return s.corruptFile(fmt.Sprintf("log index %d", index), fmt.Sprintf("it follows index %d out of order", indexes[n-1]))
		}
		indexes = append(indexes, index)
		return nil
	})
	return indexes, err
}

// corruptFile is a finding about the file rather than one readable record.
func (s *store) corruptFile(where, detail string) error {
	return &CorruptError{File: s.path, Record: where, Detail: detail}
}
