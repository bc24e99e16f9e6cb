package registry

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"pgregory.net/rapid"
)

// fatals records what a store reported.
type fatals struct{ errs []error }

func (f *fatals) note(err error) { f.errs = append(f.errs, err) }

func mustOpen(t *testing.T, dir string) (*store, *fatals) {
	t.Helper()
	return mustOpenWith(t, dir, journalHalf)
}

func mustOpenWith(t *testing.T, dir string, half int) (*store, *fatals) {
	t.Helper()
	f := new(fatals)
	s, err := openStoreWith(dir, half, f.note)
	if err != nil {
		t.Fatal(err)
	}
	return s, f
}

func mustClose(t *testing.T, s *store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// editBolt changes the file of a closed store underneath it.
func editBolt(t *testing.T, dir string, edit func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, storeFile), 0o600, &bbolt.Options{NoSync: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(edit), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// openUnaudited opens a store without the check of all records, to reach the checks of single reads.
func openUnaudited(t *testing.T, dir string, half int) (*store, *fatals) {
	t.Helper()
	f := new(fatals)
	path := filepath.Join(dir, storeFile)
	inner, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(false)})
	if err != nil {
		t.Fatal(err)
	}
	mark, err := openTail(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, _, err := openJournal(dir, half)
	if err != nil {
		t.Fatal(err)
	}
	s := &store{inner: inner, path: path, mark: mark, last: mark.at, onFatal: f.note}
	s.log = newJournaled(inner, j, s.moveFailed)
	return s, f
}

func indexKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

// sampleLog is an entry with every field set, so that none of its bytes encodes an absent one.
func sampleLog(i uint64) *raft.Log {
	return &raft.Log{
		Index: i, Term: 3, Type: raft.LogConfiguration, Data: []byte("declare app:billing: n1"),
		AppendedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
}

func wantCorrupt(t *testing.T, err error, parts ...string) {
	t.Helper()
	var ce *CorruptError
	if !errors.As(err, &ce) {
		t.Fatalf("want a *CorruptError, got %v", err)
	}
	for _, p := range append(parts, ce.File, "do not start it again", "leave it off") {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func TestStoreModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "raft")
	s, _ := mustOpen(t, dir)
	defer mustClose(t, s)
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "raft.db"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
	}
	if _, ok := any(s).(raft.MonotonicLogStore); ok {
		t.Error("the store claims to be monotonic, raft-boltdb is not")
	}
}

func TestStoreAnswersRaftUnderstands(t *testing.T) {
	s, f := mustOpen(t, t.TempDir())
	defer mustClose(t, s)
	if err := s.GetLog(1, new(raft.Log)); err != raft.ErrLogNotFound { // raft compares with ==
		t.Errorf("missing entry: %v", err)
	}
	// raft 1.7.3 compares this text.
	if _, err := s.Get([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("missing key: %v", err)
	}
	if _, err := s.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("missing number: %v", err)
	}
	if has, err := raft.HasExistingState(s, s, raft.NewInmemSnapshotStore()); has || err != nil {
		t.Errorf("new store: has state %v, %v", has, err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 7); err != nil {
		t.Fatal(err)
	}
	if has, err := raft.HasExistingState(s, s, raft.NewInmemSnapshotStore()); !has || err != nil {
		t.Errorf("store with a term: has state %v, %v", has, err)
	}
	if len(f.errs) != 0 {
		t.Errorf("normal answers were reported as fatal: %v", f.errs)
	}
	if _, err := openStore(t.TempDir(), nil); err == nil {
		t.Error("a store without a function for fatal errors opened")
	}
}

// raft hands the leader's entries to the followers as it reads them; seals must not travel, and a foreign one
// must not be believed.
func TestStoreSealsAreItsOwn(t *testing.T) {
	s, _ := mustOpen(t, t.TempDir())
	defer mustClose(t, s)
	in := sampleLog(1)
	in.Extensions = []byte("from another server")
	if err := s.StoreLog(in); err != nil {
		t.Fatal(err)
	}
	if string(in.Extensions) != "from another server" {
		t.Error("the caller's entry was changed")
	}
	out := raft.Log{Extensions: []byte("old")}
	if err := s.GetLog(1, &out); err != nil {
		t.Fatal(err)
	}
	if out.Extensions != nil {
		t.Errorf("the seal left the store: %x", out.Extensions)
	}
}

func TestStoreLocked(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	defer mustClose(t, s)
	_, err := openStore(dir, func(error) {})
	if !errors.Is(err, bolterrors.ErrTimeout) {
		t.Fatalf("second open: %v", err)
	}
	if !strings.Contains(err.Error(), "another process uses this data directory") || !strings.Contains(err.Error(), s.path) {
		t.Errorf("error does not help: %v", err)
	}
}

// Every byte of a stored entry, with each bit flipped: refused, or read as what was written.
func TestStoreFindsEveryFlippedByteOfAnEntry(t *testing.T) {
	for name, sample := range map[string]func(uint64) *raft.Log{
		"all fields set": sampleLog,
		// Here a damaged name of a field, which the decoder skips, must not pass for the zero it stands for.
		"zero fields": func(i uint64) *raft.Log { return &raft.Log{Index: i, Term: 3} },
	} {
		t.Run(name, func(t *testing.T) { flipEveryByte(t, sample) })
	}
}

func flipEveryByte(t *testing.T, sample func(uint64) *raft.Log) {
	dir := t.TempDir()
	masks := []byte{1, 2, 4, 8, 16, 32, 64, 128, 0xff, 0x55}
	s, _ := mustOpen(t, dir)
	logs := make([]*raft.Log, 0, 100*len(masks))
	for i := range cap(logs) {
		logs = append(logs, sample(uint64(i+1)))
	}
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	flipped := make(map[uint64]string)
	editBolt(t, dir, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(logBucket))
		index := uint64(0)
		for at, size := 0, len(b.Get(indexKey(1))); at < size; at++ {
			for _, mask := range masks {
				index++
				raw := bytes.Clone(b.Get(indexKey(index)))
				if len(raw) == 0 {
					return fmt.Errorf("no entry left for byte %d of %d", at, size)
				}
				if at >= len(raw) {
					continue // higher indexes encode longer, never shorter, so this cannot be
				}
				raw[at] ^= mask
				flipped[index] = fmt.Sprintf("byte %d of %d, mask %02x", at, len(raw), mask)
				if err := b.Put(indexKey(index), raw); err != nil {
					return err
				}
			}
		}
		return nil
	})
	s, f := openUnaudited(t, dir, journalHalf)
	defer mustClose(t, s)
	harmless := 0
	for index, what := range flipped {
		var ce *CorruptError
		out := raft.Log{Term: 99}
		switch err := s.GetLog(index, &out); {
		case err == nil && sameLog(&out, sample(index)):
			harmless++
		case !errors.As(err, &ce) || ce.Index != index:
			t.Errorf("%s not detected: %v, %+v", what, err, out)
		case out.Term != 99 || out.Data != nil:
			t.Fatalf("%s: a refused entry was handed out: %+v", what, out)
		}
	}
	// A few flips turn one encoding of a value into another of the same value (a string of four letters into a
	// list of four small numbers). They are found by nothing and do no harm.
	if harmless > len(flipped)/100 {
		t.Errorf("%d of %d flips changed nothing", harmless, len(flipped))
	}
	if len(f.errs) != 1 {
		t.Errorf("%d fatal errors reported, want the first alone", len(f.errs))
	}
	wantCorrupt(t, f.errs[0], "log index")
	if err := s.StoreLog(sampleLog(99)); !errors.Is(err, f.errs[0]) {
		t.Errorf("a store that failed takes writes: %v", err)
	}
}

