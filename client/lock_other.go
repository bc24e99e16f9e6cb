//go:build !unix

package client

import (
	"fmt"
	"os"
	"runtime"
)

// lockDir refuses: without a lock that ends with the process nothing keeps two processes of one node apart.
func lockDir(path string) (*os.File, error) {
	return nil, fmt.Errorf("data dir %s: a session needs a lock that the system lets go of when the process ends, which is not built for %s", path, runtime.GOOS)
}
