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
