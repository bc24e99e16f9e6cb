package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// lockWait bounds the wait for the lock on the file: a second process on the same directory is to be told, not to hang.
	lockWait = 2 * time.Second
	// pageRecords and pageBytes bound what one transaction of a slice reads or writes. A read transaction keeps every
	// page that is freed meanwhile, and the file grows; a write transaction has every put wait.
	pageRecords = 256
	pageBytes   = 1 << 20
	// entryHead is the length of an entry without its value.
	entryHead = 24
)

// The buckets. Under staging each move has one of its own: its prefix, whether it is promoted, and a bucket of records.
const (
	bucketValues  = "values"
	bucketStaging = "staging"
	bucketRecords = "records"
	keyPrefix     = "prefix"
	keyPromoted   = "promoted"
)

// limit is a number of records and of bytes. What reaches either is complete.
type limit struct{ records, bytes int }

func (l *limit) take(bytes int) { l.records, l.bytes = l.records-1, l.bytes-bytes }
func (l limit) reached() bool   { return l.records <= 0 || l.bytes <= 0 }

// Entry is what is stored under a key. On disk it is the expiry, the incarnation and the epoch, 8 bytes each, and then
// the value. All but the expiry is what a move ships as the record's value: the manifest covers it, and the new owner
// still shows under which tenure a value was written.
type Entry struct {
	Token   client.Token
	Expires int64 // milliseconds since 1970; 0 is never
	Value   []byte
}

func (e Entry) bytes() []byte {
	b := make([]byte, 0, entryHead+len(e.Value))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Expires))
	b = binary.BigEndian.AppendUint64(b, e.Token.Incarnation)
	b = binary.BigEndian.AppendUint64(b, e.Token.Epoch)
	return append(b, e.Value...)
}

// parseEntry returns an entry that keeps no part of b.
func parseEntry(b []byte) (Entry, error) {
	if len(b) < entryHead {
		return Entry{}, fmt.Errorf("an entry of %d bytes is none of this store's, which have at least %d", len(b), entryHead)
	}
	return Entry{
		Expires: int64(binary.BigEndian.Uint64(b)),
		Token:   client.Token{Incarnation: binary.BigEndian.Uint64(b[8:]), Epoch: binary.BigEndian.Uint64(b[16:])},
		Value:   append([]byte{}, b[entryHead:]...),
	}, nil
}

// Change is one key that a write puts or deletes.
type Change struct {
	Key     []byte
	Value   []byte
	Expires int64
	Delete  bool
}

// Disk is the store: one bbolt file. It implements [client.Store] and [client.Sizer] in slices.go.
type Disk struct {
	db *bbolt.DB
	// page is how much of a slice one transaction takes; tests have it small.
	page limit

	mu     sync.Mutex // guards next, fault and staged
	next   *commit    // what the next transaction of Write takes along; nil if nobody waits
	fault  error      // of the first commit that failed
	staged map[string]slice
}

// commit is the writes of one transaction.
type commit struct {
	entries []entry
	done    chan struct{} // closed when err is set
	err     error
}

// entry is a Change as it goes to disk; no bytes is a deletion.
type entry struct{ key, bytes []byte }

// slice is what is known of a staged slice without reading it.
type slice struct {
	prefix   scope.Prefix
	promoted bool
}

// errStopped is what a write gets whose transaction ended in a panic.
var errStopped = errors.New("the store stopped in the middle of the write")

// OpenDisk opens the store in dir, which is made if it is not there.
func OpenDisk(dir string) (*Disk, error) { return openDisk(dir, false) }

// openDisk leaves out the fsyncs if it is told to, for tests in which only a process dies and no machine.
func openDisk(dir string, noSync bool) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	path := filepath.Join(dir, "store.db")
	// Without NoFreelistSync every commit writes the list of free pages, which is as long as the slices that were deleted.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, NoSync: noSync, NoGrowSync: noSync, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is locked by another process; stop it, or give this one another --data", path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	d := &Disk{db: db, page: limit{pageRecords, pageBytes}, staged: map[string]slice{}}
	err = d.prepare()
	if !noSync {
		err = errors.Join(err, syncDir(dir), syncDir(filepath.Dir(dir)))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing %s: %w", path, err), db.Close())
	}
	return d, nil
}

// prepare makes the buckets and reads which slices are staged.
func (d *Disk) prepare() error {
	return d.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketValues, bucketStaging} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return staging(tx).ForEachBucket(func(move []byte) error {
			b := staging(tx).Bucket(move)
			if p := b.Get([]byte(keyPrefix)); p != nil { // else its Discard did not end: Awaits must not see it
				d.staged[string(move)] = slice{prefix: scope.Prefix(p), promoted: b.Get([]byte(keyPromoted)) != nil}
			}
			return nil
		})
	})
}

