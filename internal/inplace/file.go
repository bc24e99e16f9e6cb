// Package inplace keeps a small JSON value in a file. A change of it is durable with one sync of the file's content, where
// to write a new file and rename it takes two syncs and changes of the directory.
//
// The file is two halves of two copies each. A change is written over the half that is not the newest, both copies at once,
// and synced: then it is durable. Whenever the power is cut the other half is whole; and one copy that is damaged is never
// all that there is of the newest value, which would make the one before look like it. When there is time the other half
// follows (Finish), and all four copies are of the newest value.
//
// The file as a whole is JSON too: {"version":2,"copies":[…]}. Who knows only an older version can say so.
package inplace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/scope-registry/scope-registry/internal/datasync"
)

// File is the file of one process, which sees to it that there is no other, and to that one goroutine at a time uses it.
type File struct {
	path    string
	version int
	sys     system

	disk   disk   // nil if it is not known what the file holds: the next change makes a new one
	whole  []byte // what was written to it, all of it
	there  []byte // room for what is there, and a byte more: a longer file has its copies elsewhere
	size   int    // of a copy
	half   int    // the newest, 0 or 1
	seq    uint64
	body   []byte // of the last Put that went well; nil if there was none, or after Close
	behind bool   // the other half has what was before it
}

// system and disk are what a File needs of the operating system. Tests put one in between whose power is cut.
type system interface {
	create(path string) (disk, error) // an empty one, in place of what is there
	rename(from, to string) error
	syncDir(path string) error
}

type disk interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Datasync() error
	isAt(path string) bool
}

// New is the file at path, whose version is what [Read] is to be asked for. Whatever is there stays until the first Put.
// That is made at the start, with what was read: an earlier process may have died before it had synced what can be read,
// or its sync may have failed, and copies may be damaged.
func New(path string, version int) *File { return &File{path: path, version: version, sys: osSystem{}} }

// Put replaces the value by body, which is JSON. It is durable when Put returns without an error. After an error it is the
// one before or this one; the next Put makes a new file, also for the same value, since nobody can tell what a sync that
// failed has left of this one.
func (f *File) Put(body []byte) error {
	if f.size < sizeOf(f.version, body) || !f.known() {
		return f.replace(body)
	}
	if bytes.Equal(body, f.body) {
		return nil
	}
	if err := f.write(f.seq+1, body); err != nil {
		return err
	}
	f.half, f.seq, f.body, f.behind = 1-f.half, f.seq+1, body, true
	return nil
}

// known reports whether the file at the path is this one, and as it was written last. What somebody has moved away is not
// what a start will find. A backup that is copied over the file has numbers of its own: beside a half of it that has a higher
// one, a change that is written into the other half would be the older of the two.
func (f *File) known() bool {
	if f.disk == nil || !f.disk.isAt(f.path) {
		return false
	}
	n, err := f.disk.ReadAt(f.there, 0)
	return errors.Is(err, io.EOF) && bytes.Equal(f.there[:n], f.whole)
}

// Finish has the other half follow the newest. After an error, of Finish or of a Put, it makes a new file of the last value
// that was Put without one, as the next Put does.
func (f *File) Finish() error {
	switch {
	case f.body == nil || f.disk != nil && !f.behind:
		return nil
	case !f.known():
		return f.replace(f.body)
	}
	if err := f.write(f.seq, f.body); err != nil {
		return err
	}
	f.behind = false
	return nil
}

// write writes the half that is not the newest.
func (f *File) write(seq uint64, body []byte) error {
	first := (1 - f.half) * copies / 2
	half := encode(f.version, first, first+copies/2, f.size, seq, body)
	at := first * f.size
	_, err := f.disk.WriteAt(half, int64(at))
	if err == nil {
		err = f.disk.Datasync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", f.path, err), f.letGo())
	}
	copy(f.whole[at:], half)
	return nil
}

// replace makes a new file, of bytes that are written: blocks that are only reserved cost a sync of metadata each. It has
// room to grow by half before there is need of another one.
func (f *File) replace(body []byte) error {
	if err := f.letGo(); err != nil {
		return err
	}
	size := sizeOf(f.version, body)
	size = blocks(size + size/2)
	next := f.path + ".next"
	made, err := f.sys.create(next)
	if err != nil {
		return err
	}
	whole := encode(f.version, 0, copies, size, 1, body)
	_, err = made.WriteAt(whole, 0)
	if err == nil {
		err = made.Sync()
	}
	if err == nil {
		err = f.sys.rename(next, f.path)
	}
	if err == nil {
		err = f.sys.syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		return errors.Join(err, made.Close())
	}
	f.disk, f.whole, f.there, f.size = made, whole, make([]byte, len(whole)+1), size
	f.half, f.seq, f.body, f.behind = 1, 1, body, false
	return nil
}

// Close lets go of the file. What was Put is durable, Finish or not; a Finish that comes later does nothing.
func (f *File) Close() error {
	f.body = nil
	return f.letGo()
}

func (f *File) letGo() error {
	if f.disk == nil {
		return nil
	}
	closing := f.disk
	f.disk = nil
	return closing.Close()
}

type osSystem struct{}

func (osSystem) create(path string) (disk, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600) // #nosec G304 -- the directory is the caller's own
	if err != nil {
		return nil, err
	}
	return osDisk{datasync.File{File: f}}, nil
}

func (osSystem) rename(from, to string) error { return os.Rename(from, to) }

func (osSystem) syncDir(path string) error {
	dir, err := os.Open(path) // #nosec G304 -- the directory is the caller's own
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

type osDisk struct{ datasync.File }

func (d osDisk) isAt(path string) bool {
	there, err1 := os.Stat(path)
	this, err2 := d.Stat()
	return err1 == nil && err2 == nil && os.SameFile(there, this)
}
