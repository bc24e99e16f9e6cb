package registry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

func sampleLogs(from, to uint64) (out []*raft.Log) {
	for i := from; i <= to; i++ {
		out = append(out, sampleLog(i))
	}
	return out
}

// filledStore is a closed store with a term and entries 1 to 20.
func filledStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	if err := errors.Join(s.SetUint64([]byte(raftTermKey), 3), s.StoreLogs(sampleLogs(1, 20))); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	return dir
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func writeFile(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// An older copy of the log's pages is whole by itself; that it is older the mark tells.
func TestStoreRefusesALogThatEndsEarly(t *testing.T) {
	dir := filledStore(t)
	older := readFile(t, filepath.Join(dir, storeFile))
	s, _ := mustOpen(t, dir)
	if err := s.StoreLogs(sampleLogs(21, 22)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	writeFile(t, filepath.Join(dir, storeFile), older)
	_, err := openStore(dir, func(error) {})
	wantCorrupt(t, err, "log index 22", "ends at 20")
}

// Entries that were removed, and others written in their place, stay in the file too. Each has a seal of its own that is right.
func TestStoreRefusesEntriesOfAnotherHistory(t *testing.T) {
	other := sampleLog(10)
	other.Term, other.Data = 2, []byte("removed")
	for name, before := range map[string]link{"first of them": {}, "later one": {9, 12345}} {
		t.Run(name, func(t *testing.T) {
			dir := filledStore(t)
			sealed, _ := sealLog(other, before)
			foreign := t.TempDir()
			inner, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(foreign, "x"), BoltOptions: boltOptions(false)})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(inner.StoreLog(sealed), inner.Close()); err != nil {
				t.Fatal(err)
			}
			var raw []byte
			db, err := bbolt.Open(filepath.Join(foreign, "x"), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.View(func(tx *bbolt.Tx) error {
				raw = bytes.Clone(tx.Bucket([]byte(logBucket)).Get(indexKey(10)))
				return nil
			}), db.Close()); err != nil {
				t.Fatal(err)
			}
			editBolt(t, dir, func(tx *bbolt.Tx) error { return tx.Bucket([]byte(logBucket)).Put(indexKey(10), raw) })
			_, err = openStore(dir, func(error) {})
			wantCorrupt(t, err, "log index 1", "it was written after another entry")
		})
	}
}

// The last entry has no successor that vouches for it.
func TestStoreRefusesAnotherLastEntry(t *testing.T) {
	dir := filledStore(t)
	s, _ := mustOpen(t, dir)
	mark := s.mark.at
	if err := s.mark.set(link{mark.index, mark.sum + 1}, true); err != nil {
		t.Fatal(err)
	}
	s.last = s.mark.at
	mustClose(t, s)
	_, err := openStore(dir, func(error) {})
	wantCorrupt(t, err, "log index 20", tailFile)
}

// What a crash, or a power cut that takes what was not synced, leaves of the mark is no damage.
func TestStoreMarkAfterACrash(t *testing.T) {
	for name, mark := range map[string]func(t *testing.T, path string, before []byte){
		"is of an earlier entry":  writeFile,
		"was never written":       func(t *testing.T, path string, _ []byte) { writeFile(t, path, nil) },
		"is of an earlier format": func(t *testing.T, path string, _ []byte) { mustRemove(t, path) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filledStore(t)
			path := filepath.Join(dir, tailFile)
			before := readFile(t, path)
			s, _ := mustOpen(t, dir)
			if err := s.StoreLogs(sampleLogs(21, 25)); err != nil {
				t.Fatal(err)
			}
			mustClose(t, s)
			mark(t, path, before)
			s, f := mustOpen(t, dir)
			if s.mark.at.index != 25 || s.last.index != 25 || len(f.errs) > 0 {
				t.Errorf("the mark is at %v, the log at %v, reported %v", s.mark.at, s.last, f.errs)
			}
			mustClose(t, s)
		})
	}
	// The log gets shorter: the mark goes first, and the crash comes between.
	dir := filledStore(t)
	s, _ := mustOpen(t, dir)
	at, err := s.linkAt(14)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.mark.set(at, true); err != nil {
		t.Fatal(err)
	}
	die(t, s)
	s, _ = mustOpen(t, dir)
	defer mustClose(t, s)
	if err := s.DeleteRange(15, 20); err != nil {
		t.Fatal(err)
	}
	if s.mark.at != at || s.last != at {
		t.Errorf("mark %v and log %v, want %v", s.mark.at, s.last, at)
	}
	if err := s.StoreLogs(sampleLogs(15, 16)); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(1, 16); err != nil || s.mark.at != (link{}) {
		t.Errorf("an empty log has the mark %v, %v", s.mark.at, err)
	}
}

func mustRemove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestNewMarkIsWhole(t *testing.T) {
	dir := t.TempDir()
	m, err := openTail(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.file.Close(); err != nil {
		t.Fatal(err)
	}
	if raw := readFile(t, filepath.Join(dir, tailFile)); len(raw) != tailSize {
		t.Errorf("%d bytes", len(raw))
	}
}

func TestStoreRefusesADamagedMark(t *testing.T) {
	dir := filledStore(t)
	path := filepath.Join(dir, tailFile)
	whole := readFile(t, path)
	for at := range whole {
		raw := bytes.Clone(whole)
		raw[at] ^= 0x21
		writeFile(t, path, raw)
		_, err := openStore(dir, func(error) {})
		wantCorrupt(t, err, tailFile)
	}
	for _, raw := range [][]byte{whole[:5], append(bytes.Clone(whole), 0)} {
		writeFile(t, path, raw)
		_, err := openStore(dir, func(error) {})
		wantCorrupt(t, err, tailFile)
	}
}

// Entries of the releases before the mark and the links are read, and what is appended links to them.
func TestStoreReadsSealsWithoutLinks(t *testing.T) {
	dir := filledStore(t)
	inner, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, storeFile), BoltOptions: boltOptions(false)})
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 20; i++ {
		l := *sampleLog(i)
		l.Extensions = binary.BigEndian.AppendUint32([]byte{valueSealVersion}, logSum(&l))
		if err := inner.StoreLog(&l); err != nil {
			t.Fatal(err)
		}
	}
	if err := inner.Close(); err != nil {
		t.Fatal(err)
	}
	mustRemove(t, filepath.Join(dir, tailFile))
	for range 2 {
		s, _ := mustOpen(t, dir)
		if err := s.StoreLog(sampleLog(s.last.index + 1)); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
	}
}

// A seal of a later release is named as such, not taken for damage that happens to match.
func TestSealsOfALaterRelease(t *testing.T) {
	b := make([]byte, entrySealSize)
	b[0] = entrySealVersion + 1
	if _, wrong := openEntrySeal(b); !strings.Contains(wrong, "version 3") {
		t.Error(wrong)
	}
	b = make([]byte, valueSealSize)
	b[0] = valueSealVersion + 1
	if _, wrong := openValueSeal(b); !strings.Contains(wrong, "version 2") {
		t.Error(wrong)
	}
}
