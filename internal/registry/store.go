package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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

	// sealVersion is the first byte of every seal. A later layout takes another number, so that a record
	// written by another version is named as such and never taken for a damaged one that happens to match.
	sealVersion byte = 1

	// sealSize is the length of a seal, version byte and CRC32C.
	sealSize = 1 + crc32.Size

	// logBucket and stableBucket are the buckets raft-boltdb v2 writes to.
	logBucket, stableBucket = "logs", "conf"
)

// castagnoli is the CRC32C table. Never written after start.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errStoreHook refuses a store that could not report a failed disk to anyone.
var errStoreHook = errors.New("opening the raft store: no function to call on a fatal error was given; pass one that stops the server")

// CorruptError says that a record of the raft store is not what was written. The server must stop: an entry
// that differs on one server splits the replicas, and a lost vote can elect two leaders.
type CorruptError struct {
	// File is the path of the store file.
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
}

// Error implements error.
func (e *CorruptError) Error() string {
	sums := ""
	if e.Want != e.Got {
		sums = fmt.Sprintf(" (CRC32C stored %08x, computed %08x)", e.Want, e.Got)
	}
	return fmt.Sprintf("raft store %s is corrupt at %s: %s%s; stop this server, do not start it again on this data directory, "+
		"and leave it off: an older copy forgets votes (docs/operations.md)", e.File, e.Record, e.Detail, sums)
}

// store is raft's log and stable store: raft-boltdb with a CRC32C on every record. raft-boltdb has none of its
// own, and bolt checks its meta pages only, so that without this a flipped byte on the disk is served as data.
//
// A log entry carries its seal in Log.Extensions, which raft-boltdb persists as it does every exported field.
// The seal is made anew by each server for what it stores and is taken off on the way out: it vouches for this
// server's disk, never for the sender, and an entry that arrives from a leader with Extensions set is sealed
// like any other. Extensions are thereby not available to a middleware above the store.
//
// Any failure but "not found" is fatal: it goes to the function given at open, once, and every later write is
// refused with the same error, because a retried fsync can report success for pages that were dropped.
type store struct {
	inner *raftboltdb.BoltStore
	path  string

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
	if onFatal == nil {
		return nil, errStoreHook
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the raft store's directory %s: %w; check the path and its owner", dir, err)
	}
	s := &store{path: filepath.Join(dir, storeFile), onFatal: onFatal}
	if err := s.openVerified(); err != nil {
		return nil, err
	}
	if err := s.settle(dir); err != nil {
		return nil, errors.Join(err, s.inner.Close())
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
	if err := s.inner.Close(); err != nil {
		return fmt.Errorf("closing raft store %s: %w", s.path, err)
	}
	return nil
}

// FirstIndex returns the lowest index in the log, 0 when it is empty.
func (s *store) FirstIndex() (uint64, error) {
	i, err := s.inner.FirstIndex()
	return i, s.check("reading the first index", err)
}

// LastIndex returns the highest index in the log, 0 when it is empty.
func (s *store) LastIndex() (uint64, error) {
	i, err := s.inner.LastIndex()
	return i, s.check("reading the last index", err)
}

// GetLog reads and verifies one entry. A missing one is raft.ErrLogNotFound, a damaged one a *CorruptError.
func (s *store) GetLog(index uint64, log *raft.Log) error {
	err := s.readLog(index, log)
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	return s.fatal(err)
}

// readLog is GetLog without the report.
func (s *store) readLog(index uint64, log *raft.Log) error {
	got := blankLog()
	err := s.inner.GetLog(index, got)
	switch {
	case errors.Is(err, raft.ErrLogNotFound):
		return raft.ErrLogNotFound // raft compares with ==
	case errors.Is(err, bolterrors.ErrDatabaseNotOpen):
		return s.failure("reading the log", err)
	case err != nil:
		return s.corruptLog(index, 0, 0, "it does not decode: "+err.Error())
	}
	if err := s.unsealLog(index, got); err != nil {
		return err
	}
	*log = *got
	return nil
}

// StoreLog seals and stores one entry.
func (s *store) StoreLog(log *raft.Log) error {
	return s.StoreLogs([]*raft.Log{log})
}

// StoreLogs seals and stores entries in one transaction. An error leaves open whether they were stored.
func (s *store) StoreLogs(logs []*raft.Log) error {
	if err := s.healthy(); err != nil {
		return err
	}
	// Copies, because raft keeps the originals in its cache and sends them to followers meanwhile.
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		sealed[i] = sealLog(l)
	}
	return s.check("writing the log", s.inner.StoreLogs(sealed))
}

// DeleteRange removes the entries from min to max, both included.
func (s *store) DeleteRange(min, max uint64) error {
	if err := s.healthy(); err != nil {
		return err
	}
	return s.check(fmt.Sprintf("removing log entries %d to %d", min, max), s.inner.DeleteRange(min, max))
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

// sealLog returns a sealed copy. The time goes to UTC first: the encoding of some zones does not come back as it was.
func sealLog(l *raft.Log) *raft.Log {
	c := *l
	c.AppendedAt = l.AppendedAt.UTC()
	c.Extensions = seal(nil, logSum(&c))
	return &c
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

// unsealLog verifies an entry read from the disk and takes its seal off.
func (s *store) unsealLog(index uint64, l *raft.Log) error {
	want, detail := openSeal(l.Extensions)
	if detail != "" {
		return s.corruptLog(index, 0, 0, detail)
	}
	if got := logSum(l); got != want {
		return s.corruptLog(index, want, got, "its content is not what was written")
	}
	if l.Index != index {
		return s.corruptLog(index, 0, 0, fmt.Sprintf("the entry found there is sealed as index %d", l.Index))
	}
	l.Extensions = nil
	return nil
}

// sealValue appends the seal to a stable value. It covers the key too: a value that moved to another key is damaged.
func sealValue(key, val []byte) []byte {
	out := make([]byte, 0, len(val)+sealSize)
	return seal(append(out, val...), valueSum(key, val))
}

func valueSum(key, val []byte) uint32 {
	head := binary.BigEndian.AppendUint64(nil, uint64(len(key)))
	head = append(head, key...)
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, val)
}

// unsealValue verifies a stable value and returns it without its seal.
func (s *store) unsealValue(key, raw []byte) ([]byte, error) {
	cut := max(len(raw)-sealSize, 0)
	want, detail := openSeal(raw[cut:])
	if detail != "" {
		return nil, s.corruptKey(key, 0, 0, detail)
	}
	val := raw[:cut:cut]
	if got := valueSum(key, val); got != want {
		return nil, s.corruptKey(key, want, got, "its content is not what was written")
	}
	return val, nil
}

// seal appends a seal to b.
func seal(b []byte, sum uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, sealVersion), sum)
}

// openSeal returns the CRC32C of a seal, or what is wrong with the seal itself.
func openSeal(b []byte) (sum uint32, wrong string) {
	if len(b) != sealSize {
		return 0, fmt.Sprintf("its checksum is missing (%d bytes where %d belong)", len(b), sealSize)
	}
	if b[0] != sealVersion {
		return 0, fmt.Sprintf("its checksum is of version %d, this program knows version %d", b[0], sealVersion)
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
