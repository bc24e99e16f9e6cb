//go:build !linux && !darwin

package registry

import (
	"errors"
	"fmt"
	"runtime"
)

// statfs does not know how to ask this operating system: no command is refused, and the log says so.
type statfs struct{}

// Free implements spaceOf.
func (statfs) Free(path string) (free uint64, err error) {
	return 0, fmt.Errorf("the free space of %s on %s: %w", path, runtime.GOOS, errors.ErrUnsupported)
}
