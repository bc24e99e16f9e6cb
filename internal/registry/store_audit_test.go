package registry

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// What a check at reading cannot find, because raft takes "not found" for an answer, the open finds.
func TestStoreOpenRefusesDamage(t *testing.T) {
	move := func(bucket string, from, to []byte) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(bucket))
			raw := bytes.Clone(b.Get(from))
			return errors.Join(b.Delete(from), b.Put(to, raw))
		}
	}
	put := func(bucket string, key, raw []byte) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put(key, raw) }
	}
	for name, tc := range map[string]struct {
		edit func(*bbolt.Tx) error
		says string
	}{
		"vote's key":        {move(stableBucket, []byte("LastVoteTerm"), []byte("LastVoteUerm")), `stable key "LastVoteUerm"`},
		"value without sum": {put(stableBucket, []byte("LastVoteTerm"), indexKey(4)), "checksum"},
		"short value":       {put(stableBucket, []byte("LastVoteTerm"), []byte{1}), "checksum is missing"},
		"entry's key":       {move(logBucket, indexKey(2), indexKey(1<<40)), "log index 1099511627776"},
		"entry's key size":  {move(logBucket, indexKey(2), []byte("abc")), "log key 616263"},
		"undecodable entry": {put(logBucket, indexKey(2), []byte{0xc1}), "log index 2"},
		"entry swapped": {func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(logBucket))
			return b.Put(indexKey(2), bytes.Clone(b.Get(indexKey(1))))
		}, "log index 2"},
		"no term": {func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte(stableBucket)).Delete([]byte(raftTermKey))
		}, `stable key "CurrentTerm"`},
		"no votes":       {func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(stableBucket)) }, "one of two is missing"},
		"no log":         {func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(logBucket)) }, "one of two is missing"},
		"foreign bucket": {func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("mogs")); return err }, `bucket "mogs"`},
		"nested bucket": {func(tx *bbolt.Tx) error {
			_, err := tx.Bucket([]byte(logBucket)).CreateBucket(indexKey(9))
			return err
		}, "is inside of bucket"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := mustOpen(t, dir)
			if err := errors.Join(s.SetUint64([]byte(raftTermKey), 3), s.SetUint64([]byte("LastVoteTerm"), 3), s.StoreLogs([]*raft.Log{sampleLog(1), sampleLog(2)})); err != nil {
				t.Fatal(err)
			}
			mustClose(t, s)
			editBolt(t, dir, tc.edit)
			_, err := openStore(dir, func(error) {})
			wantCorrupt(t, err, tc.says)
		})
	}
}

func TestStoreFileThatIsNoStore(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, storeFile), bytes.Repeat([]byte("x"), 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(dir, func(error) {})
	wantCorrupt(t, err, "meta pages")
}

// bolt itself goes back to the transaction before when its newest meta page is damaged. Which of the two that is
// changes with every transaction, so both are damaged in turn, every byte of the record.
func TestStoreRefusesDamagedMetaPage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, storeFile)
	s, _ := mustOpen(t, dir)
	if err := s.Set([]byte("LastVoteCand"), []byte("10.0.0.1:7000")); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []int{0, os.Getpagesize()} {
		for at := page + boltPageHeader; at < page+boltPageHeader+boltMetaSize; at++ {
			raw := bytes.Clone(whole)
			raw[at] ^= 0x10
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := openStore(dir, func(error) {})
			wantCorrupt(t, err, "meta page")
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ = mustOpen(t, dir)
	defer mustClose(t, s)
	if v, err := s.Get([]byte("LastVoteCand")); err != nil || string(v) != "10.0.0.1:7000" {
		t.Errorf("%s, %v", v, err)
	}
}

// A page number beyond the file faults in bolt; it must come back as a finding.
func TestStoreRefusesTruncatedFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, storeFile)
	s, _ := mustOpen(t, dir)
	logs := []*raft.Log{sampleLog(1)}
	logs[0].Data = bytes.Repeat([]byte("x"), 256<<10)
	if err := errors.Join(s.SetUint64([]byte(raftTermKey), 3), s.StoreLogs(logs)); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	if err := os.Truncate(path, 4*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(dir, func(error) {})
	wantCorrupt(t, err)
}
