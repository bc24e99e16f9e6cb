package registry

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/fsm"
)

// populated writes a data directory as a server that led alone leaves it: entries commands in the log, and a snapshot
// after each of the given indexes, the entries up to trim removed.
func populated(t *testing.T, dir string, entries int, snapshotsAt []uint64, trim uint64) {
	t.Helper()
	cfg := aloneConfig(t, dir)
	s, _ := mustOpen(t, dir)
	defer mustClose(t, s)
	snaps, d, err := openDir(cfg, s, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	conf, err := cfg.raftConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &founding{cfg: cfg, dir: d, log: cfg.Logger}
	if err := f.decide(map[string]string{cfg.ID: d.identity().Instance}, conf, s, snaps); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.SetUint64([]byte(raftTermKey), 2), s.SetUint64([]byte("LastVoteTerm"), 2), s.Set([]byte("LastVoteCand"), []byte(cfg.Peers[0].Addr))); err != nil {
		t.Fatal(err)
	}
	machine := fsm.New(func(err error) { t.Error(err) })
	var batch []*raft.Log
	flush := func() {
		if err := s.StoreLogs(batch); err != nil {
			t.Fatal(err)
		}
		batch = nil
	}
	for i := range entries {
		l := &raft.Log{Index: uint64(i + 2), Term: 2, Type: raft.LogCommand, Data: sampleEntry(t, i), AppendedAt: time.Unix(int64(1_700_000_000+i), 0)}
		machine.Apply(l)
		if batch = append(batch, l); len(batch) == 7 {
			flush()
		}
		for _, at := range snapshotsAt {
			if at == l.Index {
				mustSnapshot(t, snaps, machine, cfg, l)
			}
		}
	}
	flush()
	if trim > 0 {
		if err := s.DeleteRange(1, trim); err != nil {
			t.Fatal(err)
		}
	}
}

func aloneConfig(t *testing.T, dir string) Config {
	t.Helper()
	cfg, err := (Config{ID: "s1", DataDir: dir, Peers: []Peer{{ID: "s1", Addr: "127.0.0.1:7482"}}, Timing: "fast", Logger: hclog.NewNullLogger()}).complete()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// sampleEntry declares nodes, then scopes.
func sampleEntry(t *testing.T, i int) []byte {
	t.Helper()
	e := fsm.Envelope{RequestID: fmt.Sprintf("request-%d", i), Actor: "test", Command: &fsm.SetNode{Id: fmt.Sprintf("n%d", i), Addr: fmt.Sprintf("n%d:6379", i)}}
	if i >= 8 {
		e.Command = &fsm.Declare{Prefix: fmt.Appendf(nil, "app:%04d:", i), Writer: fmt.Sprintf("n%d", i%8), Fallback: fmt.Sprintf("n%d", (i+1)%8)}
	}
	raw, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	data, err := fsm.EncodeEntry(1_700_000_000_000, [][]byte{raw})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustSnapshot(t *testing.T, snaps raft.SnapshotStore, machine *fsm.FSM, cfg Config, l *raft.Log) {
	t.Helper()
	sink, err := snaps.Create(1, l.Index, l.Term, cfg.voters(), 1, transportOf(cfg))
	if err != nil {
		t.Fatal(err)
	}
	captured, err := machine.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(captured.Persist(sink), sink.Close()); err != nil {
		t.Fatal(err)
	}
}

func transportOf(cfg Config) raft.Transport {
	_, trans := raft.NewInmemTransport(raft.ServerAddress(cfg.Peers[0].Addr))
	return trans
}

// rebuild starts from a data directory as [Open] does, short of raft itself: the state that raft would come to, and what
// else it would know.
func rebuild(dir string, cfg Config) (out string, err error) {
	fatal := func(e error) { err = errors.Join(err, e) }
	s, openErr := openStore(dir, fatal)
	if openErr != nil {
		return "", openErr
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	snaps, d, openErr := openDir(cfg, s, fatal)
	if openErr != nil {
		return "", openErr
	}
	list, listErr := snaps.List()
	if listErr != nil {
		return "", listErr
	}
	var state []byte
	conf, from := "", uint64(1)
	if len(list) > 0 {
		meta, r, openErr := snaps.Open(list[0].ID)
		if openErr != nil {
			return "", openErr
		}
		var readErr error
		state, readErr = io.ReadAll(r)
		if err := errors.Join(readErr, r.Close()); err != nil {
			return "", err
		}
		from, conf = meta.Index+1, fmt.Sprint(meta.Configuration, meta.ConfigurationIndex)
	}
	last, lastErr := s.LastIndex()
	if lastErr != nil {
		return "", lastErr
	}
	var logs []*raft.Log
	for i := from; i <= last; i++ {
		l := new(raft.Log)
		if err := s.GetLog(i, l); err != nil {
			return "", err
		}
		if l.Type == raft.LogConfiguration {
			conf = fmt.Sprint(raft.DecodeConfiguration(l.Data), i)
		}
		logs = append(logs, l)
	}
	hash, err := replay(state, logs)
	if err != nil {
		return "", err
	}
	out = fmt.Sprintf("%s up to %d, configuration %s, identity %v", hash, max(last, from-1), conf, d.identity())
	for _, key := range []string{raftTermKey, "LastVoteTerm", "LastVoteCand"} {
		val, getErr := s.Get([]byte(key))
		out += fmt.Sprintf(", %s %x %v", key, val, getErr)
	}
	return out, err
}

// replayed remembers what came of a snapshot and the entries after it: the state follows from them alone, and TestFlips asks
// for the same ones thousands of times.
var replayed = map[[sha256.Size]byte]string{}

// replay is the hash of the state that a snapshot, nil if there is none, and entries lead to.
func replay(state []byte, logs []*raft.Log) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%d\n", len(state))
	sum.Write(state)
	for _, l := range logs {
		fmt.Fprintf(sum, "%d %d %d %d\n", l.Index, l.Term, l.Type, len(l.Data))
		sum.Write(l.Data)
	}
	key := [sha256.Size]byte(sum.Sum(nil))
	if hash, ok := replayed[key]; ok {
		return hash, nil
	}
	var err error
	machine := fsm.New(func(e error) { err = e })
	if state != nil {
		if err := machine.Restore(io.NopCloser(bytes.NewReader(state))); err != nil {
			return "", err
		}
	}
	for _, l := range logs {
		machine.Apply(l)
	}
	if err == nil {
		replayed[key] = machine.State().Hash()
	}
	return machine.State().Hash(), err
}

func mustRebuild(t *testing.T, dir string) string {
	t.Helper()
	out, err := rebuild(dir, aloneConfig(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// snapshotDirs are the paths of the snapshots, newest first.
func snapshotDirs(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, snapshotDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(paths, func(a, b string) int {
		of, _ := parseSnapshotName(filepath.Base(a))
		than, _ := parseSnapshotName(filepath.Base(b))
		return cmp.Compare(than.index, of.index)
	})
	return paths
}

func flipByte(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	b[0] ^= 0x10
	_, writeErr := f.WriteAt(b[:], at)
	if err := errors.Join(err, writeErr, f.Close()); err != nil {
		t.Fatal(err)
	}
}
