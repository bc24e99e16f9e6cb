//go:build linux || darwin

package registry

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// statfs asks the operating system.
type statfs struct{}

// Free implements spaceOf.
func (statfs) Free(path string) (free uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("asking for the free space of %s: %w", path, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}
