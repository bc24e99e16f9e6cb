//go:build !linux

package registry

import "os"

// datasyncFile is a file that is synced whole.
type datasyncFile struct{ *os.File }

// Datasync implements journalDisk.
func (f datasyncFile) Datasync() error { return f.Sync() }
