package registry

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// storeFile is the one file that holds the raft log and raft's stable values.
	storeFile = "raft.db"

	// storeLockTimeout bounds the wait for the lock on the file. Zero would wait for ever, and a second
	// server started on the same data directory would hang without a word.
	storeLockTimeout = 2 * time.Second

	// logBucket and stableBucket are the buckets raft-boltdb v2 writes to.
	logBucket, stableBucket = "logs", "conf"
)

// errStoreHook refuses a store that could not report a failed disk to anyone.
var errStoreHook = errors.New("opening the raft store: no function to call on a fatal error was given; pass one that stops the server")

// CorruptError says that a record of the raft store, or a snapshot, is not what was written. The server must stop: an entry
// that differs on one server splits the replicas, and a lost vote can elect two leaders.
type CorruptError struct {
	// What is damaged, "" for the raft store.
	What string
	// File is its path.
	File string
	// Record names the damaged record, `log index 17` or `stable key "CurrentTerm"`.
	Record string
	// Index is the log index of the record, 0 for a stable value.
	Index uint64
	// Key is the key of a stable value, "" for a log entry.
	Key string
	// Want is the CRC32C read from the disk, Got the one computed over the record as read. Both are 0 when
	// the record could not be read far enough to compare them.
	Want, Got uint32
	// Detail says what is wrong.
	Detail string
	// Do says what to do, "" for that which is to be done about the raft store.
	Do string
}

// Error implements error.
func (e *CorruptError) Error() string {
	sums := ""
	if e.Want != e.Got {
		sums = fmt.Sprintf(" (CRC32C stored %08x, computed %08x)", e.Want, e.Got)
	}
	return fmt.Sprintf("%s %s is corrupt at %s: %s%s; %s", cmp.Or(e.What, "raft store"), e.File, e.Record, e.Detail, sums, cmp.Or(e.Do, wayOut))
}

// wayOut is what to do about a server whose data cannot be trusted.
const wayOut = "stop this server, do not start it again on this data directory, and leave it off: an older copy forgets votes; " +
	"the others run on: join a new server under another id, then `scope-registry cluster remove ID` (docs/operations.md, Replacing a server)"

// store is raft's log and stable store: raft-boltdb with a CRC32C on every record. raft-boltdb has none of its
// own, and bolt checks its meta pages only, so that without this a flipped byte on the disk is served as data.
//
// A log entry carries its seal in Log.Extensions, which raft-boltdb persists as it does every exported field.
// The seal is made anew by each server for what it stores and is taken off on the way out: it vouches for this
// server's disk, never for the sender, and an entry that arrives from a leader with Extensions set is sealed
// like any other. Extensions are thereby not available to a middleware above the store.
//
// A seal also names the entry before, and a file beside the store the last one: older copies of bolt's pages stay in its
// file, each record of them whole, and a damaged pointer to one is found by that alone.
//
// Any failure but "not found" is fatal: it goes to the function given at open, once, and every later write is
// refused with the same error, because a retried fsync can report success for pages that were dropped.
type store struct {
	inner *raftboltdb.BoltStore // stable values, and the log without its newest entries
	log   *journaled            // the log
	path  string

	writing sync.Mutex // guards the rest up to mu: one change of the log at a time, as bolt has it
	mark    *tail
	last    link   // newest entry of the log
	from    uint64 // first entry after the last gap, as the start found it
	existed bool   // the file, before the start

	mu      sync.Mutex // guards failed and closed
	failed  error      // first fatal error, nil while healthy
	closed  bool
	onFatal func(error)
}

var (
	_ raft.LogStore    = (*store)(nil)
	_ raft.StableStore = (*store)(nil)
)

// openStore opens dir/raft.db, creating both with modes 0700 and 0600 where missing, and checks every record in
// it before raft may read one. onFatal is called at most once, from the goroutine that met the error; it must
// return soon and must not call the store. A file locked by another process is an error after 2 s.
//
// store does not implement raft.MonotonicLogStore, as raft-boltdb does not: gaps in the log are allowed.
func openStore(dir string, onFatal func(error)) (*store, error) {
	return openStoreWith(dir, journalHalf, onFatal)
}

