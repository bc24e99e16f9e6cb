package registry

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasyncFile is a file that can be synced without those of its metadata that reading does not need.
type datasyncFile struct{ *os.File }

// Datasync implements journalDisk.
func (f datasyncFile) Datasync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}