func TestStoreFindsEveryFlippedByteOfAStableValue(t *testing.T) {
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	keys := map[string][]byte{"LastVoteCand": []byte("10.0.0.1:7000"), "empty": {}}
	for k, v := range keys {
		if err := s.Set([]byte(k), v); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 7); err != nil {
		t.Fatal(err)
	}
	keys["CurrentTerm"] = indexKey(7)
	for k, v := range keys {
		raw := sealValue([]byte(k), v)
		for at := range raw {
			for mask := 1; mask < 256; mask++ {
				raw[at] ^= byte(mask)
				if val, err := s.unsealValue([]byte(k), raw); err == nil {
					t.Errorf("key %s byte %d mask %02x not detected: %x", k, at, mask, val)
				}
				raw[at] ^= byte(mask)
			}
		}
		if val, err := s.unsealValue([]byte(k), raw); err != nil || !bytes.Equal(val, v) {
			t.Errorf("key %s: %x, %v", k, val, err)
		}
	}
	mustClose(t, s)
	editBolt(t, dir, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(stableBucket))
		raw := bytes.Clone(b.Get([]byte("CurrentTerm")))
		raw[7] ^= 1
		return b.Put([]byte("CurrentTerm"), raw)
	})
	s, f := openUnaudited(t, dir, journalHalf)
	defer mustClose(t, s)
	_, err := s.GetUint64([]byte("CurrentTerm"))
	wantCorrupt(t, err, `stable key "CurrentTerm"`, "CRC32C stored")
	if len(f.errs) != 1 {
		t.Errorf("reported %v", f.errs)
	}
	if _, err := s.GetUint64([]byte("LastVoteCand")); err == nil {
		t.Error("13 bytes were read as a number")
	}
}