// openStoreWith makes the journal of two halves of so many bytes, where there is none.
func openStoreWith(dir string, half int, onFatal func(error)) (*store, error) {
	if onFatal == nil {
		return nil, errStoreHook
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the raft store's directory %s: %w; check the path and its owner", dir, err)
	}
	s := &store{path: filepath.Join(dir, storeFile), onFatal: onFatal}
	if err := s.openVerified(dir, half); err != nil {
		return nil, err
	}
	if err := s.settle(dir); err != nil {
		return nil, errors.Join(err, s.mark.file.Close(), s.log.close())
	}
	return s, nil
}

// boltOptions are the settings of every open of the file. The freelist is not written at each commit (it is
// rebuilt by a scan at open, and costs a page write per commit otherwise) and is kept as a map, since as an array
// it slows down with every page freed by log truncation.
func boltOptions(readOnly bool) *bbolt.Options {
	return &bbolt.Options{
		Timeout:        storeLockTimeout,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
		ReadOnly:       readOnly,
	}
}

// settle makes a store that was just created survive a power cut: the file's own sync does not cover the
// directory entries that lead to it, and a server that finds its directory empty would vote a second time.
func (s *store) settle(dir string) error {
	if err := os.Chmod(s.path, 0o600); err != nil {
		return fmt.Errorf("setting the mode of %s to 0600: %w; check its owner", s.path, err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := syncDir(d); err != nil {
			return fmt.Errorf("syncing directory %s: %w; check the disk", d, err)
		}
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// openError adds the file and the way out to an error of bolt.
func (s *store) openError(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("raft store %s is locked: another process uses this data directory; "+
			"stop it or give this server a directory of its own: %w", s.path, err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return &CorruptError{File: s.path, Record: "its meta pages", Detail: err.Error()}
	default:
		return fmt.Errorf("opening raft store %s: %w; check the path, its owner and the disk", s.path, err)
	}
}

// Close closes the file. Call it after raft and the transport have stopped.
func (s *store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.writing.Lock() // waits for what is being written
	defer s.writing.Unlock()
	var err error
	if s.healthy() == nil { // else the disk has had its chance
		err = errors.Join(s.log.flush(), s.mark.file.Sync())
	}
	if err = errors.Join(err, s.log.close(), s.mark.file.Close()); err != nil {
		return fmt.Errorf("closing raft store %s: %w", s.path, err)
	}
	return nil
}

// FirstIndex returns the lowest index in the log, 0 when it is empty.
func (s *store) FirstIndex() (uint64, error) {
	i, err := s.log.firstIndex()
	return i, s.check("reading the first index", err)
}

// LastIndex returns the highest index in the log, 0 when it is empty.
func (s *store) LastIndex() (uint64, error) {
	i, err := s.log.lastIndex()
	return i, s.check("reading the last index", err)
}

// GetLog reads and verifies one entry. A missing one is raft.ErrLogNotFound, a damaged one a *CorruptError.
func (s *store) GetLog(index uint64, log *raft.Log) error {
	_, err := s.readLog(index, log)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	return s.fatal(err)
}

// readLog is GetLog without the report, and with the seal.
func (s *store) readLog(index uint64, log *raft.Log) (entrySeal, error) {
	got := blankLog()
	err := s.log.get(index, got)
	switch {
	case errors.Is(err, raft.ErrLogNotFound):
		return entrySeal{}, raft.ErrLogNotFound // raft compares with ==
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return entrySeal{}, s.failure("reading the log", err)
	case err != nil:
		return entrySeal{}, s.corruptLog(index, 0, 0, "it does not decode: "+err.Error())
	}
	seal, err := s.unsealLog(index, got)
	if err != nil {
		return seal, err
	}
	*log = *got
	return seal, nil
}

// StoreLog seals and stores one entry.
func (s *store) StoreLog(log *raft.Log) error {
	return s.StoreLogs([]*raft.Log{log})
}

// StoreLogs seals and stores entries, all or none. An error leaves open whether they were stored.
func (s *store) StoreLogs(logs []*raft.Log) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.healthy(); err != nil || len(logs) == 0 {
		return err
	}
	if logs[0].Index <= s.last.index { // raft removes entries before it writes others in their place
		return s.check("writing the log", fmt.Errorf("entry %d is to be written, and entry %d is there", logs[0].Index, s.last.index))
	}
	// Copies, because raft keeps the originals in its cache and sends them to followers meanwhile.
	sealed, last := make([]*raft.Log, len(logs)), s.last
	for i, l := range logs {
		sealed[i], last = sealLog(l, last)
	}
	began, err := s.log.append(sealed)
	if err != nil {
		return s.check("writing the log", err)
	}
	s.last = last
	return s.check("marking the end of the log", s.mark.set(last, began))
}

// DeleteRange removes the entries from min to max, both included.
func (s *store) DeleteRange(min, max uint64) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.healthy(); err != nil {
		return err
	}
	if err := s.log.forget(max); err != nil {
		return s.check("moving entries from the journal", err)
	}
	if max >= s.last.index { // the log gets shorter, which the mark must say first
		last, err := s.linkAt(min - 1)
		if err != nil {
			return err
		}
		if err := s.mark.set(last, true); err != nil {
			return s.check("marking the end of the log", err)
		}
		s.last = last
	}
	return s.check(fmt.Sprintf("removing log entries %d to %d", min, max), s.inner.DeleteRange(min, max))
}

// linkAt is the link of an entry, the zero link if there is none.
func (s *store) linkAt(index uint64) (link, error) {
	seal, err := s.readLog(index, new(raft.Log))
	if errors.Is(err, raft.ErrLogNotFound) {
		return link{}, nil
	}
	if err != nil {
		return link{}, s.fatal(err)
	}
	return link{index, seal.sum}, nil
}

// Set seals and stores one stable value.
func (s *store) Set(key, val []byte) error {
	if err := s.healthy(); err != nil {
		return err
	}
	return s.check(fmt.Sprintf("writing stable key %q", key), s.inner.Set(key, sealValue(key, val)))
}

// Get reads and verifies one stable value. A missing one is raftboltdb.ErrKeyNotFound as it is, because raft
// 1.7.3 knows it by its text alone (`err.Error() == "not found"`).
func (s *store) Get(key []byte) ([]byte, error) {
	raw, err := s.inner.Get(key)
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return nil, raftboltdb.ErrKeyNotFound
	}
	if err != nil {
		return nil, s.check(fmt.Sprintf("reading stable key %q", key), err)
	}
	val, err := s.unsealValue(key, raw)
	if err != nil {
		return nil, s.fatal(err)
	}
	return val, nil
}

// SetUint64 stores a number as a stable value of 8 bytes, big-endian.
func (s *store) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 reads what SetUint64 stored; errors as Get.
func (s *store) GetUint64(key []byte) (uint64, error) {
	val, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(val) != 8 {
		return 0, s.fatal(s.corruptKey(key, 0, 0, fmt.Sprintf("a number of 8 bytes was expected, found %d bytes", len(val))))
	}
	return binary.BigEndian.Uint64(val), nil
}

// healthy refuses work after a fatal error.
func (s *store) healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// check names the operation in a failure and makes it fatal.
func (s *store) check(doing string, err error) error {
	if err == nil {
		return nil
	}
	return s.fatal(s.failure(doing, err))
}

func (s *store) failure(doing string, err error) error {
	return fmt.Errorf("raft store %s: %s: %w; this server stops, check its disk before starting it again", s.path, doing, err)
}

// fatal records the first fatal error, reports it, and returns err. After Close nothing is reported: a reader
// that comes late meets a closed file, which says nothing about the disk.
func (s *store) fatal(err error) error {
	s.mu.Lock()
	report := s.failed == nil && !s.closed
	if report {
		s.failed = err
	}
	s.mu.Unlock()
	if report {
		s.onFatal(err)
	}
	return err
}
