package datasync

import (
	"os"

	"golang.org/x/sys/unix"
)

// File is a file that can be synced without those of its metadata that reading does not need.
type File struct{ *os.File }

// Datasync returns when what was written is durable.
func (f File) Datasync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// Uncache has the kernel forget its copy of n bytes that are synced. What was read or written in large pieces it keeps in large pieces, and goes
// through all blocks of one for each block that is written: 90 µs instead of 35 with ext4 of Linux 6.18.
func (f File) Uncache(at, n int64) {
	_ = unix.Fadvise(int(f.Fd()), at, n, unix.FADV_DONTNEED) // else it is only slower
}
