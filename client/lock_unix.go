//go:build unix

package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPid bounds what is read of a lock file that something else has written.
const maxPid = 32

// lockDir takes the lock of the directory for the life of the process: the system lets go of it, however the process
// ends, and not before its last system call. Two processes with one identity would take each other's session over
// again and again, and both would write the node's data.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, lockFile), os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- the directory is the caller's own
	if err != nil {
		return nil, fmt.Errorf("data dir: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := io.ReadAll(io.LimitReader(f, maxPid))
			err = fmt.Errorf("data dir %s is in use by process %s; a node has one process at a time: end that one, or give this one a directory of its own", path, strings.TrimSpace(string(pid)))
		} else {
			err = fmt.Errorf("data dir %s cannot be locked: %w; it must be on a file system of this machine", path, err)
		}
		return nil, errors.Join(err, f.Close())
	}
	// For the message above only.
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("data dir: %w", err), f.Close())
	}
	return f, nil
}
