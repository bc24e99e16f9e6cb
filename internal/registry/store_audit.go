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
	boltPageSizeAt = 8  // page size, u32
	boltRootAt     = 16 // root page, u64
	boltHighAt     = 40 // first page that was never used, u64
	boltTxidAt     = 48 // transaction, u64
	boltMetaSum    = 56 // the sum
	boltMetaSize   = boltMetaSum + 8

	// maxBoltPage is the largest page size bolt itself looks for.
	maxBoltPage = 16 << 20

	// raftTermKey is the stable key under which raft keeps its term.
	raftTermKey = "CurrentTerm"
)

// boltMeta is what a meta page says.
type boltMeta struct {
	pageSize         int64
	root, high, txid uint64
}

// openVerified opens the file and reads every record once. Reading on demand alone would not do, since some
// damage reads as an absence, which raft takes for an answer: a flipped byte in the key of a vote makes it
// "never voted", and one in the newest meta page makes bolt go back to the transaction before.
func (s *store) openVerified(dir string, half int) (err error) {
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
	j, found, err := openJournal(dir, half)
	if err != nil {
		return errors.Join(err, s.inner.Close())
	}
	s.log = newJournaled(s.inner, j, s.moveFailed)
	if s.mark, err = openTail(dir); err != nil {
		return errors.Join(err, s.log.close())
	}
	if err := s.auditLog(indexes, found); err != nil {
		return errors.Join(err, s.mark.file.Close(), s.log.close())
	}
	return nil
}

// auditLog verifies the entries of the file and those found in the journal, and then moves the latter to the file. Only then does
// the mark speak of them: they may not be on the disk yet, if the process died while it wrote the journal.
func (s *store) auditLog(indexes []uint64, found []*raft.Log) error {
	first, last := uint64(0), uint64(0)
	if n := len(indexes); n > 0 {
		first, last = indexes[0], indexes[n-1]
	}
	journal, err := s.recoverJournal(found, first, last)
	if err != nil {
		return err
	}
	if err := s.auditChain(append(indexes, journal...)); err != nil {
		return err
	}
	if err := s.log.flush(); err != nil {
		return s.check("moving entries from the journal", err)
	}
	return s.check("marking the end of the log", s.mark.set(s.last, false))
}

// auditChain reads every entry, wants each to be the one that its successor was written after, and the last to be where
// the mark says. There may be more: the mark is not synced.
func (s *store) auditChain(indexes []uint64) error {
	marked, entry := s.mark.at, new(raft.Log)
	for _, index := range indexes {
		seal, err := s.readLog(index, entry)
		if err != nil {
			return err
		}
		if seal.linked && s.last.index+1 == index && seal.before != s.last.sum && index != indexes[0] {
			return s.corruptLog(index, seal.before, s.last.sum, fmt.Sprintf("it was written after another entry %d than the one found", index-1))
		}
		if s.last.index+1 != index {
			if seal.before != 0 && index != indexes[0] {
				return s.corruptLog(index, 0, 0, fmt.Sprintf("it was written after entry %d, and what is found before it is entry %d", index-1, s.last.index))
			}
			s.from = index
		}
		s.last = link{index, seal.sum}
		if index == marked.index && seal.sum != marked.sum {
			return s.corruptLog(index, marked.sum, seal.sum, "the entry found there is not the one that "+tailFile+" says was written")
		}
	}
	if marked.index > 0 && !s.existed {
		return s.corruptFile("all of it", fmt.Sprintf("it is gone or empty, and %s says that its log went up to %d", tailFile, marked.index))
	}
	if s.last.index < marked.index {
		return s.corruptLog(marked.index, 0, 0, fmt.Sprintf("it was written, says %s, and the log that is found ends at %d", tailFile, s.last.index))
	}
	return s.auditTerm(entry)
}

// auditTerm wants raft's term to be no lower than that of the last entry: raft stores the term first. The entry may be in the
// journal where the file is an older copy, or a new one.
func (s *store) auditTerm(last *raft.Log) error {
	if last.Index == 0 {
		return nil
	}
	term, err := s.GetUint64([]byte(raftTermKey))
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return err
	}
	if err != nil || term < last.Term {
		return s.corruptKey([]byte(raftTermKey), 0, 0, fmt.Sprintf("it is %d, or missing, and log entry %d is of term %d", term, last.Index, last.Term))
	}
	return nil
}

