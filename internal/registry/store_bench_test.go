package registry

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// What the checks of the store cost a write: raft-boltdb alone beside the store, the same entries.
func BenchmarkStoreLogs(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("plain/%d", n), func(b *testing.B) {
			s, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(b.TempDir(), storeFile), BoltOptions: boltOptions(false)})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			storeMany(b, s, n)
		})
		b.Run(fmt.Sprintf("checked/%d", n), func(b *testing.B) {
			s, err := openStore(b.TempDir(), func(err error) { b.Error(err) })
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			storeMany(b, watchedLogs{s, newWatchdog()}, n)
		})
	}
}

func storeMany(b *testing.B, s raft.LogStore, n int) {
	index := uint64(1)
	for b.Loop() {
		logs := make([]*raft.Log, n)
		for i := range logs {
			logs[i] = sampleLog(index)
			logs[i].Data = make([]byte, 300)
			index++
		}
		if err := s.StoreLogs(logs); err != nil {
			b.Fatal(err)
		}
	}
}

// What the start reads: a log as long as the default settings let it get, of entries of 300 bytes.
func BenchmarkStoreOpen(b *testing.B) {
	const entries = trailingFactor * defaultSnapshotThreshold
	dir := b.TempDir()
	s, err := openStore(dir, func(err error) { b.Error(err) })
	if err != nil {
		b.Fatal(err)
	}
	if err := s.SetUint64([]byte(raftTermKey), 3); err != nil {
		b.Fatal(err)
	}
	for from := uint64(1); from <= entries; from += 64 {
		logs := sampleLogs(from, from+63)
		for _, l := range logs {
			l.Data = make([]byte, 300)
		}
		if err := s.StoreLogs(logs); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			s, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, storeFile), BoltOptions: boltOptions(false)})
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("checked", func(b *testing.B) {
		for b.Loop() {
			s, err := openStore(dir, func(err error) { b.Error(err) })
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
