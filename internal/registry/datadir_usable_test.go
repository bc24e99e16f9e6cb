package registry

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
)

// What is not this program's is refused before anything in it is changed.
func TestForeignDirectories(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(t *testing.T, dir string)
		says string
	}{
		"another program's files": {func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "PG_VERSION"), []byte("17\n"))
		}, "PG_VERSION"},
		"a file": {func(t *testing.T, dir string) {
			mustRemove(t, dir)
			writeFile(t, dir, nil)
		}, "is a file, or below one"},
		"another program's bolt file": {func(t *testing.T, dir string) {
			db, err := bbolt.Open(filepath.Join(dir, storeFile), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("members")); return err }); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}, `bucket "members"`},
		"a newer release's": {func(t *testing.T, dir string) {
			populated(t, dir, 5, nil, 0)
			path := filepath.Join(dir, identityFile)
			writeFile(t, path, []byte(strings.Replace(string(readFile(t, path)), `"version": 1`, `"version": 2`, 1)))
		}, "run the program that wrote it"},
		"another server's": {func(t *testing.T, dir string) {
			populated(t, dir, 5, nil, 0)
			path := filepath.Join(dir, identityFile)
			writeFile(t, path, []byte(strings.Replace(string(readFile(t, path)), `"server": "s1"`, `"server": "s9"`, 1)))
		}, `belongs to server "s9"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			tc.make(t, dir)
			r, err := Open(t.Context(), aloneConfig(t, dir))
			if err == nil {
				_ = r.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want it to say %q", err, tc.says)
			}
		})
	}
}

func TestDirectoryThatCannotBeWritten(t *testing.T) {
	for err, says := range map[error]string{
		syscall.EROFS: "mounted read-only", syscall.EACCES: "of the user", syscall.EPERM: "of the user", syscall.ENOSPC: "the disk is full", syscall.EIO: "check the disk",
	} {
		if got := unwritable("/data", &os.PathError{Op: "open", Path: "/data/x", Err: err}); !strings.Contains(got.Error(), says) || !strings.Contains(got.Error(), "/data") {
			t.Errorf("%v: %v", err, got)
		}
	}
	// A directory that nobody can write to, whoever runs the test.
	if err := writable("/proc/self/fd"); err == nil || !strings.Contains(err.Error(), "/proc/self/fd") {
		t.Errorf("got %v", err)
	}
	dir := t.TempDir()
	if err := writable(dir); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	// What a crash at the first start leaves is ours.
	for _, name := range []string{storeFile, tailFile, identityFile + ".123" + halfSnapshot} {
		writeFile(t, filepath.Join(dir, name), nil)
	}
	if err := usable(dir); err != nil {
		t.Error(err)
	}
}