// audit verifies the structure of the file and every stable value with its key, and returns the index of every
// log entry. It holds bolt's lock meanwhile by an open that is read-only, since an open for writing rebuilds the
// freelist in a goroutine of bolt's own, where a panic cannot be caught.
func (s *store) audit() (indexes []uint64, err error) {
	info, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() == 0) {
		return nil, nil // nothing was ever written
	}
	if err != nil {
		return nil, s.openError(err)
	}
	s.existed = true
	db, err := bbolt.Open(s.path, 0o600, boltOptions(true))
	if err != nil {
		return nil, s.openError(err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	f, err := os.Open(s.path)
	if err != nil {
		return nil, s.openError(err)
	}
	indexes, err = s.auditTree(f, nil)
	return indexes, errors.Join(err, f.Close())
}

// auditTree visits all that is in use. The two buckets are created in one transaction, and raft stores a term before its
// first entry, so that one without the other is damage.
func (s *store) auditTree(f io.ReaderAt, live func(from, to int64)) (indexes []uint64, err error) {
	meta, err := s.readMeta(f)
	if err != nil {
		return nil, err
	}
	buckets, termed := map[string]bool{}, false
	var last []byte
	t := &boltTree{file: f, meta: meta, live: live, visit: func(bucket string, key, raw []byte) error {
		switch {
		case bucket != logBucket && bucket != stableBucket:
			return s.corruptFile(fmt.Sprintf("bucket %q", bucket), "no such bucket is ever written")
		case key == nil:
			buckets[bucket], last = true, nil
			return nil
		case last != nil && bytes.Compare(key, last) <= 0:
			return s.corruptFile(fmt.Sprintf("key %x of bucket %q", key, bucket), fmt.Sprintf("it follows key %x out of order", last))
		}
		last = key
		if bucket == stableBucket {
			termed = termed || string(key) == raftTermKey
			_, err := s.unsealValue(key, raw)
			return err
		}
		if len(key) != 8 {
			return s.corruptFile(fmt.Sprintf("log key %x", key), "it is not the 8 bytes of an index")
		}
		indexes = append(indexes, binary.BigEndian.Uint64(key))
		return nil
	}}
	err = t.walk()
	var bad *pageError
	switch {
	case errors.As(err, &bad):
		return nil, s.corruptFile(fmt.Sprintf("page %d", bad.page), bad.detail)
	case err != nil || len(buckets) == 0: // none: the process died before it had created them
		return nil, err
	case len(buckets) != 2:
		return nil, s.corruptFile("its buckets", "one of two is missing")
	case len(indexes) > 0 && !termed:
		return nil, s.corruptFile(fmt.Sprintf("stable key %q", raftTermKey), "there are log entries but no term")
	}
	return indexes, nil
}

// readMeta wants both meta pages whole. bolt is content with one: it falls back to the older, which undoes the
// last transaction, and that may be a vote or an acknowledged entry. A crash does not leave such a page, for the
// record lies within one disk sector; where a disk does tear it, a server that stops is the safe outcome too.
func (s *store) readMeta(f io.ReaderAt) (newest boltMeta, err error) {
	pageSize := int64(0)
	for page := range int64(2) {
		where := fmt.Sprintf("meta page %d", page)
		raw := make([]byte, boltPageHeader+boltMetaSize)
		if _, err := f.ReadAt(raw, page*pageSize); err != nil {
			return newest, s.corruptFile(where, "it cannot be read: "+err.Error())
		}
		head, raw := raw[:boltPageHeader], raw[boltPageHeader:]
		sum := fnv.New64a()
		sum.Write(raw[:boltMetaSum])
		if sum.Sum64() != binary.NativeEndian.Uint64(raw[boltMetaSum:]) {
			return newest, s.corruptFile(where, "its content is not what was written")
		}
		if binary.NativeEndian.Uint64(head) != uint64(page) || binary.NativeEndian.Uint16(head[8:]) != boltMetaFlag || !zero(head[10:]) {
			return newest, s.corruptFile(where, fmt.Sprintf("its header %x is not that of a meta page", head))
		}
		pageSize = int64(binary.NativeEndian.Uint32(raw[boltPageSizeAt:]))
		if pageSize < boltPageHeader+boltMetaSize || pageSize > maxBoltPage {
			return newest, s.corruptFile(where, fmt.Sprintf("a page size of %d is none of bolt's", pageSize))
		}
		field := func(at int) uint64 { return binary.NativeEndian.Uint64(raw[at:]) }
		if m := (boltMeta{pageSize, field(boltRootAt), field(boltHighAt), field(boltTxidAt)}); page == 0 || m.txid > newest.txid {
			newest = m
		}
	}
	return newest, nil
}

func zero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

// corruptFile is a finding about the file rather than one readable record.
func (s *store) corruptFile(where, detail string) error {
	return &CorruptError{File: s.path, Record: where, Detail: detail}
}
