package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

const (
	// tailFile says how far the log was written. Nothing inside the log can: a damaged pointer that leads to an older copy
	// of its last page, which bolt leaves in the file, reads as a log that is whole and shorter.
	tailFile = "raft.tail"

	// tailMagic begins the file, tailSize is its length: magic, index, sum of the entry there, CRC32C of those.
	tailMagic = "SRTAIL01"
	tailSize  = len(tailMagic) + 8 + crc32.Size + crc32.Size
)

// tail is the mark of the last log entry. It is written after the entries it speaks of are on the disk, and is not
// synced then: after a power cut it may be of an earlier entry, never of a later one, so that it costs no second sync.
// It is synced where the log gets shorter, before that, and with what half of the journal begins with, so that a journal that
// is gone is missed.
type tail struct {
	file tailDisk
	path string
	at   link
}

// tailDisk is what the mark needs of a file. Tests count its syncs.
type tailDisk interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
}

// openTail opens dir/raft.tail and reads it. A file that is not there yet, or empty, is made, with the zero link, and synced:
// some file systems give a file its length before its content, which is zeros then after a power cut.
func openTail(dir string) (*tail, error) {
	path := filepath.Join(dir, tailFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w; check the path, its owner and the disk", path, err)
	}
	t := &tail{file: f, path: path}
	if err := t.read(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

func (t *tail) read() error {
	raw := make([]byte, tailSize+1)
	n, err := t.file.ReadAt(raw, 0)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("reading %s: %w; check the disk", t.path, err)
	case n == 0:
		return t.set(link{}, true)
	case n != tailSize || string(raw[:len(tailMagic)]) != tailMagic:
		return &CorruptError{File: t.path, Record: "its only record", Detail: fmt.Sprintf("%d bytes that begin with %.8q are no such mark", n, raw[:min(n, 8)])}
	}
	body, want := raw[:tailSize-crc32.Size], binary.BigEndian.Uint32(raw[tailSize-crc32.Size:])
	if got := crc32.Checksum(body, castagnoli); got != want {
		return &CorruptError{File: t.path, Record: "its only record", Want: want, Got: got, Detail: "its content is not what was written"}
	}
	t.at = link{binary.BigEndian.Uint64(body[len(tailMagic):]), binary.BigEndian.Uint32(body[len(tailMagic)+8:])}
	return nil
}

// set moves the mark. sync says that it must be on the disk before what follows.
func (t *tail) set(at link, sync bool) error {
	raw := binary.BigEndian.AppendUint64([]byte(tailMagic), at.index)
	raw = binary.BigEndian.AppendUint32(raw, at.sum)
	raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, castagnoli))
	if _, err := t.file.WriteAt(raw, 0); err != nil {
		return fmt.Errorf("writing %s: %w", t.path, err)
	}
	t.at = at
	if !sync {
		return nil
	}
	if err := t.file.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", t.path, err)
	}
	return nil
}
