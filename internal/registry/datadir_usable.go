package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// ownFiles are what a data directory may hold before it has an identity: a crash at the first start leaves some of them.
var ownFiles = []string{storeFile, tailFile, journalFile, snapshotDir, damagedDir, condemnedFile, "lost+found"}

// usable refuses a directory that cannot be written to, or is of something else, before anything in it is touched. One that
// does not exist is fine: it is made.
func usable(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // openStore makes it, and says why not
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("data directory %s is a file, or below one; name a directory of this server alone", dir)
	case err != nil:
		return fmt.Errorf("reading data directory %s: %w; it has to be of the user that the server runs as, with mode 0700", dir, err)
	}
	var foreign []string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == identityFile:
			return writable(dir)
		case slices.Contains(ownFiles, name), strings.HasSuffix(name, halfSnapshot):
		default:
			foreign = append(foreign, name)
		}
	}
	if len(foreign) > 0 {
		return fmt.Errorf("data directory %s has no %s and holds %q, which no server of this program makes; name a directory of this server alone",
			dir, identityFile, foreign[:min(len(foreign), maxForeign)])
	}
	return writable(dir)
}

// maxForeign bounds how many foreign files an error names.
const maxForeign = 5

// writable tries it: permissions do not tell of a file system that is mounted read-only.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, "writable.*"+halfSnapshot)
	if err != nil {
		return unwritable(dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func unwritable(dir string, err error) error {
	do := "check the disk"
	switch {
	case errors.Is(err, syscall.EROFS):
		do = "its file system is mounted read-only, which Linux also does by itself after a disk error (dmesg); see to the disk and mount it for writing"
	case errors.Is(err, fs.ErrPermission):
		do = "it has to be of the user that the server runs as, with mode 0700"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		do = "the disk is full; make space, and start the server again: nothing is lost"
	}
	return fmt.Errorf("data directory %s cannot be written to: %w; %s", filepath.Clean(dir), err, do)
}
