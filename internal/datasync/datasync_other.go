//go:build !linux

package datasync

import "os"

// File is a file that is synced whole.
type File struct{ *os.File }

// Datasync returns when what was written is durable.
func (f File) Datasync() error { return f.Sync() }

// Uncache does nothing here.
func (f File) Uncache(_, _ int64) {}