// An entry written by raft-boltdb alone has no seal and is refused, whatever its content.
func TestStoreRefusesUnsealedEntry(t *testing.T) {
	dir := t.TempDir()
	inner, err := raftboltdb.NewBoltStore(filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(inner.StoreLog(sampleLog(5)), inner.Close()); err != nil {
		t.Fatal(err)
	}
	s, f := openUnaudited(t, dir, journalHalf)
	defer mustClose(t, s)
	wantCorrupt(t, s.GetLog(5, new(raft.Log)), "log index 5", "checksum is missing")
	if len(f.errs) != 1 {
		t.Errorf("reported %v", f.errs)
	}
}

// A write that fails stops the server and is not retried. A reader that comes after Close says nothing about the disk.
func TestStoreWriteErrorIsFatalAndCloseIsNot(t *testing.T) {
	for name, write := range map[string]func(*store) error{
		"StoreLog":    func(s *store) error { return s.StoreLog(sampleLog(1)) },
		"DeleteRange": func(s *store) error { return s.DeleteRange(1, 2) },
		"SetUint64":   func(s *store) error { return s.SetUint64([]byte("CurrentTerm"), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			s, f := mustOpen(t, t.TempDir())
			if err := errors.Join(s.inner.Close(), s.log.journal.file.Close()); err != nil { // the disk went away underneath
				t.Fatal(err)
			}
			err := write(s)
			if !(errors.Is(err, bolterrors.ErrDatabaseNotOpen) || errors.Is(err, os.ErrClosed)) || len(f.errs) != 1 || !errors.Is(f.errs[0], err) {
				t.Fatalf("write answered %v, reported %v", err, f.errs)
			}
			if again := write(s); again != err || len(f.errs) != 1 {
				t.Errorf("second write answered %v, reported %v", again, f.errs)
			}
		})
	}
	s, f := mustOpen(t, t.TempDir())
	mustClose(t, s)
	if err := s.GetLog(1, new(raft.Log)); err == nil || len(f.errs) != 0 {
		t.Errorf("read after Close: %v, reported %v", err, f.errs)
	}
}

// drawLog makes any entry raft could store.
func drawLog(t *rapid.T, index uint64) *raft.Log {
	l := &raft.Log{
		Index: index,
		Term:  rapid.Uint64().Draw(t, "term"),
		Type:  raft.LogType(rapid.Uint8Range(0, 5).Draw(t, "type")),
		Data:  rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data"),
	}
	if rapid.Bool().Draw(t, "dated") {
		zone := time.FixedZone("z", rapid.IntRange(-12*3600, 14*3600).Draw(t, "zone"))
		l.AppendedAt = time.Unix(rapid.Int64Range(0, 1<<34).Draw(t, "sec"), rapid.Int64Range(0, 999_999_999).Draw(t, "nsec")).In(zone)
	}
	return l
}

func sameLog(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) && a.AppendedAt.Equal(b.AppendedAt)
}

// The store against raft's own in-memory store: same answers to any order of writes, deletes, reads and reopens.
func TestStoreAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "store")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		open := func() *store {
			s, err := openStore(dir, func(err error) { t.Fatalf("fatal: %v", err) })
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s, model, next := open(), raft.NewInmemStore(), uint64(1)
		if err := s.SetUint64([]byte(raftTermKey), math.MaxUint64); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"append", "append", "delete", "set", "reopen"}).Draw(t, "step") {
			case "append":
				next = appendBoth(t, s, model, next)
			case "delete":
				next = deleteBoth(t, s, model, next)
			case "set":
				k, v := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "val")
				if err := errors.Join(s.Set([]byte(k), v), model.Set([]byte(k), v)); err != nil {
					t.Fatal(err)
				}
			case "reopen":
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open()
			}
			compareStores(t, s, model)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func appendBoth(t *rapid.T, s *store, model *raft.InmemStore, next uint64) uint64 {
	var logs []*raft.Log
	for range rapid.IntRange(1, 100).Draw(t, "n") {
		logs = append(logs, drawLog(t, next))
		next++
	}
	if err := errors.Join(s.StoreLogs(logs), model.StoreLogs(logs)); err != nil {
		t.Fatal(err)
	}
	return next
}

// deleteBoth removes from one end, as raft does: a compacted prefix or a conflicting suffix.
func deleteBoth(t *rapid.T, s *store, model *raft.InmemStore, next uint64) uint64 {
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	if last == 0 {
		return next
	}
	cut := rapid.Uint64Range(first, last).Draw(t, "cut")
	from, to := first, cut
	if rapid.Bool().Draw(t, "suffix") {
		from, to, next = cut, last, cut
	}
	if err := errors.Join(s.DeleteRange(from, to), model.DeleteRange(from, to)); err != nil {
		t.Fatal(err)
	}
	return next
}

func compareStores(t *rapid.T, s *store, model *raft.InmemStore) {
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	wantFirst, _ := model.FirstIndex()
	wantLast, _ := model.LastIndex()
	if wantLast < wantFirst {
		wantFirst, wantLast = 0, 0 // the model's way to say empty
	}
	if err1 != nil || err2 != nil || first != wantFirst || last != wantLast {
		t.Fatalf("holds %d..%d (%v, %v), model %d..%d", first, last, err1, err2, wantFirst, wantLast)
	}
	for i := wantFirst; i <= wantLast+1; i++ {
		var got, want raft.Log
		err, wantErr := s.GetLog(i, &got), model.GetLog(i, &want)
		if err != wantErr || (err == nil && !sameLog(&got, &want)) {
			t.Fatalf("entry %d: %+v, %v; model %+v, %v", i, got, err, want, wantErr)
		}
	}
	for _, k := range []string{"a", "b"} {
		got, err := s.Get([]byte(k))
		want, wantErr := model.Get([]byte(k))
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Fatalf("key %s: %x, %v; model %x, %v", k, got, err, want, wantErr)
		}
	}
}