func values(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket([]byte(bucketValues)) }

func staging(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket([]byte(bucketStaging)) }

// syncDir makes the entries of a directory durable: a file whose name is lost is lost.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close closes the file.
func (d *Disk) Close() error { return d.db.Close() }

// Get returns what is stored under key; an entry that has expired is as if it were not there.
func (d *Disk) Get(key []byte, now time.Time) (e Entry, found bool, err error) {
	err = d.db.View(func(tx *bbolt.Tx) error {
		b := values(tx).Get(key)
		if b == nil {
			return nil
		}
		if e, err = parseEntry(b); err != nil {
			return fmt.Errorf("key %q: %w", scope.BytesText(string(key)), err)
		}
		found = !e.expired(now)
		return nil
	})
	return e, found, err
}

func (e Entry) expired(now time.Time) bool { return e.Expires != 0 && e.Expires <= now.UnixMilli() }

// Each calls fn for every entry under p that has not expired, in the order of keys. It reads page by page, so that
// what is written meanwhile may be seen or not.
func (d *Disk) Each(ctx context.Context, p scope.Prefix, now time.Time, fn func(key []byte, e Entry) error) error {
	return d.Ship(ctx, client.Slice{Prefix: p}, func(r client.Record) error {
		e, err := parseEntry(entryOf(r))
		if err != nil || e.expired(now) {
			return err
		}
		return fn(r.Key, e)
	})
}

// Check says what is wrong with a key, or nil.
func Check(key []byte) error {
	switch {
	case len(key) == 0:
		return invalid("the key is empty; give one of 1 to %d bytes", bbolt.MaxKeySize)
	case len(key) > bbolt.MaxKeySize:
		return invalid("the key has %d bytes; this store takes at most %d", len(key), bbolt.MaxKeySize)
	}
	return nil
}

// Write makes all changes, or none, and is durable when it returns nil. After an error it is not known whether they
// were made.
//
// Writes that come while another one is being committed share the next transaction, and its two fsyncs: whoever comes
// first opens it, and the others join until it has its turn. DB.Batch would do the same, but have a lone writer
// wait for others that do not come.
func (d *Disk) Write(token client.Token, changes []Change) error {
	d.mu.Lock()
	c := d.next
	first := c == nil
	if first {
		c = &commit{done: make(chan struct{})}
		d.next = c
	}
	for _, ch := range changes {
		e := entry{key: ch.Key}
		if !ch.Delete {
			e.bytes = Entry{Token: token, Expires: ch.Expires, Value: ch.Value}.bytes()
		}
		c.entries = append(c.entries, e)
	}
	d.mu.Unlock()
	if first {
		d.commit(c)
	}
	<-c.done
	return c.err
}

func (d *Disk) commit(c *commit) {
	defer close(c.done)
	c.err = errStopped                          // unless what follows returns
	c.err = d.update(func(tx *bbolt.Tx) error { // waits until no other transaction writes
		d.mu.Lock()
		d.next = nil // who comes now opens the next one
		d.mu.Unlock()
		return apply(values(tx), c.entries)
	})
	d.mu.Lock()
	if d.next == c { // the transaction did not begin
		d.next = nil
	}
	d.mu.Unlock()
}

// update runs fn in a transaction of its own. It is durable when update returns nil, and has no effect after an error
// of fn.
func (d *Disk) update(fn func(*bbolt.Tx) error) error {
	d.mu.Lock()
	fault := d.fault
	d.mu.Unlock()
	if fault != nil {
		return fault
	}
	var failed error
	err := d.db.Update(func(tx *bbolt.Tx) error {
		failed = fn(tx)
		return failed
	})
	if err == nil || failed != nil {
		return err
	}
	// After a failed fsync the kernel may take lost pages for written ones, and the next fsync would succeed. Only
	// what a new process reads from the disk counts.
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault == nil {
		d.fault = &client.Error{Code: "UNAVAILABLE", Detail: fmt.Sprintf("an earlier write failed (%v); see to the disk, then restart this store", err)}
	}
	return &client.Error{Code: "OUTCOME_UNKNOWN",
		Detail: fmt.Sprintf("the disk failed (%v); read the key after the restart, before you write it again", err)}
}

// apply puts and deletes in the order of entries. It keeps their bytes until the transaction ends.
func apply(b *bbolt.Bucket, entries []entry) error {
	for _, e := range entries {
		var err error
		if e.bytes == nil {
			err = b.Delete(e.key)
		} else {
			err = b.Put(e.key, e.bytes)
		}
		if err != nil {
			return fmt.Errorf("key %q: %w", scope.BytesText(string(e.key)), err)
		}
	}
	return nil
}
